//! The shard's state machine as openraft drives it.
//!
//! All entries that are ready are applied in one commit of the store, together with the mark that says how far the log is applied, so each
//! entry is applied exactly once, however often the peer restarts. An entry is applied only when this peer has it on disk, although it may be
//! committed before: a store ahead of its log could not be told from one whose log lost its end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use prost::Message;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::convert;
use super::log::Durability;
use super::types::{LogId, Reply, StoredMembership, Types, position};
use crate::proto::peer::v1 as proto;
use crate::shard;

/// Entries in one commit of the store. More would delay the first answer of a group, fewer cost a commit each.
const GROUP_ENTRIES_MAX: usize = 256;

/// Is told what each commit changed, in order. Must not block.
pub type Observer = Arc<dyn Fn(&[shard::Event]) + Send + Sync>;

/// A shard's state machine with what Raft needs to know of it.
pub struct Machine {
    machine: shard::Machine,
    observer: Observer,
    applied: Option<LogId>,
    membership: StoredMembership,
    log: Durability,
    /// The group has not stopped before this is dropped, and the store with it.
    _alive: TaskTrackerToken,
}

impl Machine {
    /// Takes over an opened state machine, with the mark that its store holds.
    pub(super) fn new(
        (machine, mark): (shard::Machine, Option<Bytes>),
        observer: Observer,
        log: Durability,
        alive: TaskTrackerToken,
    ) -> Result<Self, super::Error> {
        let mark = match mark {
            Some(bytes) => {
                proto::AppliedMark::decode(bytes).map_err(|_| super::Error::Malformed {
                    field: "applied mark",
                })?
            }
            None => proto::AppliedMark::default(),
        };
        let membership = match &mark.membership {
            Some(membership) => convert::membership_from_proto(membership)?,
            None => super::types::Membership::default(),
        };
        Ok(Self {
            machine,
            observer,
            applied: mark.applied.as_ref().map(convert::log_id_from_proto),
            membership: StoredMembership::new(
                mark.membership_id.as_ref().map(convert::log_id_from_proto),
                membership,
            ),
            log,
            _alive: alive,
        })
    }

    fn mark(&self) -> Bytes {
        proto::AppliedMark {
            applied: self.applied.as_ref().map(convert::log_id_to_proto),
            membership_id: self
                .membership
                .log_id()
                .as_ref()
                .map(convert::log_id_to_proto),
            membership: Some(convert::membership_to_proto(self.membership.membership())),
        }
        .encode_to_vec()
        .into()
    }

    async fn apply_group(&mut self, group: Vec<EntryResponder<Types>>) -> io::Result<()> {
        if let Some((last, _)) = group.last() {
            self.log.reaches(position(&last.log_id).index).await?;
        }
        let mut entries = Vec::with_capacity(group.len());
        let mut responders = Vec::with_capacity(group.len());
        for (entry, responder) in group {
            self.applied = Some(entry.log_id);
            let command = match entry.payload {
                EntryPayload::Normal(proposal) => Some(proposal.0),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    None
                }
                EntryPayload::Blank => None,
            };
            entries.push((position(&entry.log_id), command));
            responders.push(responder);
        }
        let mark = self.mark();
        let machine = &mut self.machine;
        let applied = if machine.is_calm() {
            machine.apply(entries, mark)
        } else {
            blocking(|| machine.apply(entries, mark))
        };
        let applied = applied.map_err(io::Error::other)?;
        (self.observer)(&applied.events);
        for (outcome, responder) in applied.outcomes.into_iter().zip(responders) {
            if let Some(responder) = responder {
                responder.send(Reply(outcome));
            }
        }
        Ok(())
    }
}

/// Runs what may sleep: a store that flushes too slowly lets its writers wait, all shards at once, and heartbeats must not wait with them. To
/// hand the runtime's work to another thread cost 15 to 25 % of a publish's time, so it is done only while the store is not calm.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        // There is no other thread that could go on.
        _ => work(),
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Infallible;
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut groups = entries.ready_chunks(GROUP_ENTRIES_MAX);
        while let Some(group) = groups.next().await {
            self.apply_group(group.into_iter().collect::<Result<_, _>>()?)
                .await?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshots> {
        None
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<Types>,
        snapshot: Infallible,
    ) -> Result<(), io::Error> {
        match snapshot {}
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, Infallible>>, io::Error> {
        Ok(None)
    }
}

/// Nothing builds a snapshot: the log is never purged in this version, so every follower can be brought up to date from it.
pub struct NoSnapshots;

impl RaftSnapshotBuilder<Types> for NoSnapshots {
    type SnapshotData = Infallible;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Infallible>, io::Error> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this version keeps the whole log and builds no snapshots",
        ))
    }
}
