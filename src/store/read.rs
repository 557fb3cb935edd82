//! Reads memtables and the engine as one. Begin with [`Layers`].
//!
//! What is in a newer layer hides what is in an older one: the memtable that takes commits, the one that is being flushed, the engine. The
//! memtables are taken before the engine is read: what is flushed in between is then in both, never in neither.

use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::{Source, Space};
use super::memtable::Memtable;
use super::{BatchRange, Error, Row, RowRange, Table, key, value};
use crate::types::{ByteCount, Offset, StoredBatch, Timestamp, TopicId, Vertex};

/// Memtables, the newest first, above an engine.
pub(super) struct Layers<'a, S: ?Sized> {
    pub(super) tables: Vec<Arc<Memtable>>,
    pub(super) source: &'a S,
}

/// Something found in a layer.
enum Found<T> {
    /// In a memtable: as it was committed.
    Kept(T),
    /// In the engine: not checked yet.
    Stored(Bytes),
}

type Item<T> = Result<(Bytes, Found<T>), Error>;

type Layer<'a, T> = Box<dyn Iterator<Item = Item<T>> + 'a>;

/// Merges layers, the newest first: each key once, from the newest layer that has it.
struct Merge<'a, T>(Vec<Peekable<Layer<'a, T>>>);

impl<T> Iterator for Merge<'_, T> {
    type Item = Item<T>;

    fn next(&mut self) -> Option<Item<T>> {
        let mut least: Option<(usize, Bytes)> = None;
        for (number, layer) in self.0.iter_mut().enumerate() {
            match layer.peek() {
                Some(Err(_)) => return layer.next(),
                Some(Ok((key, _))) if least.as_ref().is_none_or(|(_, least)| key < least) => {
                    least = Some((number, key.clone()));
                }
                Some(Ok(_)) | None => {}
            }
        }
        let (number, key) = least?;
        for older in self.0.iter_mut().skip(number + 1) {
            older.next_if(|item| item.as_ref().is_ok_and(|(other, _)| *other == key));
        }
        self.0.get_mut(number)?.next()
    }
}

impl<'a, S: Source + ?Sized> Layers<'a, S> {
    pub(super) fn mark(&self, shard: Vertex) -> Result<Option<Bytes>, Error> {
        self.get(&key::mark(shard))
    }

