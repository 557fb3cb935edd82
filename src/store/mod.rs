//! The topic store: what a peer's shards have applied, as rows and batches on disk.
//!
//! One database holds all shards of a peer. A shard commits the rows and batches of a group of log entries together with its *mark* into
//! a sorted memtable. A full memtable is sealed at a commit's end and flushed by a thread of its own, so an entry is applied exactly once
//! although nothing is written here at once: after the end of the process the store is as the last flush left it, and the shared log is
//! replayed from its marks. [`TopicStore::checkpoint`] flushes now, and [`TopicStore::durable_mark`] is the only gate for purging the log.
//!
//! The store never decides anything: no clock, no retention, no check of what a row means. What cannot be removed at once (a deleted
//! topic) is *doomed* in a commit and swept later in bounded steps, apart from the log: doomed things carry ids that are never reused.
//!
//! Begin with [`TopicStore`]; `key.rs` and `value.rs` have the formats, `kv.rs` the one implementation above two engines:
//! [`FjallStore`] (disk) and [`MemoryStore`] (tests and simulation). `memtable.rs` holds what is not flushed, `flush.rs` flushes it,
//! `read.rs` reads both as one. `epoch.rs` keeps readers from what is being replaced.

mod cause;
mod disk;
mod engine;
mod epoch;
mod error;
mod flush;
#[cfg(test)]
mod full;
mod inspect;
mod key;
mod kv;
mod memory;
mod memtable;
mod read;
mod replace;
mod sweep;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

pub use disk::{FjallStore, Options};
pub use epoch::{Epoch, Lease};
pub use error::{Cause, Error};
#[cfg(test)]
pub use full::FullStore;
pub use inspect::{Finding, Inspected, InspectedShard, inspect};
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
    /// Topics that do not keep their messages for ever, by topic.
    Retention = 10,
    /// What is known of shared subscriptions beside their cursors, by topic and subscriber.
    Share = 11,
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
    /// Memory that holds what is not flushed yet.
    pub memtable_bytes: ByteCount,
    /// Flushes of the memtable since the start.
    pub flush_count: u64,
    /// Bytes that these flushes wrote into the engine.
    pub flushed_bytes: ByteCount,
    /// Whether the last flush found the disk full and is tried again.
    pub is_waiting_for_room: bool,
    /// Files of the engine's own log. Grows when flushes hang.
    pub journal_count: u64,
    /// Bytes of the engine's own log.
    pub journal_bytes: ByteCount,
    /// Tables not yet merged. Many of them slow reads and in the end writes.
    pub l0_table_count: u64,
    /// All tables.
    pub table_count: u64,
    /// Files of values kept apart from their keys.
    pub blob_file_count: u64,
    /// Bytes in these files that nothing refers to any more and that are not given back yet.
    pub stale_blob_bytes: ByteCount,
    /// Flushes inside the engine that wait.
    pub engine_flush_count: u64,
    /// Compactions that run.
    pub compaction_count: u64,
}

/// The first damage met in each shard, by the shard's number.
pub type Damaged = BTreeMap<u16, Arc<Error>>;

/// What a source of records outside the store ended with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Reads the rows and batches of shards. Calls block: from async code use a blocking thread.
///
/// Readers may run beside a commit. A single row or batch is then seen before or after it; a commit makes its batches visible before
/// its rows, so what a row speaks of can be read.
pub trait Reader: Send + Sync {
    /// The mark of the shard's last commit; `None` when there was none.
    ///
    /// # Errors
    /// [`Error`] when the engine fails or the mark is damaged.
    fn mark(&self, shard: Vertex) -> Result<Option<Bytes>, Error>;

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

    /// The messages of a topic in a range, cut exactly at its borders and limits. Payloads share the store's memory. Nothing when the
    /// range begins before the first message that is left.
    ///
    /// # Errors
    /// [`Error`] when the engine fails, or a batch is damaged or missing between two others.
    fn batches(&self, topic: TopicId, range: BatchRange) -> Result<Vec<StoredBatch>, Error>;

    /// The batch that holds a message, or the last one before it.
    ///
    /// # Errors
    /// [`Error`] when the engine fails or the batch is damaged.
    fn batch_at(&self, topic: TopicId, offset: Offset) -> Result<Option<StoredBatch>, Error>;

