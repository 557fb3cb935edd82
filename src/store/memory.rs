//! The engine that forgets: ordered maps in memory, for tests and simulation. Its values are encoded and checked as on disk.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::engine::{Change, Engine, Flow, Space, Visit};
use super::kv::KvStore;
use super::{Error, Figures};
use crate::types::ByteCount;

/// A topic store in memory.
pub type MemoryStore = KvStore<Memory>;

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::empty(Memory::default())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

type Map = BTreeMap<Bytes, Bytes>;

/// Two ordered maps behind one lock.
#[derive(Debug, Default)]
pub struct Memory {
    maps: RwLock<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    messages: Map,
    meta: Map,
}

impl Maps {
    fn of(&self, space: Space) -> &Map {
        match space {
            Space::Messages => &self.messages,
            Space::Meta => &self.meta,
        }
    }
}

impl Memory {
    /// A panic of another thread cannot leave a map half changed in a way that reading makes worse.
    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn within(map: &Map, keys: Range<&[u8]>) -> impl DoubleEndedIterator<Item = (Bytes, Bytes)> {
    // An empty or inverted range would panic in the map.
    (keys.start < keys.end)
        .then(|| {
            map.range::<[u8], _>((
                std::ops::Bound::Included(keys.start),
                std::ops::Bound::Excluded(keys.end),
            ))
        })
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
}

impl Engine for Memory {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.read().of(space).get(key).cloned())
    }

    fn scan(&self, space: Space, keys: Range<&[u8]>, visit: &mut Visit<'_>) -> Result<(), Error> {
        let maps = self.read();
        for (key, value) in within(maps.of(space), keys) {
            if visit(&key, value)? == Flow::Enough {
                break;
            }
        }
        Ok(())
    }

    fn keys(&self, space: Space, keys: Range<&[u8]>, limit: usize) -> Result<Vec<Bytes>, Error> {
        let maps = self.read();
        let found = within(maps.of(space), keys).map(|(key, _)| key);
        Ok(found.take(limit).collect())
    }

    fn last(&self, space: Space, keys: Range<&[u8]>) -> Result<Option<(Bytes, Bytes)>, Error> {
        Ok(within(self.read().of(space), keys).next_back())
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), Error> {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            let map = match change.space {
                Space::Messages => &mut maps.messages,
                Space::Meta => &mut maps.meta,
            };
            let key = Bytes::from(change.key);
            match change.value {
                Some(value) => map.insert(key, value.into()),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn is_calm(&self) -> bool {
        true
    }

    fn figures(&self) -> Result<Figures, Error> {
        let maps = self.read();
        let entries = maps.messages.iter().chain(&maps.meta);
        let bytes = entries.map(|(key, value)| (key.len() + value.len()) as u64);
        Ok(Figures {
            disk_bytes: ByteCount(bytes.sum()),
            ..Figures::default()
        })
    }
}
