//! Values on disk. Numbers are big-endian; a checksum is CRC-32C over the whole key and all other bytes of the value, so that a value at a
//! wrong key does not pass either.
//!
//! ```text
//! batch    0  tag          0 = the payload is here; 1 is reserved for a pointer into the log
//!          1  version      1
//!          2  publisher    bytes of the publisher's id; 0 = the publish had no origin
//!          3  zero
//!          4  checksum     u32
//!          8  append time  u64, nanoseconds
//!         16  log term     u64
//!         24  log index    u64
//!         32  count        u32, messages
//!        [36  session      u64      only when there is a publisher
//!         44  sequence     u64
//!         52  publisher's id]
//!          …  payload      to the end, so that a reader's slice needs no copy
//!
//! row, mark, doom
//!          0  checksum     u32
//!          4  the bytes given
//! ```

use bytes::Bytes;

use super::engine::Space;
use super::{Error, key};
use crate::types::{
    Batch, LogIndex, LogPosition, Offset, PublisherId, Sequence, SessionId, StoredBatch, Term,
    Timestamp,
};

const TAG_INLINE: u8 = 0;
const VERSION: u8 = 1;
/// Where the checksum of a batch is.
const CHECKSUM: std::ops::Range<usize> = 4..8;
/// Bytes of a batch without origin before the payload.
const HEAD_BYTES: usize = 36;
/// Bytes of an origin before the publisher's id.
const ORIGIN_BYTES: usize = 16;

pub(super) fn encode_batch(key: &[u8], stored: &StoredBatch) -> Vec<u8> {
    let publisher = stored
        .origin
        .as_ref()
        .map_or("", |(publisher, ..)| publisher.as_str());
    let payload = stored.batch.payload();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + ORIGIN_BYTES + publisher.len() + payload.len());
    // A name has at most 249 bytes.
    let publisher_bytes = u8::try_from(publisher.len()).unwrap_or(u8::MAX);
    bytes.extend_from_slice(&[TAG_INLINE, VERSION, publisher_bytes, 0]);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&stored.append_time.0.to_be_bytes());
    bytes.extend_from_slice(&stored.log_position.term.0.to_be_bytes());
    bytes.extend_from_slice(&stored.log_position.index.0.to_be_bytes());
    bytes.extend_from_slice(&stored.batch.count().to_be_bytes());
    if let Some((_, session, sequence)) = &stored.origin {
        bytes.extend_from_slice(&session.0.to_be_bytes());
        bytes.extend_from_slice(&sequence.0.to_be_bytes());
        bytes.extend_from_slice(publisher.as_bytes());
    }
    bytes.extend_from_slice(payload);
    let checksum = batch_checksum(key, &bytes).to_be_bytes();
    if let Some(place) = bytes.get_mut(CHECKSUM) {
        place.copy_from_slice(&checksum);
    }
    bytes
}

fn batch_checksum(key: &[u8], value: &[u8]) -> u32 {
    let before = value.get(..CHECKSUM.start).unwrap_or_default();
    let after = value.get(CHECKSUM.end..).unwrap_or_default();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(key), before);
    crc32c::crc32c_append(checksum, after)
}

pub(super) fn decode_batch(key: &[u8], value: &Bytes) -> Result<StoredBatch, Error> {
    let format = |what| Error::Format {
        space: Space::Messages.name(),
        key: key::hex(key),
        what,
    };
    let mut fields = Fields(value);
    let (head, checksum) = fields
        .take::<4>()
        .zip(fields.take::<4>())
        .ok_or_else(|| format("too short"))?;
    check(
        Space::Messages,
        key,
        u32::from_be_bytes(checksum),
        batch_checksum(key, value),
    )?;
    let [tag, version, publisher_bytes, _] = head;
    if version > VERSION {
        return Err(Error::Version {
            space: Space::Messages.name(),
            key: key::hex(key),
            found: version,
            known: VERSION,
        });
    }
    if version == 0 {
        return Err(format("version 0, which no program wrote"));
    }
    if tag != TAG_INLINE {
        return Err(format("unknown tag"));
    }
    let base_offset = key::base_offset(key).ok_or_else(|| format("the key is no batch's"))?;
    decode_body(value, fields, (base_offset, publisher_bytes)).ok_or_else(|| format("wrong length"))
}

fn decode_body(
    value: &Bytes,
    mut fields: Fields<'_>,
    (base_offset, publisher_bytes): (Offset, u8),
) -> Option<StoredBatch> {
    let append_time = Timestamp(fields.number()?);
    let term = Term(fields.number()?);
    let index = LogIndex(fields.number()?);
    let count = u32::from_be_bytes(fields.take()?);
    let origin = match usize::from(publisher_bytes) {
        0 => None,
        length => {
            let (session, sequence) = (fields.number()?, fields.number()?);
            let (name, rest) = fields.0.split_at_checked(length)?;
            fields = Fields(rest);
            let publisher = PublisherId::new(std::str::from_utf8(name).ok()?).ok()?;
            Some((publisher, SessionId(session), Sequence(sequence)))
        }
    };
    let batch = Batch::new(value.slice(value.len() - fields.0.len()..)).ok()?;
    (batch.count() == count).then_some(StoredBatch {
        base_offset,
        append_time,
        origin,
        log_position: LogPosition { term, index },
        batch,
    })
}

/// What is left of a value.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

pub(super) fn encode_row(key: &[u8], row: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + row.len());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(key), row);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes.extend_from_slice(row);
    bytes
}

pub(super) fn decode_row(key: &[u8], value: &Bytes) -> Result<Bytes, Error> {
    let Some((checksum, row)) = value.split_first_chunk::<4>() else {
        return Err(Error::Format {
            space: Space::Meta.name(),
            key: key::hex(key),
            what: "too short",
        });
    };
    let found = crc32c::crc32c_append(crc32c::crc32c(key), row);
    check(Space::Meta, key, u32::from_be_bytes(*checksum), found)?;
    Ok(value.slice(4..))
}

fn check(space: Space, key: &[u8], expected: u32, found: u32) -> Result<(), Error> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Corrupt {
        space: space.name(),
        key: key::hex(key),
        expected,
        found,
    })
}
