//! Removal of what is doomed, in bounded steps, apart from the log.
//!
//! A doom's key holds all that it says, its value is empty:
//! ```text
//! kind u8 = 1 ‖ topic u64                                            all batches of a topic
//! kind u8 = 2 ‖ table u8 ‖ length u16 ‖ prefix                       all rows whose keys begin so
//! kind u8 = 3 ‖ table u8 ‖ length u16 ‖ prefix ‖ table u8 ‖ suffix   the same, and each row's twin
//! kind u8 = 4 ‖ topic u64 ‖ end u64 ‖ start u64                      the batches of a topic that end at or before `end`
//! ```
//! A trimmed topic leaves ever more removed keys behind its beginning, and an engine may step over each of them until it has compacted them
//! away. So kind 4 names where to begin, and what is left of it after a step begins where the step ended.

use std::ops::Range;

use bytes::Bytes;

use super::engine::{Change, Durability, Engine, Source, Space};
use super::flush::Shared;
use super::{Error, Table, key, value};
use crate::types::{Offset, TopicId};

/// What the sweep is to remove. Nothing may write there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doom {
    /// All batches of a topic.
    Batches(TopicId),
    /// The batches of a topic that end at or before the end of the range; one that straddles it stays. All that end at or before its start
    /// are gone, or doomed already.
    BatchesBefore(TopicId, Range<Offset>),
    /// All rows of the shard's table whose keys begin so.
    Rows {
        /// The table.
        table: Table,
        /// What the keys begin with.
        prefix: Bytes,
        /// A row that each of them has in another table.
        twin: Option<Twin>,
    },
}

/// Where the twin of a row is: its key is the row's key without the prefix, and then this suffix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// The other table.
    pub table: Table,
    /// What the key ends with.
    pub suffix: Bytes,
}

const BATCHES: u8 = 1;
const ROWS: u8 = 2;
const ROWS_AND_TWINS: u8 = 3;
const BATCHES_BEFORE: u8 = 4;

impl Doom {
    /// The part of the key that says what is doomed.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Batches(topic) => {
                let mut bytes = vec![BATCHES];
                bytes.extend_from_slice(&topic.to_bits().to_be_bytes());
                bytes
            }
            Self::BatchesBefore(topic, offsets) => {
                let topic = topic.to_bits().to_be_bytes();
                batches_before(topic, offsets.end, offsets.start.0.to_be_bytes())
            }
            Self::Rows {
                table,
                prefix,
                twin,
            } => {
                let kind = twin.as_ref().map_or(ROWS, |_| ROWS_AND_TWINS);
                // A key has less than 1 KiB.
                let length = u16::try_from(prefix.len()).unwrap_or(u16::MAX);
                let mut bytes = vec![kind, *table as u8];
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(prefix);
                if let Some(twin) = twin {
                    bytes.push(twin.table as u8);
                    bytes.extend_from_slice(&twin.suffix);
                }
                bytes
            }
        }
    }
}

fn batches_before(topic: [u8; 8], end: Offset, start: [u8; 8]) -> Vec<u8> {
    let kind = [BATCHES_BEFORE];
    [&kind[..], &topic, &end.0.to_be_bytes(), &start].concat()
}

/// A doom as the sweep needs it.
struct Target<'a> {
    space: Space,
    /// What the keys in the engine begin with.
    prefix: Vec<u8>,
    /// Where the keys begin, but for a batch that straddles it.
    start: Vec<u8>,
    /// Where the keys end.
    end: Vec<u8>,
    /// Batches that end after this offset stay.
    before: Option<Offset>,
    /// What the twins' keys begin with, and end with.
    twin: Option<(Vec<u8>, &'a [u8])>,
}

impl<'a> Target<'a> {
    fn new(shard: u16, doom: &'a [u8]) -> Option<Self> {
        let (kind, rest) = doom.split_first()?;
        match *kind {
            BATCHES => Some(Self::batches(rest.try_into().ok()?, None)),
            BATCHES_BEFORE => {
                let (topic, rest) = rest.split_first_chunk::<8>()?;
                let (end, start) = rest.split_first_chunk::<8>()?;
                let start: [u8; 8] = start.try_into().ok()?;
                let before = Offset(u64::from_be_bytes(*end));
                Some(Self {
                    start: [*topic, start].concat(),
                    ..Self::batches(*topic, Some(before))
                })
            }
            ROWS | ROWS_AND_TWINS => Self::rows(shard, *kind, rest),
            _ => None,
        }
    }

    fn batches(topic: [u8; 8], before: Option<Offset>) -> Self {
        let end = before.map(|offset| [topic, offset.0.to_be_bytes()].concat());
        Self {
            space: Space::Messages,
            prefix: topic.to_vec(),
            start: topic.to_vec(),
            end: end.unwrap_or_else(|| key::after_prefix(&topic)),
            before,
            twin: None,
        }
    }

