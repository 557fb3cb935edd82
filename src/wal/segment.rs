//! One file of the log.
//!
//! ```text
//!  at  size  what                       (numbers are little-endian)
//!   0     8  "cubewal\n"
//!   8     4  format version: 1
//!  12     4  salt, random: the checksums of this segment's records begin from it
//!  16     4  number of the segment, from 1 without gaps; also in the file's name
//!  20     4  incarnation of the peer
//!  24    16  id of the cluster
//!  40     2  peer
//!  42    18  zeros
//!  60     4  CRC-32C of the 60 bytes before; stays here in every version
//!  64     …  records, then zeros
//! ```
//! A file is created whole (allocated, header, synced, directory synced) before a record is written to it. Begin with [`Segment`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{
    ALIGNMENT, Broken, PREFIX_BYTES, Record, checksum, number, plausible_bytes, proof_bytes,
};
use super::{Error, Identity};
use crate::env::disk::{self, Disk, File};
use crate::types::{Incarnation, PeerId};

/// Bytes before the first record.
pub(crate) const HEADER_BYTES: u32 = 64;

/// The newest format version.
pub(crate) const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"cubewal\n";

const EXTENSION: &str = ".wal";

/// Bytes read at once when a segment is scanned.
const WINDOW_BYTES: u32 = 1 << 20;

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Its number, from 1.
    pub(crate) number: u32,
    /// Where the checksums of its records begin.
    pub(crate) salt: u32,
    /// How long the file is; records end before.
    pub(crate) bytes: u32,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The file.
    pub(crate) file: Arc<dyn File>,
}

/// What a file that should be a segment turned out to be.
pub(crate) enum Opened {
    /// A segment.
    Segment(Segment),
    /// Its creation was cut short: it holds nothing.
    Incomplete,
}

/// Where the records of a segment end.
#[derive(Debug)]
pub(crate) struct End {
    /// The first byte that is no record of the log.
    pub(crate) position: u32,
    /// What is there instead.
    pub(crate) found: String,
}

/// What lies behind the last record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Zeros.
    Blank,
    /// What a write left that was cut short.
    Torn,
    /// An intact record at this position proves that what precedes it was durable.
    Damaged { proof: u32 },
}

/// The path of the segment with this number.
pub(crate) fn path_of(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}{EXTENSION}"))
}

/// The number in the name of a segment; `None` for other files.
pub(crate) fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(EXTENSION)?;
    let is_number = digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The segment's number.
    pub number: u32,
    /// The segment's salt.
    pub salt: u32,
    /// Who wrote it.
    pub identity: Identity,
}

/// Why bytes are not the header of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderError {
    /// It was written by a newer program.
    NewerVersion(u32),
    /// It is not what was written; what is there instead.
    Damaged(String),
}

impl Header {
    /// The bytes of the header.
    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut fields = Vec::with_capacity(HEADER_BYTES as usize);
        fields.extend_from_slice(MAGIC);
        fields.extend_from_slice(&VERSION.to_le_bytes());
        fields.extend_from_slice(&self.salt.to_le_bytes());
        fields.extend_from_slice(&self.number.to_le_bytes());
        fields.extend_from_slice(&self.identity.incarnation.0.to_le_bytes());
        fields.extend_from_slice(&self.identity.cluster);
        fields.extend_from_slice(&self.identity.peer.0.to_le_bytes());
        fields.resize(60, 0);
        let sum = checksum(&fields);
        fields.extend_from_slice(&sum.to_le_bytes());
        let whole = fields.first_chunk().copied();
        whole.unwrap_or([0; HEADER_BYTES as usize])
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`HeaderError`] says why it is none.
    pub fn decode(bytes: &[u8; 64]) -> Result<Self, HeaderError> {
        let computed = checksum(bytes.first_chunk::<60>().map_or(&[], |covered| covered));
        let found = u32::from_le_bytes(number(bytes, 60));
        if found != computed {
            let text = format!("checksum {found:08x} where the bytes have {computed:08x}");
            return Err(HeaderError::Damaged(text));
        }
        if !bytes.starts_with(MAGIC) {
            return Err(HeaderError::Damaged("another kind of file".to_owned()));
        }
        match u32::from_le_bytes(number(bytes, 8)) {
            VERSION => {}
            0 => return Err(HeaderError::Damaged("version 0".to_owned())),
            version => return Err(HeaderError::NewerVersion(version)),
        }
        Ok(Self {
            number: u32::from_le_bytes(number(bytes, 16)),
            salt: u32::from_le_bytes(number(bytes, 12)),
            identity: Identity {
                cluster: number(bytes, 24),
                peer: PeerId(u16::from_le_bytes(number(bytes, 40))),
                incarnation: Incarnation(u32::from_le_bytes(number(bytes, 20))),
            },
        })
    }
}

