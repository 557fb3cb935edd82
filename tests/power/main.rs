//! Log and store on a real file system whose power is cut.
//!
//! `scripts/power.sh` mounts the file system, runs this binary to write, cuts the power, mounts again and runs it to check. What to do is
//! in the environment: `CUBECAST_POWER` is `write`, `careless` (write without `fdatasync`, the control) or `check`, `CUBECAST_POWER_FOLDER` the
//! folder on that file system. Without them it writes and checks without a cut. Begin with [`write`] and [`check`].

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test proves things with these"
)]

mod careless;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use cubecast::env::disk::{Disk, SystemDisk};
use cubecast::env::entropy::SystemEntropy;
use cubecast::store::{self, BatchRange, FjallStore, Reader, Table, TopicStore, Writes};
use cubecast::types::{
    Batch, ByteCount, Dimension, Incarnation, LogIndex, LogPosition, Offset, PeerId, StoredBatch,
    Term, Timestamp, TopicId, Vertex,
};
use cubecast::wal::{self, Identity, Op, Purged, RaftLog, Wal};

use careless::CarelessDisk;

/// Entries on their way to the disk at once.
const IN_FLIGHT: u64 = 16;
/// Entries between two flushes of the store.
const FLUSH_EVERY: u64 = 300;
/// Bytes of the log that are kept.
const KEEP: ByteCount = ByteCount(6 << 20);
/// A writer whose power nobody cuts ends by itself.
const ENTRIES_MAX: u64 = 50_000;

struct Peer {
    log: Wal,
    store: FjallStore,
}

fn shard() -> Vertex {
    Vertex::new(5, Dimension::new(3).unwrap()).unwrap()
}

fn topic() -> TopicId {
    TopicId::new(shard().index(), 1)
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: Term(1),
        index: LogIndex(index),
    }
}

/// One message, which tells its number and where each of its bytes stands.
fn payload(index: u64) -> Bytes {
    let length = 100 + usize::try_from(index * 7919 % 20_000).unwrap();
    let mut message: Vec<u8> = (0..=250).cycle().take(length).collect();
    message[..8].copy_from_slice(&index.to_be_bytes());
    let mut bytes = vec![0x22];
    let mut rest = length;
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest % 0x80).unwrap() | 0x80);
        rest /= 0x80;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes.extend(message);
    bytes.into()
}

impl Peer {
    fn open(folder: &Path, disk: Arc<dyn Disk>) -> Result<Self, String> {
        let identity = Identity {
            cluster: [7; 16],
            peer: PeerId(5),
            incarnation: Incarnation(1),
        };
        let options = wal::Options {
            segment_bytes: ByteCount(2 << 20),
            ..wal::Options::new(folder.join("wal"), identity)
        };
        let log = Wal::open(options, disk, Arc::new(SystemEntropy));
        let options = store::Options {
            memtable_bytes: ByteCount(2 << 20),
            ..store::Options::default()
        };
        let store = FjallStore::open(&folder.join("store"), options);
        Ok(Self {
            log: log.map_err(|error| error.to_string())?,
            store: store.map_err(|error| error.to_string())?,
        })
    }

    /// How many entries the store has applied.
    fn applied(&self) -> u64 {
        let mark = self.store.mark(shard()).unwrap();
        mark.map_or(0, |mark| u64::from_be_bytes(mark[..].try_into().unwrap()))
    }

    /// How many entries there were.
    fn count(&self) -> u64 {
        let bounds = self.log.bounds(shard());
        let purged = bounds.purged.map(|purged| purged.position);
        bounds.last.or(purged).map_or(0, |last| last.index.0 + 1)
    }

    fn append(&self, index: u64) -> Option<Receiver<bool>> {
        let (done, durable) = sync_channel(1);
        let append = Op::Append {
            shard: shard(),
            entries: vec![wal::Entry {
                position: position(index),
                payload: payload(index),
            }],
        };
        let done = move |result: Result<(), wal::Error>| {
            let _ = done.send(result.is_ok());
        };
        self.log.submit(vec![append], Box::new(done)).ok()?;
        Some(durable)
    }

    /// Applies an entry as a shard does; false when the disk is gone.
    fn apply(&self, index: u64) -> bool {
        let key = Bytes::copy_from_slice(&index.to_be_bytes());
        let mut writes = Writes::default();
        writes
            .rows
            .insert((Table::Subscription, key.clone()), Some(key));
        let batch = StoredBatch {
            base_offset: Offset(index),
            append_time: Timestamp::default(),
            origin: None,
            log_position: position(index),
            batch: Batch::new(payload(index)).unwrap(),
        };
        writes.batches.push((topic(), batch));
        let mark = Bytes::copy_from_slice(&(index + 1).to_be_bytes());
        self.store.commit(shard(), writes, mark).is_ok()
    }

