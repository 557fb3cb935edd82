//! The engine on disk: fjall, named in this file only.
//!
//! Batches come by ingestion: straight into sorted files, past fjall's journal, so that a payload is written once. Rows, and what a sweep
//! removes, go through the journal. Batches of 512 bytes and more live in files apart from their keys, so that compaction does not move
//! them: 1 GiB in 64 KiB batches of 1,000 topics is written 1.01 times. Without that it would be 2 to 4 times, space would come back a
//! third as fast, and a sequential read, which meets many overlapping tables then, would be 3 times slower.
//!
//! fjall stops itself for good ("poisoned") when a write to its journal fails or when one of its threads meets an error, a full disk
//! included; and what a broken-off ingestion has written stays on disk until it is opened anew. So a full disk is answered by opening it
//! anew, in place: between two flushes it has nothing in memory that is not on disk.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use fjall::{
    Database, Guard, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode, Readable,
    Snapshot,
};

use super::cause::{engine, guarded, read_error, write_error};
use super::engine::{Change, Durability, Engine, Pair, Pairs, Source, Space};
use super::kv::KvStore;
use super::{Error, Figures};
use crate::types::ByteCount;

/// Values from this length on are kept apart from their keys.
const SEPARATION_BYTES_MIN: u32 = 512;
/// A file of values kept apart: what one flush brings. Small, because space comes back by whole files.
const VALUE_FILE_BYTES: u64 = 32 << 20;
/// A file of which this part is not referred to any more is written anew without it, however young it is. With half of the topics trimmed
/// and half kept for ever the disk holds 1.2 × what is kept, and 1.45 bytes are written for each; with fjall's own values, which spare
/// young files, it is 1.4 × and growing, and 1.34 bytes.
const STALE_PART_MAX: f32 = 0.25;
/// The part of all files, the oldest first, that is looked at for this.
const STALE_AGE_PART: f32 = 1.0;

/// The rows' memtable inside fjall: small, as it stays in memory when nothing happens. Below it, rows would be merged on disk too often.
const META_MEMTABLE_BYTES: u64 = 8 << 20;

/// The engine panics below it.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;

/// Tables of the first level that wait for compaction while the store keeps up; writers wait when there are 20.
const CALM_TABLES_MAX: usize = 10;

/// Ingestions make tables without end; from this many on they wait for compaction, as fjall's own writers do.
const TABLES_MAX: usize = 24;
/// How often it is looked whether there are fewer.
const COMPACTION_POLL: Duration = Duration::from_millis(10);
/// How often at most: slow reads are better than a store that stands still.
const COMPACTION_POLLS_MAX: usize = 500;

/// How often it is looked whether the last reader of a database that is to be closed is gone. A read takes milliseconds.
const CLOSE_POLL: Duration = Duration::from_millis(1);

/// How much the store takes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Memory for blocks that were read.
    pub cache_bytes: ByteCount,
    /// What is committed is flushed when a memtable holds this much. Two at most: one takes commits while the other is flushed.
    pub memtable_bytes: ByteCount,
    /// The engine's own log on disk at most; less than 64 MiB counts as 64 MiB.
    pub journal_bytes_max: ByteCount,
    /// Threads that compact, and flush rows. With more than one fjall keeps its first from compacting, and that one spins for as long as the others
    /// do while more waits (`src/worker_pool.rs` of 3.1.13).
    pub worker_count: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: ByteCount(32 << 20),
            memtable_bytes: ByteCount(32 << 20),
            journal_bytes_max: ByteCount(128 << 20),
            worker_count: 1,
        }
    }
}

/// A topic store on disk.
pub type FjallStore = KvStore<Disk>;

impl FjallStore {
    /// Opens the store in a folder, or makes it. All marks that it holds are durable.
    ///
    /// # Errors
    /// [`Error`] when the folder cannot be used, is in use, or holds a damaged store.
    pub fn open(folder: &Path, options: Options) -> Result<Self, Error> {
        let disk = Disk::open(folder, options)?;
        Self::attended(disk, options.memtable_bytes)
    }
}

/// A fjall database with the two keyspaces, which can be closed and opened under its users.
pub struct Disk {
    folder: PathBuf,
    options: Options,
    /// Empty while it is opened anew, and when that failed.
    slot: RwLock<Option<Arc<Opened>>>,
}

/// An open database. Whoever reads holds it, so that it is not closed meanwhile.
struct Opened {
    database: Database,
    messages: Keyspace,
    meta: Keyspace,
}

impl Opened {
    fn open(folder: &Path, options: Options) -> fjall::Result<Self> {
        let database = Database::builder(folder)
            .cache_size(options.cache_bytes.0)
            .worker_threads(options.worker_count.max(1))
            .max_journaling_size(options.journal_bytes_max.0.max(JOURNAL_BYTES_MIN))
            .open()?;
        let plain = KeyspaceCreateOptions::default().max_memtable_size(META_MEMTABLE_BYTES);
        let separation = KvSeparationOptions::default()
            .separation_threshold(SEPARATION_BYTES_MIN)
            .file_target_size(VALUE_FILE_BYTES)
            .staleness_threshold(STALE_PART_MAX)
            .age_cutoff(STALE_AGE_PART);
        let separated = plain.clone().with_kv_separation(Some(separation));
        let messages = database.keyspace(Space::Messages.name(), || separated)?;
        let meta = database.keyspace(Space::Meta.name(), || plain)?;
        // What a killed process left in the page cache counts from now on.
        database.persist(PersistMode::SyncAll)?;
        Ok(Self {
            database,
            messages,
            meta,
        })
    }

