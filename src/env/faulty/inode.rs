//! A file's bytes: what is written and what of it is durable.

use rand::Rng;
use rand::rngs::StdRng;

use super::Survival;

/// What a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Inode {
    pub(super) now: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) changes: Vec<Change>,
}

#[derive(Debug)]
pub(super) enum Change {
    Write { position: usize, bytes: Vec<u8> },
    Length { bytes: usize },
}

impl Change {
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { position, bytes } => put(content, *position, bytes),
            Self::Length { bytes } => content.resize(*bytes, 0),
        }
    }
}

fn put(content: &mut Vec<u8>, position: usize, bytes: &[u8]) {
    let end = position + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    if let Some(place) = content.get_mut(position..end) {
        place.copy_from_slice(bytes);
    }
}

impl Inode {
    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            change.apply(&mut self.durable);
        }
    }

    /// Loses what is not durable: all of it, or what chance takes.
    pub(super) fn lose_power(&mut self, survival: Survival, chance: &mut StdRng) {
        for change in std::mem::take(&mut self.changes) {
            if survival == Survival::Chance {
                self.survive_partly(&change, chance);
            }
        }
        self.now.clone_from(&self.durable);
    }

    fn survive_partly(&mut self, unsynced: &Change, chance: &mut StdRng) {
        let Change::Write { position, bytes } = unsynced else {
            if chance.random() {
                unsynced.apply(&mut self.durable);
            }
            return;
        };
        let (mut place, mut rest) = (*position, bytes.as_slice());
        while !rest.is_empty() {
            let count = (SECTOR_BYTES - place % SECTOR_BYTES).min(rest.len());
            let (sector, after) = rest.split_at(count);
            if chance.random() {
                put(&mut self.durable, place, sector);
            }
            place += count;
            rest = after;
        }
    }
}