    /// Flushes the store and purges the log behind it; false when the disk is gone.
    fn flush(&self) -> bool {
        if self.store.checkpoint().is_err() {
            return false;
        }
        let durable = self.store.durable_mark(shard());
        let durable = durable.map_or(0, |mark| u64::from_be_bytes(mark[..].try_into().unwrap()));
        let aged = self.log.aged(shard(), KEEP);
        let upto = aged.map(|aged| aged.0.min(durable.saturating_sub(1)));
        let purged = upto.filter(|_| durable > 0).map(|upto| Purged {
            position: position(upto),
            state: Bytes::new(),
        });
        purged.is_none_or(|purged| self.log.purge(shard(), purged).is_ok())
    }
}

/// Appends and applies until the disk fails or there are `count` entries, telling each entry that is acknowledged.
fn write(peer: &Peer, count: u64, acknowledged: impl Fn(u64)) {
    // What the store has not applied is in the log, as after any start.
    let begun = peer.count();
    for index in peer.applied()..begun {
        peer.apply(index);
    }
    let mut in_flight = std::collections::VecDeque::new();
    for index in begun..count {
        let Some(durable) = peer.append(index) else {
            return;
        };
        in_flight.push_back((index, durable));
        if in_flight.len() as u64 == IN_FLIGHT || index + 1 == count {
            while in_flight.len() as u64 >= IN_FLIGHT / 2 || index + 1 == count {
                let Some((index, durable)) = in_flight.pop_front() else {
                    break;
                };
                let wait_max = Duration::from_secs(60);
                if durable.recv_timeout(wait_max) != Ok(true) {
                    return;
                }
                acknowledged(index);
                if !peer.apply(index) || (index % FLUSH_EVERY == 0 && !peer.flush()) {
                    return;
                }
            }
        }
    }
}

/// Checks all that is there and says how many entries there are.
fn check(peer: &Peer) -> u64 {
    let (applied, count) = (peer.applied(), peer.count());
    let bounds = peer.log.bounds(shard());
    let first = bounds.first.map_or(count, |first| first.0);
    assert!(applied <= count, "the store is ahead of the log");
    assert!(
        first <= applied,
        "entries between store and log are missing"
    );
    let entries = LogIndex(first)..LogIndex(count);
    let entries = peer.log.entries(shard(), entries, ByteCount(u64::MAX));
    for (index, entry) in (first..count).zip(entries.unwrap()) {
        assert_eq!(entry.position, position(index));
        assert_eq!(entry.payload, payload(index), "entry {index}");
    }
    for index in 0..applied {
        let key = index.to_be_bytes();
        let row = peer.store.row(shard(), Table::Subscription, &key).unwrap();
        assert_eq!(row.as_deref(), Some(&key[..]), "row {index}");
        let range = BatchRange {
            from: Offset(index),
            until: Offset(index + 1),
            count_max: 1,
            bytes_max: ByteCount(u64::MAX),
        };
        let batches = peer.store.batches(topic(), range).unwrap();
        assert_eq!(batches[0].batch.payload(), &payload(index), "batch {index}");
    }
    count
}

#[test]
fn what_was_acknowledged_is_there() {
    let folder = std::env::var_os("CUBECAST_POWER_FOLDER").map(PathBuf::from);
    let task = std::env::var("CUBECAST_POWER").unwrap_or_default();
    let tell = |index| println!("acknowledged {index}");
    match (task.as_str(), folder) {
        ("write", Some(folder)) => {
            let peer = Peer::open(&folder, Arc::new(SystemDisk)).unwrap();
            write(&peer, ENTRIES_MAX, tell);
        }
        ("careless", Some(folder)) => {
            let peer = Peer::open(&folder, Arc::new(CarelessDisk)).unwrap();
            write(&peer, ENTRIES_MAX, tell);
        }
        ("check", Some(folder)) => match Peer::open(&folder, Arc::new(SystemDisk)) {
            Ok(peer) => println!("found {}", check(&peer)),
            Err(error) => println!("refused {error}"),
        },
        _ => {
            let folder = tempfile::tempdir().unwrap();
            for count in [1_000, 1_600] {
                let peer = Peer::open(folder.path(), Arc::new(SystemDisk)).unwrap();
                write(&peer, count, |_| ());
                drop(peer);
                let peer = Peer::open(folder.path(), Arc::new(SystemDisk)).unwrap();
                assert_eq!(check(&peer), count);
                assert!(peer.log.bounds(shard()).purged.is_some(), "{count}");
            }
        }
    }
}
