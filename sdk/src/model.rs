//! What the cluster tells about itself and its topics, as plain values.
//!
//! Each is read from its message of the API once; nothing here calls anyone. A vertex is its bits as text: `100`. Begin with [`Topic`] and
//! [`Placement`].

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::error::Error;
use crate::proto::v1;
use crate::sharing::Sharing;

/// How many replicas have a publish on stable storage before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum AckLevel {
    /// At least the owner. It is answered as [`Self::Quorum`] is and says so: the answer names the offset, which is certain only then.
    Owner,
    /// A majority of the voters: survives the loss of any minority of them.
    #[default]
    Quorum,
    /// Every replica. When it is not reached in time the answer comes nevertheless and says `Quorum`.
    All,
}

/// What a read is sure to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Consistency {
    /// What the leader has committed.
    #[default]
    Leader,
    /// Every publish that was acknowledged before the read began.
    Linearizable,
    /// What any replica has committed: a prefix, perhaps old. Works while one replica lives.
    Eventual,
}

/// Where in a topic to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Start {
    /// At the oldest message that can still be read.
    #[default]
    Earliest,
    /// After the newest message.
    Latest,
    /// At this offset.
    Offset(u64),
    /// At the first message appended at this time or later.
    Time(SystemTime),
}

/// What a replica is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplicaRole {
    /// The peer that answered does not know.
    Unknown,
    /// It counts for a majority.
    Voter,
    /// It holds every entry and steps in when a voter dies.
    Standby,
}

/// What a replica does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplicaState {
    /// The peer that answered does not know.
    Unknown,
    /// It leads.
    Leader,
    /// It follows.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It receives the log without a vote.
    Learner,
    /// It found damage and is being repaired.
    Damaged,
}

/// What a peer believes of a member of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemberState {
    /// The peer that answered does not know.
    Unknown,
    /// It answers.
    Alive,
    /// It does not answer, and its death is not confirmed.
    Suspect,
    /// It is down.
    Down,
    /// It receives its share.
    Joining,
    /// Its share is being moved away.
    Leaving,
}

/// How long a topic keeps its messages. What passes any bound is removed, the oldest first; the default has no bound: for ever.
///
/// ```
/// use std::time::Duration;
///
/// let week = cubecast_sdk::Retention::new().with_age(Duration::from_secs(7 * 24 * 60 * 60)).with_bytes(1 << 30);
/// assert_eq!(week.messages, None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Retention {
    /// The greatest age of a message.
    pub age: Option<Duration>,
    /// The most bytes of messages.
    pub bytes: Option<u64>,
    /// The most messages.
    pub messages: Option<u64>,
}

impl Retention {
    /// Without any bound.
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes messages that are older: 1 s to 36,500 days.
    #[must_use]
    pub fn with_age(self, age: Duration) -> Self {
        Self {
            age: Some(age),
            ..self
        }
    }

    /// Removes messages beyond so many bytes, at least 1.
    #[must_use]
    pub fn with_bytes(self, bytes: u64) -> Self {
        Self {
            bytes: Some(bytes),
            ..self
        }
    }

    /// Removes messages beyond so many, at least 1.
    #[must_use]
    pub fn with_messages(self, count: u64) -> Self {
        Self {
            messages: Some(count),
            ..self
        }
    }

    /// It has no bound: messages are kept for ever.
    pub fn is_unbounded(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a topic, a publisher or a subscriber lives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Placement {
    /// The vertex that owns it.
    pub owner: String,
    /// The vertices of the other replicas, in bit order.
    pub replicas: Vec<String>,
    /// The vertex that leads now; `None` when not known.
    pub leader: Option<String>,
}

/// A topic as it was at the moment of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id, never given to another topic.
    pub id: u64,
    /// The vertex that owns it.
    pub owner: String,
    /// The publisher that created it, where the call named one.
    pub creator: Option<String>,
    /// When it was created.
    pub create_time: SystemTime,
    /// The offset of the oldest message.
    pub first_offset: u64,
    /// The offset that the next message will get.
    pub next_offset: u64,
    /// Bytes of all messages.
    pub bytes: u64,
    /// How long it keeps its messages.
    pub retention: Retention,
}

/// A publisher or subscriber that the cluster knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Party {
    /// Its id.
    pub id: String,
    /// The vertex that owns it.
    pub owner: String,
    /// When it was created.
    pub create_time: SystemTime,
}

