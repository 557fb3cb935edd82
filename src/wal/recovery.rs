//! What a start makes of the files.
//!
//! Each record's sequence is one more than that of the record before, through all segments. So a segment is whole exactly when the next one
//! that has records goes on where it ended, whatever lies behind its end; otherwise something durable was lost, and the start is refused.
//! Behind the last record of all there are zeros, or what a write left that was cut short. An intact record there, which says that
//! what precedes it was durable, tells damage from that. After a torn end the log goes on in a new segment, so that the remains are never read as
//! records. Nothing is repaired here and no segment that holds anything is removed. Begin with [`recover`].

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::{Placement, ShardLog, Slot};
use super::record::{Kind, Record};
use super::segment::{End, HEADER_BYTES, Opened, Segment, Tail, number_of, path_of};
use super::writer::Head;
use super::{Error, Identity};
use crate::env::disk::Disk;
use crate::types::{LogIndex, LogPosition, Term};

/// The log as the files have it.
pub(crate) struct Recovered {
    pub(crate) shards: BTreeMap<u16, ShardLog>,
    /// All but the spares.
    pub(crate) segments: BTreeMap<u32, Arc<Segment>>,
    /// Where the log goes on; `None` when it needs a new segment.
    pub(crate) active: Option<(Arc<Segment>, u32)>,
    /// Empty segments at the end.
    pub(crate) spares: VecDeque<Segment>,
    /// The number after the last segment.
    pub(crate) next_number: u32,
    /// The sequence of the next record.
    pub(crate) sequence: u64,
    /// Whether the last record is a mark.
    pub(crate) is_marked: bool,
}

/// A segment with what was found in it.
struct Scanned {
    segment: Segment,
    end: End,
    tail: Tail,
}

/// Goes through the records of all segments.
struct Replay {
    shards: BTreeMap<u16, ShardLog>,
    /// The sequence that the next record must have; `None` before the first.
    expected: Option<u64>,
    last_kind: Kind,
    /// How much of the last segment with records the last one says to be durable.
    synced: u32,
    /// The segment and the end of the last record so far, and what is there instead of one.
    last: Option<(PathBuf, End)>,
}

/// Reads the log in a directory, whose new segments have this length.
pub(crate) fn recover(
    disk: &dyn Disk,
    directory: &Path,
    identity: &Identity,
    segment_bytes: u32,
) -> Result<Recovered, Error> {
    let segments = open_all(disk, directory, identity)?;
    let mut replay = Replay {
        shards: BTreeMap::new(),
        // Earlier segments may have been purged; what must have been in them is known by the purges of the shards.
        expected: (segments.first()).and_then(|first| (first.number == 1).then_some(1)),
        last_kind: Kind::Mark,
        synced: HEADER_BYTES,
        last: None,
    };
    let mut scanned = Vec::new();
    for segment in segments {
        scanned.push(replay.scan(segment)?);
    }
    check_begin(&scanned, replay.expected)?;
    let last_data = scanned
        .iter()
        .rposition(|found| found.end.position > HEADER_BYTES);
    for found in scanned.iter_mut().skip(last_data.unwrap_or(0)) {
        found.tail = checked_tail(&found.segment, &found.end)?;
    }
    if let Some(found) = last_data.and_then(|at| scanned.get(at)) {
        // A killed process leaves what it wrote readable, but perhaps not durable.
        found.segment.rewrite(replay.synced, found.end.position)?;
    }
    for (shard, log) in &mut replay.shards {
        let shard = *shard;
        log.recovered()
            .map_err(|(expected, found)| Error::EntriesMissing {
                shard,
                expected,
                found,
            })?;
    }
    let (segments, active, spares) = divide(scanned, last_data);
    let spares = checked_spares(disk, directory, spares, segment_bytes)?;
    let last = spares.back().map(|spare| spare.number);
    let last = last.or(segments.keys().next_back().copied());
    let next_number = last.map_or(1, |last| last.saturating_add(1));
    Ok(Recovered {
        shards: replay.shards,
        segments,
        active,
        spares,
        next_number,
        sequence: replay.expected.unwrap_or(1),
        is_marked: replay.last_kind == Kind::Mark,
    })
}

/// Opens all segments, in order and without a gap.
fn open_all(disk: &dyn Disk, directory: &Path, identity: &Identity) -> Result<Vec<Segment>, Error> {
    let names = disk.list(directory)?;
    let numbers: Vec<u32> = names.iter().filter_map(|name| number_of(name)).collect();
    let mut segments: Vec<Segment> = Vec::new();
    for (at, number) in numbers.iter().copied().enumerate() {
        let path = path_of(directory, number);
        let missing = segments.last().map(|last| last.number.saturating_add(1));
        if let Some(missing) = missing.filter(|missing| *missing != number) {
            let file = path_of(directory, missing);
            return Err(Error::SegmentMissing {
                number: missing,
                file,
            });
        }
        match Segment::open(disk.open(&path)?, path.clone(), number, Some(identity))? {
            Opened::Segment(segment) => segments.push(segment),
            Opened::Incomplete if at + 1 == numbers.len() => {
                disk.remove(&path)?;
                disk.sync_directory(directory)?;
            }
            Opened::Incomplete => {
                return Err(Error::Damaged {
                    file: path,
                    position: 0,
                    expected: format!("the header of segment {number}"),
                    found: "an empty segment before others".to_owned(),
                });
            }
        }
    }
    Ok(segments)
}

