//! Between the values of this crate and the messages of the API. No other module knows how the one becomes the other.
//!
//! Absence in a message is read as its comment in `proto/` says. Begin with [`time`]; each of the rest is one conversion.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use crate::model::{
    AckLevel, Cluster, Consistency, Link, Location, Member, MemberState, Neighbour, NodeStatus,
    Party, Placement, ReadSource, Replica, ReplicaDigest, ReplicaRole, ReplicaState, Retention,
    Shard, Start, SubscriptionInfo, Topic, Verification, VertexStatus,
};
use crate::proto::v1;
use crate::sharing::Sharing;

/// A time; the epoch when there is none, or none that the system can say.
pub(crate) fn time(timestamp: Option<Timestamp>) -> SystemTime {
    timestamp
        .and_then(|timestamp| SystemTime::try_from(timestamp).ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A span of time for the wire. Centuries are cut to what it can say.
pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

/// `None` for what is empty.
fn text(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// All vertices of a peer: an old peer may tell only the first.
fn vertices(all: Vec<String>, first: String) -> Vec<String> {
    if all.is_empty() {
        text(first).into_iter().collect()
    } else {
        all
    }
}

fn each<T, U: From<T>>(items: Vec<T>) -> Vec<U> {
    items.into_iter().map(U::from).collect()
}

impl From<AckLevel> for v1::AckLevel {
    fn from(level: AckLevel) -> Self {
        match level {
            AckLevel::Owner => Self::Owner,
            AckLevel::Quorum => Self::Quorum,
            AckLevel::All => Self::All,
        }
    }
}

impl From<v1::AckLevel> for AckLevel {
    fn from(level: v1::AckLevel) -> Self {
        match level {
            // A peer always says what it reached. One that does not promises the least.
            v1::AckLevel::Owner | v1::AckLevel::Unspecified => Self::Owner,
            v1::AckLevel::Quorum => Self::Quorum,
            v1::AckLevel::All => Self::All,
        }
    }
}

impl From<Consistency> for v1::ReadConsistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::Leader => Self::Leader,
            Consistency::Linearizable => Self::Linearizable,
            Consistency::Eventual => Self::Eventual,
        }
    }
}

impl From<Start> for v1::StartPosition {
    fn from(start: Start) -> Self {
        use v1::start_position::Position;
        let position = match start {
            Start::Earliest => Position::Earliest(()),
            Start::Latest => Position::Latest(()),
            Start::Offset(offset) => Position::Offset(offset),
            Start::Time(time) => Position::Time(time.into()),
        };
        Self {
            position: Some(position),
        }
    }
}

impl From<Retention> for v1::Retention {
    fn from(retention: Retention) -> Self {
        Self {
            age: retention.age.map(duration),
            bytes: retention.bytes,
            messages: retention.messages,
        }
    }
}

impl From<v1::Retention> for Retention {
    fn from(retention: v1::Retention) -> Self {
        Self {
            age: retention.age.and_then(|age| age.try_into().ok()),
            bytes: retention.bytes,
            messages: retention.messages,
        }
    }
}

impl From<v1::ReplicaRole> for ReplicaRole {
    fn from(role: v1::ReplicaRole) -> Self {
        match role {
            v1::ReplicaRole::Unspecified => Self::Unknown,
            v1::ReplicaRole::Voter => Self::Voter,
            v1::ReplicaRole::Standby => Self::Standby,
        }
    }
}

impl From<v1::ReplicaState> for ReplicaState {
    fn from(state: v1::ReplicaState) -> Self {
        match state {
            v1::ReplicaState::Unspecified => Self::Unknown,
            v1::ReplicaState::Leader => Self::Leader,
            v1::ReplicaState::Follower => Self::Follower,
            v1::ReplicaState::Candidate => Self::Candidate,
            v1::ReplicaState::Learner => Self::Learner,
            v1::ReplicaState::Damaged => Self::Damaged,
        }
    }
}

impl From<v1::MemberState> for MemberState {
    fn from(state: v1::MemberState) -> Self {
        match state {
            v1::MemberState::Unspecified => Self::Unknown,
            v1::MemberState::Alive => Self::Alive,
            v1::MemberState::Suspect => Self::Suspect,
            v1::MemberState::Down => Self::Down,
            v1::MemberState::Joining => Self::Joining,
            v1::MemberState::Leaving => Self::Leaving,
        }
    }
}

