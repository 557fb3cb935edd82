//! What can go wrong in the store.

use std::sync::Arc;

use crate::types::{Offset, TopicId};

/// What lies below an error. Shared, because one failure is told to all who wait.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Why the store did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The engine below failed.
    #[error("the storage engine failed")]
    Engine(#[source] Cause),
    /// There is no room on the disk for what the memtable holds. Nothing is lost; the store tries again by itself.
    #[error("the disk of the store is full")]
    Full(#[source] Cause),
    /// The engine has stopped itself after an error of its own that it does not tell. The store opens it anew by itself.
    #[error("the storage engine has stopped itself")]
    Stopped(#[source] Cause),
    /// The engine cannot read what is at a key: its own checksum fails, a file is missing or cut, or the disk does not give it.
    #[error("keyspace {space} cannot be read at key {key}")]
    Unreadable {
        /// The keyspace.
        space: &'static str,
        /// The whole key, or where the range that was read begins, in hexadecimal.
        key: String,
        /// What the engine says, with what it expected and found.
        #[source]
        source: Cause,
    },
    /// A value is not what was written.
    #[error(
        "damaged value in keyspace {space} at key {key}: checksum {found:08x}, expected {expected:08x}"
    )]
    Corrupt {
        /// The keyspace.
        space: &'static str,
        /// The whole key in hexadecimal.
        key: String,
        /// The checksum that the value carries.
        expected: u32,
        /// The checksum of what is there.
        found: u32,
    },
    /// A value has its checksum but not its form.
    #[error("value in keyspace {space} at key {key} cannot be read: {what}")]
    Format {
        /// The keyspace.
        space: &'static str,
        /// The whole key in hexadecimal.
        key: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A value was written by a newer program. It may be whole.
    #[error(
        "value in keyspace {space} at key {key} has version {found}, this program knows up to {known}"
    )]
    Version {
        /// The keyspace.
        space: &'static str,
        /// The whole key in hexadecimal.
        key: String,
        /// Its version.
        found: u8,
        /// The newest version known here.
        known: u8,
    },
    /// What is stored can be read, but not be what was meant.
    #[error("what is stored makes no sense")]
    Senseless {
        /// What it was taken for, and why it cannot be that.
        #[source]
        source: Cause,
    },
    /// The shard's content is being replaced or erased, or was, since the reader began. It has to look again.
    #[error("the content of shard number {shard} was replaced while it was read")]
    Replaced {
        /// The shard's number.
        shard: u16,
    },
    /// A batch that must be there is not.
    #[error("topic {topic} has no batch with offset {offset}")]
    Missing {
        /// The topic.
        topic: TopicId,
        /// The message looked for.
        offset: Offset,
    },
    /// What was to replace a shard ended before its end. The shard is empty.
    #[error("what was to replace the shard is not whole")]
    Part(#[source] Cause),
}

impl Error {
    /// Whether it tells of damage in what is stored: reading it again, or going on, does not help; a copy from elsewhere does.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Unreadable { .. }
            | Self::Corrupt { .. }
            | Self::Format { .. }
            | Self::Senseless { .. }
            | Self::Missing { .. } => true,
            Self::Engine(_) | Self::Full(_) | Self::Stopped(_) | Self::Part(_) => false,
            Self::Version { .. } | Self::Replaced { .. } => false,
        }
    }
}
