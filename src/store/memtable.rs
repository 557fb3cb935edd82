//! What is committed and not flushed yet, sorted. Batches and rows are kept as they are given and encoded only when they are flushed, so
//! the newest messages are read without a copy. Nothing is ever taken out: a memtable is dropped as a whole when the engine has it all.
//!
//! Readers and committers use it at the same time without a lock around it. Begin with [`Memtable`].

use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use crossbeam_skiplist::SkipMap;

use super::engine::{Change, Space};
use super::{Writes, key, value};
use crate::types::{Batch, StoredBatch, TopicId, Vertex};

/// Payloads shorter than this are copied: a slice would keep the whole buffer alive that a call was received in.
const COPY_BYTES_MAX: usize = 4096;

/// What an entry takes beside the bytes of its key and value: the node with its tower and counters, and what the allocator adds to each
/// of up to three pieces of memory.
const NODE_BYTES: u64 = 96;

/// A key in the messages.
type BatchKey = [u8; 16];

/// A row that was written, or removed when there is none. A cell and not a plain value: the map replaces a value by taking the old entry
/// out first, and a reader in between would find what is on disk.
#[derive(Debug)]
struct Cell(Mutex<Option<Bytes>>);

impl Cell {
    fn lock(&self) -> MutexGuard<'_, Option<Bytes>> {
        // Setting an option cannot stop half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sorted table of batches and rows.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    batches: SkipMap<BatchKey, StoredBatch>,
    rows: SkipMap<Bytes, Cell>,
    /// Memory taken, about.
    bytes: AtomicU64,
}

impl Memtable {
    /// Memory taken, about.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Takes in what a commit changes: batches first, so that what a row speaks of can be read, and the mark at last.
    pub(super) fn insert(&self, shard: Vertex, writes: Writes, mark: Option<Bytes>) {
        for (topic, batch) in writes.batches {
            self.insert_batch(topic, batch);
        }
        for ((table, key), row) in writes.rows {
            self.put(key::row(shard, table, &key), row);
        }
        for doom in writes.dooms {
            self.put(
                key::doom(shard.index(), &doom.to_bytes()),
                Some(Bytes::new()),
            );
        }
        if let Some(mark) = mark {
            self.put(key::mark(shard), Some(mark));
        }
    }

    fn insert_batch(&self, topic: TopicId, mut stored: StoredBatch) {
        let payload = stored.batch.payload();
        if payload.len() < COPY_BYTES_MAX
            && let Ok(copy) = Batch::new(Bytes::copy_from_slice(payload))
        {
            stored.batch = copy;
        }
        let bytes = size_of::<(BatchKey, StoredBatch)>() as u64 + stored.batch.bytes().0;
        self.bytes.fetch_add(bytes + NODE_BYTES, Ordering::Relaxed);
        let key = key::batch(topic, stored.base_offset);
        self.batches.insert(key, stored);
    }

    fn put(&self, key: Vec<u8>, row: Option<Bytes>) {
        let length = |row: &Option<Bytes>| row.as_ref().map_or(0, |row| row.len() as u64);
        let new = length(&row);
        if let Some(entry) = self.rows.get(key.as_slice()) {
            self.bytes.fetch_add(new, Ordering::Relaxed);
            let old = std::mem::replace(&mut *entry.value().lock(), row);
            self.bytes.fetch_sub(length(&old), Ordering::Relaxed);
            return;
        }
        let bytes = size_of::<(Bytes, Cell)>() as u64 + key.len() as u64 + new;
        self.bytes.fetch_add(bytes + NODE_BYTES, Ordering::Relaxed);
        self.rows.insert(key.into(), Cell(Mutex::new(row)));
    }

    /// What a commit made of a row: `Some(None)` when it removed it, `None` when it left it alone.
    pub(super) fn row(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let entry = self.rows.get(key)?;
        let row = entry.value().lock();
        Some(row.clone())
    }

    /// Rows written or removed, in the order of their keys.
    pub(super) fn rows<'a>(
        &'a self,
        keys: Range<&'a [u8]>,
    ) -> impl Iterator<Item = (Bytes, Option<Bytes>)> + 'a {
        let entries = self.rows.range::<[u8], _>(bounds(keys));
        entries.map(|entry| (entry.key().clone(), entry.value().lock().clone()))
    }

    /// Batches in the order of their keys.
    pub(super) fn batches<'a>(
        &'a self,
        keys: Range<&'a [u8]>,
    ) -> impl DoubleEndedIterator<Item = (BatchKey, StoredBatch)> + 'a {
        let entries = self.batches.range::<[u8], _>(bounds(keys));
        entries.map(|entry| (*entry.key(), entry.value().clone()))
    }

    /// Whether there is a batch with this key.
    pub(super) fn has_batch(&self, key: &[u8]) -> bool {
        self.batches.contains_key(key)
    }

    /// All batches as the disk holds them, in order.
    pub(super) fn encoded_batches(&self) -> impl Iterator<Item = (BatchKey, Vec<u8>)> + '_ {
        self.batches.iter().map(|entry| {
            (
                *entry.key(),
                value::encode_batch(entry.key(), entry.value()),
            )
        })
    }

    /// All rows as the disk holds them, in order.
    pub(super) fn encoded_rows(&self) -> Vec<Change> {
        let entries = self.rows.iter().map(|entry| {
            let key = entry.key();
            let row = entry.value().lock();
            Change {
                space: Space::Meta,
                key: key.to_vec(),
                value: row.as_ref().map(|row| value::encode_row(key, row)),
            }
        });
        entries.collect()
    }

    /// Whether anything was doomed.
    pub(super) fn has_dooms(&self) -> bool {
        let prefix = key::dooms();
        let end = key::after_prefix(&prefix);
        self.rows(&prefix..&end).next().is_some()
    }

    /// The marks set, by shard number.
    pub(super) fn marks(&self) -> Vec<(u16, Bytes)> {
        let prefix = key::marks();
        let end = key::after_prefix(&prefix);
        let marks = self.rows(&prefix..&end);
        marks
            .filter_map(|(key, mark)| Some((key::peer_parts(&key)?.0, mark?)))
            .collect()
    }
}

fn bounds(keys: Range<&[u8]>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    // An inverted range holds nothing, and neither does this one.
    let start = keys.start.min(keys.end);
    (Bound::Included(start), Bound::Excluded(keys.end))
}