impl From<v1::Placement> for Placement {
    fn from(placement: v1::Placement) -> Self {
        Self {
            owner: placement.owner,
            replicas: placement.replicas,
            leader: text(placement.leader),
        }
    }
}

impl From<v1::Topic> for Topic {
    fn from(topic: v1::Topic) -> Self {
        Self {
            name: topic.name,
            id: topic.topic_id,
            owner: topic.owner,
            creator: text(topic.creator),
            create_time: time(topic.create_time),
            first_offset: topic.first_offset,
            next_offset: topic.next_offset,
            bytes: topic.bytes,
            retention: topic.retention.unwrap_or_default().into(),
        }
    }
}

impl From<v1::Publisher> for Party {
    fn from(publisher: v1::Publisher) -> Self {
        Self {
            id: publisher.publisher,
            owner: publisher.owner,
            create_time: time(publisher.create_time),
        }
    }
}

impl From<v1::Subscriber> for Party {
    fn from(subscriber: v1::Subscriber) -> Self {
        Self {
            id: subscriber.subscriber,
            owner: subscriber.owner,
            create_time: time(subscriber.create_time),
        }
    }
}

impl From<v1::Subscription> for SubscriptionInfo {
    fn from(subscription: v1::Subscription) -> Self {
        Self {
            topic: subscription.topic,
            subscriber: subscription.subscriber,
            next_offset: subscription.next_offset,
            head_offset: subscription.head_offset,
            create_time: time(subscription.create_time),
            missed: subscription.missed,
            sharing: subscription.shared.map(Into::into),
        }
    }
}

impl From<v1::Sharing> for Sharing {
    fn from(sharing: v1::Sharing) -> Self {
        let lease = sharing.lease.and_then(|lease| lease.try_into().ok());
        Self {
            lease: lease.unwrap_or(Self::default().lease),
            max_deliveries: sharing.max_deliveries,
            dead_letter_topic: Some(sharing.dead_letter_topic).filter(|topic| !topic.is_empty()),
        }
    }
}

impl From<Sharing> for v1::Sharing {
    fn from(sharing: Sharing) -> Self {
        Self {
            lease: Some(duration(sharing.lease)),
            max_deliveries: sharing.max_deliveries,
            dead_letter_topic: sharing.dead_letter_topic.unwrap_or_default(),
        }
    }
}

impl From<v1::ReadSource> for ReadSource {
    fn from(source: v1::ReadSource) -> Self {
        Self {
            state: source.state().into(),
            served_by: source.served_by,
            owner: source.owner,
            lag_entries: source.lag_entries,
            note: text(source.note),
            is_owner_unreached: source.is_owner_unreached,
        }
    }
}

impl From<v1::Replica> for Replica {
    fn from(replica: v1::Replica) -> Self {
        Self {
            role: replica.role().into(),
            state: replica.state().into(),
            vertex: replica.vertex,
            peer: replica.peer,
            address: replica.address,
            matched_index: replica.matched_index,
            lag_entries: replica.lag_entries,
            is_reachable: replica.is_reachable,
        }
    }
}

impl From<v1::LocateTopicResponse> for Location {
    fn from(answer: v1::LocateTopicResponse) -> Self {
        Self {
            topic: answer.topic,
            id: answer.topic_id,
            exists: answer.exists,
            placement: answer.placement.unwrap_or_default().into(),
            leader_address: text(answer.leader_address),
            term: answer.term,
            replicas: each(answer.replicas),
            source: answer.source.map(Into::into),
        }
    }
}

impl From<v1::ShardStatus> for Shard {
    fn from(shard: v1::ShardStatus) -> Self {
        Self {
            role: shard.role().into(),
            state: shard.state().into(),
            shard: shard.shard,
            term: shard.term,
            leader: text(shard.leader),
            last_index: shard.last_index,
            committed_index: shard.committed_index,
            applied_index: shard.applied_index,
            topic_count: shard.topic_count,
            replicas: each(shard.replicas),
            problem: text(shard.problem),
            incarnation: shard.incarnation,
        }
    }
}

impl From<v1::ReplicaDigest> for ReplicaDigest {
    fn from(replica: v1::ReplicaDigest) -> Self {
        Self {
            vertex: replica.vertex,
            peer: replica.peer,
            digest: Some(replica.digest).filter(|digest| !digest.is_empty()),
            is_equal: replica.is_equal,
            problem: text(replica.problem),
        }
    }
}

