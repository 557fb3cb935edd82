//! [`Wal`]: the log on a disk.
//!
//! Opens it, starts its threads and reads entries back. It never waits for the disk in a submit, except for room in the queue. Begin
//! with [`Wal::open`].

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::index::{Found, Slot};
use super::keeper::{Factory, Keeper};
use super::queue::Shared;
use super::record::{Kind, PREFIX_BYTES, Record, record_bytes};
use super::recovery::{heads, recover};
use super::segment::{HEADER_BYTES, Segment};
use super::writer::{Begin, Writer};
use super::{Bounds, Completion, Entry, Error, Figures, Identity, Op, RaftLog};
use crate::env::disk::{self, Disk};
use crate::env::entropy::Entropy;
use crate::types::{ByteCount, LogIndex, LogPosition, Vertex};

/// The largest segment: it bounds the largest write.
const SEGMENT_BYTES_MAX: u64 = 256 << 20;

/// The smallest segment, for tests.
const SEGMENT_BYTES_MIN: u64 = 1 << 10;

/// Bytes read at once; entries of one shard within it share the read.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Bytes between two entries that are rather read than skipped.
const READ_GAP_MAX: u32 = 64 << 10;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its files are; nothing else should be there.
    pub directory: PathBuf,
    /// Whose log it is.
    pub identity: Identity,
    /// How long a segment is. A record takes at most half of it.
    pub segment_bytes: ByteCount,
    /// Bytes after which a group is closed.
    pub group_bytes_max: ByteCount,
    /// Bytes that may wait for the disk; a submitter then waits.
    pub queue_bytes_max: ByteCount,
    /// How long a submitter waits for room.
    pub queue_wait_max: Duration,
    /// Bytes of the latest entries that each shard keeps in memory, for replication and for applying.
    pub cache_bytes_max: ByteCount,
    /// How long the log waits before it tries again to make a segment on a full disk.
    pub room_retry_interval: Duration,
    /// After this long without work a mark is written, which lets a start tell damage to the last records from a torn write.
    pub idle_after: Duration,
}

impl Options {
    /// The usual settings.
    pub fn new(directory: PathBuf, identity: Identity) -> Self {
        Self {
            directory,
            identity,
            segment_bytes: ByteCount(64 << 20),
            group_bytes_max: ByteCount(4 << 20),
            queue_bytes_max: ByteCount(64 << 20),
            queue_wait_max: Duration::from_secs(10),
            cache_bytes_max: ByteCount(8 << 20),
            room_retry_interval: Duration::from_millis(200),
            idle_after: Duration::from_millis(50),
        }
    }

    /// The largest record.
    pub(crate) fn record_bytes_max(&self) -> u64 {
        (self.segment_bytes.0 - u64::from(HEADER_BYTES)) / 2
    }

    fn check(&self) -> Result<u32, Error> {
        let bytes = self.segment_bytes.0;
        let is_good =
            (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(8);
        let segment_bytes = u32::try_from(bytes).ok().filter(|_| is_good);
        segment_bytes.ok_or(Error::Setting {
            setting: "segment_bytes",
            found: bytes,
            expected: "a multiple of 8 from 1 KiB to 256 MiB",
        })
    }
}

/// The log on a disk. Dropping it shuts it down.
pub struct Wal {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("options", self.shared.options())
            .finish_non_exhaustive()
    }
}

impl Wal {
    /// Opens the log, or begins it in an empty directory. It is this process's own until it is shut down.
    ///
    /// # Errors
    /// [`disk::Error::Locked`] within [`Error::Disk`] when another process has it; [`Error::Damaged`], [`Error::SegmentMissing`] or
    /// [`Error::EntriesMissing`] when something durable is lost; [`Error::Foreign`]; [`Error::NewerVersion`]; [`Error::Setting`].
    pub fn open(
        options: Options,
        disk: Arc<dyn Disk>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        let segment_bytes = options.check()?;
        disk.create_directory(&options.directory)?;
        let lock = disk.lock(&options.directory)?;
        let found = recover(&*disk, &options.directory, &options.identity, segment_bytes)?;
        let factory = Factory {
            disk,
            entropy,
            directory: options.directory.clone(),
            identity: options.identity.clone(),
            segment_bytes,
        };
        let directory = options.directory.clone();
        let mut keeper = Keeper::start(factory, found.spares, found.next_number)?;
        let heads = heads(&found.shards);
        let (active, start, begin) = match found.active {
            Some((active, end)) => (active, end, Begin::Within),
            None => (Arc::new(keeper.take()?), HEADER_BYTES, Begin::Empty),
        };
        let shared = Arc::new(Shared::new(options, found.shards, found.segments));
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            keeper,
            active,
            start,
            buffer: Vec::new(),
            sequence: found.sequence,
            heads,
            placements: Vec::new(),
            is_marked: found.is_marked,
            lock,
        };
        writer.begin(begin)?;
        let spawned = thread::Builder::new()
            .name("wal".to_owned())
            .spawn(move || writer.run());
        let writer = spawned.map_err(|source| disk::Error::Io {
            operation: "start a thread for",
            path: directory,
            source,
        })?;
        Ok(Self {
            shared,
            writer: Mutex::new(Some(writer)),
        })
    }
}

