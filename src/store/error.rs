//! What can go wrong in the store.

use crate::types::{Offset, TopicId};

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine below failed. Nothing must be written any more.
    #[error("the storage engine failed")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
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
    /// A batch that must be there is not.
    #[error("topic {topic} has no batch with offset {offset}")]
    Missing {
        /// The topic.
        topic: TopicId,
        /// The message looked for.
        offset: Offset,
    },
}
