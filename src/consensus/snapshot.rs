//! A shard's state as Raft hands it from one replica to another.
//!
//! Nothing is copied to make one: it is the store as its last flush left it ([`Reader`]), with the mark that it kept with that. So the log may
//! be purged up to what a power cut cannot take back and no further, and a snapshot that is tried again and again for a dead follower
//! costs next to nothing. Begin with [`Source`].

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::RaftSnapshotBuilder;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use prost::Message;

use super::convert;
use super::machine::blocking;
use super::receive::Staged;
use super::types::{LogId, Membership, StoredMembership, Types};
use crate::proto::peer::v1 as proto;
use crate::shard::mark_of;
use crate::store::{Reader, TopicStore};
use crate::types::Vertex;

/// What a snapshot holds.
pub enum Snapshot {
    /// The state of this replica, to be sent.
    Frozen(Arc<dyn Reader>),
    /// The state of another replica, received whole and checked, to be installed.
    Staged(Staged),
}

/// What the store remembers for Raft with each commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The last entry applied.
    pub(super) applied: Option<LogId>,
    /// The replicas at that entry.
    pub(super) membership: StoredMembership,
    /// The last entry of the snapshot that the rows came from.
    pub(super) installed: Option<LogId>,
}

impl Mark {
    pub(super) fn encode(&self) -> Bytes {
        let membership_id = self.membership.log_id();
        proto::AppliedMark {
            applied: self.applied.as_ref().map(convert::log_id_to_proto),
            membership_id: membership_id.as_ref().map(convert::log_id_to_proto),
            membership: Some(convert::membership_to_proto(self.membership.membership())),
            installed: self.installed.as_ref().map(convert::log_id_to_proto),
        }
        .encode_to_vec()
        .into()
    }

    /// # Errors
    /// [`super::Error::Malformed`] when the bytes are not a mark of this version.
    pub(super) fn decode(bytes: Bytes) -> Result<Self, super::Error> {
        let malformed = |_| super::Error::Malformed {
            field: "applied mark",
        };
        let mark = proto::AppliedMark::decode(bytes).map_err(malformed)?;
        let membership = match &mark.membership {
            Some(membership) => convert::membership_from_proto(membership)?,
            None => Membership::default(),
        };
        let membership_id = mark.membership_id.as_ref().map(convert::log_id_from_proto);
        Ok(Self {
            applied: mark.applied.as_ref().map(convert::log_id_from_proto),
            membership: StoredMembership::new(membership_id, membership),
            installed: mark.installed.as_ref().map(convert::log_id_from_proto),
        })
    }
}

/// Makes snapshots of one shard.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) shard: Vertex,
    pub(super) store: Arc<dyn TopicStore>,
}

impl Source {
    /// The state that a power cut cannot take back. `None` when there is none yet. May wait for a flush.
    pub(super) fn freeze(&self) -> io::Result<Option<SnapshotOf<Types, Snapshot>>> {
        if self.store.durable_mark(self.shard).is_none() {
            return Ok(None);
        }
        let reader = self.store.snapshot().map_err(io::Error::other)?;
        let mark = mark_of(&*reader, self.shard).map_err(io::Error::other)?;
        let Some((_, mark)) = mark else {
            return Ok(None);
        };
        let mark = Mark::decode(mark).map_err(io::Error::other)?;
        Ok(Some(SnapshotOf::<Types, Snapshot> {
            meta: SnapshotMetaOf::<Types> {
                last_log_id: mark.applied,
                last_membership: mark.membership,
            },
            snapshot: Snapshot::Frozen(reader),
        }))
    }
}

/// Gives openraft a snapshot, of which it only keeps the name: up to there it may purge the log.
pub struct Builder(pub(super) Source);

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Snapshot>, io::Error> {
        let nothing = || io::Error::new(io::ErrorKind::NotFound, "the shard has no durable state");
        blocking(|| self.0.freeze())?.ok_or_else(nothing)
    }
}
