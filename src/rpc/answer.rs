//! From the domain to the protocol: what an answer says.
//!
//! The way in is in [`super::convert`]. Begin with [`placement`].

use std::time::Duration;

use cubecast_sdk::proto::v1::{self as proto, ReplicaRole, ReplicaState};

use super::operation::Here;
use super::{convert, wire};
use crate::broker::Freshness;
use crate::cluster::Cluster;
use crate::consensus::{Member, Role, Status};
use crate::link::LinkMap;
use crate::shard::{Sharing, Subscription, TopicRow};
use crate::types::{Limits, Name, Offset, PeerId, Retention, StoredBatch, Timestamp, Vertex};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The bits of a peer's vertex; empty for a stranger.
pub fn bits(cluster: &Cluster, peer: PeerId) -> String {
    cluster
        .vertex_of(peer)
        .map_or_else(String::new, |vertex| vertex.to_string())
}

/// A time.
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        // 2^64 nanoseconds are fewer than 2^63 seconds, and a remainder is below 10^9: neither is ever cut.
        seconds: i64::try_from(time.0 / NANOS_PER_SECOND).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.0 % NANOS_PER_SECOND).unwrap_or(0),
    }
}

/// A duration.
pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// Where the shard of a vertex lives: the owner, the other replicas in bit order, and who leads.
pub fn placement(cluster: &Cluster, vertex: Vertex, leader: Option<PeerId>) -> proto::Placement {
    proto::Placement {
        owner: vertex.to_string(),
        replicas: cluster
            .replica_vertices(vertex)
            .iter()
            .skip(1)
            .map(|replica| replica.to_string())
            .collect(),
        leader: leader.map_or_else(String::new, |leader| bits(cluster, leader)),
    }
}

/// Where the shard that answers lives.
pub fn placement_here(cluster: &Cluster, here: &Here<'_>) -> proto::Placement {
    let leader = here.replica.leader().borrow().leader;
    placement(cluster, here.replica.shard(), leader)
}

/// A topic.
pub fn topic(topic: TopicRow, owner: Vertex) -> proto::Topic {
    proto::Topic {
        name: topic.name.to_string(),
        topic_id: topic.id.to_bits(),
        owner: owner.to_string(),
        creator: topic
            .creator
            .map_or_else(String::new, |creator| creator.to_string()),
        create_time: Some(timestamp(topic.created)),
        first_offset: topic.first_offset.0,
        next_offset: topic.next_offset.0,
        bytes: topic.bytes.0,
        retention: retention(topic.retention),
    }
}

/// How long a topic keeps its messages; nothing when it does so for ever.
pub fn retention(retention: Retention) -> Option<proto::Retention> {
    let bounds = || proto::Retention {
        age: retention.age.map(duration),
        bytes: retention.bytes.map(|bytes| bytes.0),
        messages: retention.messages,
    };
    (!retention.is_for_ever()).then(bounds)
}

/// A publisher.
pub fn publisher(name: &Name, created: Timestamp, owner: Vertex) -> proto::Publisher {
    proto::Publisher {
        publisher: name.to_string(),
        owner: owner.to_string(),
        create_time: Some(timestamp(created)),
    }
}

/// A subscriber.
pub fn subscriber(name: &Name, created: Timestamp, owner: Vertex) -> proto::Subscriber {
    proto::Subscriber {
        subscriber: name.to_string(),
        owner: owner.to_string(),
        create_time: Some(timestamp(created)),
    }
}

/// A subscription.
pub fn subscription(subscription: &Subscription, head: Offset) -> proto::Subscription {
    proto::Subscription {
        topic: subscription.topic.to_string(),
        subscriber: subscription.subscriber.to_string(),
        next_offset: subscription.cursor.0,
        // The head may have been read before the cursor.
        head_offset: head.max(subscription.cursor).0,
        create_time: Some(timestamp(subscription.created)),
        missed: subscription.missed,
        shared: subscription.sharing.as_ref().map(sharing),
    }
}

/// How consumers share a subscription.
fn sharing(sharing: &Sharing) -> proto::Sharing {
    let letters = sharing.dead_letters.as_ref();
    proto::Sharing {
        lease: Some(duration(sharing.lease)),
        max_deliveries: letters.map_or(0, |letters| letters.max_deliveries),
        dead_letter_topic: letters.map_or_else(String::new, |letters| letters.topic.to_string()),
    }
}

/// A batch, its messages as they were published.
pub fn batch(stored: StoredBatch) -> wire::MessageBatch {
    let origin = stored
        .origin
        .map(|(publisher, session, sequence)| proto::BatchOrigin {
            publisher: publisher.to_string(),
            session: session.0,
            sequence: sequence.0,
        });
    wire::MessageBatch {
        head: wire::BatchHead {
            base_offset: stored.base_offset.0,
            append_time: Some(timestamp(stored.append_time)),
            origin,
            message_count: stored.batch.count(),
        },
        messages: stored.batch.payload().clone(),
    }
}

