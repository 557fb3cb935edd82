//! Keys on disk. Numbers are big-endian, so that the order of bytes is the order of numbers.
//!
//! ```text
//! keyspace messages    topic u64 ‖ base offset u64                  topic = shard u16 ‖ number in the shard u48
//! keyspace meta        shard u16 ‖ table u8 ‖ key of the row
//!                      ffff      ‖ 01       ‖ shard u16             the shard's mark
//!                      ffff      ‖ 02       ‖ shard u16 ‖ doom      what the sweep is to remove
//!                      ffff      ‖ 03       ‖ shard u16             the shard's content counts for nothing: it is being replaced or erased
//! ```
//! A shard's number is a vertex index, thus less than 2^12: `ffff` is free for what belongs to the peer.

use super::Table;
use crate::types::{Offset, TopicId, Vertex};

/// Stands in the place of the shard for what belongs to the peer.
const PEER: [u8; 2] = [0xff, 0xff];
pub(super) const MARK: u8 = 1;
pub(super) const DOOM: u8 = 2;
const WIPE: u8 = 3;

/// Bytes before the key of a row.
pub(super) const ROW_PREFIX_BYTES: usize = 3;
/// Bytes before the shard in a key of the peer's.
pub(super) const PEER_PREFIX_BYTES: usize = 3;

pub(super) fn batch(topic: TopicId, base: Offset) -> [u8; 16] {
    (u128::from(topic.to_bits()) << 64 | u128::from(base.0)).to_be_bytes()
}

/// The base offset in a key of the messages; `None` when it is not one.
pub(super) fn base_offset(key: &[u8]) -> Option<Offset> {
    let tail: [u8; 8] = key.get(8..)?.try_into().ok()?;
    Some(Offset(u64::from_be_bytes(tail)))
}

pub(super) fn row(shard: Vertex, table: Table, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ROW_PREFIX_BYTES + key.len() + 1);
    bytes.extend_from_slice(&shard.index().to_be_bytes());
    bytes.push(table as u8);
    bytes.extend_from_slice(key);
    bytes
}

pub(super) fn mark(shard: Vertex) -> Vec<u8> {
    mark_of(shard.index())
}

pub(super) fn mark_of(shard: u16) -> Vec<u8> {
    peer(MARK, shard)
}

pub(super) fn marks() -> Vec<u8> {
    [PEER[0], PEER[1], MARK].to_vec()
}

pub(super) fn doom(shard: u16, doom: &[u8]) -> Vec<u8> {
    let mut bytes = peer(DOOM, shard);
    bytes.extend_from_slice(doom);
    bytes
}

pub(super) fn dooms() -> Vec<u8> {
    [PEER[0], PEER[1], DOOM].to_vec()
}

pub(super) fn wipe(shard: u16) -> Vec<u8> {
    peer(WIPE, shard)
}

pub(super) fn wipes() -> Vec<u8> {
    [PEER[0], PEER[1], WIPE].to_vec()
}

fn peer(kind: u8, shard: u16) -> Vec<u8> {
    let mut bytes = vec![PEER[0], PEER[1], kind];
    bytes.extend_from_slice(&shard.to_be_bytes());
    bytes
}

/// The shard in a key of the peer's and what follows it.
pub(super) fn peer_parts(key: &[u8]) -> Option<(u16, &[u8])> {
    let (shard, rest) = key.get(PEER_PREFIX_BYTES..)?.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*shard), rest))
}

/// The shard in a key of the peer's; `None` in a key of a row.
pub(super) fn peer_shard(key: &[u8]) -> Option<u16> {
    let shard = peer_parts(key)?.0;
    key.starts_with(&PEER).then_some(shard)
}

/// What a key of the peer's is for.
pub(super) fn peer_kind(key: &[u8]) -> Option<u8> {
    key.get(PEER.len()).copied()
}

/// The least key that is greater than all keys with this prefix. No prefix in use is all `ff`.
pub(super) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// A key as errors show it.
pub(super) fn hex(key: &[u8]) -> String {
    use std::fmt::Write;
    key.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
