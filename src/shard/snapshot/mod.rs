//! A shard as a stream of chunks: what a new replica gets that is behind the log of the others.
//!
//! Logical: rows and batches, not the files of a store. Nothing doomed or forgotten is in it. Each chunk is checksummed, and the last one
//! says what all of them were, so that a stream that is cut, mixed or reordered does not pass.
//!
//! Begin with [`export`]; [`decode_chunk`] reads one chunk, [`Checker`] the whole stream. The format is in `chunk.rs`.

mod check;
mod chunk;
mod draft;
mod error;
mod export;

pub use check::Checker;
pub(super) use check::Import;
pub use chunk::decode_chunk;
pub use error::{ChunkError, Totals};
pub use export::export;
#[cfg(test)]
pub(super) use export::export_in;