/// A subscription as it was at the moment of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionInfo {
    /// The topic.
    pub topic: String,
    /// The subscriber.
    pub subscriber: String,
    /// The cursor: the offset of the next message to deliver.
    pub next_offset: u64,
    /// The offset that the topic's next message will get.
    pub head_offset: u64,
    /// When it was made.
    pub create_time: SystemTime,
    /// Messages right below `next_offset` that retention removed before they were acknowledged.
    pub missed: u64,
    /// How consumers share it; beyond `next_offset` some messages may be acknowledged then. `None`: one reader at a time has it.
    pub sharing: Option<Sharing>,
}

/// Who answered a read, and how fresh the answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadSource {
    /// The vertex of the peer whose replica was read.
    pub served_by: String,
    /// The vertex that owns the topic.
    pub owner: String,
    /// What that replica was.
    pub state: ReplicaState,
    /// Entries that it knew to be committed and had not applied; `None` when it does not know.
    pub lag_entries: Option<u64>,
    /// In words, when it was not the owner: "cannot reach owner 100; served by replica 101".
    pub note: Option<String>,
    /// The owner was asked before and could not be reached, by the peer that answered or by this client.
    pub is_owner_unreached: bool,
}

/// One replica of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replica {
    /// The vertex of its peer.
    pub vertex: String,
    /// The number of its peer.
    pub peer: u32,
    /// Where its peer listens; empty when not known.
    pub address: String,
    /// What it is for.
    pub role: ReplicaRole,
    /// What it does.
    pub state: ReplicaState,
    /// The last entry that it is known to hold; `None` when the peer that answered does not lead.
    pub matched_index: Option<u64>,
    /// How many entries it lacks; `None` as above.
    pub lag_entries: Option<u64>,
    /// The peer that answered hears from its peer, itself or through others; `None` when that is not known yet.
    pub is_reachable: Option<bool>,
}

/// Where a topic lives, or would live.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Location {
    /// The topic's name.
    pub topic: String,
    /// Its id; `None` when it does not exist.
    pub id: Option<u64>,
    /// It exists.
    pub exists: bool,
    /// Owner, replicas and leader.
    pub placement: Placement,
    /// Where the leader listens; `None` when none is known.
    pub leader_address: Option<String>,
    /// The Raft term; 0 when not known.
    pub term: u64,
    /// Every replica, the owner's first.
    pub replicas: Vec<Replica>,
    /// Who answered.
    pub source: Option<ReadSource>,
}

/// What one peer knows of its replica of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shard {
    /// The vertex of the shard.
    pub shard: String,
    /// What the replica is for.
    pub role: ReplicaRole,
    /// What it does.
    pub state: ReplicaState,
    /// The Raft term.
    pub term: u64,
    /// The vertex of the leader, where known.
    pub leader: Option<String>,
    /// The last entry of the log.
    pub last_index: Option<u64>,
    /// The last entry known to be committed.
    pub committed_index: Option<u64>,
    /// The last entry applied.
    pub applied_index: Option<u64>,
    /// Topics in the shard.
    pub topic_count: u64,
    /// Every replica; with lag when this one leads.
    pub replicas: Vec<Replica>,
    /// Why the replica is being made again from the others; `None`: it is not.
    pub problem: Option<String>,
    /// Which life of the replica's data this is; 0 when not known.
    pub incarnation: u32,
}