/// Who answered a read.
pub fn source(cluster: &Cluster, here: &Here<'_>, freshness: Freshness) -> proto::ReadSource {
    let (this, owner) = (cluster.this(), here.replica.shard());
    let state = if freshness.is_leader {
        ReplicaState::Leader
    } else {
        state(here.replica.status().role)
    };
    let served_by = bits(cluster, this);
    let note = match freshness.is_leader {
        _ if cluster.home(owner) == this => String::new(),
        true => format!("owner {owner} does not lead; served by replica {served_by}"),
        false => format!("served by replica {served_by}"),
    };
    proto::ReadSource {
        served_by,
        owner: owner.to_string(),
        state: state.into(),
        lag_entries: freshness.lag,
        note,
        is_owner_unreached: false,
    }
}

fn state(role: Role) -> ReplicaState {
    match role {
        Role::Leader => ReplicaState::Leader,
        Role::Follower => ReplicaState::Follower,
        Role::Candidate => ReplicaState::Candidate,
        Role::Learner => ReplicaState::Learner,
        Role::Stopped => ReplicaState::Unspecified,
    }
}

/// What an answer about replicas is made of.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// Who is where.
    pub cluster: &'a Cluster,
    /// Who hears whom.
    pub links: &'a LinkMap,
}

/// Every replica of a shard, the owner's first, as the replica of this peer knows them.
pub fn replicas(sight: Sight<'_>, vertex: Vertex, status: &Status) -> Vec<proto::Replica> {
    let known = |peer| status.replicas.iter().find(|member| member.peer == peer);
    sight
        .cluster
        .replicas(vertex)
        .into_iter()
        .map(|peer| replica(sight, peer, known(peer), status))
        .collect()
}

fn replica(
    sight: Sight<'_>,
    peer: PeerId,
    member: Option<&Member>,
    status: &Status,
) -> proto::Replica {
    let cluster = sight.cluster;
    let is_reachable = if sight.links.is_reachable(peer) {
        Some(true)
    } else {
        sight.links.is_gone(peer).then_some(false)
    };
    let is_leading = status.role == Role::Leader;
    let is_voter = member.map(|member| member.is_voter);
    let matched = member
        .and_then(|member| member.stored)
        .filter(|_| is_leading);
    let lag = status.last.filter(|_| is_leading).map(|last| {
        // Without any entry it lacks all of them.
        matched.map_or(last.0 + 1, |matched| last.0.saturating_sub(matched.0))
    });
    proto::Replica {
        vertex: bits(cluster, peer),
        peer: u32::from(peer.0),
        address: cluster.address(peer).unwrap_or_default().to_owned(),
        role: is_voter.map_or(ReplicaRole::Unspecified, role).into(),
        state: if is_reachable == Some(false) {
            ReplicaState::Unspecified
        } else {
            member_state(cluster, peer, is_voter, status)
        }
        .into(),
        matched_index: matched.map(|index| index.0),
        lag_entries: lag,
        is_reachable,
    }
}

fn role(is_voter: bool) -> ReplicaRole {
    if is_voter {
        ReplicaRole::Voter
    } else {
        ReplicaRole::Standby
    }
}

/// What another replica does: known when it leads, or when it does not vote, or when a leader is known, so that the rest follow.
fn member_state(
    cluster: &Cluster,
    peer: PeerId,
    is_voter: Option<bool>,
    status: &Status,
) -> ReplicaState {
    match (is_voter, status.leader) {
        _ if peer == cluster.this() => state(status.role),
        (_, Some(leader)) if leader == peer => ReplicaState::Leader,
        (Some(false), _) => ReplicaState::Learner,
        (Some(true), Some(_)) => ReplicaState::Follower,
        _ => ReplicaState::Unspecified,
    }
}

/// What this peer knows of its own replica of a shard.
pub fn shard_status(
    sight: Sight<'_>,
    vertex: Vertex,
    status: &Status,
    topic_count: u64,
) -> proto::ShardStatus {
    let cluster = sight.cluster;
    let own = status
        .replicas
        .iter()
        .find(|member| member.peer == cluster.this());
    proto::ShardStatus {
        shard: vertex.to_string(),
        role: own
            .map_or(ReplicaRole::Unspecified, |member| role(member.is_voter))
            .into(),
        state: state(status.role).into(),
        term: status.term.0,
        leader: status
            .leader
            .map_or_else(String::new, |leader| bits(cluster, leader)),
        last_index: status.last.map(|index| index.0),
        committed_index: status.committed.map(|index| index.0),
        applied_index: status.applied.map(|index| index.0),
        topic_count,
        replicas: replicas(sight, vertex, status),
        problem: String::new(),
        incarnation: 0,
    }
}

/// What a peer accepts.
pub fn limits(limits: &Limits) -> proto::Limits {
    proto::Limits {
        message_bytes_max: limits.message_bytes_max,
        request_bytes_max: limits.request_bytes_max,
        publish_messages_max: limits.publish_messages_max,
        pull_messages_max: limits.pull_messages_max,
        pull_wait_max: Some(duration(limits.pull_wait_max)),
        page_size_max: limits.page_size_max,
        connections_max: limits.connections_max,
        calls_max: limits.calls_max,
        name_bytes_max: u32::try_from(Name::BYTES_MAX).unwrap_or(u32::MAX),
        sessions_per_topic_max: Limits::SESSIONS_PER_TOPIC_MAX,
        batch_create_topics_max: convert::BATCH_CREATE_TOPICS_MAX,
    }
}
