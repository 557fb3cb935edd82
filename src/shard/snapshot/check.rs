//! The chunks of a snapshot as a whole.

use bytes::Bytes;

use super::chunk::{Body, Chunk};
use super::error::{ChunkError, Totals};
use crate::shard::Error;
use crate::store::{BoxError, Writes};
use crate::types::Vertex;

/// Takes the chunks of one stream in order and says whether they are one shard's snapshot, whole. Holds no chunk.
#[derive(Debug)]
pub struct Checker {
    shard: u16,
    /// The number of the chunk that must come.
    next: u64,
    totals: Totals,
    is_whole: bool,
}

impl Checker {
    /// Nothing has come yet.
    pub fn new(shard: Vertex) -> Self {
        Self {
            shard: shard.index(),
            next: 0,
            totals: Totals::default(),
            is_whole: false,
        }
    }

    /// Takes the next chunk and gives what it writes.
    ///
    /// # Errors
    /// [`ChunkError`] when the chunk is broken, of another shard, or not the one that must come. The stream is of no use then.
    pub fn take(&mut self, bytes: &Bytes) -> Result<Writes, ChunkError> {
        let chunk = Chunk::decode(bytes)?;
        let (expected, found) = (self.shard, chunk.shard);
        if expected != found {
            return Err(ChunkError::Shard { expected, found });
        }
        let (expected, found) = (self.next, chunk.number);
        if expected != found {
            return Err(ChunkError::Order { expected, found });
        }
        if self.is_whole {
            return Err(ChunkError::Beyond { found });
        }
        self.next += 1;
        self.totals.add(&chunk);
        match chunk.body {
            Body::Content(writes) => Ok(writes),
            Body::Last(expected) if expected == self.totals => {
                self.is_whole = true;
                Ok(Writes::default())
            }
            Body::Last(expected) => Err(ChunkError::Whole {
                expected,
                found: self.totals,
            }),
        }
    }

    /// What came, in sum.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Says whether all came.
    ///
    /// # Errors
    /// [`ChunkError::Cut`] when the last chunk is not there.
    pub fn finish(&self) -> Result<(), ChunkError> {
        if self.is_whole {
            return Ok(());
        }
        Err(ChunkError::Cut { chunks: self.next })
    }
}

/// The writes of a stream of chunks, as a store takes them. A stream that is not a whole snapshot ends with an error, which is kept here:
/// the store only knows that there was one.
pub(in crate::shard) struct Import<'a> {
    chunks: &'a mut dyn Iterator<Item = Result<Bytes, BoxError>>,
    checker: Checker,
    error: Option<Error>,
    has_ended: bool,
}

impl<'a> Import<'a> {
    pub(in crate::shard) fn new(
        shard: Vertex,
        chunks: &'a mut dyn Iterator<Item = Result<Bytes, BoxError>>,
    ) -> Self {
        Self {
            chunks,
            checker: Checker::new(shard),
            error: None,
            has_ended: false,
        }
    }

    fn step(&mut self) -> Result<Option<Writes>, Error> {
        match self.chunks.next().transpose().map_err(Error::Transfer)? {
            Some(chunk) => Ok(Some(self.checker.take(&chunk)?)),
            None => Ok(self.checker.finish().map(|()| None)?),
        }
    }

    /// Says whether the stream was a whole snapshot and was taken to its end.
    pub(in crate::shard) fn finish(self) -> Result<(), Error> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.checker.finish()?),
        }
    }
}

impl Iterator for Import<'_> {
    type Item = Result<Writes, BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        match self.step() {
            Ok(Some(writes)) => Some(Ok(writes)),
            Ok(None) => {
                self.has_ended = true;
                None
            }
            Err(error) => {
                self.has_ended = true;
                let text = error.to_string();
                self.error = Some(error);
                Some(Err(text.into()))
            }
        }
    }
}
