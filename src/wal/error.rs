//! Why the log refuses.

use std::path::PathBuf;
use std::sync::Arc;

use super::Identity;
use crate::env::disk;
use crate::types::LogIndex;

/// Why the log refuses. Shards are given as the index of their vertex.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// A file does not hold what was written to it; the replica must be made again from the other peers.
    #[error("{file} is damaged at byte {position}: expected {expected}, found {found}", file = file.display())]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where the first damaged thing begins.
        position: u64,
        /// What must be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file was written by another peer, by another life of this one, or in another cluster.
    #[error("{file} belongs to {found}, this peer is {expected}", file = file.display())]
    Foreign {
        /// The segment.
        file: PathBuf,
        /// Who opens the log.
        expected: Identity,
        /// Who wrote it.
        found: Identity,
    },
    /// A file was written by a newer program.
    #[error("{file} has format version {found}, this program knows up to {known}", file = file.display())]
    NewerVersion {
        /// The segment.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// A file between others is missing.
    #[error("segment {number} of the log is missing: {file} does not exist", file = file.display())]
    SegmentMissing {
        /// The first number missing.
        number: u32,
        /// Where it should be.
        file: PathBuf,
    },
    /// The files are intact, but a shard's first entries are in none of them.
    #[error(
        "the log of shard {shard} begins at entry {found}, it must begin at {expected}: older segments are missing"
    )]
    EntriesMissing {
        /// The shard.
        shard: u16,
        /// The first entry that was not purged.
        expected: LogIndex,
        /// The first entry that is there.
        found: LogIndex,
    },
    /// An entry does not continue the shard's log.
    #[error(
        "entry {found} does not continue the log of shard {shard}, whose next entry is {expected}"
    )]
    Gap {
        /// The shard.
        shard: u16,
        /// The greatest index that would be right.
        expected: LogIndex,
        /// The index given.
        found: LogIndex,
    },
    /// The entry was purged.
    #[error("entry {index} of shard {shard} was purged, the first one left is {first}")]
    Purged {
        /// The shard.
        shard: u16,
        /// The entry asked for.
        index: LogIndex,
        /// The first one left (or next to come).
        first: LogIndex,
    },
    /// A payload or state is too large for a segment.
    #[error("a record of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The disk did not keep up for as long as a submitter waits. Nothing was taken.
    #[error("{queued} bytes wait for the disk, the limit is {limit}")]
    Overloaded {
        /// Bytes in the queue.
        queued: u64,
        /// Bytes that may be in the queue.
        limit: u64,
    },
    /// A write or sync failed before; what is durable since then is unknown, so the log takes nothing more.
    #[error("the log has failed: {cause}")]
    Failed {
        /// The first failure.
        #[source]
        cause: Arc<Error>,
    },
    /// The log was shut down.
    #[error("the log is shut down")]
    Closed,
    /// The log's thread ended by a broken invariant.
    #[error("the thread that writes the log has died")]
    WriterDied,
    /// The settings do not fit together.
    #[error("{setting} is {found}, it must be {expected}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What it is.
        found: u64,
        /// What it must be.
        expected: &'static str,
    },
}

impl Error {
    /// Whether what was written cannot be read any more, so that reading it again does not help.
    pub fn is_damage(&self) -> bool {
        /// What a disk says when it cannot read a sector.
        const EIO: i32 = 5;
        match self {
            Self::Damaged { .. } | Self::SegmentMissing { .. } | Self::EntriesMissing { .. } => {
                true
            }
            Self::Disk(disk::Error::Io {
                operation: "read",
                source,
                ..
            }) => source.raw_os_error() == Some(EIO),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sector_that_cannot_be_read_is_damage() {
        let failed = |operation, code| {
            Error::Disk(disk::Error::Io {
                operation,
                path: PathBuf::from("wal/1"),
                source: std::io::Error::from_raw_os_error(code),
            })
        };
        assert!(failed("read", 5).is_damage());
        assert!(!failed("sync", 5).is_damage(), "the log has failed then");
        assert!(!failed("read", 24).is_damage(), "too many open files");
        assert!(!Error::Closed.is_damage());
    }
}
