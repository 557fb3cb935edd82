//! The topic store above any engine: keys, values, checks, searches. Begin with [`KvStore`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::engine::{Change, Engine, Flow, Space};
use super::{
    BatchRange, Error, Figures, Row, RowRange, Table, TopicStore, Writes, key, sweep, value,
};
use crate::types::{ByteCount, Offset, StoredBatch, Timestamp, TopicId, Vertex};

/// A topic store in an engine.
pub struct KvStore<E> {
    pub(super) engine: E,
    marks: Mutex<Marks>,
    /// Held during a sweep: two would count the same rows twice.
    pub(super) sweeping: Mutex<()>,
}

/// Marks by shard number.
#[derive(Debug, Default)]
struct Marks {
    /// What was committed last.
    committed: BTreeMap<u16, Bytes>,
    /// What a power cut cannot take back.
    durable: BTreeMap<u16, Bytes>,
}

#[expect(private_bounds, reason = "engines are made in this module only")]
impl<E: Engine> KvStore<E> {
    /// The store of an engine without content.
    pub(super) fn empty(engine: E) -> Self {
        Self {
            engine,
            marks: Mutex::default(),
            sweeping: Mutex::default(),
        }
    }

    /// The store of an engine whose whole content is durable.
    pub(super) fn recovered(engine: E) -> Result<Self, Error> {
        let store = Self::empty(engine);
        let prefix = key::marks();
        let mut marks = BTreeMap::new();
        let range = prefix.as_slice()..&*key::after_prefix(&prefix);
        store.engine.scan(Space::Meta, range, &mut |key, value| {
            if let Some((shard, _)) = key::peer_parts(key) {
                marks.insert(shard, value::decode_row(key, &value)?);
            }
            Ok(Flow::More)
        })?;
        *store.marks() = Marks {
            durable: marks.clone(),
            committed: marks,
        };
        Ok(store)
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last batch that begins in the range.
    fn last_batch(
        &self,
        topic: TopicId,
        bases: Range<Offset>,
    ) -> Result<Option<StoredBatch>, Error> {
        let range = key::batch(topic, bases.start)..key::batch(topic, bases.end);
        let last = self.engine.last(Space::Messages, slices(&range))?;
        last.map(|(key, value)| value::decode_batch(&key, &value))
            .transpose()
    }
}

fn slices(range: &Range<[u8; 16]>) -> Range<&[u8]> {
    &range.start..&range.end
}

/// Collects the messages of a range, cutting the first and the last batch.
struct Collector {
    range: BatchRange,
    count: u32,
    bytes: u64,
    batches: Vec<StoredBatch>,
}

impl Collector {
    /// Takes what fits of the next batch in order.
    fn take(&mut self, mut stored: StoredBatch) -> Flow {
        let start = self.range.from.max(stored.base_offset);
        let end = self.range.until.min(stored.next_offset());
        if start >= end {
            return Flow::More;
        }
        let count = u32::try_from(end.0 - start.0).unwrap_or(u32::MAX);
        let count_max = count.min(self.range.count_max.saturating_sub(self.count));
        let bytes_max = ByteCount(self.range.bytes_max.0.saturating_sub(self.bytes));
        let skip = u32::try_from(start.0 - stored.base_offset.0).unwrap_or(u32::MAX);
        let slice = match count_max {
            0 => None,
            _ => stored.batch.slice(skip, count_max, bytes_max),
        };
        // A slice has at least one message, even when that does not fit.
        let fits =
            |slice: &crate::types::Batch| self.batches.is_empty() || slice.bytes() <= bytes_max;
        let Some(slice) = slice.filter(fits) else {
            return Flow::Enough;
        };
        self.count = self.count.saturating_add(slice.count());
        self.bytes = self.bytes.saturating_add(slice.bytes().0);
        let is_whole = slice.count() == count;
        stored.base_offset = start;
        stored.batch = slice;
        let is_last = stored.next_offset() >= self.range.until;
        self.batches.push(stored);
        if is_whole && !is_last && self.count < self.range.count_max {
            Flow::More
        } else {
            Flow::Enough
        }
    }
}

impl<E: Engine> TopicStore for KvStore<E> {
    fn mark(&self, shard: Vertex) -> Result<Option<Bytes>, Error> {
        let key = key::mark(shard);
        let value = self.engine.get(Space::Meta, &key)?;
        value
            .map(|value| value::decode_row(&key, &value))
            .transpose()
    }

    fn durable_mark(&self, shard: Vertex) -> Option<Bytes> {
        self.marks().durable.get(&shard.index()).cloned()
    }

