//! The shard's state machine as openraft drives it.
//!
//! All entries that are ready are applied in one commit of the store, together with the mark that says how far the log is applied, so each
//! entry is applied exactly once, however often the peer restarts. An entry is applied only when this peer has it on disk, although it may be
//! committed before: a store ahead of its log could not be told from one whose log lost its end.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{info, warn};

use super::log::Durability;
use super::snapshot::{Builder, Mark, Snapshot, Source};
use super::types::{LogId, Reply, StoredMembership, Types, position};
use crate::shard::{self, is_barrier};
use crate::store::Reader;
use crate::types::LogPosition;

/// Entries in one commit of the store. More would delay the first answer of a group, fewer cost a commit each.
const GROUP_ENTRIES_MAX: usize = 256;

/// What happened to a shard's state machine.
pub enum Observed<'a> {
    /// A commit changed this, in order.
    Events(&'a [shard::Event]),
    /// The state right after an entry that asked for it ([`shard::Command::Barrier`]), which the reader keeps as it was.
    Frozen {
        /// The entry.
        position: LogPosition,
        /// The state.
        reader: Arc<dyn Reader>,
    },
    /// A snapshot begins to take the place of everything: until it has, nothing can be read.
    Installing,
    /// A snapshot took the place of everything.
    Installed,
}

/// Is told what happens, in order. Must not block.
pub type Observer = Arc<dyn Fn(Observed<'_>) + Send + Sync>;

/// A shard's state machine with what Raft needs to know of it.
pub struct Machine {
    machine: shard::Machine,
    observer: Observer,
    state: Mark,
    source: Source,
    log: Durability,
    /// The group has not stopped before this is dropped, and the store with it.
    _alive: TaskTrackerToken,
}

impl Machine {
    /// Takes over an opened state machine, with the mark that its store holds.
    pub(super) fn new(
        (machine, state): (shard::Machine, Mark),
        observer: Observer,
        source: Source,
        log: Durability,
        alive: TaskTrackerToken,
    ) -> Self {
        Self {
            machine,
            observer,
            state,
            source,
            log,
            _alive: alive,
        }
    }

    async fn apply_group(&mut self, group: Vec<EntryResponder<Types>>) -> io::Result<()> {
        if let Some((last, _)) = group.last() {
            self.log.reaches(position(&last.log_id).index).await?;
        }
        let mut entries = Vec::with_capacity(group.len());
        let mut responders = Vec::with_capacity(group.len());
        for (entry, responder) in group {
            self.state.applied = Some(entry.log_id);
            let command = match entry.payload {
                EntryPayload::Normal(proposal) => Some(proposal.0),
                EntryPayload::Membership(membership) => {
                    self.state.membership = StoredMembership::new(Some(entry.log_id), membership);
                    None
                }
                EntryPayload::Blank => None,
            };
            entries.push((position(&entry.log_id), command));
            responders.push(responder);
        }
        let mark = self.state.encode();
        let machine = &mut self.machine;
        let applied = if machine.is_calm() {
            machine.apply(entries, mark)
        } else {
            blocking(|| machine.apply(entries, mark))
        };
        let applied = applied.map_err(|error| self.failed(error))?;
        (self.observer)(Observed::Events(&applied.events));
        for (outcome, responder) in applied.outcomes.into_iter().zip(responders) {
            if let Some(responder) = responder {
                responder.send(Reply(outcome));
            }
        }
        Ok(())
    }

    /// Damage that only shows when rows are used is noted where the store keeps what it met itself: the replica is then made again, and not only
    /// begun again, which would end at the same entry.
    fn failed(&self, error: shard::Error) -> io::Error {
        let error = Arc::new(error);
        if error.is_damage() {
            let cause = Arc::<shard::Error>::clone(&error);
            self.source.store.blame(self.source.shard, cause);
        }
        io::Error::other(error)
    }

    /// Lets the observer have the state as it is now: everything up to `position`, nothing after it. Without it, on a full disk say, this replica cannot be
    /// compared, which is no reason for it to fail.
    fn freeze(&self, position: LogPosition) {
        let Source { shard, store } = &self.source;
        let frozen = blocking(|| {
            store.checkpoint()?;
            store.snapshot()
        });
        match frozen {
            Ok(reader) => (self.observer)(Observed::Frozen { position, reader }),
            Err(error) => {
                warn!(%shard, %position, %error, "the state cannot be kept for a comparison of the replicas");
            }
        }
    }
}

/// Whether an entry asks for the state right after it.
fn asks_to_freeze((entry, _): &EntryResponder<Types>) -> bool {
    matches!(&entry.payload, EntryPayload::Normal(proposal) if is_barrier(&proposal.0))
}

/// Runs what may sleep: a store that flushes too slowly lets its writers wait, all shards at once, and heartbeats must not wait with them. To
/// hand the runtime's work to another thread cost 15 to 25 % of a publish's time, so it is done only while the store is not calm.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        // There is no other thread that could go on.
        _ => work(),
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.state.applied, self.state.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut ready = entries.ready_chunks(GROUP_ENTRIES_MAX);
        while let Some(entries) = ready.next().await {
            let mut group = Vec::with_capacity(entries.len());
            for entry in entries {
                let entry = entry?;
                let barrier = asks_to_freeze(&entry).then(|| position(&entry.0.log_id));
                group.push(entry);
                if let Some(position) = barrier {
                    self.apply_group(std::mem::take(&mut group)).await?;
                    self.freeze(position);
                }
            }
            if !group.is_empty() {
                self.apply_group(group).await?;
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        let shard = self.source.shard;
        let is_possible = self.source.store.durable_mark(shard).is_some();
        is_possible.then(|| Builder(self.source.clone()))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.source.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        snapshot: Snapshot,
    ) -> Result<(), io::Error> {
        let (Snapshot::Staged(staged), Some(last)) = (snapshot, meta.last_log_id) else {
            return Err(io::Error::other(
                "only what came from another replica can be installed",
            ));
        };
        let state = Mark {
            applied: Some(last),
            membership: meta.last_membership.clone(),
            installed: Some(last),
        };
        let (store, shard) = (Arc::clone(&self.source.store), self.source.shard);
        let mark = (position(&last), state.encode());
        (self.observer)(Observed::Installing);
        let installed = tokio::task::spawn_blocking(move || {
            let mut chunks = staged.chunks().map(|chunk| chunk.map_err(Into::into));
            shard::Machine::install(shard, store, &mut chunks, mark)
        });
        let installed = installed.await.map_err(io::Error::other)?;
        self.machine = installed.map_err(io::Error::other)?;
        self.state = state;
        info!(%shard, snapshot = %meta, "installed a snapshot");
        (self.observer)(Observed::Installed);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, Snapshot>>, io::Error> {
        blocking(|| self.source.freeze())
    }
}
