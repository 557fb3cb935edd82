//! The write-ahead log: one per peer, shared by its shards, and the Raft log of each of them.
//!
//! What is submitted is visible to readers at once and is durable when its completion is called: group commit writes what has gathered with one
//! write and one `fdatasync`. It never interprets payloads or states, never retries a failed write or sync (the log is then failed for good),
//! and never takes damage for an end. The formats are at the top of `record.rs` and `segment.rs`, the rules of a start in `recovery.rs`. Begin
//! with [`RaftLog`], then [`Wal`] and `writer.rs`.

mod check;
mod error;
mod index;
mod inspect;
mod keeper;
mod log;
mod queue;
mod record;
mod recovery;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

pub use error::Error;
pub use inspect::{Inspected, InspectedSegment, inspect};
pub use log::{Options, Wal};
pub use record::{Broken, Kind, Record};
pub use segment::{Header, HeaderError};

use crate::types::{ByteCount, Incarnation, LogIndex, LogPosition, PeerId, Vertex};

/// An entry of a shard's Raft log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its term and index.
    pub position: LogPosition,
    /// Opaque.
    pub payload: Bytes,
}

/// A change of a shard's log.
#[derive(Debug, Clone)]
pub enum Op {
    /// Adds entries of ascending indices without gaps. An index that the shard has already replaces that entry and all after it.
    Append {
        /// The shard.
        shard: Vertex,
        /// The entries; none is fine.
        entries: Vec<Entry>,
    },
    /// Replaces the hard state (term and vote).
    HardState {
        /// The shard.
        shard: Vertex,
        /// Opaque, at most [`STATE_BYTES_MAX`].
        state: Bytes,
    },
    /// Replaces the hint how far the shard is committed. It is written soon, but nobody waits for it.
    Committed {
        /// The shard.
        shard: Vertex,
        /// Opaque, at most [`STATE_BYTES_MAX`].
        state: Bytes,
    },
    /// Takes the entries after `last` away; all of them when `None`.
    TruncateAfter {
        /// The shard.
        shard: Vertex,
        /// The last entry to keep.
        last: Option<LogIndex>,
    },
    /// Takes the entries up to a position away, also when the log ends before it (after a snapshot); it then goes on behind it.
    Purge {
        /// The shard.
        shard: Vertex,
        /// The last entry purged, with what the caller wants to know of it.
        purged: Purged,
    },
    /// Takes away all that the shard's log holds, as if it had never been written: entries, states and what was purged.
    Reset {
        /// The shard.
        shard: Vertex,
    },
}

impl Op {
    /// The shard that it changes.
    pub fn shard(&self) -> Vertex {
        match self {
            Self::Append { shard, .. }
            | Self::HardState { shard, .. }
            | Self::Committed { shard, .. }
            | Self::TruncateAfter { shard, .. }
            | Self::Purge { shard, .. }
            | Self::Reset { shard } => *shard,
        }
    }
}

/// The last entry that was purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// Its term and index.
    pub position: LogPosition,
    /// Opaque, at most [`STATE_BYTES_MAX`].
    pub state: Bytes,
}

/// The most bytes of a hard state, a committed state or a purge's state: they are repeated in each segment.
pub const STATE_BYTES_MAX: u64 = 4096;

/// Called once, on the log's thread, when the operations are durable, or with [`Error::Failed`] when that will never be known, or with
/// [`Error::Closed`] when the log was shut down while the disk was full. It must not block; it may submit.
pub type Completion = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// What a shard's log holds, as submitted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The first entry; `None` when there is no entry.
    pub first: Option<LogIndex>,
    /// The last entry; `None` when there is no entry.
    pub last: Option<LogPosition>,
    /// The last entry purged.
    pub purged: Option<Purged>,
    /// The hard state.
    pub hard_state: Option<Bytes>,
    /// The hint how far the shard is committed. May be older after a crash, never newer.
    pub committed: Option<Bytes>,
}

/// How a log does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of its segments on disk, as far as they are in use.
    pub bytes: ByteCount,
    /// Segments in use.
    pub segments: u32,
    /// Syncs since it was opened.
    pub syncs: u64,
    /// The disk is full: nothing becomes durable until there is room for a segment. It is tried again and again.
    pub is_waiting_for_room: bool,
}

/// Whose log it is. A log opens only for the one who wrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// The peer.
    pub peer: PeerId,
    /// The life of the peer's disk.
    pub incarnation: Incarnation,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = u128::from_be_bytes(self.cluster);
        write!(
            f,
            "peer {} (incarnation {}) of cluster {cluster:032x}",
            self.peer, self.incarnation
        )
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The Raft logs of a peer's shards. Each shard has one submitter at a time; readers are free.
pub trait RaftLog: Send + Sync {
    /// Takes the operations, all or none: they are visible when this returns, in order, and `done` is called when they are durable. A full
    /// queue lets the caller wait, but not for ever. When nothing but [`Op::Committed`] is submitted, `done` is called at once.
    ///
    /// # Errors
    /// [`Error::Gap`], [`Error::Purged`] or [`Error::TooLarge`] for operations that do not fit the log, [`Error::Overloaded`] when the disk
    /// does not keep up, [`Error::Failed`] or [`Error::Closed`] when the log takes nothing more. Nothing was then taken and `done` is not called.
    fn submit(&self, ops: Vec<Op>, done: Completion) -> Result<(), Error>;

    /// Whether [`submit`](Self::submit) may have to wait: the disk does not keep up at the moment.
    fn is_crowded(&self) -> bool;

    /// The entries of the range, from its first on, without gaps and up to `bytes_max` of payload; at least one when the first one exists. It may
    /// read the disk.
    ///
    /// # Errors
    /// [`Error::Purged`] when the first one was purged, [`Error::Damaged`] when the disk does not hold what was written, [`Error::Disk`].
    fn entries(
        &self,
        shard: Vertex,
        range: Range<LogIndex>,
        bytes_max: ByteCount,
    ) -> Result<Vec<Entry>, Error>;

    /// What the shard's log holds; nothing for a shard that was never written to.
    fn bounds(&self, shard: Vertex) -> Bounds;

    /// The highest entry known to be durable, with all before it.
    fn durable(&self, shard: Vertex) -> Option<LogPosition>;

    /// The shard's last durable entry that lies only in segments older than the newest ones that take `keep` bytes on disk: with all up to it
    /// purged for each shard, those older segments go. `None` when there is none.
    fn aged(&self, shard: Vertex, keep: ByteCount) -> Option<LogIndex>;

    /// Lets the log forget entries that are no longer needed. Space comes back by whole segments, later.
    ///
    /// # Errors
    /// As [`Self::submit`].
    fn purge(&self, shard: Vertex, purged: Purged) -> Result<(), Error> {
        self.submit(vec![Op::Purge { shard, purged }], Box::new(|_| {}))
    }

    /// How the log does.
    fn figures(&self) -> Figures;

    /// Turns to the first failure of a write or sync, after which the log takes nothing more.
    fn failed(&self) -> watch::Receiver<Option<Arc<Error>>>;

    /// Writes what was submitted, then stops. Later submits are refused; reads go on.
    fn shutdown(&self);
}
