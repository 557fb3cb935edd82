//! Reads everything that a store holds, offline.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::Disk;
use super::engine::{Source, Space};
use super::{Error, Options, key, value};
use crate::env::disk::{Disk as _, SystemDisk};
use crate::types::ByteCount;

/// Everything is read once, in order: what was read helps nobody.
const CACHE_BYTES: u64 = 4 << 20;

/// Keys read at once where values are read one by one.
const STEP: usize = 1024;

/// Greater than all keys: none has more than three bytes of `ff` at its beginning.
const END: &[u8] = &[0xff; 4];

/// Something in a store that is not whole.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The number of the shard whose part it is; `None` when the key tells none.
    pub shard: Option<u16>,
    /// What is wrong, and where.
    pub error: Error,
}

/// What a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspected {
    /// The shards by number.
    pub shards: BTreeMap<u16, InspectedShard>,
    /// How many findings there were.
    pub finding_count: u64,
}

/// What a store holds of one shard. Damaged things are not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InspectedShard {
    /// The mark of the last flush.
    pub mark: Option<Bytes>,
    /// Rows of all tables.
    pub row_count: u64,
    /// Batches, those of deleted topics that are not swept yet too.
    pub batch_count: u64,
    /// Messages in these batches.
    pub message_count: u64,
    /// Bytes of payload in these batches.
    pub payload_bytes: u64,
    /// What waits for the sweep.
    pub doom_count: u64,
    /// Whether a replacement or an erasure was not finished: the shard is emptied when the store is opened.
    pub is_unfinished: bool,
}

/// Reads every key and value of the store in a folder that no process uses, and tells what is not whole. Changes nothing but what the
/// engine itself puts in order when it opens.
///
/// # Errors
/// [`Error`] when there is no store, it is in use, or it cannot be opened.
pub fn inspect(folder: &Path, visit: &mut dyn FnMut(Finding)) -> Result<Inspected, Error> {
    // The engine would make a store where there is none.
    let names = SystemDisk.list(folder);
    names.map_err(|error| Error::Engine(Arc::new(error)))?;
    let options = Options {
        cache_bytes: ByteCount(CACHE_BYTES),
        ..Options::default()
    };
    read_all(&Disk::open(folder, options)?, visit)
}

/// Reads every key and value.
pub(super) fn read_all(
    source: &impl Source,
    visit: &mut dyn FnMut(Finding),
) -> Result<Inspected, Error> {
    let mut reading = Reading {
        inspected: Inspected::default(),
        visit,
    };
    for space in [Space::Messages, Space::Meta] {
        reading.read(source, space)?;
    }
    Ok(reading.inspected)
}

struct Reading<'a> {
    inspected: Inspected,
    visit: &'a mut dyn FnMut(Finding),
}

impl Reading<'_> {
    /// Reads a keyspace at full speed up to what cannot be read, then key by key, and where keys cannot be read goes on with the next shard.
    fn read(&mut self, source: &impl Source, space: Space) -> Result<(), Error> {
        let mut start = Vec::new();
        while let Some(last) = self.scan(source, space, &start)? {
            start = last;
            loop {
                let keys = source.keys(space, &start..END, STEP);
                match keys {
                    Ok(keys) if keys.is_empty() => return Ok(()),
                    Ok(keys) => {
                        let is_whole = self.read_each(source, space, &keys)?;
                        start = keys.last().map_or(start, |key| successor(key));
                        if is_whole {
                            break; // Back to full speed.
                        }
                    }
                    Err(error) => {
                        let shard = shard_in(&start);
                        self.found(shard, error)?;
                        let Some(next) = shard.unwrap_or_default().checked_add(1) else {
                            return Ok(());
                        };
                        start = next.to_be_bytes().to_vec();
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads until something cannot be read; answers where that is.
    fn scan(
        &mut self,
        source: &impl Source,
        space: Space,
        start: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut next = start.to_vec();
        for pair in source.scan(space, start..END) {
            match pair {
                Ok((key, value)) => {
                    self.take(space, &key, &value)?;
                    next = successor(&key);
                }
                Err(error) if error.is_damage() => return Ok(Some(next)),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads values one by one; says whether all of them could be read.
    fn read_each(
        &mut self,
        source: &impl Source,
        space: Space,
        keys: &[Bytes],
    ) -> Result<bool, Error> {
        let mut is_whole = true;
        for key in keys {
            match source.get(space, key) {
                Ok(Some(value)) => self.take(space, key, &value)?,
                Ok(None) => {}
                Err(error) => {
                    is_whole = false;
                    self.found(shard_of(space, key), error)?;
                }
            }
        }
        Ok(is_whole)
    }

    /// Checks and counts one value.
    fn take(&mut self, space: Space, key: &Bytes, value: &Bytes) -> Result<(), Error> {
        let shard = shard_of(space, key);
        let result = match space {
            Space::Messages => value::decode_batch(key, value).map(|batch| {
                let shard = self.shard(shard.unwrap_or_default());
                shard.batch_count += 1;
                shard.message_count += u64::from(batch.batch.count());
                shard.payload_bytes += batch.batch.bytes().0;
            }),
            Space::Meta => value::decode_row(key, value).map(|row| self.take_row(key, row)),
        };
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.found(shard, error),
        }
    }

    fn take_row(&mut self, key: &[u8], row: Bytes) {
        let peer = key::peer_shard(key);
        let shard = self.shard(peer.or_else(|| shard_in(key)).unwrap_or_default());
        match peer.and_then(|_| key::peer_kind(key)) {
            None => shard.row_count += 1,
            Some(key::MARK) => shard.mark = Some(row),
            Some(key::DOOM) => shard.doom_count += 1,
            Some(_) => shard.is_unfinished = true,
        }
    }

    fn shard(&mut self, shard: u16) -> &mut InspectedShard {
        self.inspected.shards.entry(shard).or_default()
    }

    fn found(&mut self, shard: Option<u16>, error: Error) -> Result<(), Error> {
        if !error.is_damage() {
            return Err(error);
        }
        self.inspected.finding_count += 1;
        (self.visit)(Finding { shard, error });
        Ok(())
    }
}

/// The shard that a key belongs to.
fn shard_of(space: Space, key: &[u8]) -> Option<u16> {
    let peer = match space {
        Space::Messages => None,
        Space::Meta => key::peer_shard(key),
    };
    peer.or_else(|| shard_in(key))
}

/// The first two bytes.
fn shard_in(key: &[u8]) -> Option<u16> {
    key.first_chunk().copied().map(u16::from_be_bytes)
}

/// The least key that is greater.
fn successor(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
