//! What the store does when the engine fails, is slow, or is cut off between two writes.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::*;
use crate::store::engine::{Durability, Pair, Pairs, Source};
use crate::store::memory::{Maps, Memory};
use crate::store::{Cause, Figures};

/// What the next ingestions do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Succeed,
    /// Wait until the fate is another one.
    Hang,
    Full,
    Stop,
    /// As `Stop`, and the engine cannot be opened again.
    Lose,
    Fail,
}

/// The engine in memory, with a fate.
#[derive(Default)]
struct Faulty {
    memory: Memory,
    fate: Arc<(Mutex<Option<Fate>>, Condvar)>,
    revived: Arc<Mutex<u32>>,
    /// How often keys were listed.
    lists: AtomicU32,
}

#[derive(Clone)]
struct Handle(Arc<(Mutex<Option<Fate>>, Condvar)>);

impl Handle {
    fn set(&self, fate: Fate) {
        *self.0.0.lock().unwrap() = Some(fate);
        self.0.1.notify_all();
    }
}

fn cause() -> Cause {
    Arc::new(std::io::Error::other("as told"))
}

impl Source for Faulty {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.memory.get(space, key)
    }

    fn scan(&self, space: Space, keys: Range<&[u8]>) -> Pairs<'_> {
        self.memory.scan(space, keys)
    }

    fn keys(&self, space: Space, keys: Range<&[u8]>, limit: usize) -> Result<Vec<Bytes>, Error> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.memory.keys(space, keys, limit)
    }

    fn last(&self, space: Space, keys: Range<&[u8]>) -> Result<Option<Pair>, Error> {
        self.memory.last(space, keys)
    }
}

impl Engine for Faulty {
    type Frozen = Maps;

    fn freeze(&self) -> Result<Maps, Error> {
        self.memory.freeze()
    }

    fn ingest(&self, batches: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<(), Error> {
        let fate = self.fate.0.lock().unwrap();
        let hangs = |fate: &mut Option<Fate>| *fate == Some(Fate::Hang);
        let fate = *self.fate.1.wait_while(fate, hangs).unwrap();
        match fate.unwrap_or(Fate::Succeed) {
            Fate::Succeed | Fate::Hang => self.memory.ingest(batches),
            Fate::Full => Err(Error::Full(cause())),
            Fate::Stop | Fate::Lose => Err(Error::Stopped(cause())),
            Fate::Fail => Err(Error::Engine(cause())),
        }
    }

    fn write(&self, changes: Vec<Change>, durability: Durability) -> Result<(), Error> {
        self.memory.write(changes, durability)
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn revive(&self) -> Result<(), Error> {
        *self.revived.lock().unwrap() += 1;
        match *self.fate.0.lock().unwrap() {
            Some(Fate::Lose) => Err(Error::Full(cause())),
            _ => Ok(()),
        }
    }

    fn is_calm(&self) -> bool {
        true
    }

    fn figures(&self) -> Result<Figures, Error> {
        self.memory.figures()
    }
}

fn store(memtable_bytes: u64) -> (Arc<KvStore<Faulty>>, Handle, Arc<Mutex<u32>>) {
    let engine = Faulty::default();
    let handle = Handle(Arc::clone(&engine.fate));
    let revived = Arc::clone(&engine.revived);
    let store = KvStore::attended(engine, ByteCount(memtable_bytes)).unwrap();
    (Arc::new(store), handle, revived)
}

fn append(store: &dyn TopicStore, base: u64) -> Result<(), Error> {
    let writes = Writes {
        batches: vec![(topic(), stored(base, base, batch(&[b"abc"])))],
        ..Writes::default()
    };
    let mark = Bytes::from(base.to_string());
    store.commit(shard("100"), writes, mark)
}

/// A commit that waits is over soon after what it waits for.
fn eventually(mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "not in time");
        std::thread::yield_now();
    }
}

