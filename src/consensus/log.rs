//! openraft's log of one shard, as a view of the peer's write-ahead log.
//!
//! What openraft adds to an entry stands before the command in the record's payload:
//!
//! ```text
//! offset  bytes  field
//!      0      8  node   Raft id of the leader that appended the entry, little-endian (its term is in the record)
//!      8      1  kind   0 nothing, 1 command, 2 membership (`cubecast.peer.v1.Membership`)
//!      9      …  body
//! ```

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Stream, TryStreamExt, stream};
use openraft::alias::{CommittedLeaderIdOf, VoteOf};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};
use prost::Message;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::convert;
use super::machine::blocking;
use super::types::{Entry, LogId, Proposal, Types, position};
use crate::proto::peer::v1 as proto;
use crate::types::{ByteCount, LogIndex, Vertex};
use crate::wal::{self, Op, Purged, RaftLog};

const HEADER_BYTES: usize = 9;
const KIND_BLANK: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// One append to a follower carries at most this much (unless one entry is larger): 256 KiB to 4 MiB were
/// measured and made no difference.
const APPEND_BYTES_MAX: ByteCount = ByteCount(1 << 20);

/// Entries that are to be applied are read this much at a time: a replica that catches up has more to apply than fits in memory.
const APPLY_BYTES_MAX: ByteCount = ByteCount(4 << 20);

/// The log of one shard.
#[derive(Clone)]
pub(super) struct ShardLog {
    shard: Vertex,
    wal: Arc<dyn RaftLog>,
    /// The term and the candidate of the vote that is on disk.
    granted: Option<(u64, u64)>,
    /// Changes when appended entries have reached the disk, or never will.
    written: watch::Sender<()>,
    /// Nobody waits for the disk any more: the group is to stop, and a full disk may take for ever.
    given_up: CancellationToken,
}

/// Tells when entries of one shard are on this peer's disk.
pub(super) struct Durability {
    shard: Vertex,
    wal: Arc<dyn RaftLog>,
    written: watch::Receiver<()>,
    given_up: CancellationToken,
}

fn given_up() -> io::Error {
    io::Error::other("the group stops, and the write-ahead log still waits for the disk")
}

impl Durability {
    /// Waits until an entry and all before it are on disk.
    pub(super) async fn reaches(&mut self, index: LogIndex) -> io::Result<()> {
        let mut failed = self.wal.failed();
        loop {
            self.written.mark_unchanged();
            let durable = self.wal.durable(self.shard);
            if durable.is_some_and(|durable| durable.index >= index) {
                return Ok(());
            }
            tokio::select! {
                changed = self.written.changed() => changed.map_err(io::Error::other)?,
                () = self.given_up.cancelled() => return Err(given_up()),
                why = failed.wait_for(Option::is_some) => {
                    let why = why.map_err(io::Error::other)?;
                    return Err(io::Error::other(format!("the write-ahead log failed: {:?}", *why)));
                }
            }
        }
    }
}

impl ShardLog {
    pub(super) fn new(shard: Vertex, wal: Arc<dyn RaftLog>, given_up: CancellationToken) -> Self {
        let written = watch::Sender::new(());
        Self {
            shard,
            wal,
            granted: None,
            written,
            given_up,
        }
    }

    pub(super) fn durability(&self) -> Durability {
        Durability {
            shard: self.shard,
            wal: Arc::clone(&self.wal),
            written: self.written.subscribe(),
            given_up: self.given_up.clone(),
        }
    }

    /// Hands operations to the log and waits until they are on disk.
    async fn submit(&self, op: Op) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result: Result<(), wal::Error>| {
            // The receiver is gone only when openraft itself was stopped.
            let _ = sender.send(result);
        });
        self.wal.submit(vec![op], done).map_err(io::Error::other)?;
        let result = tokio::select! {
            result = receiver => result,
            // Whether it comes to the disk is open, and nothing is said that depends on it.
            () = self.given_up.cancelled() => return Err(given_up()),
        };
        match result {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the write-ahead log stopped")),
        }
    }

    fn read(&self, range: Range<u64>, bytes_max: ByteCount) -> io::Result<Vec<Entry>> {
        let range = LogIndex(range.start)..LogIndex(range.end);
        let entries = self
            .wal
            .entries(self.shard, range, bytes_max)
            .map_err(io::Error::other)?;
        entries.into_iter().map(decode).collect()
    }

    fn end(&self) -> u64 {
        let last = self.wal.bounds(self.shard).last;
        last.map_or(0, |last| last.index.0 + 1)
    }

    /// The entries of a range, read a part at a time.
    fn parts(self, range: Range<u64>) -> impl Stream<Item = io::Result<Vec<Entry>>> + Send {
        stream::try_unfold(range.start, move |next| {
            let part = if next < range.end {
                self.read(next..range.end, APPLY_BYTES_MAX).map(Some)
            } else {
                Ok(None)
            };
            let missing = || io::Error::new(io::ErrorKind::NotFound, format!("entry {next}"));
            std::future::ready(match part {
                Ok(Some(entries)) if entries.is_empty() => Err(missing()),
                Ok(Some(entries)) => {
                    let count = entries.len() as u64;
                    Ok(Some((entries, next + count)))
                }
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            })
        })
    }

    fn last_log_id(&self) -> io::Result<Option<LogId>> {
        let Some(last) = self.wal.bounds(self.shard).last else {
            return Ok(None);
        };
        let entries = self.read(last.index.0..last.index.0 + 1, ByteCount(0))?;
        Ok(entries.into_iter().next().map(|entry| entry.log_id))
    }
}