    /// Where the first batch appended at `time` or later begins, among the messages from `first` up to, not including, `next`; `next`
    /// when all are older. Messages that are not there any more count as older. Takes a logarithmic number of reads.
    ///
    /// # Errors
    /// [`Error`] when the engine fails, or a batch is damaged or missing.
    fn offset_at(
        &self,
        topic: TopicId,
        messages: Range<Offset>,
        time: Timestamp,
    ) -> Result<Offset, Error>;
}

/// Rows and batches of the shards of one peer. Calls block: from async code use a blocking thread.
pub trait TopicStore: Reader {
    /// The last mark of the shard that neither the end of the process nor a power cut can take back. The log may be purged up to it and
    /// no further.
    fn durable_mark(&self, shard: Vertex) -> Option<Bytes>;

    /// Makes all changes and sets the shard's mark, in memory. Readers see them at once; they survive the end of the process from the
    /// next flush on, all or none of them. Waits while two memtables are full. Commits of one shard come one after the other.
    ///
    /// # Errors
    /// [`Error`] when the store has failed: nothing is changed, and nothing can be any more.
    fn commit(&self, shard: Vertex, writes: Writes, mark: Bytes) -> Result<(), Error>;

    /// Removes at most about `limit` doomed rows and batches, of any shard, and says how many; 0 when nothing is doomed. Only what was
    /// doomed before the last flush is removed.
    ///
    /// # Errors
    /// [`Error`] when the engine fails.
    fn sweep(&self, limit: usize) -> Result<usize, Error>;

    /// Flushes all that was committed before the call: it is durable afterwards. Cheap when there is nothing.
    ///
    /// # Errors
    /// [`Error::Full`] when the disk is full: the store goes on and tries again by itself. Any other [`Error`] when the disk fails: trying again would
    /// hide the loss, and [`failed`](Self::failed) tells whether the store is not usable any more.
    fn checkpoint(&self) -> Result<(), Error>;

    /// All shards as the last flush left them. What is committed or swept later does not show. For the newest state call
    /// [`checkpoint`](Self::checkpoint) first. Keeps old files on disk as long as it lives.
    ///
    /// # Errors
    /// [`Error`] when the engine fails.
    fn snapshot(&self) -> Result<Arc<dyn Reader>, Error>;

    /// Replaces all that the store holds of a shard, durably. A read beside it ends with [`Error::Replaced`]. After a crash in between, or
    /// [`Error::Part`], the shard is empty and without a mark, never mixed; after another error its epoch is not settled, and it has to be
    /// erased. No commit of this shard may run beside it. The caller's parts may not overlap: no key in two of them.
    ///
    /// # Errors
    /// [`Error::Part`] when `parts` ends with an error, any other [`Error`] as for [`checkpoint`](Self::checkpoint).
    fn replace(
        &self,
        shard: Vertex,
        parts: &mut dyn Iterator<Item = Result<Writes, BoxError>>,
        mark: Bytes,
    ) -> Result<(), Error>;

    /// Removes all that the store holds of a shard, its mark and its damage too, durably. A read beside it ends with
    /// [`Error::Replaced`]. No commit of this shard may run beside it.
    ///
    /// # Errors
    /// [`Error`] as for [`checkpoint`](Self::checkpoint).
    fn erase(&self, shard: Vertex) -> Result<(), Error>;

    /// The shards whose part of the store is damaged, each with what was met first. A shard is in it until it is erased or replaced.
    fn damaged(&self) -> watch::Receiver<Damaged>;

    /// Takes note of damage in a shard that only shows above the store: a row that is missing, or whole but without sense.
    fn blame(&self, shard: Vertex, source: Cause);

    /// Which content the shard has. What was read under one epoch does not count under another; see [`Lease`].
    fn epoch(&self, shard: Vertex) -> Epoch;

    /// Why the store cannot be written any more; `None` while it can.
    fn failed(&self) -> watch::Receiver<Option<Arc<Error>>>;

    /// Whether the next commit is sure not to wait for flushes or compactions: nothing is left to catch up with.
    fn is_calm(&self) -> bool;

    /// How the store does.
    ///
    /// # Errors
    /// [`Error`] when the engine fails.
    fn figures(&self) -> Result<Figures, Error>;
}
