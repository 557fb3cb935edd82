//! The log as its users see it, mostly on the faulty disk.

#![expect(
    clippy::disallowed_methods,
    reason = "a test waits for the one answer that it asked for; the queue never holds more"
)]

mod damage;
mod limits;
mod model;
mod power;
mod space;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;

use super::{Entry, Error, Identity, Op, Options, Purged, RaftLog, Wal};
use crate::env::disk::{Disk, SystemDisk};
use crate::env::entropy::SeededEntropy;
use crate::env::faulty::{FaultyDisk, Survival};
use crate::types::{
    ByteCount, Dimension, Incarnation, LogIndex, LogPosition, PeerId, Term, Vertex,
};

const DIRECTORY: &str = "/wal";

fn identity() -> Identity {
    Identity {
        cluster: *b"cluster of tests",
        peer: PeerId(5),
        incarnation: Incarnation(1),
    }
}

/// Small segments, nothing in memory that need not be, marks only at the end.
fn options() -> Options {
    Options {
        segment_bytes: ByteCount(4096),
        cache_bytes_max: ByteCount(0),
        idle_after: Duration::from_hours(1),
        ..Options::new(PathBuf::from(DIRECTORY), identity())
    }
}

fn open_as(disk: &FaultyDisk, options: Options) -> Result<Wal, Error> {
    let entropy = Arc::new(SeededEntropy::new(7));
    Wal::open(options, Arc::new(disk.for_process()), entropy)
}

fn open(disk: &FaultyDisk) -> Wal {
    open_as(disk, options()).unwrap()
}

fn shard(index: u16) -> Vertex {
    Vertex::new(index, Dimension::new(3).unwrap()).unwrap()
}

fn position(term: u64, index: u64) -> LogPosition {
    LogPosition {
        term: Term(term),
        index: LogIndex(index),
    }
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let text = format!("{term}.{index} ").repeat(bytes / 3 + 1);
    Entry {
        position: position(term, index),
        payload: Bytes::copy_from_slice(&text.as_bytes()[..bytes]),
    }
}

fn append(shard_index: u16, entries: Vec<Entry>) -> Op {
    Op::Append {
        shard: shard(shard_index),
        entries,
    }
}

/// Submits, and gives what the completion will be called with.
fn submit(wal: &Wal, ops: Vec<Op>) -> Result<Receiver<Result<(), Error>>, Error> {
    let (sender, receiver) = channel();
    let done = move |result| {
        let _ = sender.send(result);
    };
    wal.submit(ops, Box::new(done)).map(|()| receiver)
}

/// Submits and waits until it is durable.
fn write(wal: &Wal, ops: Vec<Op>) {
    submit(wal, ops).unwrap().recv().unwrap().unwrap();
}

fn all(wal: &Wal, shard_index: u16) -> Vec<Entry> {
    let bounds = wal.bounds(shard(shard_index));
    let (Some(first), Some(last)) = (bounds.first, bounds.last) else {
        return Vec::new();
    };
    let range = first..last.index.next();
    let entries = wal.entries(shard(shard_index), range, ByteCount(u64::MAX));
    entries.unwrap()
}

fn files(disk: &FaultyDisk) -> Vec<String> {
    let names = disk.list(Path::new(DIRECTORY)).unwrap();
    names
        .into_iter()
        .filter(|name| name.ends_with(".wal"))
        .collect()
}

/// Entries `from..to` of term 1, 100 bytes each.
fn run(from: u64, to: u64) -> Vec<Entry> {
    (from..to).map(|index| entry(1, index, 100)).collect()
}

#[test]
fn entries_are_visible_at_once_and_durable_when_completed() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    let done = submit(&wal, vec![append(1, run(0, 3))]).unwrap();
    assert_eq!(all(&wal, 1), run(0, 3));
    done.recv().unwrap().unwrap();
    assert_eq!(wal.durable(shard(1)), Some(position(1, 2)));
    disk.reboot(Survival::Nothing);
    let wal = open(&disk);
    assert_eq!(all(&wal, 1), run(0, 3));
    assert_eq!(wal.durable(shard(1)), Some(position(1, 2)));
    assert_eq!(wal.bounds(shard(2)), super::Bounds::default());
}

#[test]
fn overwritten_and_truncated_suffixes_stay_gone() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    write(&wal, vec![append(1, run(0, 8))]);
    let last = Some(LogIndex(5));
    write(
        &wal,
        vec![Op::TruncateAfter {
            shard: shard(1),
            last,
        }],
    );
    write(
        &wal,
        vec![append(1, vec![entry(2, 3, 10), entry(2, 4, 10)])],
    );
    let mut expected = run(0, 3);
    expected.extend([entry(2, 3, 10), entry(2, 4, 10)]);
    assert_eq!(all(&wal, 1), expected);
    assert_eq!(wal.durable(shard(1)), Some(position(2, 4)));
    wal.shutdown();
    let wal = open(&disk);
    assert_eq!(all(&wal, 1), expected);
    assert_eq!(wal.bounds(shard(1)).last, Some(position(2, 4)));
    write(
        &wal,
        vec![Op::TruncateAfter {
            shard: shard(1),
            last: None,
        }],
    );
    assert_eq!(all(&wal, 1), []);
}