    fn commit(&self, shard: Vertex, writes: Writes, mark: Bytes) -> Result<(), Error> {
        let count = writes.batches.len() + writes.rows.len() + writes.dooms.len() + 1;
        let mut changes = Vec::with_capacity(count);
        for (topic, batch) in &writes.batches {
            let key = key::batch(*topic, batch.base_offset);
            let value = value::encode_batch(&key, batch);
            changes.push(Change {
                space: Space::Messages,
                key: key.to_vec(),
                value: Some(value),
            });
        }
        let mut change = |key: Vec<u8>, row: Option<&[u8]>| {
            let value = row.map(|row| value::encode_row(&key, row));
            changes.push(Change {
                space: Space::Meta,
                key,
                value,
            });
        };
        for ((table, key), row) in &writes.rows {
            change(key::row(shard, *table, key), row.as_deref());
        }
        for doom in &writes.dooms {
            change(key::doom(shard.index(), &doom.to_bytes()), Some(&[]));
        }
        change(key::mark(shard), Some(&mark));
        self.engine.write(changes)?;
        self.marks().committed.insert(shard.index(), mark);
        Ok(())
    }

    fn row(&self, shard: Vertex, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let key = key::row(shard, table, key);
        let value = self.engine.get(Space::Meta, &key)?;
        value
            .map(|value| value::decode_row(&key, &value))
            .transpose()
    }

    fn rows(
        &self,
        shard: Vertex,
        table: Table,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        let prefix = key::row(shard, table, range.prefix);
        let end = key::after_prefix(&prefix);
        let after = range.after.map(|after| {
            let mut key = key::row(shard, table, after);
            key.push(0); // The least key that is greater.
            key
        });
        let start = after.map_or(prefix.clone(), |after| after.max(prefix));
        if limit == 0 {
            return Ok(rows);
        }
        self.engine
            .scan(Space::Meta, start.as_slice()..&end, &mut |key, value| {
                let row = value::decode_row(key, &value)?;
                let key = key.get(key::ROW_PREFIX_BYTES..).unwrap_or_default();
                rows.push((Bytes::copy_from_slice(key), row));
                Ok(if rows.len() < limit {
                    Flow::More
                } else {
                    Flow::Enough
                })
            })?;
        Ok(rows)
    }

    fn batches(&self, topic: TopicId, range: BatchRange) -> Result<Vec<StoredBatch>, Error> {
        let mut collector = Collector {
            range,
            count: 0,
            bytes: 0,
            batches: Vec::new(),
        };
        if range.count_max == 0 {
            return Ok(collector.batches);
        }
        let keys = key::batch(topic, range.from)..key::batch(topic, range.until);
        self.engine
            .scan(Space::Messages, slices(&keys), &mut |key, value| {
                let stored = value::decode_batch(key, &value)?;
                if collector.batches.is_empty() && stored.base_offset > range.from {
                    return Ok(Flow::Enough); // The range begins within an earlier batch.
                }
                Ok(collector.take(stored))
            })?;
        if !collector.batches.is_empty() || range.from >= range.until {
            return Ok(collector.batches);
        }
        let Some(first) = self.last_batch(topic, Offset(0)..range.from)? else {
            return Ok(collector.batches);
        };
        let rest = key::batch(topic, first.next_offset())..keys.end;
        if first.next_offset() > range.from && collector.take(first) == Flow::More {
            self.engine
                .scan(Space::Messages, slices(&rest), &mut |key, value| {
                    Ok(collector.take(value::decode_batch(key, &value)?))
                })?;
        }
        Ok(collector.batches)
    }

    fn batch_at(&self, topic: TopicId, offset: Offset) -> Result<Option<StoredBatch>, Error> {
        self.last_batch(topic, Offset(0)..offset.plus(1))
    }

    fn offset_at(
        &self,
        topic: TopicId,
        messages: Range<Offset>,
        time: Timestamp,
    ) -> Result<Offset, Error> {
        let (mut low, mut high) = (messages.start, messages.end);
        while low < high {
            let middle = Offset(low.0 + (high.0 - low.0) / 2);
            let batch = self
                .batch_at(topic, middle)?
                .filter(|batch| batch.next_offset() > middle)
                .ok_or(Error::Missing {
                    topic,
                    offset: middle,
                })?;
            if batch.append_time >= time {
                high = batch.base_offset;
            } else {
                low = batch.next_offset();
            }
        }
        Ok(low.max(messages.start).min(messages.end))
    }

    fn sweep(&self, limit: usize) -> Result<usize, Error> {
        let _one = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        sweep::sweep(&self.engine, limit)
    }

    fn checkpoint(&self) -> Result<(), Error> {
        let marks = self.marks().committed.clone();
        self.engine.sync()?;
        self.marks().durable = marks;
        Ok(())
    }

    fn is_calm(&self) -> bool {
        self.engine.is_calm()
    }

    fn figures(&self) -> Result<Figures, Error> {
        self.engine.figures()
    }
}
