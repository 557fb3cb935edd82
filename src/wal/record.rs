//! One record of the log as bytes.
//!
//! ```text
//!  at  size  what                       (numbers are little-endian; every record begins at a multiple of 8)
//!   0     4  CRC-32C of all that follows, padding included, begun from the segment's salt
//!   4     4  length of the payload
//!   8     8  sequence: 1 more than that of the record before, through all segments
//!  16     8  index: of the entry; the last one purged; the first one cut off; else 0
//!  24     8  term: of the entry; of the last one purged; else 0
//!  32     4  synced position: the bytes of this segment before it were durable before this record was written
//!  36     2  shard, the index of its vertex; 0 in a mark
//!  38     1  kind: 1 entry, 2 hard state, 3 committed, 4 purged, 5 cut, 6 mark, 7 reset
//!  39     1  zero
//!  40     n  payload, then zeros up to a multiple of 8
//! ```
//! The CRC covers the sequence and begins from a salt, so neither stale bytes nor a payload made to look like a record ever pass for one.
//! Nothing here reads or writes files. Begin with [`Record`].

use crc32c::{crc32c, crc32c_append};

/// Bytes before the payload.
pub(crate) const PREFIX_BYTES: usize = 40;

/// Where records may begin.
pub(crate) const ALIGNMENT: usize = 8;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An entry of a shard's Raft log; those of the shard from its index on are gone.
    Entry,
    /// The shard's hard state.
    HardState,
    /// How far the shard is committed, as a hint.
    Committed,
    /// The shard's entries up to the index are no longer needed.
    Purged,
    /// The shard's entries from the index on are gone.
    Cut,
    /// Nothing, but its synced position: that all before it was durable.
    Mark,
    /// Nothing that came before counts for the shard.
    Reset,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::HardState => 2,
            Self::Committed => 3,
            Self::Purged => 4,
            Self::Cut => 5,
            Self::Mark => 6,
            Self::Reset => 7,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [
            Self::Entry,
            Self::HardState,
            Self::Committed,
            Self::Purged,
            Self::Cut,
            Self::Mark,
            Self::Reset,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
    }
}

/// A record, its payload borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number in the whole log.
    pub sequence: u64,
    /// What the kind says.
    pub index: u64,
    /// What the kind says.
    pub term: u64,
    /// Bytes of the segment that were durable before it was written.
    pub synced: u32,
    /// The index of the shard's vertex.
    pub shard: u16,
    /// What it says.
    pub kind: Kind,
    /// Opaque.
    pub payload: &'a [u8],
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Nothing was written there.
    #[error("zeros")]
    Blank,
    /// The bytes end before the record does.
    #[error("a record of {needed} bytes where {left} are left")]
    Short {
        /// How long it says that it is.
        needed: u64,
        /// How many bytes are there.
        left: usize,
    },
    /// The bytes are not those that were written.
    #[error("checksum {found:08x} where the bytes have {computed:08x}")]
    Checksum {
        /// What the bytes have.
        computed: u32,
        /// What the record says.
        found: u32,
    },
    /// The checksum holds, but this version does not know the kind.
    #[error("a record of the unknown kind {code}")]
    Kind {
        /// The kind's number.
        code: u8,
    },
}

/// How many bytes a record with a payload of this length takes.
pub(crate) fn record_bytes(payload: u64) -> u64 {
    (PREFIX_BYTES as u64 + payload).next_multiple_of(ALIGNMENT as u64)
}

/// A number at a place of the bytes; 0 when they are too short.
pub(crate) fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

impl<'a> Record<'a> {
    /// Appends the record's bytes; `out` is as long as a multiple of 8 before and after.
    pub fn encode(&self, salt: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.extend_from_slice(&self.synced.to_le_bytes());
        out.extend_from_slice(&self.shard.to_le_bytes());
        out.extend_from_slice(&[self.kind.code(), 0]);
        out.extend_from_slice(self.payload);
        out.resize(start + (out.len() - start).next_multiple_of(ALIGNMENT), 0);
        if let Some((checksum, covered)) = out
            .get_mut(start..)
            .and_then(|record| record.split_first_chunk_mut())
        {
            *checksum = crc32c_append(salt, covered).to_le_bytes();
        }
    }