impl Segment {
    /// Makes an empty segment, durably.
    pub(crate) fn create(
        disk: &dyn Disk,
        path: PathBuf,
        header: &Header,
        bytes: u32,
    ) -> Result<Self, Error> {
        let file = disk.create(&path)?;
        let prepare = || {
            file.allocate(u64::from(bytes))?;
            file.write_all_at(0, &header.encode())?;
            file.sync_all()?;
            disk.sync_directory(path.parent().unwrap_or(Path::new(".")))
        };
        if let Err(error) = prepare() {
            // A file that is left over is incomplete, so the next start removes it.
            let _ = disk.remove(&path);
            return Err(error.into());
        }
        Ok(Self {
            number: header.number,
            salt: header.salt,
            bytes,
            path,
            file,
        })
    }

    /// Takes a file as the segment with this number, and checks that it is the caller's own when the caller says who that is.
    pub(crate) fn open(
        file: Arc<dyn File>,
        path: PathBuf,
        number: u32,
        owner: Option<&Identity>,
    ) -> Result<Opened, Error> {
        let length = file.length()?;
        let damaged = |found: String| Error::Damaged {
            file: path.clone(),
            position: 0,
            expected: format!("the header of segment {number}"),
            found,
        };
        if length < u64::from(HEADER_BYTES) {
            let is_empty = is_blank(&*file, 0, length)?;
            let found = format!("{length} bytes");
            return is_empty
                .then_some(Opened::Incomplete)
                .ok_or_else(|| damaged(found));
        }
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_at(0, &mut bytes)?;
        let header = match Header::decode(&bytes) {
            Ok(header) => header,
            Err(HeaderError::NewerVersion(found)) => {
                let known = VERSION;
                return Err(Error::NewerVersion {
                    file: path,
                    found,
                    known,
                });
            }
            Err(HeaderError::Damaged(found)) => {
                let is_empty = is_blank(&*file, u64::from(HEADER_BYTES), length)?;
                return is_empty
                    .then_some(Opened::Incomplete)
                    .ok_or_else(|| damaged(found));
            }
        };
        if let Some(owner) = owner.filter(|owner| header.identity != **owner) {
            let (expected, found) = (owner.clone(), header.identity);
            return Err(Error::Foreign {
                file: path,
                expected,
                found,
            });
        }
        if header.number != number {
            return Err(damaged(format!("that of segment {}", header.number)));
        }
        let bytes = u32::try_from(length).map_err(|_| damaged(format!("{length} bytes")))?;
        let salt = header.salt;
        Ok(Opened::Segment(Self {
            number,
            salt,
            bytes,
            path,
            file,
        }))
    }

