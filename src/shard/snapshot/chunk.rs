//! A chunk as bytes.
//!
//! Numbers are big-endian; the checksum is CRC-32C over the whole chunk without itself.
//! ```text
//!  0  magic     "CCSN"
//!  4  version   1
//!  5  kind      1 = content, 2 = the last chunk
//!  6  shard     u16
//!  8  number    u64   of the chunk in its stream, from 0
//! 16  length    u32   of the body
//! 20  checksum  u32
//! 24  body
//!
//! body of content: records, each
//!     1 ‖ table u8 ‖ key length u16 ‖ row length u32 ‖ key ‖ row
//!     2 ‖ topic u64 ‖ base offset u64 ‖ append time u64 ‖ log term u64 ‖ log index u64 ‖ count u32 ‖ publisher length u8
//!       [‖ session u64 ‖ sequence u64 ‖ publisher, when its length is not 0] ‖ payload length u32 ‖ payload
//! body of the last chunk:
//!     rows u64 ‖ batches u64 ‖ CRC-32C u32 over the checksums of all chunks before it, in order
//! ```
//! Decoding never panics. Keys, rows and payloads share the chunk's bytes; what is allocated beside is bounded by its length.

use bytes::Bytes;

use super::error::{ChunkError, Totals};
use crate::store::{Table, Writes};
use crate::types::{
    Batch, LogIndex, LogPosition, Offset, PublisherId, Sequence, SessionId, StoredBatch, Term,
    Timestamp, TopicId,
};

pub(super) const MAGIC: [u8; 4] = *b"CCSN";
pub(super) const VERSION: u8 = 1;
pub(super) const CONTENT: u8 = 1;
pub(super) const LAST: u8 = 2;
pub(super) const ROW: u8 = 1;
pub(super) const BATCH: u8 = 2;

/// Bytes of a chunk before its body.
pub(super) const HEAD_BYTES: usize = 24;
/// Where the checksum is.
pub(super) const CHECKSUM: std::ops::Range<usize> = 20..24;

/// The tables that a snapshot may speak of.
const TABLES: [Table; 11] = [
    Table::Shard,
    Table::Topic,
    Table::TopicByCreator,
    Table::Publisher,
    Table::Subscriber,
    Table::Session,
    Table::Sequence,
    Table::Subscription,
    Table::SubscriptionBySubscriber,
    Table::Retention,
    Table::Share,
];

impl Totals {
    /// Counts what a chunk holds.
    pub(super) fn add(&mut self, chunk: &Chunk) {
        if let Body::Content(writes) = &chunk.body {
            self.rows += writes.rows.len() as u64;
            self.batches += writes.batches.len() as u64;
            self.checksum = crc32c::crc32c_append(self.checksum, &chunk.checksum.to_be_bytes());
        }
    }
}

/// A chunk whose checksum is right.
pub(super) struct Chunk {
    pub(super) shard: u16,
    pub(super) number: u64,
    pub(super) checksum: u32,
    pub(super) body: Body,
}

pub(super) enum Body {
    Content(Writes),
    Last(Totals),
}

/// What a chunk of a snapshot writes; the last chunk writes nothing. Says nothing of the chunk's place in its stream: that is the
/// [`Checker`](super::Checker)'s part.
///
/// # Errors
/// [`ChunkError`] says what is wrong with it.
pub fn decode_chunk(chunk: &Bytes) -> Result<Writes, ChunkError> {
    Ok(match Chunk::decode(chunk)?.body {
        Body::Content(writes) => writes,
        Body::Last(_) => Writes::default(),
    })
}

impl Chunk {
    pub(super) fn decode(chunk: &Bytes) -> Result<Self, ChunkError> {
        let mut fields = Fields::new(chunk);
        let short = ChunkError::Length {
            expected: HEAD_BYTES as u64,
            found: chunk.len() as u64,
        };
        let head = fields.head().ok_or(short)?;
        let (kind, shard, number) = head.check(chunk)?;
        let form = |what| ChunkError::Form {
            position: HEAD_BYTES as u64,
            what,
        };
        let body = match kind {
            CONTENT => Body::Content(fields.records(shard)?),
            LAST => Body::Last(fields.totals().ok_or_else(|| form("not the totals"))?),
            _ => return Err(form("unknown kind")),
        };
        Ok(Self {
            shard,
            number,
            checksum: head.checksum,
            body,
        })
    }
}

/// The head as it is read.
struct Head {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    shard: u16,
    number: u64,
    length: u32,
    checksum: u32,
}

