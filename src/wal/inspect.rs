//! Reads a log that nobody uses, as far as it can be read, and says all that is wrong with it.
//!
//! The rules are those of `recovery.rs`, but it goes on behind damage, at the next intact record, and changes nothing. Begin with [`inspect`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::index::ShardLog;
use super::record::{Kind, Record};
use super::recovery::placement;
use super::segment::{End, HEADER_BYTES, Opened, Segment, Tail, number_of, path_of};
use super::{Bounds, Error, Identity};
use crate::env::disk::{self, Disk};

/// What is in a log.
#[derive(Debug, Default)]
pub struct Inspected {
    /// Its files, in order.
    pub segments: Vec<InspectedSegment>,
    /// What each shard's log holds, by the index of its vertex, as far as it can be read.
    pub shards: BTreeMap<u16, Bounds>,
    /// All that is wrong, in the order of the files.
    pub problems: Vec<Error>,
}

/// One file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedSegment {
    /// Where it is.
    pub file: PathBuf,
    /// How long it is.
    pub bytes: u64,
    /// Intact records in it.
    pub records: u64,
}

/// Reads all records of the log in a directory; none when there is no such directory. The caller makes sure that nobody uses it. `owner` is
/// who must have written it, if that is known.
///
/// # Errors
/// [`Error::Disk`] when the directory cannot be listed; what is wrong inside is in the answer.
pub fn inspect(
    disk: &dyn Disk,
    directory: &Path,
    owner: Option<&Identity>,
) -> Result<Inspected, Error> {
    let names = match disk.list(directory) {
        Err(disk::Error::NotFound { .. }) => return Ok(Inspected::default()),
        names => names?,
    };
    let numbers: Vec<u32> = names.iter().filter_map(|name| number_of(name)).collect();
    let mut inspection = Inspection {
        expected: (numbers.first() == Some(&1)).then_some(1),
        ..Inspection::default()
    };
    let mut next = None;
    for (at, number) in numbers.iter().copied().enumerate() {
        if let Some(missing) = next.filter(|next| *next != number) {
            inspection.lost(Error::SegmentMissing {
                number: missing,
                file: path_of(directory, missing),
            });
        }
        next = number.checked_add(1);
        let path = path_of(directory, number);
        let opened = disk.open_to_read(&path).map_err(Error::from);
        match opened.and_then(|file| Segment::open(file, path.clone(), number, owner)) {
            Ok(Opened::Segment(segment)) => inspection.segment(&segment),
            Ok(Opened::Incomplete) if at + 1 == numbers.len() => {}
            Ok(Opened::Incomplete) => inspection.lost(Error::Damaged {
                file: path,
                position: 0,
                expected: format!("the header of segment {number}"),
                found: "an empty segment before others".to_owned(),
            }),
            Err(error) => inspection.lost(error),
        }
    }
    Ok(inspection.finish(numbers.first().copied()))
}

fn position_of(damage: &Error) -> u32 {
    let Error::Damaged { position, .. } = damage else {
        return 0;
    };
    u32::try_from(*position).unwrap_or(u32::MAX)
}

/// Goes through the segments.
#[derive(Default)]
struct Inspection {
    inspected: Inspected,
    shards: BTreeMap<u16, ShardLog>,
    /// The sequence that the next record must have; `None` at the beginning and behind damage.
    expected: Option<u64>,
    /// Whether a record was found.
    has_begun: bool,
    /// Where the records of the last segment that has some end.
    last: Option<(PathBuf, End)>,
}

impl Inspection {
    /// Notes that something cannot be read: which record comes next is then unknown.
    fn lost(&mut self, problem: Error) {
        self.inspected.problems.push(problem);
        self.expected = None;
    }

    fn segment(&mut self, segment: &Segment) {
        let mut records = 0;
        if let Err(error) = self.records(segment, &mut records) {
            self.lost(error);
        }
        self.inspected.segments.push(InspectedSegment {
            file: segment.path.clone(),
            bytes: u64::from(segment.bytes),
            records,
        });
    }

    fn records(&mut self, segment: &Segment, count: &mut u64) -> Result<(), Error> {
        let mut from = HEADER_BYTES;
        loop {
            let scanned = segment.scan(from, |position, record| {
                let why_not = self.visit(segment, position, record);
                *count += u64::from(why_not.is_none());
                Ok(why_not)
            });
            let end = match scanned {
                Ok(end) => end,
                // An intact record of an unknown kind.
                Err(error @ Error::Damaged { .. }) => {
                    let position = position_of(&error);
                    self.lost(error);
                    let Some(next) = segment.next_intact(position, segment.bytes)? else {
                        return Ok(());
                    };
                    from = next;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Tail::Damaged { proof } = segment.tail(end.position)? else {
                if end.position > HEADER_BYTES || self.last.is_none() {
                    self.last = Some((segment.path.clone(), end));
                }
                return Ok(());
            };
            let expected = format!("a record, as the intact one at {proof} proves");
            from = segment.next_intact(end.position, proof)?.unwrap_or(proof);
            self.lost(segment.damaged(end.position, expected, end.found));
        }
    }

    /// Takes an intact record, or says why it does not belong there.
    fn visit(&mut self, segment: &Segment, position: u32, record: &Record<'_>) -> Option<String> {
        let sequence = record.sequence;
        if let Some(expected) = self.expected.filter(|expected| *expected != sequence) {
            let before = self.last.take().filter(|_| position == HEADER_BYTES);
            let Some((file, end)) = before else {
                return Some(format!("record {sequence} instead of {expected}"));
            };
            let number = segment.number;
            self.lost(Error::Damaged {
                file,
                position: u64::from(end.position),
                expected: format!(
                    "record {expected}, as segment {number} begins with record {sequence}"
                ),
                found: end.found,
            });
        }
        self.has_begun = true;
        self.expected = sequence.checked_add(1);
        if record.kind != Kind::Mark {
            let log = self.shards.entry(record.shard).or_default();
            log.replay(&placement(segment, position, record), record.payload);
        }
        None
    }

    fn finish(mut self, first: Option<u32>) -> Inspected {
        if let Some((file, end)) = self.last.filter(|_| !self.has_begun && first != Some(1)) {
            self.inspected.problems.push(Error::Damaged {
                file,
                position: u64::from(end.position),
                expected: "the first record of the log".to_owned(),
                found: end.found,
            });
        }
        for (shard, mut log) in self.shards {
            if let Err((expected, found)) = log.recovered() {
                self.inspected.problems.push(Error::EntriesMissing {
                    shard,
                    expected,
                    found,
                });
            }
            self.inspected.shards.insert(shard, log.bounds());
        }
        self.inspected
    }
}
