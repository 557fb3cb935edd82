//! What can go wrong in a group.

use crate::types::{PeerId, Term, Vertex};

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
    /// No majority can be reached, or none confirms that this replica still leads. The command was certainly not proposed.
    #[error("no majority of shard {shard} answers: {reachable} of {voters} voters can be reached")]
    NoQuorum {
        /// The shard.
        shard: Vertex,
        /// How many vote.
        voters: usize,
        /// How many of them are not gone, as this peer's links say.
        reachable: usize,
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
    /// The log and the store do not fit together: entries between them are lost. The replica can only be made anew from the others.
    #[error("shard {shard} is damaged: {reason}")]
    Gap {
        /// The shard.
        shard: Vertex,
        /// What is missing.
        reason: String,
    },
    /// The call is for a replica under another Raft id: an earlier or a later life of this peer.
    #[error("this peer's replica of shard {shard} has Raft id {node:#x}, not {target:#x}")]
    OtherLife {
        /// The shard.
        shard: Vertex,
        /// Raft id of this replica.
        node: u64,
        /// Raft id that was meant.
        target: u64,
    },
    /// A replica asks for a place that it can never have under its Raft id.
    #[error("Raft id {node:#x} is not let into shard {shard}: {reason}")]
    NotAdmitted {
        /// The shard.
        shard: Vertex,
        /// Who asked.
        node: u64,
        /// Why not.
        reason: String,
    },
    /// A change of the members did not work, or took too long; it may be tried again.
    #[error("the members of shard {shard} could not be changed: {reason}")]
    Change {
        /// The shard.
        shard: Vertex,
        /// Why.
        reason: String,
    },
    /// The others may not hold everything that this replica does.
    #[error("shard {shard} cannot spare Raft id {node:#x}: {reason}")]
    CannotSpare {
        /// The shard.
        shard: Vertex,
        /// Who asked.
        node: u64,
        /// What stands in the way.
        reason: String,
    },
    /// A snapshot was not taken over; nothing was changed.
    #[error("a snapshot of shard {shard} was refused: {reason}")]
    Snapshot {
        /// The shard.
        shard: Vertex,
        /// What is wrong with it, or here.
        reason: String,
    },
    /// There is too little room on this peer's disk to take more.
    #[error("the disk of this peer has no room for more of shard {shard}")]
    NoRoom {
        /// The shard.
        shard: Vertex,
    },
}
