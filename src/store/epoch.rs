//! Which content of a shard a read belongs to, and what is known of its damage.
//!
//! To replace or erase a shard takes many writes, and readers beside them see a part of this and a part of that. So the shard's epoch is raised when
//! such a change begins, and again when it has ended; while it is odd the content is nothing worth. A read counts only when the epoch was even
//! and is still the same when the read has ended: else it says [`Error::Replaced`], and what it met is no damage. Begin with [`Lease`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use super::{BatchRange, Damaged, Error, Reader, Row, RowRange, Table, TopicStore};
use crate::types::{Dimension, Offset, StoredBatch, Timestamp, TopicId, Vertex};

/// As many as a cube has vertices at most.
const SHARDS_MAX: usize = 1 << Dimension::MAX;

/// Counts how often the content of a shard began to be replaced or erased, and how often that ended. Odd: it goes on, or was broken off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epoch(u64);

impl Epoch {
    /// Whether the shard's content is whole: nothing was begun that has not ended.
    pub fn is_settled(self) -> bool {
        self.0.is_multiple_of(2)
    }
}

/// What a store knows of the content of its shards. A cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    epochs: Arc<[AtomicU64]>,
    damage: watch::Sender<Damaged>,
}

impl Default for Contents {
    fn default() -> Self {
        Self {
            epochs: (0..SHARDS_MAX).map(|_| AtomicU64::new(0)).collect(),
            damage: watch::Sender::default(),
        }
    }
}

impl Contents {
    pub(super) fn epoch(&self, shard: u16) -> Epoch {
        let epoch = self.epochs.get(usize::from(shard));
        Epoch(epoch.map_or(0, |epoch| epoch.load(Ordering::SeqCst)))
    }

    /// The epochs of the shards that were ever replaced or erased.
    pub(super) fn epochs(&self) -> BTreeMap<u16, Epoch> {
        let epochs = (0..).zip(&*self.epochs);
        let epochs = epochs.map(|(shard, epoch)| (shard, Epoch(epoch.load(Ordering::SeqCst))));
        epochs.filter(|(_, epoch)| *epoch != Epoch(0)).collect()
    }

    /// Before the first write: from now on the shard's content is nothing worth.
    pub(super) fn begin(&self, shard: u16) {
        if let Some(epoch) = self.epochs.get(usize::from(shard)) {
            epoch.fetch_or(1, Ordering::SeqCst);
        }
    }

    /// After the last write: the shard's content is whole, and was not damaged yet.
    pub(super) fn end(&self, shard: u16) {
        self.damage
            .send_if_modified(|damaged| damaged.remove(&shard).is_some());
        if let Some(epoch) = self.epochs.get(usize::from(shard)) {
            // The least even number that is not less: nobody else writes it.
            let next = epoch.load(Ordering::SeqCst).next_multiple_of(2);
            epoch.store(next, Ordering::SeqCst);
        }
    }

    /// Runs a read of what a shard holds now, and says whether it counts. The first damage met is remembered.
    pub(super) fn read<T>(
        &self,
        shard: u16,
        read: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let before = self.epoch(shard);
        let replaced = Err(Error::Replaced { shard });
        if !before.is_settled() {
            return replaced;
        }
        let result = read();
        if self.epoch(shard) != before {
            return replaced;
        }
        self.noted((shard, before), result)
    }

    /// Remembers the first damage met in a shard's content, unless it is another content by now, and passes the result on.
    pub(super) fn noted<T>(
        &self,
        (shard, epoch): (u16, Epoch),
        result: Result<T, Error>,
    ) -> Result<T, Error> {
        if let Err(error) = &result
            && error.is_damage()
        {
            self.damage.send_if_modified(|damaged| {
                let is_first = !damaged.contains_key(&shard);
                // Looked at while nobody can forget damage: what is begun later forgets it at its end.
                let is_to_note = is_first && epoch.is_settled() && self.epoch(shard) == epoch;
                if is_to_note {
                    damaged.insert(shard, Arc::new(error.clone()));
                }
                is_to_note
            });
        }
        result
    }

    pub(super) fn damaged(&self) -> watch::Receiver<Damaged> {
        self.damage.subscribe()
    }
}

/// Reads one shard of a store as long as its content is the one that it was when the lease was taken; then no more.
pub struct Lease {
    store: Arc<dyn TopicStore>,
    shard: Vertex,
    epoch: Epoch,
}

impl Lease {
    /// Takes a lease on what the store holds of a shard now. While that is being replaced or erased the lease is worth nothing.
    pub fn new(store: Arc<dyn TopicStore>, shard: Vertex) -> Self {
        let epoch = store.epoch(shard);
        Self {
            store,
            shard,
            epoch,
        }
    }

    fn check<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if self.epoch.is_settled() && self.store.epoch(self.shard) == self.epoch {
            return result;
        }
        let shard = self.shard.index();
        Err(Error::Replaced { shard })
    }
}

impl Reader for Lease {
    fn mark(&self, shard: Vertex) -> Result<Option<Bytes>, Error> {
        self.check(self.store.mark(shard))
    }

    fn row(&self, shard: Vertex, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.check(self.store.row(shard, table, key))
    }

    fn rows(
        &self,
        shard: Vertex,
        table: Table,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<Row>, Error> {
        self.check(self.store.rows(shard, table, range, limit))
    }

    fn batches(&self, topic: TopicId, range: BatchRange) -> Result<Vec<StoredBatch>, Error> {
        self.check(self.store.batches(topic, range))
    }

    fn batch_at(&self, topic: TopicId, offset: Offset) -> Result<Option<StoredBatch>, Error> {
        self.check(self.store.batch_at(topic, offset))
    }

    fn offset_at(
        &self,
        topic: TopicId,
        messages: Range<Offset>,
        time: Timestamp,
    ) -> Result<Offset, Error> {
        self.check(self.store.offset_at(topic, messages, time))
    }
}
