//! The engine that forgets: ordered maps in memory, for tests and simulation. Its values are encoded and checked as on disk. There is no
//! thread: whoever fills the memtable, or asks for a checkpoint, flushes it.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::engine::{Change, Durability, Engine, Pair, Pairs, Source, Space};
use super::kv::KvStore;
use super::{Error, Figures};
use crate::types::ByteCount;

/// Memory that collects commits before they are encoded: little, so that tests reach the engine.
const MEMTABLE_BYTES: ByteCount = ByteCount(1 << 20);

/// A topic store in memory.
pub type MemoryStore = KvStore<Memory>;

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::unattended(Memory::default(), MEMTABLE_BYTES)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

/// Two ordered maps behind one lock.
#[derive(Debug, Default)]
pub struct Memory {
    maps: RwLock<Maps>,
}

/// The maps at one moment. They share their content until one of them is written.
#[derive(Debug, Default, Clone)]
pub(super) struct Maps {
    messages: Arc<BTreeMap<Bytes, Bytes>>,
    meta: Arc<BTreeMap<Bytes, Bytes>>,
}

impl Maps {
    fn of(&self, space: Space) -> &Arc<BTreeMap<Bytes, Bytes>> {
        match space {
            Space::Messages => &self.messages,
            Space::Meta => &self.meta,
        }
    }

    /// The pairs of a range. Looks each one up anew, and so needs nothing but the map.
    fn walk(&self, space: Space, keys: Range<&[u8]>) -> impl Iterator<Item = Pair> + use<> {
        let map = Arc::clone(self.of(space));
        let mut start = Bound::Included(Bytes::copy_from_slice(keys.start));
        let end = Bytes::copy_from_slice(keys.end);
        std::iter::from_fn(move || {
            let (key, value) = first(&map, start.as_ref().map(Bytes::as_ref), &end)?;
            start = Bound::Excluded(key.clone());
            Some((key, value))
        })
    }

    fn change(&mut self, change: Change) {
        let map = match change.space {
            Space::Messages => &mut self.messages,
            Space::Meta => &mut self.meta,
        };
        let map = Arc::make_mut(map);
        let key = Bytes::from(change.key);
        match change.value {
            Some(value) => map.insert(key, value.into()),
            None => map.remove(&key),
        };
    }
}

fn first(map: &BTreeMap<Bytes, Bytes>, start: Bound<&[u8]>, end: &[u8]) -> Option<Pair> {
    let (Bound::Included(least) | Bound::Excluded(least)) = start else {
        return None;
    };
    // An empty or inverted range would panic in the map.
    if least >= end {
        return None;
    }
    let mut pairs = map.range::<[u8], _>((start, Bound::Excluded(end)));
    pairs
        .next()
        .map(|(key, value)| (key.clone(), value.clone()))
}

impl Source for Maps {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.of(space).get(key).cloned())
    }

    fn scan(&self, space: Space, keys: Range<&[u8]>) -> Pairs<'_> {
        Box::new(self.walk(space, keys).map(Ok))
    }

    fn keys(&self, space: Space, keys: Range<&[u8]>, limit: usize) -> Result<Vec<Bytes>, Error> {
        let found = self.walk(space, keys).map(|(key, _)| key);
        Ok(found.take(limit).collect())
    }

    fn last(&self, space: Space, keys: Range<&[u8]>) -> Result<Option<Pair>, Error> {
        if keys.start >= keys.end {
            return Ok(None);
        }
        let bounds = (Bound::Included(keys.start), Bound::Excluded(keys.end));
        let last = self.of(space).range::<[u8], _>(bounds).next_back();
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }
}

impl Memory {
    /// A panic of another thread cannot leave a map half changed in a way that reading makes worse.
    fn maps(&self) -> Maps {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        maps.clone()
    }
}

impl Source for Memory {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.maps().get(space, key)
    }

    fn scan(&self, space: Space, keys: Range<&[u8]>) -> Pairs<'_> {
        Box::new(self.maps().walk(space, keys).map(Ok))
    }

    fn keys(&self, space: Space, keys: Range<&[u8]>, limit: usize) -> Result<Vec<Bytes>, Error> {
        self.maps().keys(space, keys, limit)
    }

    fn last(&self, space: Space, keys: Range<&[u8]>) -> Result<Option<Pair>, Error> {
        self.maps().last(space, keys)
    }
}

impl Engine for Memory {
    type Frozen = Maps;

    fn freeze(&self) -> Result<Maps, Error> {
        Ok(self.maps())
    }

    fn ingest(&self, batches: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<(), Error> {
        let changes = batches.map(|(key, value)| Change {
            space: Space::Messages,
            key: key.to_vec(),
            value: Some(value),
        });
        self.write(changes.collect(), Durability::Power)
    }

    fn write(&self, changes: Vec<Change>, _: Durability) -> Result<(), Error> {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        changes.into_iter().for_each(|change| maps.change(change));
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn revive(&self) -> Result<(), Error> {
        Ok(())
    }

    fn is_calm(&self) -> bool {
        true
    }

    fn figures(&self) -> Result<Figures, Error> {
        let maps = self.maps();
        let entries = maps.messages.iter().chain(&*maps.meta);
        let bytes = entries.map(|(key, value)| (key.len() + value.len()) as u64);
        Ok(Figures {
            disk_bytes: ByteCount(bytes.sum()),
            ..Figures::default()
        })
    }
}
