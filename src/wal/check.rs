//! Whether operations fit the logs of their shards. Begin with [`check`].

use std::collections::BTreeMap;

use super::index::ShardLog;
use super::{Error, Op};
use crate::types::LogIndex;

/// Checks that the operations, one after the other, fit the logs of their shards.
pub(crate) fn check(shards: &BTreeMap<u16, ShardLog>, ops: &[Op]) -> Result<(), Error> {
    let mut ranges: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
    for op in ops {
        let shard = op.shard().index();
        let visible = || shards.get(&shard).map_or((0, 0), ShardLog::range);
        let (first, next) = ranges.entry(shard).or_insert_with(visible);
        match op {
            Op::Append { entries, .. } => {
                for entry in entries {
                    *next = appended(shard, (*first, *next), entry.position.index)?;
                }
            }
            Op::TruncateAfter { last, .. } => {
                *next = (*next).min(after(*last).max(*first));
            }
            Op::Purge { purged, .. } => {
                *first = (*first).max(after(Some(purged.position.index)));
                *next = (*next).max(*first);
            }
            Op::Reset { .. } => (*first, *next) = (0, 0),
            Op::HardState { .. } | Op::Committed { .. } => {}
        }
    }
    Ok(())
}

/// The index after the last one to keep.
pub(crate) fn after(last: Option<LogIndex>) -> u64 {
    last.map_or(0, |last| last.0.saturating_add(1))
}

/// The next index after an append at `index`.
fn appended(shard: u16, (first, next): (u64, u64), index: LogIndex) -> Result<u64, Error> {
    if index.0 < first {
        let first = LogIndex(first);
        return Err(Error::Purged {
            shard,
            index,
            first,
        });
    }
    if index.0 > next {
        let (expected, found) = (LogIndex(next), index);
        return Err(Error::Gap {
            shard,
            expected,
            found,
        });
    }
    Ok(index.0.saturating_add(1))
}