/// The first segment of all may be empty; one that has predecessors, now removed, began with a durable record.
fn check_begin(scanned: &[Scanned], expected: Option<u64>) -> Result<(), Error> {
    match scanned.first() {
        Some(first) if first.segment.number != 1 && expected.is_none() => Err(Error::Damaged {
            file: first.segment.path.clone(),
            position: u64::from(first.end.position),
            expected: "the first record of the log".to_owned(),
            found: first.end.found.clone(),
        }),
        _ => Ok(()),
    }
}

fn checked_tail(segment: &Segment, end: &End) -> Result<Tail, Error> {
    match segment.tail(end.position)? {
        Tail::Damaged { proof } => Err(Error::Damaged {
            file: segment.path.clone(),
            position: u64::from(end.position),
            expected: format!("a record, as the intact one at {proof} proves"),
            found: end.found.clone(),
        }),
        tail => Ok(tail),
    }
}

type Divided = (
    BTreeMap<u32, Arc<Segment>>,
    Option<(Arc<Segment>, u32)>,
    VecDeque<Segment>,
);

/// Which segments are spares, and whether the last one with records goes on.
fn divide(scanned: Vec<Scanned>, last_data: Option<usize>) -> Divided {
    let used = scanned.iter().rposition(|found| found.tail != Tail::Blank);
    let used = used.max(last_data).map_or(0, |at| at + 1);
    let mut segments = BTreeMap::new();
    let mut spares = VecDeque::new();
    let mut active = None;
    for (at, found) in scanned.into_iter().enumerate() {
        if at >= used {
            spares.push_back(found.segment);
            continue;
        }
        let is_active = last_data == Some(at) && at + 1 == used && found.tail == Tail::Blank;
        let segment = Arc::new(found.segment);
        if is_active {
            active = Some((Arc::clone(&segment), found.end.position));
        }
        segments.insert(segment.number, segment);
    }
    (segments, active, spares)
}

/// The empty segments that can be used, durably there; the others are removed. The creation of one may have been cut short, after its header
/// was written but before its length was durable, or the setting was another.
fn checked_spares(
    disk: &dyn Disk,
    directory: &Path,
    spares: VecDeque<Segment>,
    segment_bytes: u32,
) -> Result<VecDeque<Segment>, Error> {
    let good = spares
        .iter()
        .take_while(|spare| spare.bytes == segment_bytes)
        .count();
    let mut kept = spares;
    let removed = kept.split_off(good);
    // The last one first, so that no gap is ever left.
    for spare in removed.iter().rev() {
        disk.remove(&spare.path)?;
        disk.sync_directory(directory)?;
    }
    for spare in &kept {
        spare.file.sync_all()?;
    }
    disk.sync_directory(directory)?;
    Ok(kept)
}

impl Replay {
    fn scan(&mut self, segment: Segment) -> Result<Scanned, Error> {
        let end = segment.scan(HEADER_BYTES, |position, record| {
            self.visit(&segment, position, record)
        })?;
        if end.position == HEADER_BYTES {
            // What is behind a damaged first record proves it; the next segment would only prove that something is missing.
            checked_tail(&segment, &end)?;
        }
        if end.position > HEADER_BYTES || self.last.is_none() {
            let (position, found) = (end.position, end.found.clone());
            self.last = Some((segment.path.clone(), End { position, found }));
        }
        // The tail matters only from the last segment with records on, and is looked at later.
        let tail = Tail::Blank;
        Ok(Scanned { segment, end, tail })
    }

    fn visit(
        &mut self,
        segment: &Segment,
        position: u32,
        record: &Record<'_>,
    ) -> Result<Option<String>, Error> {
        let sequence = record.sequence;
        if let Some(expected) = self.expected.filter(|expected| *expected != sequence) {
            return match &self.last {
                Some((file, end)) if position == HEADER_BYTES => Err(Error::Damaged {
                    file: file.clone(),
                    position: u64::from(end.position),
                    expected: format!(
                        "record {expected}, as segment {} begins with record {sequence}",
                        segment.number
                    ),
                    found: end.found.clone(),
                }),
                _ => Ok(Some(format!("record {sequence} instead of {expected}"))),
            };
        }
        let Some(next) = sequence.checked_add(1) else {
            return Ok(Some(format!("record {sequence}")));
        };
        self.expected = Some(next);
        self.last_kind = record.kind;
        self.synced = record.synced;
        if record.kind != Kind::Mark {
            let log = self.shards.entry(record.shard).or_default();
            log.replay(&placement(segment, position, record), record.payload);
        }
        Ok(None)
    }
}

pub(crate) fn placement(segment: &Segment, position: u32, record: &Record<'_>) -> Placement {
    Placement {
        ticket: 0,
        shard: record.shard,
        kind: record.kind,
        position: LogPosition {
            term: Term(record.term),
            index: LogIndex(record.index),
        },
        slot: Slot {
            segment: segment.number,
            position,
            payload: u32::try_from(record.payload.len()).unwrap_or(u32::MAX),
        },
    }
}

/// What the writer repeats at the head of each segment.
pub(crate) fn heads(shards: &BTreeMap<u16, ShardLog>) -> BTreeMap<u16, Head> {
    let head = |log: &ShardLog| Head {
        hard_state: log.hard_state.clone(),
        committed: log.committed.clone(),
        purged: log.purged.clone(),
    };
    shards
        .iter()
        .map(|(shard, log)| (*shard, head(log)))
        .collect()
}
