//! Why a replica does not do what is asked.

use crate::consensus;
use crate::types::{ByteCount, PeerId, Term, Vertex};

/// Why a replica did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The group says no.
    #[error(transparent)]
    Consensus(#[from] consensus::Error),
    /// The deadline came before the answer, or leadership was lost: the command may be applied or not.
    #[error("whether the command is applied in shard {shard} is not known")]
    OutcomeUnknown {
        /// The shard.
        shard: Vertex,
    },
    /// The deadline came before the shard could be read.
    #[error("shard {shard} could not be read before the deadline")]
    Deadline {
        /// The shard.
        shard: Vertex,
    },
    /// The command is too large for the log.
    #[error("the command has {bytes} bytes, the log takes {limit}")]
    TooLarge {
        /// How large it is.
        bytes: ByteCount,
        /// How large it may be.
        limit: ByteCount,
    },
    /// The replica is being opened. It certainly did nothing.
    #[error("the replica of shard {shard} on this peer is starting")]
    Starting {
        /// The shard.
        shard: Vertex,
    },
    /// The replica lost something and is made again from the others. It certainly did nothing.
    #[error(
        "the replica of shard {shard} on this peer is not whole and is made again from the others: {reason}"
    )]
    Damaged {
        /// The shard.
        shard: Vertex,
        /// What was found.
        reason: String,
    },
    /// The rows could not be read this time. What is stored may be whole.
    #[error("the rows of shard {shard} could not be read: {reason}")]
    Unreadable {
        /// The shard.
        shard: Vertex,
        /// Why.
        reason: String,
    },
    /// The disk has too little room for a command that takes some. It was not proposed.
    #[error("the disk has {free} bytes left; nothing more is stored below {limit}")]
    StorageFull {
        /// Bytes that are free.
        free: ByteCount,
        /// Bytes that must stay free.
        limit: ByteCount,
    },
}

impl Error {
    /// The leader to ask instead, with the term in which it leads, when the error names one.
    pub fn leader_hint(&self) -> Option<(PeerId, Term)> {
        match self {
            Self::Consensus(consensus::Error::NotLeader {
                leader: Some(leader),
                term,
                ..
            }) => Some((*leader, *term)),
            _ => None,
        }
    }
}

/// An error with its causes, in one line.
pub(super) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text = format!("{text}: {current}");
        cause = current.source();
    }
    text
}
