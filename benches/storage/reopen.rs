//! A peer's log and store, opened as at a start.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::Bytes;
use cubecast::env::disk::SystemDisk;
use cubecast::env::entropy::SystemEntropy;
use cubecast::shard::{Machine, TopicFilter};
use cubecast::store::{FjallStore, Options, TopicStore};
use cubecast::types::{
    ByteCount, Dimension, Incarnation, LogIndex, Offset, PeerId, Term, TopicName, Vertex,
};
use cubecast::wal::{self, Identity, RaftLog, Wal};

use crate::device::{self, folder_bytes};

/// Nobody elects here.
pub const TERM: Term = Term(1);
/// Shards of a peer with three neighbours.
const SHARDS: usize = 4;
/// Entries that are replayed at once.
const REPLAY_BYTES: ByteCount = ByteCount(4 << 20);
/// Payload that is read at once.
const READ_BYTES: ByteCount = ByteCount(1 << 20);

/// What a peer has open.
pub struct Peer {
    pub wal: Arc<dyn RaftLog>,
    pub store: Arc<dyn TopicStore>,
    pub machines: Vec<(Vertex, Machine)>,
}

impl Peer {
    /// Opens both and applies what the store had not flushed; the number of entries that were.
    pub fn open(folder: &Path) -> anyhow::Result<(Self, u64)> {
        let identity = Identity {
            cluster: [7; 16],
            peer: PeerId(0),
            incarnation: Incarnation(1),
        };
        let options = wal::Options::new(folder.join("wal"), identity);
        let wal = Wal::open(options, Arc::new(SystemDisk), Arc::new(SystemEntropy))?;
        let wal: Arc<dyn RaftLog> = Arc::new(wal);
        let store = FjallStore::open(&folder.join("store"), Options::default())?;
        let store: Arc<dyn TopicStore> = Arc::new(store);
        let (mut machines, mut replayed) = (Vec::new(), 0);
        for shard in Dimension::new(3)?.vertices().take(SHARDS) {
            let mut machine = Machine::open(shard, Arc::clone(&store))?;
            replayed += replay(&*wal, shard, &mut machine)?;
            machines.push((shard, machine));
        }
        let peer = Self {
            wal,
            store,
            machines,
        };
        Ok((peer, replayed))
    }
}

fn replay(wal: &dyn RaftLog, shard: Vertex, machine: &mut Machine) -> anyhow::Result<u64> {
    let Some(last) = wal.bounds(shard).last else {
        return Ok(0);
    };
    let first = machine.applied().map_or(0, |applied| applied.index.0 + 1);
    let mut next = first;
    while next <= last.index.0 {
        let range = LogIndex(next)..last.index.next();
        let entries = wal.entries(shard, range, REPLAY_BYTES)?;
        ensure!(!entries.is_empty(), "entry {next} of {shard} is missing");
        next += entries.len() as u64;
        let entries = entries
            .into_iter()
            .map(|entry| (entry.position, Some(entry.payload)));
        machine.apply(entries.collect(), Bytes::new())?;
    }
    Ok(next - first)
}

/// A peer that was opened again.
pub struct Reopened {
    pub peer: Peer,
    pub seconds: f64,
    pub replayed: u64,
    pub disk_bytes: u64,
}

/// Opens what the killed one left, from the disk and not from memory where this user may say so, and flushes it.
pub fn run(folder: &Path) -> anyhow::Result<Reopened> {
    device::drop_caches();
    let begun = Instant::now();
    let (peer, replayed) = Peer::open(folder)?;
    let seconds = begun.elapsed().as_secs_f64();
    peer.store.checkpoint()?;
    Ok(Reopened {
        disk_bytes: folder_bytes(folder)?,
        peer,
        seconds,
        replayed,
    })
}

impl Reopened {
    /// Reads every message from the first on, topic after topic, and says how many bytes a second that were. Nothing may be missing.
    pub fn read(&self, payload_bytes: u64) -> anyhow::Result<f64> {
        let (begun, mut total) = (Instant::now(), 0);
        for (_, machine) in &self.peer.machines {
            let view = machine.view();
            let mut after: Option<TopicName> = None;
            loop {
                let topics = view.topics(TopicFilter::default(), after.as_ref(), 100)?;
                for topic in &topics {
                    let mut from = Offset(0);
                    while from < topic.next_offset {
                        let batches = view.batches(topic, from, u32::MAX, READ_BYTES)?;
                        let last = batches.last().context("a message is missing")?;
                        from = last.next_offset();
                        total += batches
                            .iter()
                            .map(|stored| stored.batch.bytes().0)
                            .sum::<u64>();
                    }
                }
                match topics.into_iter().last() {
                    Some(last) => after = Some(last.name),
                    None => break,
                }
            }
        }
        ensure!(
            total >= payload_bytes,
            "only {total} of {payload_bytes} bytes are there"
        );
        Ok(total as f64 / begun.elapsed().as_secs_f64())
    }
}