    /// Reads the record at the beginning of the bytes.
    ///
    /// # Errors
    /// [`Broken`] says what is there instead.
    pub fn decode(bytes: &'a [u8], salt: u32) -> Result<Self, Broken> {
        let left = bytes.len();
        let prefix: &[u8; PREFIX_BYTES] = bytes.first_chunk().ok_or(Broken::Short {
            needed: PREFIX_BYTES as u64,
            left,
        })?;
        if prefix == &[0; PREFIX_BYTES] {
            return Err(Broken::Blank);
        }
        let length = u32::from_le_bytes(number(prefix, 4));
        let needed = record_bytes(u64::from(length));
        let short = Broken::Short { needed, left };
        let end = usize::try_from(needed).map_err(|_| short)?;
        let covered = bytes.get(4..end).ok_or(short)?;
        let found = u32::from_le_bytes(number(prefix, 0));
        let computed = crc32c_append(salt, covered);
        if found != computed {
            return Err(Broken::Checksum { computed, found });
        }
        let code = u8::from_le_bytes(number(prefix, 38));
        let payload = bytes.get(PREFIX_BYTES..PREFIX_BYTES + length as usize);
        Ok(Self {
            sequence: u64::from_le_bytes(number(prefix, 8)),
            index: u64::from_le_bytes(number(prefix, 16)),
            term: u64::from_le_bytes(number(prefix, 24)),
            synced: u32::from_le_bytes(number(prefix, 32)),
            shard: u16::from_le_bytes(number(prefix, 36)),
            kind: Kind::from_code(code).ok_or(Broken::Kind { code })?,
            payload: payload.ok_or(short)?,
        })
    }

    /// How many bytes the record takes.
    pub(crate) fn bytes(&self) -> u64 {
        record_bytes(self.payload.len() as u64)
    }
}

/// How long the record is that may begin here and proves that `position` was durable; `None` when the prefix cannot be that of one. Cheap,
/// for the search for intact records behind a broken one; the checksum is still to be checked.
pub(crate) fn proof_bytes(prefix: &[u8; PREFIX_BYTES], position: u32) -> Option<u64> {
    let synced = u32::from_le_bytes(number(prefix, 32));
    plausible_bytes(prefix).filter(|_| synced > position)
}

/// How long the record is that may begin here; `None` when the prefix cannot be that of one.
pub(crate) fn plausible_bytes(prefix: &[u8; PREFIX_BYTES]) -> Option<u64> {
    let [code, zero] = number(prefix, 38);
    let is_plausible = zero == 0 && Kind::from_code(code).is_some();
    is_plausible.then(|| record_bytes(u64::from(u32::from_le_bytes(number(prefix, 4)))))
}

/// The checksum of bytes that have no salt.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32c(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(payload: &[u8]) -> Record<'_> {
        Record {
            sequence: 9,
            index: 7,
            term: 3,
            synced: 64,
            shard: 5,
            kind: Kind::Entry,
            payload,
        }
    }

    #[test]
    fn record_reads_back_as_written() {
        for length in 0..20 {
            let payload = vec![0xab; length];
            let mut bytes = Vec::new();
            example(&payload).encode(77, &mut bytes);
            assert_eq!(bytes.len() as u64, example(&payload).bytes());
            assert_eq!(bytes.len() % ALIGNMENT, 0);
            bytes.extend_from_slice(&[1; 16]);
            assert_eq!(Record::decode(&bytes, 77), Ok(example(&payload)));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let mut bytes = Vec::new();
        example(b"payload").encode(77, &mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&flipped, 77).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Record::decode(&bytes[..cut], 77).is_err(), "cut at {cut}");
        }
        assert!(
            Record::decode(&bytes, 78).is_err(),
            "another segment's salt"
        );
        assert_eq!(Record::decode(&[0; 64], 77), Err(Broken::Blank));
    }

    #[test]
    fn proof_is_a_plausible_record_synced_beyond_the_place() {
        let mut bytes = Vec::new();
        example(b"payload").encode(77, &mut bytes);
        let prefix = bytes.first_chunk().unwrap();
        assert_eq!(proof_bytes(prefix, 63), Some(48));
        assert_eq!(proof_bytes(prefix, 64), None);
    }
}
