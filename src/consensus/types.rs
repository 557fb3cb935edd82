//! What openraft is told about us.

use std::fmt;

use bytes::Bytes;
use openraft::EmptyNode;
use openraft::alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf};

use crate::shard;
use crate::types::{Incarnation, LogIndex, LogPosition, PeerId, Term};

openraft::declare_raft_types!(
    /// The type parameters of every group.
    pub Types:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = EmptyNode,
);

pub(super) type LogId = LogIdOf<Types>;
pub(super) type Vote = VoteOf<Types>;
pub(super) type Entry = EntryOf<Types>;
pub(super) type StoredMembership = StoredMembershipOf<Types>;
pub(super) type Membership = openraft::Membership<u64, EmptyNode>;

/// An encoded command, opaque to Raft.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What applying an entry answered: the state machine's outcome, or nothing for an entry that is not a command.
#[derive(Debug, Clone)]
pub struct Reply(pub Option<shard::Outcome>);

/// The Raft id of a peer in one life of its disk: the peer in the low 16 bits, the incarnation above. A peer that lost its disk gets a new one,
/// because an id that has voted must never vote again with an empty memory (openraft, "node ids must not be reused").
pub fn node_id(peer: PeerId, incarnation: Incarnation) -> u64 {
    u64::from(incarnation.0) << 16 | u64::from(peer.0)
}

/// The peer behind a Raft id.
pub fn peer_of(node: u64) -> PeerId {
    PeerId(u16::try_from(node & 0xffff).unwrap_or(u16::MAX))
}

/// The incarnation in a Raft id.
pub fn incarnation_of(node: u64) -> Incarnation {
    Incarnation(u32::try_from(node >> 16).unwrap_or(u32::MAX))
}

pub(super) fn position(id: &LogId) -> LogPosition {
    LogPosition {
        term: Term(id.leader_id.term),
        index: LogIndex(id.index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raft_id_tells_the_peer_in_every_incarnation() {
        let first = node_id(PeerId(7), Incarnation(1));
        let second = node_id(PeerId(7), Incarnation(2));
        assert_ne!(first, second);
        assert_eq!((peer_of(first), peer_of(second)), (PeerId(7), PeerId(7)));
        assert_eq!(incarnation_of(second), Incarnation(2));
    }
}