impl RaftLog for Wal {
    fn submit(&self, ops: Vec<Op>, done: Completion) -> Result<(), Error> {
        self.shared.submit(ops, done)
    }

    fn is_crowded(&self) -> bool {
        self.shared.is_crowded()
    }

    fn entries(
        &self,
        shard: Vertex,
        range: Range<LogIndex>,
        bytes_max: ByteCount,
    ) -> Result<Vec<Entry>, Error> {
        let shard = shard.index();
        let mut segments = BTreeMap::new();
        let found = {
            let state = self.shared.lock();
            let Some(log) = state.shards.get(&shard) else {
                return Ok(Vec::new());
            };
            let (first, index) = (LogIndex(log.range().0), range.start);
            if index < first && index < range.end {
                return Err(Error::Purged {
                    shard,
                    index,
                    first,
                });
            }
            let found = log.find(range.start.0, range.end.0, bytes_max.0);
            for next in &found {
                if let Found::Stored { slot, .. } = next {
                    let segment = state.segments.get(&slot.segment);
                    segments.extend(segment.map(|segment| (slot.segment, Arc::clone(segment))));
                }
            }
            found
        };
        read(shard, found, &segments)
    }

    fn bounds(&self, shard: Vertex) -> Bounds {
        let state = self.shared.lock();
        let log = state.shards.get(&shard.index());
        log.map_or_else(Bounds::default, super::index::ShardLog::bounds)
    }

    fn durable(&self, shard: Vertex) -> Option<LogPosition> {
        self.shared.lock().shards.get(&shard.index())?.durable
    }

    fn aged(&self, shard: Vertex, keep: ByteCount) -> Option<LogIndex> {
        self.shared.lock().aged(shard.index(), keep.0)
    }

    fn figures(&self) -> Figures {
        self.shared.figures()
    }

    fn failed(&self) -> watch::Receiver<Option<Arc<Error>>> {
        self.shared.failed()
    }

    fn shutdown(&self) {
        self.shared.close();
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // A completion may hold the last handle; the writer then ends by itself.
        if let Some(writer) = writer.filter(|_| !self.shared.is_writer()) {
            let _ = writer.join();
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// A stretch of a segment that is read at once.
struct Span<'a> {
    segment: &'a Segment,
    start: u32,
    end: u32,
    /// Who is in it.
    inside: Vec<(LogPosition, Slot)>,
}

/// Brings the entries together, reading those that are not in memory.
fn read(
    shard: u16,
    found: Vec<Found>,
    segments: &BTreeMap<u32, Arc<Segment>>,
) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::with_capacity(found.len());
    let mut span: Option<Span<'_>> = None;
    for next in found {
        match next {
            Found::Cached(entry) => {
                if let Some(span) = span.take() {
                    span.read(shard, &mut entries)?;
                }
                entries.push(entry);
            }
            Found::Stored { position, slot } => {
                if span
                    .as_mut()
                    .is_some_and(|span| span.take_in(position, slot))
                {
                    continue;
                }
                if let Some(full) = span.take() {
                    full.read(shard, &mut entries)?;
                }
                let Some(segment) = segments.get(&slot.segment) else {
                    break;
                };
                let (start, end, inside) = (slot.position, slot.end(), vec![(position, slot)]);
                span = Some(Span {
                    segment,
                    start,
                    end,
                    inside,
                });
            }
        }
    }
    if let Some(span) = span {
        span.read(shard, &mut entries)?;
    }
    Ok(entries)
}

impl Slot {
    /// Where the record ends.
    fn end(&self) -> u32 {
        let bytes = u32::try_from(record_bytes(u64::from(self.payload))).unwrap_or(u32::MAX);
        self.position.saturating_add(bytes)
    }
}

impl Span<'_> {
    /// Whether the entry is near enough to be read with the others.
    fn take_in(&mut self, position: LogPosition, slot: Slot) -> bool {
        let is_near = slot.segment == self.segment.number
            && slot.position >= self.end
            && slot.position - self.end <= READ_GAP_MAX
            && u64::from(slot.end() - self.start) <= READ_BYTES_MAX;
        if is_near {
            self.end = slot.end();
            self.inside.push((position, slot));
        }
        is_near
    }

    fn read(self, shard: u16, entries: &mut Vec<Entry>) -> Result<(), Error> {
        let mut bytes = vec![0; (self.end - self.start) as usize];
        self.segment
            .file
            .read_at(u64::from(self.start), &mut bytes)?;
        let bytes = Bytes::from(bytes);
        for (position, slot) in self.inside {
            let at = (slot.position - self.start) as usize;
            let expected = || format!("entry {position} of shard {shard}");
            let rest = bytes.get(at..).unwrap_or_default();
            let record = Record::decode(rest, self.segment.salt).map_err(|broken| {
                self.segment
                    .damaged(slot.position, expected(), broken.to_string())
            })?;
            let is_it = record.kind == Kind::Entry
                && record.shard == shard
                && record.index == position.index.0
                && record.term == position.term.0
                && record.payload.len() == slot.payload as usize;
            if !is_it {
                let found = "another record".to_owned();
                return Err(self.segment.damaged(slot.position, expected(), found));
            }
            let from = at + PREFIX_BYTES;
            let payload = bytes.slice(from..from + record.payload.len());
            entries.push(Entry { position, payload });
        }
        Ok(())
    }
}