impl From<v1::ShardVerification> for Verification {
    fn from(shard: v1::ShardVerification) -> Self {
        Self {
            vertex: shard.vertex,
            index: shard.index,
            replicas: each(shard.replicas),
            is_consistent: shard.is_consistent,
            problem: text(shard.problem),
        }
    }
}

impl From<v1::Neighbour> for Neighbour {
    fn from(neighbour: v1::Neighbour) -> Self {
        Self {
            vertex: neighbour.vertex,
            bit: neighbour.bit,
            peer: neighbour.peer,
            address: neighbour.address,
            is_reachable: neighbour.is_reachable,
        }
    }
}

impl From<v1::GetNodeStatusResponse> for NodeStatus {
    fn from(status: v1::GetNodeStatusResponse) -> Self {
        Self {
            peer: status.peer,
            vertices: vertices(status.vertices, status.vertex),
            address: status.address,
            cluster: status.cluster,
            dimension: status.dimension,
            replication_factor: status.replication_factor,
            version: status.version,
            uptime: status
                .uptime
                .and_then(|uptime| uptime.try_into().ok())
                .unwrap_or_default(),
            is_ready: status.is_ready,
            is_draining: status.is_draining,
            has_fault_injection: status.has_fault_injection,
            neighbours: each(status.neighbours),
            shards: each(status.shards),
            limits: status.limits.unwrap_or_default(),
            storage: status.storage.unwrap_or_default(),
            connections: status.connections,
            calls: status.calls,
        }
    }
}

impl From<v1::Member> for Member {
    fn from(member: v1::Member) -> Self {
        Self {
            state: member.state().into(),
            peer: member.peer,
            vertices: vertices(member.vertices, member.vertex),
            address: member.address,
            heard_time: member.heard_time.map(|heard| time(Some(heard))),
        }
    }
}

impl From<v1::VertexStatus> for VertexStatus {
    fn from(status: v1::VertexStatus) -> Self {
        Self {
            vertex: status.vertex,
            home: status.home,
            replicas: status.replicas,
            leader: status.leader,
            term: status.term,
            voters: status.voters,
        }
    }
}

impl From<v1::Link> for Link {
    fn from(link: v1::Link) -> Self {
        Self {
            from_peer: link.from_peer,
            to_peer: link.to_peer,
            is_up: link.is_up,
            round_trip: link.round_trip.and_then(|time| time.try_into().ok()),
        }
    }
}

impl From<v1::GetClusterResponse> for Cluster {
    fn from(answer: v1::GetClusterResponse) -> Self {
        cluster(answer.cluster.unwrap_or_default(), answer.seen_by)
    }
}

/// The cluster as the peer of this number sees it.
pub(crate) fn cluster(cluster: v1::Cluster, seen_by: u32) -> Cluster {
    Cluster {
        name: cluster.name,
        seen_by,
        revision: cluster.revision,
        dimension: cluster.dimension,
        replication_factor: cluster.replication_factor,
        members: each(cluster.members),
        vertices: each(cluster.vertices),
        links: each(cluster.links),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_text_is_none_and_one_vertex_is_enough() {
        assert_eq!(
            Placement::from(v1::Placement {
                owner: "100".to_owned(),
                ..v1::Placement::default()
            })
            .leader,
            None
        );
        let member = v1::Member {
            vertex: "101".to_owned(),
            ..v1::Member::default()
        };
        assert_eq!(Member::from(member).vertices, ["101"]);
    }

    #[test]
    fn retention_survives_the_way_there_and_back() {
        let some = Retention::new()
            .with_age(Duration::from_millis(90_500))
            .with_messages(7);
        for retention in [Retention::new(), some, Retention::new().with_bytes(1)] {
            assert_eq!(Retention::from(v1::Retention::from(retention)), retention);
        }
        let topic = Topic::from(v1::Topic::default());
        assert!(topic.retention.is_unbounded());
    }

    #[test]
    fn level_that_is_not_told_promises_the_least() {
        assert_eq!(AckLevel::from(v1::AckLevel::Unspecified), AckLevel::Owner);
    }

    #[test]
    fn time_survives_the_way_there_and_back() {
        let now = SystemTime::now();
        assert_eq!(time(Some(now.into())), now);
        assert_eq!(time(None), SystemTime::UNIX_EPOCH);
    }
}
