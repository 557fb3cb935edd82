//! What a group of entries has changed so far, above what the store holds.
//!
//! Later entries of the group read what earlier ones wrote. Rows that appends need again and again are kept in memory, in two halves: when
//! the newer half is full it becomes the older one, and the older one is dropped. What is kept never changes an outcome.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Error, row};
use crate::store::{Doom, RowRange, Table, TopicStore, Writes};
use crate::types::{Offset, StoredBatch, Timestamp, TopicId, Vertex};

/// Rows in one half of the cache: two halves of 200-byte rows are 4 MiB at most.
const CACHE_ROWS_MAX: usize = 8192;

type Rows = BTreeMap<(Table, Bytes), Option<Bytes>>;

pub(super) struct Overlay {
    shard: Vertex,
    store: Arc<dyn TopicStore>,
    writes: Writes,
    newer: Rows,
    older: Rows,
}

/// Tables whose rows are read again soon, and are small.
fn is_cached(table: Table) -> bool {
    matches!(
        table,
        Table::Shard | Table::Topic | Table::Session | Table::Subscription
    )
}

impl Overlay {
    pub(super) fn new(shard: Vertex, store: Arc<dyn TopicStore>) -> Self {
        Self {
            shard,
            store,
            writes: Writes::default(),
            newer: Rows::new(),
            older: Rows::new(),
        }
    }

    pub(super) fn shard(&self) -> Vertex {
        self.shard
    }

    pub(super) fn store(&self) -> &Arc<dyn TopicStore> {
        &self.store
    }

    pub(super) fn get<R: DeserializeOwned>(
        &mut self,
        table: Table,
        key: &Bytes,
    ) -> Result<Option<R>, Error> {
        let bytes = self.bytes(table, key)?;
        bytes.map(|bytes| row::decode(table, &bytes)).transpose()
    }

    pub(super) fn bytes(&mut self, table: Table, key: &Bytes) -> Result<Option<Bytes>, Error> {
        let place = (table, key.clone());
        if let Some(row) = self.writes.rows.get(&place) {
            return Ok(row.clone());
        }
        if !is_cached(table) {
            return Ok(self.store.row(self.shard, table, key)?);
        }
        if let Some(row) = self.newer.get(&place) {
            return Ok(row.clone());
        }
        let row = match self.older.remove(&place) {
            Some(row) => row,
            None => self.store.row(self.shard, table, key)?,
        };
        self.keep(place, row.clone());
        Ok(row)
    }

    fn keep(&mut self, place: (Table, Bytes), row: Option<Bytes>) {
        if self.newer.len() >= CACHE_ROWS_MAX {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(place, row);
    }

    pub(super) fn put(&mut self, table: Table, key: Bytes, row: &impl Serialize) {
        self.write(table, key, Some(row::encode(row)));
    }

    /// Writes a row of an index: only its key says something.
    pub(super) fn put_key(&mut self, table: Table, key: Bytes) {
        self.write(table, key, Some(Bytes::new()));
    }

    pub(super) fn remove(&mut self, table: Table, key: Bytes) {
        self.write(table, key, None);
    }

    pub(super) fn write(&mut self, table: Table, key: Bytes, row: Option<Bytes>) {
        let place = (table, key);
        if is_cached(table) {
            self.keep(place.clone(), row.clone());
        }
        self.writes.rows.insert(place, row);
    }

    pub(super) fn append(&mut self, topic: TopicId, batch: StoredBatch) {
        self.writes.batches.push((topic, batch));
    }

    pub(super) fn doom(&mut self, doom: Doom) {
        self.writes.dooms.push(doom);
    }

    /// All rows whose keys begin so, as the group sees them.
    pub(super) fn scan(
        &self,
        table: Table,
        prefix: &[u8],
    ) -> Result<BTreeMap<Bytes, Bytes>, Error> {
        let range = RowRange {
            prefix,
            after: None,
        };
        let stored = self.store.rows(self.shard, table, range, usize::MAX)?;
        let mut rows: BTreeMap<_, _> = stored.into_iter().collect();
        let from = (table, Bytes::copy_from_slice(prefix));
        let written = self.writes.rows.range(from..);
        for ((_, key), row) in
            written.take_while(|((other, key), _)| *other == table && key.starts_with(prefix))
        {
            match row {
                Some(row) => rows.insert(key.clone(), row.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows)
    }

    /// Where the first batch appended at `time` or later begins, as the group sees the topic.
    pub(super) fn offset_at(
        &self,
        topic: TopicId,
        messages: std::ops::Range<Offset>,
        time: Timestamp,
    ) -> Result<Offset, Error> {
        let written = || {
            let batches = self.writes.batches.iter();
            batches
                .filter(|(id, _)| *id == topic)
                .map(|(_, batch)| batch)
        };
        let stored_end = written()
            .next()
            .map_or(messages.end, |batch| batch.base_offset);
        // A trim may have passed all that is stored, and some that is not yet.
        if messages.start < stored_end {
            let stored = messages.start..stored_end;
            let found = self.store.offset_at(topic, stored, time)?;
            if found < stored_end {
                return Ok(found);
            }
        }
        let found = written()
            .find(|batch| batch.next_offset() > messages.start && batch.append_time >= time);
        let found = found.map_or(messages.end, |batch| batch.base_offset);
        Ok(found.max(messages.start))
    }

    /// Commits what the group changed. After an error the overlay is of no use.
    pub(super) fn commit(&mut self, mark: Bytes) -> Result<(), Error> {
        let writes = std::mem::take(&mut self.writes);
        Ok(self.store.commit(self.shard, writes, mark)?)
    }
}