#[test]
fn committer_waits_while_two_memtables_are_full() {
    let (store, fate, _) = store(1);
    fate.set(Fate::Hang);
    append(&*store, 0).unwrap(); // Full, and sealed at once.
    assert!(store.is_calm());
    append(&*store, 1).unwrap();
    assert!(!store.is_calm(), "both are full");
    let committer = {
        let store = Arc::clone(&store);
        std::thread::spawn(move || append(&*store, 2))
    };
    let range = BatchRange {
        from: Offset(0),
        until: Offset(9),
        count_max: 9,
        bytes_max: ByteCount(1000),
    };
    assert_eq!(store.batches(topic(), range).unwrap().len(), 2);
    assert!(!committer.is_finished());
    assert_eq!(store.durable_mark(shard("100")), None);
    fate.set(Fate::Succeed);
    committer.join().unwrap().unwrap();
    store.checkpoint().unwrap();
    assert_eq!(store.durable_mark(shard("100")).unwrap(), "2");
    assert_eq!(store.batches(topic(), range).unwrap().len(), 3);
    assert!(store.figures().unwrap().memtable_bytes == ByteCount(0));
}

#[test]
fn full_disk_keeps_the_memtable_and_is_tried_again() {
    let (store, fate, revived) = store(1 << 20);
    fate.set(Fate::Full);
    append(&*store, 0).unwrap();
    assert!(matches!(store.checkpoint(), Err(Error::Full(_))));
    assert!(store.figures().unwrap().is_waiting_for_room);
    assert!(store.batch_at(topic(), Offset(0)).unwrap().is_some());
    append(&*store, 1).unwrap();
    fate.set(Fate::Succeed);
    store.checkpoint().unwrap();
    assert_eq!(store.durable_mark(shard("100")).unwrap(), "1");
    assert!(!store.figures().unwrap().is_waiting_for_room);
    assert!(*revived.lock().unwrap() >= 1);
    assert!(store.failed().borrow().is_none());
}

#[test]
fn failed_flush_is_final() {
    let (store, fate, revived) = store(1 << 20);
    let failed = store.failed();
    append(&*store, 0).unwrap();
    fate.set(Fate::Fail);
    assert!(matches!(store.checkpoint(), Err(Error::Engine(_))));
    assert!(failed.has_changed().unwrap() && failed.borrow().is_some());
    fate.set(Fate::Succeed);
    assert!(matches!(store.checkpoint(), Err(Error::Engine(_))));
    assert!(matches!(append(&*store, 1), Err(Error::Engine(_))));
    assert!(matches!(store.erase(shard("100")), Err(Error::Engine(_))));
    assert!(store.batch_at(topic(), Offset(0)).unwrap().is_some());
    assert_eq!(store.durable_mark(shard("100")), None);
    assert_eq!(*revived.lock().unwrap(), 0);
}

#[test]
fn failure_wakes_those_that_wait() {
    let (store, fate, _) = store(1);
    fate.set(Fate::Hang);
    append(&*store, 0).unwrap();
    append(&*store, 1).unwrap();
    let committer = {
        let store = Arc::clone(&store);
        std::thread::spawn(move || append(&*store, 2))
    };
    fate.set(Fate::Fail);
    assert!(matches!(committer.join().unwrap(), Err(Error::Engine(_))));
}

#[test]
fn engine_that_stops_itself_is_revived() {
    let (store, fate, revived) = store(1 << 20);
    fate.set(Fate::Stop);
    append(&*store, 0).unwrap();
    let waiting = {
        let store = Arc::clone(&store);
        std::thread::spawn(move || store.checkpoint())
    };
    eventually(|| *revived.lock().unwrap() >= 1);
    fate.set(Fate::Succeed);
    waiting.join().unwrap().unwrap();
    assert_eq!(store.durable_mark(shard("100")).unwrap(), "0");
}

