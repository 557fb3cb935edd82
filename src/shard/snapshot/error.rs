//! Why a snapshot is refused.

use crate::types::BatchError;

/// Why bytes are not a chunk, or chunks not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// There are more or fewer bytes than there must be.
    #[error("the chunk has {found} bytes, not {expected}")]
    Length {
        /// What its head says, or what a head needs.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// It is something else.
    #[error("the bytes do not begin like a chunk of a snapshot")]
    Magic,
    /// Another version wrote it.
    #[error("chunk version {found} is unknown, this peer reads up to {max}", max = super::chunk::VERSION)]
    Version {
        /// What it says.
        found: u8,
    },
    /// It is not what was written.
    #[error("chunk {number} is damaged: checksum {found:08x}, expected {expected:08x}")]
    Corrupt {
        /// What it says it is.
        number: u64,
        /// The checksum that it carries.
        expected: u32,
        /// The checksum of what is there.
        found: u32,
    },
    /// It has its checksum but not its form.
    #[error("byte {position} of the chunk cannot be read: {what}")]
    Form {
        /// Where the record begins that is wrong.
        position: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A batch has no messages, or broken ones.
    #[error("a batch of the chunk is broken")]
    Batch(#[from] BatchError),
    /// It is of another shard.
    #[error("the chunk is of shard number {found}, not {expected}")]
    Shard {
        /// The shard's number.
        expected: u16,
        /// What it says.
        found: u16,
    },
    /// One is left out, or comes twice.
    #[error("chunk {found} came where chunk {expected} must come")]
    Order {
        /// What must come.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// Something came after the last one.
    #[error("chunk {found} came after the last one")]
    Beyond {
        /// What came.
        found: u64,
    },
    /// The chunks are not those that the last one speaks of.
    #[error("the chunks have {found}, the last one speaks of {expected}")]
    Whole {
        /// What the last chunk says.
        expected: Totals,
        /// What came.
        found: Totals,
    },
    /// The last chunk has not come.
    #[error("the snapshot ends after {chunks} chunks without its last one")]
    Cut {
        /// How many came.
        chunks: u64,
    },
}

/// What the content of a snapshot is in sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows.
    pub rows: u64,
    /// Batches.
    pub batches: u64,
    /// Checksum over the chunks' checksums.
    pub checksum: u32,
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            rows,
            batches,
            checksum,
        } = self;
        write!(
            f,
            "{rows} rows and {batches} batches with checksum {checksum:08x}"
        )
    }
}
