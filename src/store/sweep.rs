//! Removal of what is doomed, in bounded steps, apart from the log.
//!
//! A doom's key holds all that it says, its value is empty:
//! ```text
//! kind u8 = 1 ‖ topic u64                                            all batches of a topic
//! kind u8 = 2 ‖ table u8 ‖ length u16 ‖ prefix                       all rows whose keys begin so
//! kind u8 = 3 ‖ table u8 ‖ length u16 ‖ prefix ‖ table u8 ‖ suffix   the same, and each row's twin
//! ```

use bytes::Bytes;

use super::engine::{Change, Engine, Space};
use super::{Error, Table, key};
use crate::types::TopicId;

/// What the sweep is to remove. Nothing may write there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doom {
    /// All batches of a topic.
    Batches(TopicId),
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

impl Doom {
    /// The part of the key that says what is doomed.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Batches(topic) => {
                let mut bytes = vec![BATCHES];
                bytes.extend_from_slice(&topic.to_bits().to_be_bytes());
                bytes
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

/// A doom as the sweep needs it.
struct Target<'a> {
    space: Space,
    /// What the keys in the engine begin with.
    prefix: Vec<u8>,
    /// What the twins' keys begin with, and end with.
    twin: Option<(Vec<u8>, &'a [u8])>,
}

impl<'a> Target<'a> {
    fn new(shard: u16, doom: &'a [u8]) -> Option<Self> {
        let (kind, rest) = doom.split_first()?;
        if *kind == BATCHES {
            let topic: [u8; 8] = rest.try_into().ok()?;
            return Some(Self {
                space: Space::Messages,
                prefix: topic.to_vec(),
                twin: None,
            });
        }
        let shard = shard.to_be_bytes();
        let (table, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (prefix, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let twin = match *kind {
            ROWS => None,
            ROWS_AND_TWINS => {
                let (table, suffix) = rest.split_first()?;
                Some(([&shard[..], &[*table]].concat(), suffix))
            }
            _ => return None,
        };
        Some(Self {
            space: Space::Meta,
            prefix: [&shard[..], &[*table], prefix].concat(),
            twin,
        })
    }

    /// The keys to remove for one key found.
    fn removals(&self, key: &[u8]) -> impl Iterator<Item = Change> {
        let removal = |space, key| Change {
            space,
            key,
            value: None,
        };
        let rest = key.get(self.prefix.len()..).unwrap_or_default();
        let twin = self.twin.as_ref().map(|(prefix, suffix)| {
            removal(Space::Meta, [prefix.as_slice(), rest, suffix].concat())
        });
        std::iter::once(removal(self.space, key.to_vec())).chain(twin)
    }
}

/// One step: goes through the dooms until `limit` keys are removed.
pub(super) fn sweep(engine: &impl Engine, limit: usize) -> Result<usize, Error> {
    let prefix = key::dooms();
    let range = prefix.as_slice()..&*key::after_prefix(&prefix);
    let dooms = engine.keys(Space::Meta, range, limit)?;
    let mut removed = 0;
    for doom in dooms {
        if removed >= limit {
            break;
        }
        removed += sweep_one(engine, &doom, limit - removed)?;
    }
    Ok(removed)
}

fn sweep_one(engine: &impl Engine, doom: &[u8], limit: usize) -> Result<usize, Error> {
    let target = key::peer_parts(doom)
        .and_then(|(shard, doom)| Target::new(shard, doom))
        .ok_or_else(|| Error::Format {
            space: Space::Meta.name(),
            key: key::hex(doom),
            what: "not a doom",
        })?;
    let end = key::after_prefix(&target.prefix);
    let keys = engine.keys(target.space, target.prefix.as_slice()..&end, limit)?;
    let mut changes: Vec<Change> = keys.iter().flat_map(|key| target.removals(key)).collect();
    if keys.len() < limit {
        changes.push(Change {
            space: Space::Meta,
            key: doom.to_vec(),
            value: None,
        });
    }
    let removed = changes.len();
    engine.write(changes)?;
    Ok(removed)
}
