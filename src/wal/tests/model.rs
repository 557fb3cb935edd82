//! The log as a map: what any sequence of operations must leave.

use std::collections::BTreeMap;

use super::*;

/// One shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shard {
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) hard_state: Option<Bytes>,
    pub(super) purged: Option<Purged>,
}

/// All shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) shards: BTreeMap<u16, Shard>,
}

impl Model {
    /// What the log has of these shards.
    pub(super) fn of(wal: &Wal, shards: u16) -> Self {
        let read = |index| {
            let bounds = wal.bounds(shard(index));
            let entries = all(wal, index).into_iter();
            let state = Shard {
                entries: entries
                    .map(|entry| (entry.position.index.0, entry))
                    .collect(),
                hard_state: bounds.hard_state,
                purged: bounds.purged,
            };
            (index, state)
        };
        let shards = (0..shards).map(read);
        Self {
            shards: shards
                .filter(|(_, state)| *state != Shard::default())
                .collect(),
        }
    }

    pub(super) fn next(&self, index: u16) -> u64 {
        let shard = self.shards.get(&index);
        let last = shard.and_then(|shard| shard.entries.keys().next_back().copied());
        let purged = shard.and_then(|shard| shard.purged.as_ref());
        let purged = purged.map(|purged| purged.position.index.0);
        last.max(purged).map_or(0, |last| last + 1)
    }

    pub(super) fn first(&self, index: u16) -> u64 {
        let purged = self
            .shards
            .get(&index)
            .and_then(|shard| shard.purged.as_ref());
        purged.map_or(0, |purged| purged.position.index.0 + 1)
    }

    /// Applies an operation step by step: each state in between, as a power cut may leave it.
    pub(super) fn apply(&mut self, op: &Op) -> Vec<Self> {
        let index = op.shard().index();
        let mut states = Vec::new();
        match op {
            Op::Append { entries, .. } => {
                for entry in entries {
                    let shard = self.shards.entry(index).or_default();
                    shard.entries.split_off(&entry.position.index.0);
                    shard.entries.insert(entry.position.index.0, entry.clone());
                    states.push(self.clone());
                }
            }
            Op::TruncateAfter { last, .. } => {
                if let Some(shard) = self.shards.get_mut(&index) {
                    shard.entries.split_off(&last.map_or(0, |last| last.0 + 1));
                }
            }
            Op::HardState { state, .. } => {
                self.shards.entry(index).or_default().hard_state = Some(state.clone());
            }
            Op::Purge { purged, .. } => {
                if purged.position.index.0 >= self.first(index) {
                    let shard = self.shards.entry(index).or_default();
                    shard.entries = shard.entries.split_off(&(purged.position.index.0 + 1));
                    shard.purged = Some(purged.clone());
                }
            }
            Op::Reset { .. } => {
                self.shards.remove(&index);
            }
            Op::Committed { .. } => {}
        }
        self.shards.retain(|_, shard| *shard != Shard::default());
        states.push(self.clone());
        states
    }
}
