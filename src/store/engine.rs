//! What the store needs of an ordered key-value engine. Nothing here knows what keys and values mean.

use std::ops::Range;

use bytes::Bytes;

use super::{Error, Figures};

/// A keyspace of the engine. Two for everything: a keyspace per topic would cost memory and files per topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    /// Batches.
    Messages,
    /// Rows, marks and dooms.
    Meta,
}

impl Space {
    /// The name on disk.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Meta => "meta",
        }
    }
}

/// One write: the new value, or `None` to remove the key.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) space: Space,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

impl Change {
    pub(super) fn removal(space: Space, key: Vec<u8>) -> Self {
        Self {
            space,
            key,
            value: None,
        }
    }
}

/// What a write survives once it has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// The end of the process.
    Process,
    /// A power cut.
    Power,
}

/// A key and its value.
pub(super) type Pair = (Bytes, Bytes);

/// Keys and values in order.
pub(super) type Pairs<'a> = Box<dyn Iterator<Item = Result<Pair, Error>> + 'a>;

/// An ordered map of bytes that is read. Key ranges are half open, and empty when they are inverted. While an iterator lives, its thread
/// must not call the source again.
pub(super) trait Source: Send + Sync {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Keys and values of a range as they are at one moment.
    fn scan(&self, space: Space, keys: Range<&[u8]>) -> Pairs<'_>;

    /// The first keys of a range, without reading the values.
    fn keys(&self, space: Space, keys: Range<&[u8]>, limit: usize) -> Result<Vec<Bytes>, Error>;

    /// The greatest key of a range, with its value.
    fn last(&self, space: Space, keys: Range<&[u8]>) -> Result<Option<Pair>, Error>;
}

/// The map that is written too. One thread writes at a time.
pub(super) trait Engine: Source + 'static {
    /// The map as it was at one moment.
    type Frozen: Source + 'static;

    /// The map as it is now.
    fn freeze(&self) -> Result<Self::Frozen, Error>;

    /// Writes batches with ascending keys, all or none; they survive a power cut.
    ///
    /// [`Error::Full`] leaves the engine in need of [`revive`](Self::revive).
    fn ingest(&self, batches: &mut dyn Iterator<Item = ([u8; 16], Vec<u8>)>) -> Result<(), Error>;

    /// Makes all changes or none.
    ///
    /// [`Error::Full`] leaves the engine in need of [`revive`](Self::revive); it may have made the changes then.
    fn write(&self, changes: Vec<Change>, durability: Durability) -> Result<(), Error>;

    /// [`Error::Stopped`] when the engine has stopped itself and needs [`revive`](Self::revive).
    fn check(&self) -> Result<(), Error>;

    /// Makes the engine usable again after a full disk, or when it has stopped itself. Frozen maps end. When it fails nothing can be read until it succeeds.
    fn revive(&self) -> Result<(), Error>;

    /// Whether nothing is left to catch up with.
    fn is_calm(&self) -> bool;

    /// What the engine knows of the figures.
    fn figures(&self) -> Result<Figures, Error>;
}