    fn of(&self, space: Space) -> &Keyspace {
        match space {
            Space::Messages => &self.messages,
            Space::Meta => &self.meta,
        }
    }

    fn wait_for_compaction(&self) {
        for _ in 0..COMPACTION_POLLS_MAX {
            if self.messages.l0_table_count() < TABLES_MAX {
                return;
            }
            thread::park_timeout(COMPACTION_POLL);
        }
    }

    fn scan(
        self: Arc<Self>,
        snapshot: &Snapshot,
        space: Space,
        keys: Range<&[u8]>,
    ) -> Option<(Arc<Self>, fjall::Iter)> {
        // The engine panics on an inverted range.
        (keys.start < keys.end).then(|| {
            let iter = snapshot.range(self.of(space), keys);
            (self, iter)
        })
    }
}

impl Disk {
    pub(super) fn open(folder: &Path, options: Options) -> Result<Self, Error> {
        let opened = guarded(|| Opened::open(folder, options)).map_err(engine)?;
        Ok(Self {
            folder: folder.to_owned(),
            options,
            slot: RwLock::new(Some(Arc::new(opened))),
        })
    }

    fn opened(&self) -> Option<Arc<Opened>> {
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        slot.clone()
    }

    fn readable(&self) -> Result<Arc<Opened>, Error> {
        self.opened().ok_or_else(|| engine(fjall::Error::Poisoned))
    }

    /// The database, when it still takes writes.
    fn writable(&self) -> Result<Arc<Opened>, Error> {
        let stopped = || Error::Stopped(Arc::new(fjall::Error::Poisoned));
        let opened = self.opened().ok_or_else(stopped)?;
        let checked = guarded(|| opened.database.persist(PersistMode::Buffer));
        checked.map_err(write_error)?;
        Ok(opened)
    }
}

/// Keys and values of a scan. After an error it ends: the engine does not say where it would go on.
fn pairs(
    scan: Option<(Arc<Opened>, fjall::Iter)>,
    space: Space,
    start: &[u8],
) -> impl Iterator<Item = Result<Pair, Error>> + use<> {
    let mut last = start.to_vec();
    let mut scan = scan;
    std::iter::from_fn(move || {
        let (_, iter) = scan.as_mut()?;
        let next = guarded(|| iter.next().map(Guard::into_inner).transpose());
        match next.transpose()? {
            Ok((key, value)) => {
                last.clear();
                last.extend_from_slice(&key);
                Some(Ok((Bytes::from_owner(key), Bytes::from_owner(value))))
            }
            Err(error) => {
                scan = None;
                Some(Err(read_error(space, &last, error)))
            }
        }
    })
}

fn keys(
    scan: Option<(Arc<Opened>, fjall::Iter)>,
    limit: usize,
    (space, start): (Space, &[u8]),
) -> Result<Vec<Bytes>, Error> {
    let Some((_opened, iter)) = scan else {
        return Ok(Vec::new());
    };
    let keys = iter.take(limit).map(Guard::key);
    let keys = keys.map(|key| key.map(Bytes::from_owner));
    guarded(|| keys.collect::<fjall::Result<_>>()).map_err(|error| read_error(space, start, error))
}

fn last(
    scan: Option<(Arc<Opened>, fjall::Iter)>,
    (space, end): (Space, &[u8]),
) -> Result<Option<Pair>, Error> {
    let Some((_opened, mut iter)) = scan else {
        return Ok(None);
    };
    let last = guarded(|| iter.next_back().map(Guard::into_inner).transpose());
    let last = last.map_err(|error| read_error(space, end, error))?;
    Ok(last.map(|(key, value)| (Bytes::from_owner(key), Bytes::from_owner(value))))
}

impl Source for Disk {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let opened = self.readable()?;
        let value = guarded(|| opened.of(space).get(key));
        let value = value.map_err(|error| read_error(space, key, error))?;
        Ok(value.map(Bytes::from_owner))
    }

    fn scan(&self, space: Space, keys: Range<&[u8]>) -> Pairs<'_> {
        let start = keys.start;
        match self.readable() {
            // Of one moment: otherwise a sweep beside it would look like a hole.
            Ok(opened) => {
                let snapshot = opened.database.snapshot();
                Box::new(pairs(opened.scan(&snapshot, space, keys), space, start))
            }
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    fn keys(&self, space: Space, range: Range<&[u8]>, limit: usize) -> Result<Vec<Bytes>, Error> {
        let opened = self.readable()?;
        let (snapshot, start) = (opened.database.snapshot(), range.start);
        keys(opened.scan(&snapshot, space, range), limit, (space, start))
    }

    fn last(&self, space: Space, keys: Range<&[u8]>) -> Result<Option<Pair>, Error> {
        let opened = self.readable()?;
        let (snapshot, end) = (opened.database.snapshot(), keys.end);
        last(opened.scan(&snapshot, space, keys), (space, end))
    }
}

