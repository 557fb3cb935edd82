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

/// Whether a scan goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// Give me the next one.
    More,
    /// That was all I need.
    Enough,
}

/// Is shown a key and its value, and says whether the scan goes on.
pub(super) type Visit<'a> = dyn FnMut(&[u8], Bytes) -> Result<Flow, Error> + 'a;

/// An ordered map of bytes with atomic groups of writes. Key ranges are half open.
pub(super) trait Engine: Send + Sync {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Visits keys and values in order.
    fn scan(&self, space: Space, keys: Range<&[u8]>, visit: &mut Visit<'_>) -> Result<(), Error>;

    /// The first keys of a range, without reading the values.
    fn keys(&self, space: Space, keys: Range<&[u8]>, limit: usize) -> Result<Vec<Bytes>, Error>;

    /// The greatest key of a range, with its value.
    fn last(&self, space: Space, keys: Range<&[u8]>) -> Result<Option<(Bytes, Bytes)>, Error>;

    /// Makes all changes or none, and shows them to readers in the order given.
    fn write(&self, changes: Vec<Change>) -> Result<(), Error>;

    /// Everything written before is on stable storage afterwards.
    fn sync(&self) -> Result<(), Error>;

    /// See [`super::TopicStore::is_calm`].
    fn is_calm(&self) -> bool;

    fn figures(&self) -> Result<Figures, Error>;
}