    fn rows(shard: u16, kind: u8, rest: &'a [u8]) -> Option<Self> {
        let shard = shard.to_be_bytes();
        let (table, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (prefix, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let twin = if kind == ROWS_AND_TWINS {
            let (table, suffix) = rest.split_first()?;
            Some(([&shard[..], &[*table]].concat(), suffix))
        } else {
            None
        };
        let prefix = [&shard[..], &[*table], prefix].concat();
        Some(Self {
            space: Space::Meta,
            end: key::after_prefix(&prefix),
            start: prefix.clone(),
            prefix,
            before: None,
            twin,
        })
    }

    /// The first keys to remove.
    fn keys(&self, engine: &impl Source, limit: usize) -> Result<Vec<Bytes>, Error> {
        let found = self.start.as_slice()..self.end.as_slice();
        let mut keys = engine.keys(self.space, found, limit)?;
        let begins_there = keys.first().is_some_and(|key| *key == self.start);
        if self.before.is_some() && !begins_there {
            let earlier = self.prefix.as_slice()..self.start.as_slice();
            if let Some((straddling, _)) = engine.last(self.space, earlier)? {
                keys.insert(0, straddling);
                keys.truncate(limit);
            }
        }
        Ok(keys)
    }

    /// What is left of the doom when all before this key is removed. `None`: it stays as it is.
    fn rest(&self, next: &[u8]) -> Option<Vec<u8>> {
        let (topic, start) = next.split_first_chunk::<8>()?;
        Some(batches_before(*topic, self.before?, start.try_into().ok()?))
    }

    /// Whether the last key of those wanted is one that must stay.
    fn is_spared(&self, engine: &impl Source, key: &[u8]) -> Result<bool, Error> {
        let Some(before) = self.before else {
            return Ok(false);
        };
        // Batches follow each other densely: only the last that begins before the offset can end after it.
        let value = engine.get(self.space, key)?;
        let batch = value.map(|value| value::decode_batch(key, &value));
        Ok(batch
            .transpose()?
            .is_some_and(|batch| batch.next_offset() > before))
    }

    /// The keys to remove for one key found.
    fn removals(&self, key: &[u8]) -> impl Iterator<Item = Change> {
        let rest = key.get(self.prefix.len()..).unwrap_or_default();
        let twin = self.twin.as_ref().map(|(prefix, suffix)| {
            Change::removal(Space::Meta, [prefix.as_slice(), rest, suffix].concat())
        });
        std::iter::once(Change::removal(self.space, key.to_vec())).chain(twin)
    }
}

/// One step: goes through the dooms until `limit` keys are removed. What cannot be read is damage of its shard, and keeps no other
/// shard's dooms waiting.
pub(super) fn sweep<E: Engine>(shared: &Shared<E>, limit: usize) -> Result<usize, Error> {
    let mut removed = 0;
    for key in shared.dooms(limit.saturating_add(1))? {
        if removed >= limit {
            break;
        }
        let (shard, doom) = key::peer_parts(&key).unwrap_or_default();
        let epoch = shared.contents.epoch(shard);
        let swept = sweep_one(shared, (shard, doom), &key, limit - removed);
        match shared.contents.noted((shard, epoch), swept) {
            Ok(count) => removed += count,
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

pub(super) fn sweep_one<E: Engine>(
    shared: &Shared<E>,
    (shard, doom): (u16, &[u8]),
    doom_key: &[u8],
    limit: usize,
) -> Result<usize, Error> {
    let target = Target::new(shard, doom).ok_or_else(|| Error::Format {
        space: Space::Meta.name(),
        key: key::hex(doom_key),
        what: "not a doom",
    })?;
    let _gate = shared.write_gate();
    if shared.engine.get(Space::Meta, doom_key)?.is_none() {
        // The shard was replaced or erased since the dooms were listed: what it holds now is not doomed.
        return Ok(0);
    }
    // One more than may be removed, so that it is known whether there are more.
    let mut keys = target.keys(&shared.engine, limit.saturating_add(1))?;
    let next = keys.get(limit).cloned();
    keys.truncate(limit);
    if next.is_none()
        && let Some(last) = keys.last()
        && target.is_spared(&shared.engine, last)?
    {
        keys.pop();
    }
    let mut changes: Vec<Change> = keys.iter().flat_map(|key| target.removals(key)).collect();
    let rest = next.as_deref().and_then(|next| target.rest(next));
    let rest = rest.filter(|rest| rest != doom);
    if next.is_none() || rest.is_some() {
        changes.push(Change::removal(Space::Meta, doom_key.to_vec()));
    }
    changes.extend(rest.map(|rest| {
        let key = key::doom(shard, &rest);
        let value = Some(value::encode_row(&key, &[]));
        Change {
            space: Space::Meta,
            key,
            value,
        }
    }));
    shared.engine.write(changes, Durability::Process)?;
    Ok(keys.len() + usize::from(next.is_none()))
}
