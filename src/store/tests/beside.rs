//! Readers beside commits, flushes and sweeps; what a frozen reader sees; a disk that is full.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::super::engine::{Pair, Pairs, Source};
use super::super::memory::Memory;
use super::super::read::Layers;
use super::*;

fn everything(from: u64, until: u64) -> BatchRange {
    BatchRange {
        from: Offset(from),
        until: Offset(until),
        count_max: u32::MAX,
        bytes_max: ByteCount(u64::MAX),
    }
}

/// A commit of one batch and a row that tells the topic's end.
fn grow(store: &dyn TopicStore, base: u64, payload: &[u8]) {
    let mut writes = rows(&[(Table::Topic, "end", Some(&(base + 1).to_string()))]);
    writes.batches = vec![(topic(), stored(base, base, batch(&[payload])))];
    let mark = Bytes::from((base + 1).to_string());
    store.commit(shard("100"), writes, mark).unwrap();
}

fn number(bytes: Option<Bytes>) -> u64 {
    bytes.map_or(0, |bytes| {
        std::str::from_utf8(&bytes).unwrap().parse().unwrap()
    })
}

fn end(reader: &dyn Reader) -> u64 {
    number(reader.row(shard("100"), Table::Topic, b"end").unwrap())
}

#[test]
fn readers_see_all_that_a_row_speaks_of_while_memtables_are_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        memtable_bytes: ByteCount(20_000),
        ..Options::default()
    };
    let store = Arc::new(FjallStore::open(folder.path(), options).unwrap());
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|reader: u64| {
            let (store, is_over) = (Arc::clone(&store), Arc::clone(&is_over));
            std::thread::spawn(move || {
                let mut rounds = 0;
                while !is_over.load(Ordering::Relaxed) || rounds == 0 {
                    rounds += 1;
                    let end = end(&*store);
                    let from = (end * reader / 3).saturating_sub(5);
                    let found = store.batches(topic(), everything(from, end)).unwrap();
                    assert_eq!(found.len() as u64, end - from, "{from}..{end}");
                    let frozen = store.snapshot().unwrap();
                    let end = self::end(&*frozen);
                    assert_eq!(number(frozen.mark(shard("100")).unwrap()), end);
                    let found = frozen.batches(topic(), everything(0, end)).unwrap();
                    assert_eq!(found.len() as u64, end);
                }
            })
        })
        .collect();
    for base in 0..1500 {
        grow(&*store, base, &[7; 120]);
    }
    is_over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    let figures = store.figures().unwrap();
    assert!(figures.flush_count > 3, "{figures:?}");
    assert!(store.damaged().borrow().is_empty());
}

pub(super) fn frozen_reader_sees_what_is_swept_later(store: &dyn TopicStore) {
    with_five(store);
    store.checkpoint().unwrap();
    let frozen = store.snapshot().unwrap();
    let doom = Writes {
        dooms: vec![Doom::BatchesBefore(topic(), Offset(0)..Offset(6))],
        ..rows(&[(Table::Topic, "news", Some("1"))])
    };
    store.commit(shard("100"), doom, Bytes::new()).unwrap();
    store.checkpoint().unwrap();
    while store.sweep(1).unwrap() > 0 {}
    assert_eq!(store.batches(topic(), everything(0, 9)).unwrap(), []);
    assert_eq!(store.batches(topic(), everything(6, 9)).unwrap().len(), 2);
    let at = |time| store.offset_at(topic(), Offset(0)..Offset(9), Timestamp(time));
    assert_eq!(at(0).unwrap(), Offset(6), "what is gone counts as older");
    check_cut(&*frozen, (0, 9), 100, 10_000);
    check_cut(&*frozen, (1, 7), 100, 10_000);
    assert_eq!(frozen.mark(shard("100")).unwrap().unwrap(), "m");
    let row = frozen.row(shard("100"), Table::Topic, b"news");
    assert_eq!(row.unwrap(), None);
}

pub(super) fn trim_spares_the_batch_that_straddles(store: &dyn TopicStore) {
    for (before, first) in [
        (0, 0),
        (1, 0),
        (2, 2),
        (4, 3),
        (5, 3),
        (6, 6),
        (8, 7),
        (9, 9),
    ] {
        store.erase(shard("100")).unwrap();
        with_five(store);
        let doom = Writes {
            dooms: vec![Doom::BatchesBefore(topic(), Offset(0)..Offset(before))],
            ..Writes::default()
        };
        store.commit(shard("100"), doom, Bytes::new()).unwrap();
        store.checkpoint().unwrap();
        while store.sweep(1).unwrap() > 0 {}
        let bases = (0..9).filter_map(|offset| store.batch_at(topic(), Offset(offset)).unwrap());
        let first_left = bases.map(|batch| batch.base_offset.0).next();
        assert_eq!(first_left.unwrap_or(9), first, "before {before}");
    }
}

pub(super) fn hole_between_batches_is_missing(store: &dyn TopicStore) {
    let batches = vec![
        (topic(), stored(0, 1, batch(&[b"a"]))),
        (topic(), stored(2, 2, batch(&[b"c"]))),
    ];
    let writes = Writes {
        batches,
        ..Writes::default()
    };
    store.commit(shard("100"), writes, Bytes::new()).unwrap();
    let found = store.batches(topic(), everything(0, 9));
    assert!(matches!(
        found,
        Err(Error::Missing {
            offset: Offset(1),
            ..
        })
    ));
    assert!(store.damaged().borrow().contains_key(&4));
}