    pub(super) fn row(
        &self,
        shard: Vertex,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Bytes>, Error> {
        self.get(&key::row(shard, table, key))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if let Some(row) = self.tables.iter().find_map(|table| table.row(key)) {
            return Ok(row);
        }
        let value = self.source.get(Space::Meta, key)?;
        value
            .map(|value| value::decode_row(key, &value))
            .transpose()
    }

    pub(super) fn rows(
        &self,
        shard: Vertex,
        table: Table,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<Row>, Error> {
        let prefix = key::row(shard, table, range.prefix);
        let end = key::after_prefix(&prefix);
        let after = range.after.map(|after| {
            let mut key = key::row(shard, table, after);
            key.push(0); // The least key that is greater.
            key
        });
        let start = after.map_or(prefix.clone(), |after| after.max(prefix));
        let mut rows = Vec::new();
        if limit == 0 {
            return Ok(rows);
        }
        for item in self.merged_rows(&start..&end) {
            let (key, found) = item?;
            let row = match found {
                Found::Kept(None) => continue,
                Found::Kept(Some(row)) => row,
                Found::Stored(value) => value::decode_row(&key, &value)?,
            };
            rows.push((key.slice(key::ROW_PREFIX_BYTES.min(key.len())..), row));
            if rows.len() >= limit {
                break;
            }
        }
        Ok(rows)
    }

    fn merged_rows<'b>(&'b self, keys: Range<&'b [u8]>) -> Merge<'b, Option<Bytes>> {
        let memory = self.tables.iter().map(|table| {
            let rows = table.rows(keys.clone());
            let layer: Layer<'b, _> = Box::new(rows.map(|(key, row)| Ok((key, Found::Kept(row)))));
            layer
        });
        let mut layers: Vec<_> = memory.map(Iterator::peekable).collect();
        let stored = self.source.scan(Space::Meta, keys.clone());
        let layer: Layer<'b, _> = Box::new(stored.map(stored_item));
        layers.push(layer.peekable());
        Merge(layers)
    }

    fn merged_batches<'b>(&'b self, keys: Range<&'b [u8]>) -> Merge<'b, StoredBatch> {
        let memory = self.tables.iter().map(|table| {
            let batches = table.batches(keys.clone());
            let kept =
                batches.map(|(key, batch)| Ok((Bytes::copy_from_slice(&key), Found::Kept(batch))));
            let layer: Layer<'b, _> = Box::new(kept);
            layer
        });
        let mut layers: Vec<_> = memory.map(Iterator::peekable).collect();
        // A topic grows at its end only: what follows a batch in memory is in memory.
        if !self.tables.iter().any(|table| table.has_batch(keys.start)) {
            let stored = self.source.scan(Space::Messages, keys.clone());
            let layer: Layer<'b, _> = Box::new(stored.map(stored_item));
            layers.push(layer.peekable());
        }
        Merge(layers)
    }

    pub(super) fn batches(
        &self,
        topic: TopicId,
        range: BatchRange,
    ) -> Result<Vec<StoredBatch>, Error> {
        let mut collector = Collector::new(topic, range);
        if range.count_max == 0 || range.from >= range.until {
            return Ok(collector.batches);
        }
        let start = key::batch(topic, range.from);
        let end = key::batch(topic, range.until);
        if self.collect(&start..&end, &mut collector)? {
            return Ok(collector.batches);
        }
        // The range begins within an earlier batch, or before all that are left.
        let first = self.last_batch(topic, Offset(0)..range.from)?;
        let Some(first) = first.filter(|first| first.next_offset() > range.from) else {
            return Ok(collector.batches);
        };
        let (base, rest) = (first.base_offset, key::batch(topic, first.next_offset()));
        if !collector.take(first) {
            return Ok(collector.batches);
        }
        match self.collect(&rest..&end, &mut collector) {
            // A topic loses its oldest batches first: with this one gone, what followed was swept since, and is not missing.
            Err(Error::Missing { .. }) if !self.has_batch(topic, base)? => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(_) => Ok(collector.batches),
        }
    }

    fn has_batch(&self, topic: TopicId, base: Offset) -> Result<bool, Error> {
        let last = self.last_batch(topic, base..base.plus(1))?;
        Ok(last.is_some())
    }

    /// Collects batches; `false` when the first one found is not the one wanted next.
    fn collect(&self, keys: Range<&[u8]>, collector: &mut Collector) -> Result<bool, Error> {
        let mut is_first = true;
        for item in self.merged_batches(keys) {
            let (key, found) = item?;
            let stored = match found {
                Found::Kept(batch) => batch,
                Found::Stored(value) => value::decode_batch(&key, &value)?,
            };
            if stored.base_offset != collector.next {
                if is_first && collector.batches.is_empty() {
                    return Ok(false);
                }
                return Err(Error::Missing {
                    topic: collector.topic,
                    offset: collector.next,
                });
            }
            is_first = false;
            if !collector.take(stored) {
                break;
            }
        }
        Ok(!is_first)
    }

    pub(super) fn batch_at(
        &self,
        topic: TopicId,
        offset: Offset,
    ) -> Result<Option<StoredBatch>, Error> {
        self.last_batch(topic, Offset(0)..offset.plus(1))
    }

    /// The last batch that begins in the range.
    fn last_batch(
        &self,
        topic: TopicId,
        bases: Range<Offset>,
    ) -> Result<Option<StoredBatch>, Error> {
        let start = key::batch(topic, bases.start);
        let end = key::batch(topic, bases.end);
        let keys = || start.as_slice()..end.as_slice();
        let kept = self
            .tables
            .iter()
            .filter_map(|table| table.batches(keys()).next_back())
            .map(|(_, batch)| batch);
        // The newest layer wins among equal ones; a topic grows at its end only, so nothing in the engine comes after.
        let kept = kept.reduce(|newer, older| {
            if older.base_offset > newer.base_offset {
                older
            } else {
                newer
            }
        });
        if kept.is_some() {
            return Ok(kept);
        }
        let last = self.source.last(Space::Messages, keys())?;
        last.map(|(key, value)| value::decode_batch(&key, &value))
            .transpose()
    }

    /// The first batch that begins in the range.
    fn first_batch(
        &self,
        topic: TopicId,
        bases: Range<Offset>,
    ) -> Result<Option<StoredBatch>, Error> {
        let start = key::batch(topic, bases.start);
        let end = key::batch(topic, bases.end);
        let mut merged = self.merged_batches(&start..&end);
        let Some(item) = merged.next() else {
            return Ok(None);
        };
        let (key, found) = item?;
        match found {
            Found::Kept(batch) => Ok(Some(batch)),
            Found::Stored(value) => value::decode_batch(&key, &value).map(Some),
        }
    }

    pub(super) fn offset_at(
        &self,
        topic: TopicId,
        messages: Range<Offset>,
        time: Timestamp,
    ) -> Result<Offset, Error> {
        let (mut low, mut high) = (messages.start, messages.end);
        while low < high {
            let middle = Offset(low.0 + (high.0 - low.0) / 2);
            let Some(batch) = self.batch_at(topic, middle)? else {
                // Removed since the caller looked: a topic loses its oldest messages first.
                let first = self.first_batch(topic, middle..high)?;
                low = first.map_or(high, |batch| batch.base_offset);
                continue;
            };
            if batch.next_offset() <= middle {
                let offset = middle;
                return Err(Error::Missing { topic, offset });
            }
            if batch.append_time >= time {
                high = batch.base_offset;
            } else {
                low = batch.next_offset();
            }
        }
        Ok(low.max(messages.start).min(messages.end))
    }
}

fn stored_item<T>(item: Result<(Bytes, Bytes), Error>) -> Item<T> {
    item.map(|(key, value)| (key, Found::Stored(value)))
}

/// Collects the messages of a range, cutting the first and the last batch.
struct Collector {
    topic: TopicId,
    range: BatchRange,
    /// Where the next batch must begin; the first one may begin before it.
    next: Offset,
    count: u32,
    bytes: u64,
    batches: Vec<StoredBatch>,
}

impl Collector {
    fn new(topic: TopicId, range: BatchRange) -> Self {
        Self {
            topic,
            range,
            next: range.from,
            count: 0,
            bytes: 0,
            batches: Vec::new(),
        }
    }

    /// Takes what fits of the next batch, and says whether more may fit.
    fn take(&mut self, mut stored: StoredBatch) -> bool {
        let start = self.next.max(stored.base_offset);
        let end = self.range.until.min(stored.next_offset());
        let count = u32::try_from(end.0.saturating_sub(start.0)).unwrap_or(u32::MAX);
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
            return false;
        };
        self.count = self.count.saturating_add(slice.count());
        self.bytes = self.bytes.saturating_add(slice.bytes().0);
        let is_whole = slice.count() == count;
        stored.base_offset = start;
        stored.batch = slice;
        self.next = stored.next_offset();
        self.batches.push(stored);
        is_whole && self.next < self.range.until && self.count < self.range.count_max
    }
}
