//! Replaces or removes all that the store holds of a shard.
//!
//! First of all a marker is made durable, in one write with the removal of the mark. While it stands, what the engine holds of the shard is
//! nothing worth: a store that is opened with it removes all of the shard. It goes in one write with the new mark, when all is in place.
//! Readers beside it are told by the shard's epoch (`epoch.rs`) that what they saw does not count.

use std::sync::Arc;

use bytes::Bytes;

use super::engine::{Change, Durability, Engine, Space};
use super::flush::Shared;
use super::memtable::Memtable;
use super::{BoxError, Error, Writes, key, value};
use crate::types::Vertex;

/// Keys removed in one write: some hundred kilobytes, far below the engine's memtable.
const WIPE_STEP: usize = 4096;

/// Parts are collected up to this much before they go to disk: each group makes a file, and few large ones are read faster.
const GROUP_BYTES: u64 = 16 << 20;

/// Empties a shard, durably.
pub(super) fn erase<E: Engine>(shared: &Shared<E>, shard: u16) -> Result<(), Error> {
    begin(shared, shard)?;
    finish(shared, shard)
}

/// Empties the shards whose replacement or removal was interrupted.
pub(super) fn finish_wipes<E: Engine>(shared: &Shared<E>) -> Result<(), Error> {
    let prefix = key::wipes();
    let end = key::after_prefix(&prefix);
    let markers = shared.engine.keys(Space::Meta, &prefix..&end, usize::MAX)?;
    for shard in markers.iter().filter_map(|key| key::peer_parts(key)) {
        finish(shared, shard.0)?;
    }
    Ok(())
}

/// Fills a shard with what the parts hold, durably.
pub(super) fn replace<E: Engine>(
    shared: &Shared<E>,
    shard: Vertex,
    parts: &mut dyn Iterator<Item = Result<Writes, BoxError>>,
    mark: Bytes,
) -> Result<(), Error> {
    begin(shared, shard.index())?;
    wipe(shared, shard.index())?;
    if let Err(error) = fill(shared, shard, parts) {
        // What came is of no use. When removing it fails too, the next start does it.
        finish(shared, shard.index())?;
        return Err(error);
    }
    let key = key::mark(shard);
    let value = value::encode_row(&key, &mark);
    let changes = vec![
        Change {
            space: Space::Meta,
            key,
            value: Some(value),
        },
        Change::removal(Space::Meta, key::wipe(shard.index())),
    ];
    let _gate = shared.write_gate();
    shared.engine.write(changes, Durability::Power)?;
    shared.durable().insert(shard.index(), mark);
    shared.contents.end(shard.index());
    Ok(())
}

pub(super) fn fill<E: Engine>(
    shared: &Shared<E>,
    shard: Vertex,
    parts: &mut dyn Iterator<Item = Result<Writes, BoxError>>,
) -> Result<(), Error> {
    let mut group = Memtable::default();
    for part in parts {
        let part = part.map_err(|error| Error::Part(Arc::from(error)))?;
        group.insert(shard, part, None);
        if group.bytes() >= GROUP_BYTES {
            shared.flush(&group)?;
            group = Memtable::default();
        }
    }
    shared.flush(&group)
}

/// From here on what the engine holds of the shard counts for nothing.
pub(super) fn begin<E: Engine>(shared: &Shared<E>, shard: u16) -> Result<(), Error> {
    shared.check_failure()?;
    let key = key::wipe(shard);
    let value = value::encode_row(&key, &[]);
    let changes = vec![
        Change {
            space: Space::Meta,
            key,
            value: Some(value),
        },
        Change::removal(Space::Meta, key::mark_of(shard)),
    ];
    let _gate = shared.write_gate();
    shared.contents.begin(shard);
    shared.engine.write(changes, Durability::Power)?;
    shared.durable().remove(&shard);
    Ok(())
}

/// Removes the shard's content, then the marker.
fn finish<E: Engine>(shared: &Shared<E>, shard: u16) -> Result<(), Error> {
    wipe(shared, shard)?;
    let marker = Change::removal(Space::Meta, key::wipe(shard));
    let _gate = shared.write_gate();
    shared.engine.write(vec![marker], Durability::Power)?;
    shared.contents.end(shard);
    Ok(())
}

fn wipe<E: Engine>(shared: &Shared<E>, shard: u16) -> Result<(), Error> {
    let all = shard.to_be_bytes().to_vec();
    wipe_prefix(shared, Space::Messages, &all)?;
    wipe_prefix(shared, Space::Meta, &all)?;
    wipe_prefix(shared, Space::Meta, &key::doom(shard, &[]))
}

fn wipe_prefix<E: Engine>(shared: &Shared<E>, space: Space, prefix: &[u8]) -> Result<(), Error> {
    let end = key::after_prefix(prefix);
    loop {
        let _gate = shared.write_gate();
        let keys = shared.engine.keys(space, prefix..&end, WIPE_STEP)?;
        let removals = keys.iter().map(|key| Change::removal(space, key.to_vec()));
        shared
            .engine
            .write(removals.collect(), Durability::Process)?;
        if keys.len() < WIPE_STEP {
            return Ok(());
        }
    }
}