    /// Visits the records from a place on, as long as they are intact and `visit` wants to go on (`Ok(Some(why not))` ends it).
    pub(crate) fn scan(
        &self,
        from: u32,
        mut visit: impl FnMut(u32, &Record<'_>) -> Result<Option<String>, Error>,
    ) -> Result<End, Error> {
        let mut window = Window::new(&*self.file, self.bytes);
        let mut position = from;
        loop {
            let prefix = window.get(position, PREFIX_BYTES as u64)?;
            let length = u32::from_le_bytes(number(prefix, 4));
            let bytes = window.get(position, super::record::record_bytes(u64::from(length)))?;
            let record = match Record::decode(bytes, self.salt) {
                Ok(record) => record,
                // Intact, so it is no torn write: a later version wrote it, which should have raised the segment's version.
                Err(Broken::Kind { code }) => {
                    let found = Broken::Kind { code }.to_string();
                    return Err(self.damaged(position, "a record".to_owned(), found));
                }
                Err(broken) => {
                    return Ok(End {
                        position,
                        found: broken.to_string(),
                    });
                }
            };
            if let Some(found) = visit(position, &record)? {
                return Ok(End { position, found });
            }
            // The record was read from the file, whose length fits.
            position = position.saturating_add(u32::try_from(record.bytes()).unwrap_or(u32::MAX));
        }
    }

    /// Looks behind the last record: is the rest blank, torn, or proof of damage?
    pub(crate) fn tail(&self, end: u32) -> Result<Tail, Error> {
        let mut window = Window::new(&*self.file, self.bytes);
        let mut tail = Tail::Blank;
        let mut start = end;
        while start < self.bytes {
            let count = (self.bytes - start).min(WINDOW_BYTES);
            let bytes = window.get(start, u64::from(count))?;
            if !is_zero(bytes) {
                tail = Tail::Torn;
                // Records that begin in this stretch may end beyond it.
                let candidates: Vec<u32> = self.candidates(&mut window, start, end)?;
                for candidate in candidates {
                    if self.is_proof(&mut window, candidate, end)? {
                        return Ok(Tail::Damaged { proof: candidate });
                    }
                }
            }
            start += count;
        }
        Ok(tail)
    }

    /// Places from `start` on, as far as a window reaches, where a record may begin that proves that `end` was durable.
    fn candidates(&self, window: &mut Window<'_>, start: u32, end: u32) -> Result<Vec<u32>, Error> {
        let stretch = window.get(start, u64::from(WINDOW_BYTES) + PREFIX_BYTES as u64)?;
        let count = stretch.len().min(WINDOW_BYTES as usize);
        let mut found = Vec::new();
        for at in (0..count).step_by(ALIGNMENT) {
            let Some(prefix) = stretch.get(at..).and_then(|rest| rest.first_chunk()) else {
                break;
            };
            let position = start.saturating_add(u32::try_from(at).unwrap_or(u32::MAX));
            let length = proof_bytes(prefix, end);
            if position > end
                && length.is_some_and(|length| length <= u64::from(self.bytes - position))
            {
                found.push(position);
            }
        }
        Ok(found)
    }

    fn is_proof(&self, window: &mut Window<'_>, position: u32, end: u32) -> Result<bool, Error> {
        let prefix = window.get(position, PREFIX_BYTES as u64)?;
        let length = prefix
            .first_chunk()
            .and_then(|prefix| proof_bytes(prefix, end));
        let bytes = window.get(position, length.unwrap_or(0))?;
        Ok(Record::decode(bytes, self.salt).is_ok_and(|record| record.synced <= position))
    }

    /// The first intact record after a place and not after another.
    pub(crate) fn next_intact(&self, after: u32, last: u32) -> Result<Option<u32>, Error> {
        let mut window = Window::new(&*self.file, self.bytes);
        for position in (after..=last).step_by(ALIGNMENT).skip(1) {
            // Nothing is proven here, so any synced position will do.
            let prefix = window.get(position, PREFIX_BYTES as u64)?;
            let length = prefix.first_chunk().and_then(plausible_bytes);
            let Some(length) = length.filter(|length| *length <= u64::from(self.bytes - position))
            else {
                continue;
            };
            if Record::decode(window.get(position, length)?, self.salt).is_ok() {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }

    /// Writes the bytes of a stretch once more and makes them durable. A sync that failed before may have left them readable but clean in
    /// memory, so that a sync alone would say yes and write nothing.
    pub(crate) fn rewrite(&self, from: u32, to: u32) -> Result<(), Error> {
        let mut window = Window::new(&*self.file, self.bytes);
        let bytes = window.get(from, u64::from(to.saturating_sub(from)))?;
        self.file.write_all_at(u64::from(from), bytes)?;
        Ok(self.file.sync_data()?)
    }

    /// The error for a record that reads otherwise than it was written.
    pub(crate) fn damaged(&self, position: u32, expected: String, found: String) -> Error {
        Error::Damaged {
            file: self.path.clone(),
            position: u64::from(position),
            expected,
            found,
        }
    }
}

/// Whether a stretch of a file is all zeros.
fn is_blank(file: &dyn File, from: u64, to: u64) -> Result<bool, disk::Error> {
    let mut position = from;
    let mut buffer = Vec::new();
    while position < to {
        let count = (to - position).min(u64::from(WINDOW_BYTES));
        buffer.clear();
        buffer.resize(usize::try_from(count).unwrap_or(0), 1);
        file.read_at(position, &mut buffer)?;
        if !is_zero(&buffer) {
            return Ok(false);
        }
        position += count;
    }
    Ok(true)
}

/// Looks at all bytes, which is many times faster than to stop at the first that is not zero: a start looks at whole segments of zeros.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

/// A part of a file in memory, which follows what is asked for.
struct Window<'a> {
    file: &'a dyn File,
    length: u32,
    start: u32,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn File, length: u32) -> Self {
        let bytes = Vec::new();
        Self {
            file,
            length,
            start: 0,
            bytes,
        }
    }

    /// `count` bytes from `position` on, or as many as the file has.
    fn get(&mut self, position: u32, count: u64) -> Result<&[u8], disk::Error> {
        let left = u64::from(self.length.saturating_sub(position));
        let count = count.min(left);
        let is_inside = position >= self.start
            && u64::from(position - self.start) + count <= self.bytes.len() as u64;
        if !is_inside {
            let wanted = count.max(u64::from(WINDOW_BYTES)).min(left);
            self.bytes.resize(usize::try_from(wanted).unwrap_or(0), 0);
            self.start = position;
            self.file.read_at(u64::from(position), &mut self.bytes)?;
        }
        let from = (position - self.start) as usize;
        let to = from + usize::try_from(count).unwrap_or(0);
        Ok(self.bytes.get(from..to).unwrap_or_default())
    }
}