#[test]
fn reads_are_cut_by_bytes_but_never_empty() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    for index in 0..200 {
        write(
            &wal,
            vec![
                append(1, run(index, index + 1)),
                append(2, run(index, index + 1)),
            ],
        );
    }
    assert!(files(&disk).len() > 10, "the log has rolled");
    for from in [0, 1, 77, 198, 199] {
        let range = LogIndex(from)..LogIndex(1000);
        let read = |bytes| {
            wal.entries(shard(2), range.clone(), ByteCount(bytes))
                .unwrap()
        };
        assert_eq!(read(u64::MAX), run(from, 200));
        assert_eq!(read(0), run(from, from + 1));
        assert_eq!(read(250), run(from, (from + 2).min(200)));
    }
    let beyond = LogIndex(200)..LogIndex(300);
    assert_eq!(wal.entries(shard(2), beyond, ByteCount(1)).unwrap(), []);
}

#[test]
fn states_outlive_the_segments_that_brought_them() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    let state = |text: &'static str| Bytes::from_static(text.as_bytes());
    write(
        &wal,
        vec![Op::HardState {
            shard: shard(1),
            state: state("vote"),
        }],
    );
    submit(
        &wal,
        vec![Op::Committed {
            shard: shard(1),
            state: state("old"),
        }],
    )
    .unwrap();
    submit(
        &wal,
        vec![Op::Committed {
            shard: shard(1),
            state: state("new"),
        }],
    )
    .unwrap();
    for index in 0..100 {
        write(
            &wal,
            vec![
                append(1, run(index, index + 1)),
                append(2, run(index, index + 1)),
            ],
        );
    }
    let purged = Purged {
        position: position(1, 79),
        state: state("purged"),
    };
    wal.purge(shard(1), purged.clone()).unwrap();
    write(
        &wal,
        vec![Op::HardState {
            shard: shard(2),
            state: state("other"),
        }],
    );
    assert_eq!(files(&disk)[0], "0000000001.wal", "shard 2 still needs it");
    wal.purge(shard(2), purged.clone()).unwrap();
    wal.shutdown();
    assert!(
        files(&disk)[0].as_str() > "0000000003.wal",
        "{:?}",
        files(&disk)
    );
    let wal = open(&disk);
    let bounds = wal.bounds(shard(1));
    assert_eq!(bounds.hard_state, Some(state("vote")));
    assert_eq!(bounds.committed, Some(state("new")));
    assert_eq!(bounds.purged, Some(purged));
    assert_eq!(all(&wal, 1), run(80, 100));
    assert_eq!(all(&wal, 2), run(80, 100));
    let early = wal.entries(shard(1), LogIndex(79)..LogIndex(90), ByteCount(1));
    assert!(matches!(
        early,
        Err(Error::Purged {
            first: LogIndex(80),
            ..
        })
    ));
}

#[test]
fn log_goes_on_behind_a_purge_beyond_its_end() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    write(&wal, vec![append(1, run(0, 3))]);
    let purged = Purged {
        position: position(1, 9),
        state: Bytes::new(),
    };
    write(
        &wal,
        vec![
            Op::Purge {
                shard: shard(1),
                purged,
            },
            append(1, run(10, 12)),
        ],
    );
    assert_eq!(all(&wal, 1), run(10, 12));
    wal.shutdown();
    let wal = open(&disk);
    assert_eq!(all(&wal, 1), run(10, 12));
    assert_eq!(wal.durable(shard(1)), Some(position(1, 11)));
}

#[test]
fn log_works_on_the_machines_own_disk() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        directory: directory.path().join("log"),
        idle_after: Duration::from_millis(1),
        ..options()
    };
    let entropy = Arc::new(SeededEntropy::new(7));
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let open = || {
        Wal::open(
            options.clone(),
            Arc::clone(&disk),
            Arc::clone(&entropy) as _,
        )
    };
    for round in 0..3 {
        let wal = open().unwrap();
        assert!(matches!(open(), Err(Error::Disk(_))), "locked");
        assert_eq!(all(&wal, 0), run(0, round * 50));
        for index in round * 50..(round + 1) * 50 {
            write(&wal, vec![append(0, run(index, index + 1))]);
        }
    }
    assert_eq!(all(&open().unwrap(), 0), run(0, 150));
}