/// Another peer next to the one that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Neighbour {
    /// Its vertex.
    pub vertex: String,
    /// The bit in which the two vertices differ.
    pub bit: u32,
    /// Its number.
    pub peer: u32,
    /// Where it listens; empty when not known.
    pub address: String,
    /// The direct link works; `None` when not known yet.
    pub is_reachable: Option<bool>,
}

/// What a peer tells about itself.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Its number.
    pub peer: u32,
    /// The vertices that it is home to.
    pub vertices: Vec<String>,
    /// Where it listens.
    pub address: String,
    /// The name of the cluster.
    pub cluster: String,
    /// The dimension of the cube.
    pub dimension: u32,
    /// How many copies a topic has.
    pub replication_factor: u32,
    /// Its version.
    pub version: String,
    /// How long it has been running.
    pub uptime: Duration,
    /// It takes calls.
    pub is_ready: bool,
    /// It is stopping.
    pub is_draining: bool,
    /// Fault injection is enabled.
    pub has_fault_injection: bool,
    /// Its neighbours in bit order.
    pub neighbours: Vec<Neighbour>,
    /// Its replicas.
    pub shards: Vec<Shard>,
    /// What it accepts.
    pub limits: v1::Limits,
    /// What is on its disk.
    pub storage: v1::StorageStatus,
    /// Connections at the moment.
    pub connections: u32,
    /// Calls at the moment.
    pub calls: u32,
}

/// A peer of the cluster, as another sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its number.
    pub peer: u32,
    /// The vertices that it is home to.
    pub vertices: Vec<String>,
    /// Where it listens.
    pub address: String,
    /// What is believed of it.
    pub state: MemberState,
    /// When the peer that answered last heard from it; `None`: never, or it is that peer.
    pub heard_time: Option<SystemTime>,
}

/// A vertex with its shard, as a peer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VertexStatus {
    /// The vertex.
    pub vertex: String,
    /// The peer that is its home.
    pub home: u32,
    /// The peers of its replicas, the home first.
    pub replicas: Vec<u32>,
    /// The peer that leads, where known.
    pub leader: Option<u32>,
    /// The Raft term; 0 when not known.
    pub term: u64,
    /// The peers whose replicas vote; none when the peer that answered does not know.
    pub voters: Vec<u32>,
}

/// A link from one peer to another.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// The number of the peer that looks.
    pub from_peer: u32,
    /// The number of the peer at the other end.
    pub to_peer: u32,
    /// It works.
    pub is_up: bool,
    /// How long a heartbeat took there and back; `None` when that is not known.
    pub round_trip: Option<Duration>,
}

/// The cluster, as one peer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The number of the peer that told.
    pub seen_by: u32,
    /// Grows with each change.
    pub revision: u64,
    /// The dimension of the cube.
    pub dimension: u32,
    /// How many copies a topic has.
    pub replication_factor: u32,
    /// All members.
    pub members: Vec<Member>,
    /// All vertices.
    pub vertices: Vec<VertexStatus>,
    /// The links that are known.
    pub links: Vec<Link>,
}

/// The content of one replica, compared with the others.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaDigest {
    /// The vertex of its peer.
    pub vertex: String,
    /// The number of its peer.
    pub peer: u32,
    /// SHA-256 over all that it holds; `None` when it did not answer.
    pub digest: Option<Bytes>,
    /// It equals that of the majority.
    pub is_equal: bool,
    /// Why it did not answer.
    pub problem: Option<String>,
}

/// The replicas of one shard, compared at one entry of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// The vertex of the shard.
    pub vertex: String,
    /// The entry.
    pub index: u64,
    /// Each replica, the owner's first.
    pub replicas: Vec<ReplicaDigest>,
    /// All replicas answered and are equal.
    pub is_consistent: bool,
    /// Why nothing was compared.
    pub problem: Option<String>,
}

/// The message that a field must have.
pub(crate) fn required<T>(value: Option<T>, field: &'static str) -> Result<T, Error> {
    value.ok_or(Error::Answer { field })
}