impl Head {
    /// Kind, shard and number, when the chunk is what was written.
    fn check(&self, chunk: &[u8]) -> Result<(u8, u16, u64), ChunkError> {
        if self.magic != MAGIC {
            return Err(ChunkError::Magic);
        }
        if self.version != VERSION {
            return Err(ChunkError::Version {
                found: self.version,
            });
        }
        let (expected, found) = (
            HEAD_BYTES as u64 + u64::from(self.length),
            chunk.len() as u64,
        );
        if expected != found {
            return Err(ChunkError::Length { expected, found });
        }
        let (expected, found) = (self.checksum, checksum(chunk));
        if expected != found {
            return Err(ChunkError::Corrupt {
                number: self.number,
                expected,
                found,
            });
        }
        Ok((self.kind, self.shard, self.number))
    }
}

pub(super) fn checksum(chunk: &[u8]) -> u32 {
    let before = chunk.get(..CHECKSUM.start).unwrap_or_default();
    let after = chunk.get(CHECKSUM.end..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(before), after)
}

/// What is left of a chunk.
struct Fields<'a> {
    chunk: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(chunk: &'a Bytes) -> Self {
        Self { chunk, rest: chunk }
    }

    fn position(&self) -> usize {
        self.chunk.len() - self.rest.len()
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*field)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// Shares the chunk's bytes.
    fn slice(&mut self, length: usize) -> Option<Bytes> {
        let (_, rest) = self.rest.split_at_checked(length)?;
        let start = self.position();
        self.rest = rest;
        Some(self.chunk.slice(start..start + length))
    }

    fn head(&mut self) -> Option<Head> {
        Some(Head {
            magic: self.take()?,
            version: self.byte()?,
            kind: self.byte()?,
            shard: self.u16()?,
            number: self.u64()?,
            length: self.u32()?,
            checksum: self.u32()?,
        })
    }

    fn totals(&mut self) -> Option<Totals> {
        let totals = Totals {
            rows: self.u64()?,
            batches: self.u64()?,
            checksum: self.u32()?,
        };
        self.rest.is_empty().then_some(totals)
    }

    fn records(&mut self, shard: u16) -> Result<Writes, ChunkError> {
        let mut writes = Writes::default();
        while !self.rest.is_empty() {
            let position = self.position() as u64;
            let form = |what| ChunkError::Form { position, what };
            match self.byte() {
                Some(ROW) => {
                    let (place, row) = self.row().ok_or_else(|| form("not a row"))?;
                    if writes.rows.insert(place, Some(row)).is_some() {
                        return Err(form("a row that came before"));
                    }
                }
                Some(BATCH) => {
                    let (topic, head) = self.batch_head().ok_or_else(|| form("not a batch"))?;
                    if topic.to_bits() >> 48 != u64::from(shard) {
                        return Err(form("a batch of another shard"));
                    }
                    let batch = Batch::new(head.payload)?;
                    if batch.count() != head.count {
                        return Err(form("a batch with another number of messages"));
                    }
                    let stored = StoredBatch {
                        base_offset: head.base_offset,
                        append_time: head.append_time,
                        origin: head.origin,
                        log_position: head.log_position,
                        batch,
                    };
                    writes.batches.push((topic, stored));
                }
                _ => return Err(form("unknown record")),
            }
        }
        Ok(writes)
    }

    fn row(&mut self) -> Option<((Table, Bytes), Bytes)> {
        let number = self.byte()?;
        let table = TABLES.into_iter().find(|table| *table as u8 == number)?;
        let (key_bytes, row_bytes) = (self.u16()?, self.u32()?);
        let key = self.slice(usize::from(key_bytes))?;
        let row = self.slice(usize::try_from(row_bytes).ok()?)?;
        Some(((table, key), row))
    }

    fn batch_head(&mut self) -> Option<(TopicId, BatchFields)> {
        let topic = TopicId::from_bits(self.u64()?);
        let base_offset = Offset(self.u64()?);
        let append_time = Timestamp(self.u64()?);
        let log_position = LogPosition {
            term: Term(self.u64()?),
            index: LogIndex(self.u64()?),
        };
        let count = self.u32()?;
        let origin = match usize::from(self.byte()?) {
            0 => None,
            length => {
                let (session, sequence) = (SessionId(self.u64()?), Sequence(self.u64()?));
                let name = self.slice(length)?;
                let publisher = PublisherId::new(std::str::from_utf8(&name).ok()?).ok()?;
                Some((publisher, session, sequence))
            }
        };
        let length = usize::try_from(self.u32()?).ok()?;
        let fields = BatchFields {
            base_offset,
            append_time,
            log_position,
            count,
            origin,
            payload: self.slice(length)?,
        };
        Some((topic, fields))
    }
}

/// A batch whose payload is not checked yet.
struct BatchFields {
    base_offset: Offset,
    append_time: Timestamp,
    log_position: LogPosition,
    count: u32,
    origin: Option<(PublisherId, SessionId, Sequence)>,
    payload: Bytes,
}
