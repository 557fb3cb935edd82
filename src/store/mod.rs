//! The topic store: what a peer's shards have applied, as rows and batches on disk.
//!
//! One database holds all shards of a peer. A shard commits the rows and batches of a group of log entries together with its *mark*, in
//! one atomic write, so that an entry is applied exactly once although nothing is synced here: after a power cut the store is as it
//! was at some earlier mark, and the shared log is replayed from there. [`TopicStore::checkpoint`] makes all marks durable, and
//! [`TopicStore::durable_mark`] is the only gate for purging the log.
//!
//! The store never decides anything: no clock, no retention, no check of what a row means. What cannot be removed at once (a deleted
//! topic) is *doomed* in a commit and swept later in bounded steps, apart from the log: doomed things carry ids that are never reused.
//!
//! Begin with [`TopicStore`]; `key.rs` and `value.rs` have the formats, `kv.rs` the one implementation above two engines:
//! [`FjallStore`] (disk) and [`MemoryStore`] (tests and simulation).

mod disk;
mod engine;
mod error;
mod key;
mod kv;
mod memory;
mod sweep;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;

pub use disk::{FjallStore, Options};
pub use error::Error;
pub use memory::MemoryStore;
pub use sweep::{Doom, Twin};

use crate::types::{ByteCount, Offset, StoredBatch, Timestamp, TopicId, Vertex};

/// A table of a shard. The number is part of every key on disk and is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// One row with what the shard counts.
    Shard = 1,
    /// Topics by name.
    Topic = 2,
    /// Topics by creator, then name.
    TopicByCreator = 3,
    /// Publishers by id.
    Publisher = 4,
    /// Subscribers by id.
    Subscriber = 5,
    /// Sessions by topic, publisher and session.
    Session = 6,
    /// What each publish of a session got, by topic, session number and sequence.
    Sequence = 7,
    /// Cursors by topic and subscriber.
    Subscription = 8,
    /// Topics that a subscriber follows, by subscriber and topic name.
    SubscriptionBySubscriber = 9,
}

/// A key of a row, without shard and table, and the row.
pub type Row = (Bytes, Bytes);

/// Which rows of a table are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowRange<'a> {
    /// What the keys begin with.
    pub prefix: &'a [u8],
    /// The keys wanted are greater than this whole key.
    pub after: Option<&'a [u8]>,
}

/// Which batches of a topic are wanted, and how much of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRange {
    /// The first message wanted.
    pub from: Offset,
    /// The message after the last one wanted.
    pub until: Offset,
    /// Messages at most, over all batches.
    pub count_max: u32,
    /// Bytes of payload at most, over all batches; one message is always given.
    pub bytes_max: ByteCount,
}

/// What one commit changes.
#[derive(Debug, Clone, Default)]
pub struct Writes {
    /// Rows by table and key: the new row, or `None` to remove it.
    pub rows: BTreeMap<(Table, Bytes), Option<Bytes>>,
    /// New batches.
    pub batches: Vec<(TopicId, StoredBatch)>,
    /// What the sweep is to remove.
    pub dooms: Vec<Doom>,
}

/// How the store does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes on disk, the engine's own log included.
    pub disk_bytes: ByteCount,
    /// Files of the engine's own log. Grows without bound when flushes hang.
    pub journal_count: u64,
    /// Tables not yet merged. Many of them slow reads and in the end writes.
    pub l0_table_count: u64,
    /// Flushes that wait.
    pub flush_count: u64,
}

/// Rows and batches of the shards of one peer. Calls block: from async code use a blocking thread.
///
/// Readers may run beside a commit. A single row or batch is then seen before or after it; a commit makes its batches visible before
/// its rows, so what a row speaks of can be read.
pub trait TopicStore: Send + Sync {
    /// The mark of the shard's last commit; `None` when there was none.
    ///
    /// # Errors
    /// [`Error`] when the engine fails or the mark is damaged.
    fn mark(&self, shard: Vertex) -> Result<Option<Bytes>, Error>;

    /// The last mark of the shard that a power cut cannot take back. The log may be purged up to it and no further.
    fn durable_mark(&self, shard: Vertex) -> Option<Bytes>;

    /// Makes all changes, or none, and sets the shard's mark. Survives the end of the process at once, a power cut from the next
    /// [`checkpoint`](Self::checkpoint) on.
    ///
    /// # Errors
    /// [`Error`] when the engine fails: the store is then not usable any more.
    fn commit(&self, shard: Vertex, writes: Writes, mark: Bytes) -> Result<(), Error>;

    /// One row.
    ///
    /// # Errors
    /// [`Error`] when the engine fails or the row is damaged.
    fn row(&self, shard: Vertex, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// At most `limit` rows in the order of their keys.
    ///
    /// # Errors
    /// [`Error`] when the engine fails or a row is damaged.
    fn rows(
        &self,
        shard: Vertex,
        table: Table,
        range: RowRange<'_>,
        limit: usize,
    ) -> Result<Vec<Row>, Error>;

    /// The messages of a topic in a range, cut exactly at its borders and limits. Payloads share the engine's memory.
    ///
    /// # Errors
    /// [`Error`] when the engine fails or a batch is damaged.
    fn batches(&self, topic: TopicId, range: BatchRange) -> Result<Vec<StoredBatch>, Error>;

    /// The batch that holds a message, or the last one before it.
    ///
    /// # Errors
    /// [`Error`] when the engine fails or the batch is damaged.
    fn batch_at(&self, topic: TopicId, offset: Offset) -> Result<Option<StoredBatch>, Error>;

    /// Where the first batch appended at `time` or later begins, among the messages from `first` up to, not including, `next`; `next`
    /// when all are older. Takes a logarithmic number of reads.
    ///
    /// # Errors
    /// [`Error`] when the engine fails, or a batch is damaged or missing.
    fn offset_at(
        &self,
        topic: TopicId,
        messages: std::ops::Range<Offset>,
        time: Timestamp,
    ) -> Result<Offset, Error>;

    /// Removes at most about `limit` doomed rows and batches, of any shard, and says how many; 0 when nothing is doomed.
    ///
    /// # Errors
    /// [`Error`] when the engine fails.
    fn sweep(&self, limit: usize) -> Result<usize, Error>;

    /// Makes everything committed before the call durable.
    ///
    /// # Errors
    /// [`Error`] when the disk fails: the store is then not usable any more, and trying again would hide the loss.
    fn checkpoint(&self) -> Result<(), Error>;

    /// Whether the next commit is sure not to wait for flushes or compactions: nothing is left to catch up with.
    fn is_calm(&self) -> bool;

    /// How the store does.
    ///
    /// # Errors
    /// [`Error`] when the engine fails.
    fn figures(&self) -> Result<Figures, Error>;
}
