//! A log with any bytes over a part of it, and any records of any numbers behind it, opens or is refused; it never panics.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cubecast::env::entropy::SeededEntropy;
use cubecast::env::faulty::FaultyDisk;
use cubecast::types::{ByteCount, Dimension, Incarnation, LogIndex, PeerId, Vertex};
use cubecast::wal::{self, Identity, Kind, Options, RaftLog, Record, Wal};
use libfuzzer_sys::fuzz_target;

fn open(disk: &FaultyDisk) -> Option<Wal> {
    let identity = Identity {
        cluster: [7; 16],
        peer: PeerId(1),
        incarnation: Incarnation(1),
    };
    let options = Options {
        segment_bytes: ByteCount(4096),
        idle_after: Duration::from_hours(1),
        ..Options::new(PathBuf::from("/wal"), identity)
    };
    let entropy = Arc::new(SeededEntropy::new(1));
    Wal::open(options, Arc::new(disk.for_process()), entropy).ok()
}

/// Twelve bytes of the input make one record.
fn record(sequence: u64, plan: &[u8; 12]) -> Record<'_> {
    let kinds = [
        Kind::Entry,
        Kind::HardState,
        Kind::Committed,
        Kind::Purged,
        Kind::Cut,
        Kind::Mark,
        Kind::Reset,
    ];
    let index = u64::from(plan[2]);
    Record {
        sequence,
        index: if plan[3] == 255 { u64::MAX - index } else { index },
        term: u64::from(plan[4]),
        synced: u32::from(plan[5]) * 16,
        shard: u16::from(plan[1] % 3),
        kind: kinds[usize::from(plan[0]) % kinds.len()],
        payload: &plan[6..6 + usize::from(plan[6] % 6)],
    }
}

fuzz_target!(|input: (u16, Vec<u8>, Vec<[u8; 12]>)| {
    let (at, over, plans) = input;
    let path = Path::new("/wal/0000000001.wal");
    let disk = FaultyDisk::new(1);
    drop(open(&disk));
    let mut bytes = disk.contents(path).unwrap_or_default();
    let salt = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
    // Behind the header, the first mark and the mark of the shutdown.
    let mut records = Vec::new();
    for (sequence, plan) in (2..).zip(&plans) {
        record(sequence, plan).encode(salt, &mut records);
    }
    for (to, from) in bytes.iter_mut().skip(104).zip(records) {
        *to = from;
    }
    for (to, from) in bytes.iter_mut().skip(usize::from(at)).zip(over) {
        *to = from;
    }
    let disk = FaultyDisk::new(1);
    disk.set_contents(path, &bytes);
    let _ = wal::inspect(&disk, Path::new("/wal"), None);
    if let Some(wal) = open(&disk) {
        for vertex in Dimension::new(2).unwrap().vertices() {
            read(&wal, vertex);
        }
    }
});

fn read(wal: &Wal, vertex: Vertex) {
    if let Some(first) = wal.bounds(vertex).first {
        let range = first..LogIndex(u64::MAX);
        let entries = wal.entries(vertex, range, ByteCount(1 << 20)).unwrap();
        assert!(!entries.is_empty());
    }
}