#[test]
fn nobody_waits_for_an_engine_that_cannot_be_opened_again() {
    let (store, fate, _) = store(1 << 20);
    append(&*store, 0).unwrap();
    fate.set(Fate::Lose);
    for _ in 0..2 {
        let waiting = {
            let store = Arc::clone(&store);
            std::thread::spawn(move || store.checkpoint())
        };
        eventually(|| waiting.is_finished());
        assert!(matches!(waiting.join().unwrap(), Err(Error::Full(_))));
        assert!(store.figures().unwrap().is_waiting_for_room);
    }
    assert!(store.failed().borrow().is_none());
    fate.set(Fate::Succeed);
    eventually(|| store.checkpoint().is_ok());
    assert_eq!(store.durable_mark(shard("100")).unwrap(), "0");
}

#[test]
fn sweep_looks_only_when_something_may_be_doomed() {
    let (store, ..) = store(1 << 20);
    let lists = || store.shared.engine.lists.load(Ordering::SeqCst);
    (0..3).for_each(|base| append(&*store, base).unwrap());
    store.checkpoint().unwrap();
    // Nobody knows what was doomed before the start.
    assert_eq!(store.sweep(9).unwrap(), 0);
    let before = lists();
    append(&*store, 3).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(store.sweep(9).unwrap(), 0);
    assert_eq!(lists(), before);
    let doom = Writes {
        dooms: vec![Doom::BatchesBefore(topic(), Offset(0)..Offset(2))],
        ..Writes::default()
    };
    let mark = Bytes::from_static(b"4");
    store.commit(shard("100"), doom, mark).unwrap();
    assert_eq!(store.sweep(9).unwrap(), 0, "not flushed yet");
    store.checkpoint().unwrap();
    while store.sweep(1).unwrap() > 0 {}
    assert!(store.batch_at(topic(), Offset(1)).unwrap().is_none());
    assert!(store.batch_at(topic(), Offset(2)).unwrap().is_some());
    let after = lists();
    assert_eq!(store.sweep(9).unwrap(), 0);
    assert_eq!(lists(), after);
}

/// The engine stops itself again and again because a thread of its own meets damage: the store finds it and says so.
#[test]
fn damage_that_stops_the_engine_for_good_is_found() {
    let (store, fate, _) = store(1 << 20);
    append(&*store, 0).unwrap();
    store.checkpoint().unwrap();
    let change = Change {
        space: Space::Messages,
        key: key::batch(topic(), Offset(0)).to_vec(),
        value: Some(vec![0; 60]),
    };
    let engine = &store.shared.engine;
    engine.write(vec![change], Durability::Process).unwrap();
    fate.set(Fate::Stop);
    append(&*store, 1).unwrap();
    let error = store.checkpoint().unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(store.failed().borrow().as_ref().unwrap().is_damage());
    assert!(store.damaged().borrow().contains_key(&4));
}

/// A flush broken off between its two writes has only written what the replay writes again.
#[test]
fn crash_between_batches_and_rows_is_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let open = || FjallStore::open(folder.path(), Options::default()).unwrap();
    let commits = |store: &dyn TopicStore, bases: Range<u64>| {
        for base in bases {
            append(store, base).unwrap();
        }
    };
    {
        let store = open();
        commits(&store, 0..2);
        store.checkpoint().unwrap();
        let memtable = super::super::memtable::Memtable::default();
        let late = (topic(), stored(2, 2, batch(&[b"abc"])));
        let writes = Writes {
            batches: vec![late],
            ..Writes::default()
        };
        memtable.insert(shard("100"), writes, None);
        let engine = &store.shared.engine;
        engine.ingest(&mut memtable.encoded_batches()).unwrap();
    }
    let store = open();
    assert_eq!(store.mark(shard("100")).unwrap().unwrap(), "1");
    commits(&store, 2..4);
    let check = |store: &dyn TopicStore| {
        let range = BatchRange {
            from: Offset(0),
            until: Offset(4),
            count_max: 9,
            bytes_max: ByteCount(1000),
        };
        let found = store.batches(topic(), range).unwrap();
        let bases: Vec<u64> = found.iter().map(|batch| batch.base_offset.0).collect();
        assert_eq!(bases, [0, 1, 2, 3]);
        assert_eq!(store.mark(shard("100")).unwrap().unwrap(), "3");
    };
    check(&store);
    store.checkpoint().unwrap();
    check(&store);
    drop(store);
    check(&open());
}