/// An engine that is swept after its first two looks.
struct Swept {
    before: <Memory as Engine>::Frozen,
    after: <Memory as Engine>::Frozen,
    looks: AtomicUsize,
}

impl Swept {
    fn now(&self) -> &impl Source {
        match self.looks.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => &self.before,
            _ => &self.after,
        }
    }
}

impl Source for Swept {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.now().get(space, key)
    }

    fn scan(&self, space: Space, keys: Range<&[u8]>) -> Pairs<'_> {
        self.now().scan(space, keys)
    }

    fn keys(&self, space: Space, keys: Range<&[u8]>, limit: usize) -> Result<Vec<Bytes>, Error> {
        self.now().keys(space, keys, limit)
    }

    fn last(&self, space: Space, keys: Range<&[u8]>) -> Result<Option<Pair>, Error> {
        self.now().last(space, keys)
    }
}

// A topic is trimmed and swept between the batch that straddles the beginning of a read and the next one.
#[test]
fn what_is_swept_during_a_read_is_not_missing() {
    let store = MemoryStore::new();
    with_five(&store);
    store.checkpoint().unwrap();
    let before = store.shared.engine.freeze().unwrap();
    let doom = Writes {
        dooms: vec![Doom::BatchesBefore(topic(), Offset(0)..Offset(6))],
        ..Writes::default()
    };
    store.commit(shard("100"), doom, Bytes::new()).unwrap();
    store.checkpoint().unwrap();
    while store.sweep(9).unwrap() > 0 {}
    let swept = Swept {
        before,
        after: store.shared.engine.freeze().unwrap(),
        looks: AtomicUsize::new(0),
    };
    let layers = Layers {
        tables: Vec::new(),
        source: &swept,
    };
    assert_eq!(layers.batches(topic(), everything(1, 9)).unwrap(), []);
}

/// A disk of 40 MiB that really fills up, which takes the right to mount one.
#[test]
fn store_outlives_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        command.args(arguments).arg(folder.path());
        command.output().is_ok_and(|output| output.status.success())
    };
    if !run("mount", &["-t", "tmpfs", "-o", "size=40m", "tmpfs"]) {
        eprintln!("SKIPPED store_outlives_a_full_disk: a tmpfs cannot be mounted here");
        return;
    }
    fill_up(folder.path());
    assert!(run("umount", &[]), "the disk is still in use");
}

fn fill_up(folder: &std::path::Path) {
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![1; 20 << 20]).unwrap();
    let path = folder.join("store");
    let options = Options {
        memtable_bytes: ByteCount(4 << 20),
        ..Options::default()
    };
    let store = FjallStore::open(&path, options).unwrap();
    let mut base = 0;
    let full = loop {
        let noise: Vec<u8> = (0..60_000_u64)
            .map(|i| (i * (base + 7) % 251) as u8)
            .collect();
        let payload = [&noise[..], &base.to_be_bytes()].concat();
        let long = [&[0x22, 0xe8, 0xd4, 0x03][..], &payload].concat();
        let mut writes = rows(&[(Table::Topic, "end", Some(&(base + 1).to_string()))]);
        writes.batches = vec![(
            topic(),
            stored(base, base, Batch::new(long.into()).unwrap()),
        )];
        let mark = Bytes::from((base + 1).to_string());
        store.commit(shard("100"), writes, mark).unwrap();
        base += 1;
        if base.is_multiple_of(20)
            && let Err(error) = store.checkpoint()
        {
            break error;
        }
        assert!(base < 2000, "the disk was never full");
    };
    assert!(matches!(full, Error::Full(_)), "{full:?}");
    assert!(store.failed().borrow().is_none());
    let found = store.batches(topic(), everything(0, base)).unwrap();
    assert_eq!(found.len() as u64, base, "reads go on");
    std::fs::remove_file(&ballast).unwrap();
    store.checkpoint().unwrap();
    drop(store);
    let store = FjallStore::open(&path, options).unwrap();
    assert_eq!(end(&store), base);
    let found = store.batches(topic(), everything(0, base)).unwrap();
    assert_eq!(found.len() as u64, base);
}

/// A step ends where its limit says; the next goes on there, and what an earlier trim has left is found from the beginning named.
pub(super) fn trims_go_on_where_a_step_ended(store: &dyn TopicStore) {
    with_five(store);
    let trims = [(0..5, 3), (5..6, 6), (6..9, 9)];
    for (offsets, first) in trims {
        let doom = Writes {
            dooms: vec![Doom::BatchesBefore(
                topic(),
                Offset(offsets.start)..Offset(offsets.end),
            )],
            ..Writes::default()
        };
        store.commit(shard("100"), doom, Bytes::new()).unwrap();
        store.checkpoint().unwrap();
        while store.sweep(1).unwrap() > 0 {}
        let mut bases =
            (0..9).filter_map(|offset| store.batch_at(topic(), Offset(offset)).unwrap());
        let left = bases.next().map_or(9, |batch| batch.base_offset.0);
        assert_eq!(left, first, "trimmed {offsets:?}");
    }
}