/// An entry as the write-ahead log holds it.
fn encode(entry: &Entry) -> wal::Entry {
    let mut payload = BytesMut::with_capacity(HEADER_BYTES + payload_len(entry));
    payload.put_u64_le(entry.log_id.leader_id.node_id);
    match &entry.payload {
        EntryPayload::Blank => payload.put_u8(KIND_BLANK),
        EntryPayload::Normal(proposal) => {
            payload.put_u8(KIND_COMMAND);
            payload.put_slice(&proposal.0);
        }
        EntryPayload::Membership(membership) => {
            payload.put_u8(KIND_MEMBERSHIP);
            payload.put_slice(&convert::membership_to_proto(membership).encode_to_vec());
        }
    }
    wal::Entry {
        position: position(&entry.log_id),
        payload: payload.freeze(),
    }
}

fn candidate(vote: &VoteOf<Types>) -> (u64, u64) {
    (vote.leader_id.term, vote.leader_id.node_id)
}

fn encode_log_id(id: &LogId) -> Bytes {
    convert::log_id_to_proto(id).encode_to_vec().into()
}

fn decode_log_id(bytes: Bytes) -> io::Result<LogId> {
    let id = proto::LogId::decode(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(convert::log_id_from_proto(&id))
}

fn payload_len(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

fn decode(entry: wal::Entry) -> io::Result<Entry> {
    let position = entry.position;
    let damaged = |what: &str| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("log entry {position} is not an entry of this version: {what}"),
        )
    };
    let mut payload: Bytes = entry.payload;
    if payload.len() < HEADER_BYTES {
        return Err(damaged("it is too short"));
    }
    let leader = CommittedLeaderIdOf::<Types> {
        term: position.term.0,
        node_id: payload.get_u64_le(),
    };
    let payload = match payload.get_u8() {
        KIND_BLANK => EntryPayload::Blank,
        KIND_COMMAND => EntryPayload::Normal(Proposal(payload)),
        KIND_MEMBERSHIP => {
            let membership = proto::Membership::decode(payload)
                .map_err(|_| damaged("its membership does not decode"))?;
            EntryPayload::Membership(
                convert::membership_from_proto(&membership)
                    .map_err(|_| damaged("its membership is incomplete"))?,
            )
        }
        _ => return Err(damaged("its kind is unknown")),
    };
    Ok(Entry {
        log_id: LogId::new(leader, position.index.0),
        payload,
    })
}

fn exclusive(range: &impl RangeBounds<u64>, end_of_log: u64) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.min(end_of_log)
}

impl RaftLogReader<Types> for ShardLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let range = exclusive(&range, self.end());
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.read(range, ByteCount(u64::MAX))
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        let Some(bytes) = self.wal.bounds(self.shard).hard_state else {
            return Ok(None);
        };
        let vote = proto::Vote::decode(bytes).map_err(io::Error::other)?;
        let vote = convert::vote_from_proto(&vote);
        self.granted = Some(candidate(&vote));
        Ok(Some(vote))
    }

    async fn entries_stream<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend {
        let range = exclusive(&range, self.end());
        let parts = self.clone().parts(range);
        parts
            .map_ok(|entries| stream::iter(entries.into_iter().map(Ok)))
            .try_flatten()
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, APPEND_BYTES_MAX)
    }
}

impl RaftLogStorage<Types> for ShardLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let purged = self.wal.bounds(self.shard).purged;
        let last_purged_log_id = purged
            .map(|purged| decode_log_id(purged.state))
            .transpose()?;
        let last_log_id = self.last_log_id()?.or(last_purged_log_id);
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        let op = Op::HardState {
            shard: self.shard,
            state: convert::vote_to_proto(vote).encode_to_vec().into(),
        };
        if vote.committed && self.granted == Some(candidate(vote)) {
            // Only that the vote has won is new, which nobody has to remember (Raft, figure 2: what persists is the term and whom the vote went to;
            // openraft knows no vote between the two, and begins with the lesser one itself after a start). What follows in the log is on disk only
            // with it, so neither a new leader nor its followers wait for one sync more before the first entry.
            let submitted = self.wal.submit(vec![op], Box::new(|_| ()));
            return submitted.map_err(io::Error::other);
        }
        self.granted = None;
        self.submit(op).await?;
        self.granted = Some(candidate(vote));
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else {
            return Ok(());
        };
        // Nobody waits for the disk: what is lost is found again by the protocol.
        let op = Op::Committed {
            shard: self.shard,
            state: encode_log_id(&committed),
        };
        self.wal
            .submit(vec![op], Box::new(|_| ()))
            .map_err(io::Error::other)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        // A log that a power cut shortened may end before what was written without waiting.
        let last = self.last_log_id()?;
        let committed = self
            .wal
            .bounds(self.shard)
            .committed
            .map(decode_log_id)
            .transpose()?;
        Ok(committed.filter(|committed| {
            last.as_ref()
                .is_some_and(|last| last.index >= committed.index)
        }))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| encode(&entry)).collect();
        let written = self.written.clone();
        let done = Box::new(move |result: Result<(), wal::Error>| {
            written.send_replace(());
            callback.io_completed(result.map_err(io::Error::other))
        });
        let append = Op::Append {
            shard: self.shard,
            entries,
        };
        let submit = || self.wal.submit(vec![append], done);
        // Heartbeats must not wait with it.
        let submitted = match self.wal.is_crowded() {
            true => blocking(submit),
            false => submit(),
        };
        submitted.map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let last = last_log_id.map(|id| LogIndex(id.index));
        self.submit(Op::TruncateAfter {
            shard: self.shard,
            last,
        })
        .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let purged = Purged {
            position: position(&log_id),
            state: encode_log_id(&log_id),
        };
        self.submit(Op::Purge {
            shard: self.shard,
            purged,
        })
        .await
    }
}

#[cfg(test)]
mod tests;