/// The database as it was at one moment, until it is closed.
pub(super) struct Frozen {
    opened: Weak<Opened>,
    snapshot: Snapshot,
}

impl Frozen {
    fn readable(&self) -> Result<Arc<Opened>, Error> {
        let closed = || engine(fjall::Error::Poisoned);
        self.opened.upgrade().ok_or_else(closed)
    }
}

impl Source for Frozen {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let opened = self.readable()?;
        let value = guarded(|| self.snapshot.get(opened.of(space), key));
        let value = value.map_err(|error| read_error(space, key, error))?;
        Ok(value.map(Bytes::from_owner))
    }

    fn scan(&self, space: Space, keys: Range<&[u8]>) -> Pairs<'_> {
        let start = keys.start;
        match self.readable() {
            Ok(opened) => Box::new(pairs(
                opened.scan(&self.snapshot, space, keys),
                space,
                start,
            )),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    fn keys(&self, space: Space, range: Range<&[u8]>, limit: usize) -> Result<Vec<Bytes>, Error> {
        let (opened, start) = (self.readable()?, range.start);
        let scan = opened.scan(&self.snapshot, space, range);
        keys(scan, limit, (space, start))
    }

    fn last(&self, space: Space, keys: Range<&[u8]>) -> Result<Option<Pair>, Error> {
        let (opened, end) = (self.readable()?, keys.end);
        last(opened.scan(&self.snapshot, space, keys), (space, end))
    }
}

impl Engine for Disk {
    type Frozen = Frozen;

    fn freeze(&self) -> Result<Frozen, Error> {
        let opened = self.readable()?;
        Ok(Frozen {
            opened: Arc::downgrade(&opened),
            snapshot: opened.database.snapshot(),
        })
    }

    fn ingest(&self, batches: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<(), Error> {
        let mut batches = batches.peekable();
        if batches.peek().is_none() {
            return Ok(());
        }
        let opened = self.writable()?;
        opened.wait_for_compaction();
        // It syncs what it has written. A sync that fails leaves files that nothing refers to: another try writes others.
        let ingested = guarded(|| {
            let mut ingestion = opened.messages.start_ingestion()?;
            batches.try_for_each(|(key, value)| ingestion.write(key, value))?;
            ingestion.finish()
        });
        ingested.map_err(write_error)
    }

    fn write(&self, changes: Vec<Change>, durability: Durability) -> Result<(), Error> {
        let opened = self.writable()?;
        let written = guarded(|| {
            let mut batch = opened
                .database
                .batch()
                .durability(Some(PersistMode::Buffer));
            for change in changes {
                let keyspace = opened.of(change.space);
                match change.value {
                    Some(value) => batch.insert(keyspace, change.key, value),
                    None => batch.remove(keyspace, change.key),
                }
            }
            batch.commit()
        });
        written.map_err(write_error)?;
        if durability == Durability::Power {
            // Apart from the write, because this one must never be tried again, whatever it says.
            let synced = guarded(|| opened.database.persist(PersistMode::SyncAll));
            synced.map_err(engine)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        self.writable().map(drop)
    }

    fn revive(&self) -> Result<(), Error> {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut opened) = slot.take() {
            // It must be closed before it is opened: two would write into one journal.
            while let Err(used) = Arc::try_unwrap(opened) {
                opened = used;
                thread::park_timeout(CLOSE_POLL);
            }
        }
        let opened = guarded(|| Opened::open(&self.folder, self.options));
        *slot = Some(Arc::new(opened.map_err(write_error)?));
        Ok(())
    }

    fn is_calm(&self) -> bool {
        // Writers wait from 4 full memtables or 20 tables on: nothing of that can come about within one write.
        let keeps_up = |keyspace: &Keyspace| {
            keyspace.sealed_memtable_count() == 0 && keyspace.l0_table_count() <= CALM_TABLES_MAX
        };
        let opened = self.opened();
        opened.is_some_and(|opened| keeps_up(&opened.messages) && keeps_up(&opened.meta))
    }

    fn figures(&self) -> Result<Figures, Error> {
        let opened = self.readable()?;
        let (database, messages, meta) = (&opened.database, &opened.messages, &opened.meta);
        Ok(Figures {
            disk_bytes: ByteCount(database.disk_space().map_err(engine)?),
            journal_count: database.journal_count() as u64,
            journal_bytes: ByteCount(database.journal_disk_space().map_err(engine)?),
            l0_table_count: (messages.l0_table_count() + meta.l0_table_count()) as u64,
            table_count: (messages.table_count() + meta.table_count()) as u64,
            blob_file_count: messages.blob_file_count() as u64,
            stale_blob_bytes: ByteCount(messages.fragmented_blob_bytes()),
            engine_flush_count: database.outstanding_flushes() as u64,
            compaction_count: database.active_compactions() as u64,
            ..Figures::default()
        })
    }
}
