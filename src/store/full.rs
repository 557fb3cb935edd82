//! The store in memory with a disk that can be told to be full: for the tests of those who use a store.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    BatchRange, BoxError, Cause, Damaged, Epoch, Error, Figures, MemoryStore, Reader, Row,
    RowRange, Table, TopicStore, Writes,
};
use crate::types::{Offset, StoredBatch, Timestamp, TopicId, Vertex};

/// A store that flushes nothing while its disk is full.
#[derive(Default)]
pub struct FullStore {
    inner: MemoryStore,
    is_full: AtomicBool,
}

impl FullStore {
    /// From now on nothing is flushed.
    pub fn fill(&self) {
        self.is_full.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(Error::Full(Arc::new(std::io::Error::other("as told"))));
        }
        Ok(())
    }
}

impl Reader for FullStore {
    fn mark(&self, shard: Vertex) -> Result<Option<Bytes>, Error> {
        self.inner.mark(shard)
    }

    fn row(&self, shard: Vertex, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.inner.row(shard, table, key)
    }

    fn rows(
        &self,
        shard: Vertex,
        table: Table,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<Row>, Error> {
        self.inner.rows(shard, table, range, limit)
    }

    fn batches(&self, topic: TopicId, range: BatchRange) -> Result<Vec<StoredBatch>, Error> {
        self.inner.batches(topic, range)
    }

    fn batch_at(&self, topic: TopicId, offset: Offset) -> Result<Option<StoredBatch>, Error> {
        self.inner.batch_at(topic, offset)
    }

    fn offset_at(
        &self,
        topic: TopicId,
        messages: Range<Offset>,
        time: Timestamp,
    ) -> Result<Offset, Error> {
        self.inner.offset_at(topic, messages, time)
    }
}

impl TopicStore for FullStore {
    fn durable_mark(&self, shard: Vertex) -> Option<Bytes> {
        self.inner.durable_mark(shard)
    }

    fn commit(&self, shard: Vertex, writes: Writes, mark: Bytes) -> Result<(), Error> {
        self.inner.commit(shard, writes, mark)
    }

    fn sweep(&self, limit: usize) -> Result<usize, Error> {
        self.inner.sweep(limit)
    }

    fn checkpoint(&self) -> Result<(), Error> {
        self.check()?;
        self.inner.checkpoint()
    }

    fn snapshot(&self) -> Result<Arc<dyn Reader>, Error> {
        self.inner.snapshot()
    }

    fn replace(
        &self,
        shard: Vertex,
        parts: &mut dyn Iterator<Item = Result<Writes, BoxError>>,
        mark: Bytes,
    ) -> Result<(), Error> {
        self.check()?;
        self.inner.replace(shard, parts, mark)
    }

    fn erase(&self, shard: Vertex) -> Result<(), Error> {
        self.check()?;
        self.inner.erase(shard)
    }

    fn damaged(&self) -> watch::Receiver<Damaged> {
        self.inner.damaged()
    }

    fn blame(&self, shard: Vertex, source: Cause) {
        self.inner.blame(shard, source);
    }

    fn epoch(&self, shard: Vertex) -> Epoch {
        self.inner.epoch(shard)
    }

    fn failed(&self) -> watch::Receiver<Option<Arc<Error>>> {
        self.inner.failed()
    }

    fn is_calm(&self) -> bool {
        self.inner.is_calm()
    }

    fn figures(&self) -> Result<Figures, Error> {
        self.inner.figures()
    }
}
