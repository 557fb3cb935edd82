//! Fills a log and a store as a peer does: appended, synced in groups, then applied.
//!
//! It runs in a child process, so that it can be killed like a peer.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use cubecast::shard;
use cubecast::types::{
    Batch, ByteCount, LogIndex, LogPosition, Term, Timestamp, TopicName, Vertex,
};
use cubecast::wal::{self, Op, Purged, RaftLog};
use serde::{Deserialize, Serialize};

use crate::machine;
use crate::raw::incompressible;
use crate::reopen::{Peer, TERM};

/// The argument that makes this program the child.
pub const CHILD: &str = "--fill";
/// Over all shards.
pub const TOPICS: u64 = 1000;
/// Payload of one proposal; larger ones were slower (notes of the design).
const BATCH_BYTES: usize = 64 << 10;
const MESSAGE_BYTES: usize = 128;
/// Proposals of one shard that wait for the disk.
const IN_FLIGHT: u64 = 16;
/// Different batches, so that nothing is written twice in a row.
const BATCHES: usize = 64;
/// What the log keeps for followers that are behind, as by default.
const KEPT: ByteCount = ByteCount(128 << 20);
/// How often a shard looks whether its log can be shortened.
const PURGE_EVERY: u64 = 64;

/// What the child tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct Filled {
    pub seconds: f64,
    /// Payload for each sync of the log.
    pub group_bytes: u64,
    pub rss_bytes: u64,
}

