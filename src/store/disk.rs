//! The engine on disk: fjall, named in this file only.
//!
//! Writes go to fjall's journal in the page cache (they survive `kill -9`); only [`Engine::sync`] makes them survive a power cut. Payloads
//! of 512 bytes and more live in files apart from their keys, so that compaction does not move them.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};

use super::engine::{Change, Engine, Flow, Space, Visit};
use super::kv::KvStore;
use super::{Error, Figures};
use crate::types::ByteCount;

/// Values from this length on are kept apart from their keys.
const SEPARATION_BYTES_MIN: u32 = 512;
/// A file of values kept apart; small enough that space comes back in steps.
const VALUE_FILE_BYTES: u64 = 64 << 20;

/// The engine panics below it.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;

/// Tables of the first level that wait for compaction while the store keeps up; writers wait when there are 20.
const CALM_TABLES_MAX: usize = 10;

/// How much the store takes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Memory for blocks that were read.
    pub cache_bytes: ByteCount,
    /// Memory that collects writes of one keyspace until they are flushed. Fixed when the store is first made.
    pub memtable_bytes: ByteCount,
    /// The engine's own log on disk at most; less than 64 MiB counts as 64 MiB.
    pub journal_bytes_max: ByteCount,
    /// Threads that flush and compact.
    pub worker_count: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: ByteCount(32 << 20),
            memtable_bytes: ByteCount(32 << 20),
            journal_bytes_max: ByteCount(256 << 20),
            worker_count: 2,
        }
    }
}

/// A topic store on disk.
pub type FjallStore = KvStore<Disk>;

impl FjallStore {
    /// Opens the store in a folder, or makes it. What a killed process left in the page cache is synced first, so all marks are durable
    /// afterwards.
    ///
    /// # Errors
    /// [`Error`] when the folder cannot be used, is in use, or holds a damaged store.
    pub fn open(folder: &Path, options: Options) -> Result<Self, Error> {
        let disk = Disk::open(folder, options).map_err(engine)?;
        disk.sync()?;
        Self::recovered(disk)
    }
}

/// A fjall database with the two keyspaces.
pub struct Disk {
    database: Database,
    messages: Keyspace,
    meta: Keyspace,
}

impl Disk {
    fn open(folder: &Path, options: Options) -> fjall::Result<Self> {
        let database = Database::builder(folder)
            .cache_size(options.cache_bytes.0)
            .worker_threads(options.worker_count.max(1))
            .max_journaling_size(options.journal_bytes_max.0.max(JOURNAL_BYTES_MIN))
            .open()?;
        let plain = KeyspaceCreateOptions::default().max_memtable_size(options.memtable_bytes.0);
        let separation = KvSeparationOptions::default()
            .separation_threshold(SEPARATION_BYTES_MIN)
            .file_target_size(VALUE_FILE_BYTES);
        let separated = plain.clone().with_kv_separation(Some(separation));
        let messages = database.keyspace(Space::Messages.name(), || separated)?;
        let meta = database.keyspace(Space::Meta.name(), || plain)?;
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
}

fn engine(error: fjall::Error) -> Error {
    Error::Engine(Box::new(error))
}

fn pair(guard: Guard) -> Result<(Bytes, Bytes), Error> {
    let (key, value) = guard.into_inner().map_err(engine)?;
    Ok((Bytes::from_owner(key), Bytes::from_owner(value)))
}

/// Whether a range can hold a key at all. The engine panics on an inverted one.
fn is_empty(keys: &Range<&[u8]>) -> bool {
    keys.start >= keys.end
}

impl Engine for Disk {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.of(space).get(key).map_err(engine)?;
        Ok(value.map(Bytes::from_owner))
    }

    fn scan(&self, space: Space, keys: Range<&[u8]>, visit: &mut Visit<'_>) -> Result<(), Error> {
        if is_empty(&keys) {
            return Ok(());
        }
        for guard in self.of(space).range(keys) {
            let (key, value) = pair(guard)?;
            if visit(&key, value)? == Flow::Enough {
                break;
            }
        }
        Ok(())
    }

    fn keys(&self, space: Space, keys: Range<&[u8]>, limit: usize) -> Result<Vec<Bytes>, Error> {
        if is_empty(&keys) {
            return Ok(Vec::new());
        }
        let guards = self.of(space).range(keys).take(limit);
        let keys = guards.map(|guard| guard.key().map(Bytes::from_owner));
        keys.collect::<fjall::Result<_>>().map_err(engine)
    }

    fn last(&self, space: Space, keys: Range<&[u8]>) -> Result<Option<(Bytes, Bytes)>, Error> {
        if is_empty(&keys) {
            return Ok(None);
        }
        self.of(space).range(keys).next_back().map(pair).transpose()
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), Error> {
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        for change in changes {
            let keyspace = self.of(change.space);
            match change.value {
                Some(value) => batch.insert(keyspace, change.key, value),
                None => batch.remove(keyspace, change.key),
            }
        }
        batch.commit().map_err(engine)
    }

    fn sync(&self) -> Result<(), Error> {
        self.database.persist(PersistMode::SyncAll).map_err(engine)
    }

    fn is_calm(&self) -> bool {
        // Writers wait from 4 full memtables or 20 tables on: nothing of that can come about within one write.
        let keeps_up = |keyspace: &Keyspace| {
            keyspace.sealed_memtable_count() == 0 && keyspace.l0_table_count() <= CALM_TABLES_MAX
        };
        keeps_up(&self.messages) && keeps_up(&self.meta)
    }

    fn figures(&self) -> Result<Figures, Error> {
        let tables = self.messages.l0_table_count() + self.meta.l0_table_count();
        Ok(Figures {
            disk_bytes: ByteCount(self.database.disk_space().map_err(engine)?),
            journal_count: self.database.journal_count() as u64,
            l0_table_count: tables as u64,
            flush_count: self.database.outstanding_flushes() as u64,
        })
    }
}
