//! Consensus: one Raft group per shard, run by openraft, which is named only here.
//!
//! This folder turns openraft's seams into ours: its log is a view of the write-ahead log ([`log`]), its state machine is the shard's
//! ([`machine`]), its network is the channel between two peers ([`network`]). It never looks into a command and never decides where a call
//! goes. Begin with [`Group`].
//!
//! Raft: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014); pre-vote and ReadIndex: Ongaro's thesis,
//! sections 9.6 and 6.4.

mod convert;
mod founding;
mod group;
mod log;
mod machine;
mod network;
mod outbound;
mod serve;
mod status;
mod types;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::link::Peers;
use crate::shard;
use crate::types::{PeerId, Term, Vertex};
use crate::wal::RaftLog;

pub use group::Group;
pub use machine::Observer;
pub use network::{MESSAGE_BYTES_MAX, SHARD_KEY};
pub use status::{Leadership, Member, Role, Status};
pub use types::{node_id, peer_of};

/// How a group behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the cluster, for the log.
    pub cluster: String,
    /// Raft id of this replica.
    pub node: u64,
    /// Raft ids of the first voters, the preferred leader first. Used only to found the group; afterwards the log says who votes.
    pub voters: Vec<u64>,
    /// Raft ids of the replicas that hold the log and do not vote.
    pub standbys: Vec<u64>,
    /// How often a leader says that it lives.
    pub heartbeat_interval: Duration,
    /// A follower that hears nothing stands for election after a time between this …
    pub election_timeout_min: Duration,
    /// … and this, which is also the leader's lease.
    pub election_timeout_max: Duration,
}

/// What a group works with.
pub struct Parts {
    /// The shard.
    pub shard: Vertex,
    /// The peer's write-ahead log.
    pub wal: Arc<dyn RaftLog>,
    /// The other peers.
    pub peers: Peers,
    /// The shard's state machine, opened.
    pub machine: shard::Machine,
    /// What the shard's store remembers of the last commit.
    pub mark: Option<Bytes>,
    /// Is told what each commit changed.
    pub observer: Observer,
}

/// Why a group did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another replica leads, or none does. The command was certainly not proposed.
    #[error("shard {shard} is led by {leader:?} in term {term}, not by this peer")]
    NotLeader {
        /// The shard.
        shard: Vertex,
        /// The leader, when known and another peer.
        leader: Option<PeerId>,
        /// The greatest term seen.
        term: Term,
    },
    /// No majority confirms that this replica still leads.
    #[error("no majority of shard {shard} answers")]
    NoQuorum {
        /// The shard.
        shard: Vertex,
    },
    /// Leadership was lost while the command was on its way: it may be applied or not.
    #[error("leadership of shard {shard} was lost; whether the command is applied is not known")]
    OutcomeUnknown {
        /// The shard.
        shard: Vertex,
    },
    /// The group is stopped.
    #[error("shard {shard} is stopped on this peer")]
    Stopped {
        /// The shard.
        shard: Vertex,
    },
    /// The group did not start.
    #[error("shard {shard} did not start: {reason}")]
    Start {
        /// The shard.
        shard: Vertex,
        /// What openraft says.
        reason: String,
    },
    /// A message lacks something, or holds what makes no sense there.
    #[error("{field} is missing or makes no sense")]
    Malformed {
        /// The field.
        field: &'static str,
    },
}