/// Fills, waits until all is applied, and kills the one who did it.
pub fn run(folder: &Path, payload_bytes: u64) -> anyhow::Result<Filled> {
    std::fs::create_dir(folder)?;
    let child = Command::new(std::env::current_exe()?)
        .arg(CHILD)
        .arg(folder)
        .env("CUBECAST_BENCH_MIB", (payload_bytes >> 20).to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut child = Killed(child);
    let output = child.0.stdout.take().context("the child has an output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    ensure!(!line.is_empty(), "the child ended early");
    drop(child);
    Ok(serde_json::from_str(&line)?)
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The child's work: fill, tell, wait for the end.
pub fn serve(folder: &Path, payload_bytes: u64) -> anyhow::Result<()> {
    let (peer, _) = Peer::open(folder)?;
    let batches = Arc::new(batches()?);
    let shards = peer.machines.len() as u64;
    let syncs = peer.wal.figures().syncs;
    let begun = Instant::now();
    let mut threads = Vec::new();
    for machine in peer.machines {
        let filler = Filler {
            wal: Arc::clone(&peer.wal),
            shard: machine.0,
            machine: machine.1,
            batches: Arc::clone(&batches),
            next: 0,
        };
        threads.push(std::thread::spawn(move || {
            filler.run(payload_bytes / shards)
        }));
    }
    for thread in threads {
        match thread.join() {
            Ok(result) => result?,
            Err(_) => bail!("a shard's thread panicked"),
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let syncs = peer.wal.figures().syncs - syncs;
    let rss = machine::rss_bytes(&[std::process::id()])?;
    let filled = Filled {
        seconds,
        group_bytes: payload_bytes / syncs.max(1),
        rss_bytes: rss.first().copied().unwrap_or(0),
    };
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::to_string(&filled)?)?;
    out.flush()?;
    // Nothing is closed: the parent kills.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}

/// Runs of framed messages, as `PublishRequest.messages` is on the wire.
fn batches() -> anyhow::Result<Vec<Batch>> {
    let mut batches = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let mut run = Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 16);
        while run.len() < BATCH_BYTES {
            // Field 4, length-delimited, and the length as a varint of two bytes.
            let length = u8::try_from(MESSAGE_BYTES & 0x7f)? | 0x80;
            run.extend_from_slice(&[0x22, length, u8::try_from(MESSAGE_BYTES >> 7)?]);
            run.extend_from_slice(&incompressible(MESSAGE_BYTES));
        }
        batches.push(Batch::new(Bytes::from(run))?);
    }
    Ok(batches)
}

/// One shard.
struct Filler {
    wal: Arc<dyn RaftLog>,
    shard: Vertex,
    machine: shard::Machine,
    batches: Arc<Vec<Batch>>,
    next: u64,
}

type Written = (LogPosition, Bytes);

impl Filler {
    fn run(mut self, payload_bytes: u64) -> anyhow::Result<()> {
        // As many as ever wait, so that the log's thread never does.
        let (done, written) = sync_channel(usize::try_from(TOPICS)?);
        let topics = TOPICS / 4;
        for number in 0..topics {
            self.submit(&create(&name(self.shard, number)?), &done)?;
        }
        self.apply(&written, topics)?;
        let count = payload_bytes / BATCH_BYTES as u64;
        let (mut sent, mut applied) = (0, 0);
        while applied < count {
            while sent < count && sent - applied < IN_FLIGHT {
                let batch = self.batches.get(usize::try_from(sent)? % BATCHES);
                let batch = batch.context("there are batches")?.clone();
                // Topic after topic, so that all grow at the same time.
                let topic = name(self.shard, sent % topics)?;
                self.submit(&append(topic, batch), &done)?;
                sent += 1;
            }
            applied += self.apply(&written, 1)?;
            if applied % PURGE_EVERY == 0 {
                self.purge()?;
            }
        }
        Ok(())
    }

    fn submit(
        &mut self,
        command: &shard::Command,
        done: &SyncSender<Written>,
    ) -> anyhow::Result<()> {
        let position = LogPosition {
            term: TERM,
            index: LogIndex(self.next),
        };
        self.next += 1;
        let payload = command.encode();
        let entry = wal::Entry {
            position,
            payload: payload.clone(),
        };
        let op = Op::Append {
            shard: self.shard,
            entries: vec![entry],
        };
        let done = done.clone();
        let completion = move |result: Result<(), wal::Error>| {
            if result.is_ok() {
                // The receiver is gone only when this shard has failed.
                let _ = done.send((position, payload));
            }
        };
        Ok(self.wal.submit(vec![op], Box::new(completion))?)
    }

    /// Applies what is on disk, at least so many entries.
    fn apply(&mut self, written: &Receiver<Written>, least: u64) -> anyhow::Result<u64> {
        let mut count = 0;
        while count < least {
            let first = written.recv().context("the log failed")?;
            let ready: Vec<Written> = std::iter::once(first).chain(written.try_iter()).collect();
            count += ready.len() as u64;
            let entries = ready
                .into_iter()
                .map(|(position, command)| (position, Some(command)));
            let applied = self.machine.apply(entries.collect(), Bytes::new())?;
            let refused = applied
                .outcomes
                .iter()
                .flatten()
                .find(|outcome| outcome.is_err());
            ensure!(refused.is_none(), "{refused:?}");
        }
        Ok(count)
    }

    fn purge(&self) -> anyhow::Result<()> {
        let durable = self.machine.durable_applied()?;
        let aged = self.wal.aged(self.shard, KEPT);
        if let (Some(durable), Some(aged)) = (durable, aged) {
            let position = LogPosition {
                term: Term(1),
                index: durable.index.min(aged),
            };
            let state = Bytes::new();
            self.wal.purge(self.shard, Purged { position, state })?;
        }
        Ok(())
    }
}

/// Names need not hash to the shard here.
pub fn name(shard: Vertex, number: u64) -> anyhow::Result<TopicName> {
    Ok(TopicName::new(&format!("{shard}-{number}"))?)
}

fn create(topic: &TopicName) -> shard::Command {
    shard::Command::CreateTopic {
        topic: topic.clone(),
        creator: None,
        request_id: None,
        retention: cubecast::types::Retention::default(),
        at: Timestamp(1),
    }
}

fn append(topic: TopicName, batch: Batch) -> shard::Command {
    shard::Command::Append {
        topic,
        origin: None,
        at: Timestamp(1),
        batch,
    }
}
