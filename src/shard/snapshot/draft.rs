//! Writes chunks; the byte table is in `chunk.rs`.

use bytes::{Bytes, BytesMut};

use super::chunk::{BATCH, CHECKSUM, CONTENT, HEAD_BYTES, LAST, MAGIC, ROW, VERSION, checksum};
use super::error::Totals;
use crate::store::Table;
use crate::types::{StoredBatch, TopicId, Vertex};

/// A chunk being written.
pub(super) struct Draft {
    bytes: BytesMut,
    totals: Totals,
}

impl Draft {
    pub(super) fn new() -> Self {
        Self {
            bytes: BytesMut::zeroed(HEAD_BYTES),
            totals: Totals::default(),
        }
    }

    /// Bytes so far, the head included.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == HEAD_BYTES
    }

    pub(super) fn row(&mut self, table: Table, key: &[u8], row: &[u8]) {
        // A key has less than 1 KiB, a row less than 4 KiB.
        let key_bytes = u16::try_from(key.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&[ROW, table as u8]);
        self.bytes.extend_from_slice(&key_bytes.to_be_bytes());
        self.bytes.extend_from_slice(&length(row));
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(row);
        self.totals.rows += 1;
    }

    pub(super) fn batch(&mut self, topic: TopicId, stored: &StoredBatch) {
        let position = stored.log_position;
        self.bytes.extend_from_slice(&[BATCH]);
        for number in [
            topic.to_bits(),
            stored.base_offset.0,
            stored.append_time.0,
            position.term.0,
            position.index.0,
        ] {
            self.bytes.extend_from_slice(&number.to_be_bytes());
        }
        self.bytes
            .extend_from_slice(&stored.batch.count().to_be_bytes());
        if let Some((publisher, session, sequence)) = &stored.origin {
            let name = publisher.as_str().as_bytes();
            // A name has at most 249 bytes.
            let name_bytes = u8::try_from(name.len()).unwrap_or(u8::MAX);
            self.bytes.extend_from_slice(&[name_bytes]);
            self.bytes.extend_from_slice(&session.0.to_be_bytes());
            self.bytes.extend_from_slice(&sequence.0.to_be_bytes());
            self.bytes.extend_from_slice(name);
        } else {
            self.bytes.extend_from_slice(&[0]);
        }
        let payload = stored.batch.payload();
        self.bytes.extend_from_slice(&length(payload));
        self.bytes.extend_from_slice(payload);
        self.totals.batches += 1;
    }

    /// The chunk of content, counted in the totals.
    pub(super) fn finish(self, shard: Vertex, number: u64, totals: &mut Totals) -> Bytes {
        let (chunk, checksum) = sealed(self.bytes, CONTENT, shard, number);
        totals.rows += self.totals.rows;
        totals.batches += self.totals.batches;
        totals.checksum = crc32c::crc32c_append(totals.checksum, &checksum.to_be_bytes());
        chunk
    }
}

/// The last chunk of a stream.
pub(super) fn last_chunk(shard: Vertex, number: u64, totals: Totals) -> Bytes {
    let mut bytes = BytesMut::zeroed(HEAD_BYTES);
    bytes.extend_from_slice(&totals.rows.to_be_bytes());
    bytes.extend_from_slice(&totals.batches.to_be_bytes());
    bytes.extend_from_slice(&totals.checksum.to_be_bytes());
    sealed(bytes, LAST, shard, number).0
}

/// Payloads are far below 4 GiB.
fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// Fills the head in.
fn sealed(mut bytes: BytesMut, kind: u8, shard: Vertex, number: u64) -> (Bytes, u32) {
    let body_bytes = length(bytes.get(HEAD_BYTES..).unwrap_or_default());
    let head = [
        &MAGIC[..],
        &[VERSION, kind],
        &shard.index().to_be_bytes(),
        &number.to_be_bytes(),
        &body_bytes,
    ]
    .concat();
    if let Some(place) = bytes.get_mut(..CHECKSUM.start) {
        place.copy_from_slice(&head);
    }
    let checksum = checksum(&bytes);
    if let Some(place) = bytes.get_mut(CHECKSUM) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
    (bytes.freeze(), checksum)
}
