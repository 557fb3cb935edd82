//! The thread that makes the log durable: drain the queue, one write, one `fdatasync`, tell everybody.
//!
//! It never retries: the first failed write or sync fails the log; only for a new segment it waits while the disk is full. A new segment begins with a mark and the states of all shards, durable
//! before anything else is written there, so that older segments can go. Begin with [`Writer::run`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::check::after;
use super::index::{Placement, Slot};
use super::keeper::Keeper;
use super::queue::{Group, Job, Shared};
use super::record::{Kind, Record, record_bytes};
use super::segment::{HEADER_BYTES, Segment};
use super::{Entry, Error, Op, Purged};
use crate::env::disk::{self, Lock};
use crate::types::{LogIndex, LogPosition, Term};

/// What is repeated for a shard at the head of a segment: as written last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) hard_state: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
    pub(crate) purged: Option<Purged>,
}

/// Where in the active segment a writer begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Begin {
    /// The segment is empty.
    Empty,
    /// Behind the records that it has.
    Within,
}

/// Owns the end of the log.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) keeper: Keeper,
    /// The segment that is written.
    pub(crate) active: Arc<Segment>,
    /// Where in it the buffer will be written; all before is durable.
    pub(crate) start: u32,
    /// Records not yet written.
    pub(crate) buffer: Vec<u8>,
    /// The next record's.
    pub(crate) sequence: u64,
    pub(crate) heads: BTreeMap<u16, Head>,
    /// Records of this group that the index has to know.
    pub(crate) placements: Vec<Placement>,
    /// Whether nothing was written since the last mark.
    pub(crate) is_marked: bool,
    /// The directory is free for others when the writer has ended. The last field: the keeper's thread ends before.
    #[expect(dead_code, reason = "held for its drop")]
    pub(crate) lock: Lock,
}

/// Fails the log when the thread ends by a panic.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fail(Error::WriterDied, Vec::new());
    }
}

impl Writer {
    /// Writes until the log is closed or fails.
    pub(crate) fn run(mut self) {
        let _guard = Guard(Arc::clone(&self.shared));
        self.shared.begin();
        loop {
            let group = self.shared.next_group(self.is_marked);
            match self.write(&group) {
                Ok(()) => {}
                // Shut down while it waited for room: what is written of the group may come back, as after a power cut.
                Err(Error::Closed) => return self.end(group.jobs),
                Err(error) => return self.shared.fail(error, group.jobs),
            }
            self.shared.publish(&group.jobs, &self.placements);
            let has_purged = self
                .placements
                .iter()
                .any(|placed| matches!(placed.kind, Kind::Purged | Kind::Reset));
            self.placements.clear();
            for done in group.jobs.into_iter().filter_map(|job| job.done) {
                done(Ok(()));
            }
            if has_purged {
                self.remove_unneeded();
            }
            if group.is_last {
                return self.end(Vec::new());
            }
        }
    }

    /// Gives the directory back before it says so.
    fn end(self, unwritten: Vec<Job>) {
        let shared = Arc::clone(&self.shared);
        drop(self);
        shared.closed(unwritten);
    }

    fn write(&mut self, group: &Group) -> Result<(), Error> {
        let newest = newest_committed(&group.jobs);
        for (ticket, op) in group.jobs.iter().flat_map(|job| &job.ops) {
            let is_stale = matches!(op, Op::Committed { shard, .. } if newest.get(&shard.index()) != Some(ticket));
            if !is_stale {
                self.encode(*ticket, op)?;
            }
        }
        if group.is_last {
            self.flush()?;
        }
        if (group.is_idle || group.is_last) && !(self.is_marked && self.buffer.is_empty()) {
            self.mark()?;
        }
        self.flush()
    }

    fn encode(&mut self, ticket: u64, op: &Op) -> Result<(), Error> {
        self.is_marked = false;
        let shard = op.shard().index();
        match op {
            Op::Append { entries, .. } => {
                for Entry { position, payload } in entries {
                    self.place(ticket, (Kind::Entry, shard, *position), payload)?;
                }
                Ok(())
            }
            Op::HardState { state, .. } => {
                self.put((Kind::HardState, shard, NOWHERE), state)?;
                self.head(shard).hard_state = Some(state.clone());
                Ok(())
            }
            Op::Committed { state, .. } => {
                self.put((Kind::Committed, shard, NOWHERE), state)?;
                self.head(shard).committed = Some(state.clone());
                Ok(())
            }
            Op::TruncateAfter { last, .. } => {
                let index = LogIndex(after(*last));
                let position = LogPosition { index, ..NOWHERE };
                self.place(ticket, (Kind::Cut, shard, position), &[])
            }
            Op::Purge { purged, .. } => {
                let index = purged.position.index;
                let known = self.head(shard).purged.as_ref();
                if known.is_some_and(|known| known.position.index >= index) {
                    return Ok(());
                }
                self.place(
                    ticket,
                    (Kind::Purged, shard, purged.position),
                    &purged.state,
                )?;
                self.head(shard).purged = Some(purged.clone());
                Ok(())
            }
            Op::Reset { .. } => {
                self.place(ticket, (Kind::Reset, shard, NOWHERE), &[])?;
                self.heads.remove(&shard);
                Ok(())
            }
        }
    }

    fn head(&mut self, shard: u16) -> &mut Head {
        self.heads.entry(shard).or_default()
    }

    /// Puts a record that the index has to know.
    fn place(
        &mut self,
        ticket: u64,
        what: (Kind, u16, LogPosition),
        payload: &[u8],
    ) -> Result<(), Error> {
        let slot = self.put(what, payload)?;
        let (kind, shard, position) = what;
        self.placements.push(Placement {
            ticket,
            shard,
            kind,
            position,
            slot,
        });
        Ok(())
    }

    /// Puts a record into the buffer, into a new segment when this one is full.
    fn put(&mut self, what: (Kind, u16, LogPosition), payload: &[u8]) -> Result<Slot, Error> {
        let bytes = record_bytes(payload.len() as u64);
        if self.left() < bytes {
            self.flush()?;
            self.roll()?;
            let limit = self.left();
            if limit < bytes {
                return Err(Error::TooLarge { bytes, limit });
            }
        }
        Ok(self.push(what, payload))
    }

    /// Bytes that still fit into the segment.
    fn left(&self) -> u64 {
        let used = u64::from(self.start) + self.buffer.len() as u64;
        u64::from(self.active.bytes).saturating_sub(used)
    }

    fn push(&mut self, (kind, shard, position): (Kind, u16, LogPosition), payload: &[u8]) -> Slot {
        let buffered = u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
        let record = Record {
            sequence: self.sequence,
            index: position.index.0,
            term: position.term.0,
            synced: self.start,
            shard,
            kind,
            payload,
        };
        record.encode(self.active.salt, &mut self.buffer);
        self.sequence += 1;
        Slot {
            segment: self.active.number,
            position: self.start.saturating_add(buffered),
            payload: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        }
    }

    fn mark(&mut self) -> Result<(), Error> {
        self.put((Kind::Mark, 0, NOWHERE), &[])?;
        self.is_marked = true;
        Ok(())
    }

    /// One write, one sync.
    fn flush(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
        self.active
            .file
            .write_all_at(u64::from(self.start), &self.buffer)?;
        self.active.file.sync_data()?;
        self.shared.count_sync();
        self.start = self.start.saturating_add(bytes);
        self.buffer.clear();
        let kept = self.shared.options().group_bytes_max.0.saturating_mul(2);
        self.buffer
            .shrink_to(usize::try_from(kept).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Makes the log ready to be written, on the opener's thread.
    pub(crate) fn begin(&mut self, begin: Begin) -> Result<(), Error> {
        match begin {
            Begin::Empty => self.enter(Arc::clone(&self.active)),
            Begin::Within => {
                self.keeper.prepare();
                Ok(())
            }
        }
    }

    /// Begins the next segment. The buffer is empty and all before is durable.
    fn roll(&mut self) -> Result<(), Error> {
        let next = loop {
            match self.keeper.take() {
                Err(Error::Disk(disk::Error::Full { .. })) => self.shared.wait_for_disk()?,
                taken => break taken?,
            }
        };
        self.shared.had_room();
        self.enter(Arc::new(next))
    }

    /// Begins an empty segment.
    fn enter(&mut self, next: Arc<Segment>) -> Result<(), Error> {
        self.shared.add_segment(&next);
        self.active = next;
        self.start = HEADER_BYTES;
        self.push((Kind::Mark, 0, NOWHERE), &[]);
        for (shard, head) in self.heads.clone() {
            if let Some(purged) = head.purged {
                self.push((Kind::Purged, shard, purged.position), &purged.state);
            }
            if let Some(state) = head.hard_state {
                self.push((Kind::HardState, shard, NOWHERE), &state);
            }
            if let Some(state) = head.committed {
                self.push((Kind::Committed, shard, NOWHERE), &state);
            }
        }
        let (bytes, limit) = (self.buffer.len() as u64, u64::from(self.active.bytes));
        if bytes > limit - u64::from(HEADER_BYTES) {
            return Err(Error::TooLarge { bytes, limit });
        }
        self.flush()?;
        self.keeper.prepare();
        Ok(())
    }

    fn remove_unneeded(&self) {
        let unneeded = self.shared.take_unneeded(self.active.number);
        if !unneeded.is_empty() {
            self.keeper.remove(unneeded);
        }
    }
}

/// The position of records that have none.
const NOWHERE: LogPosition = LogPosition {
    term: Term(0),
    index: LogIndex(0),
};

/// For each shard the number of the last commit hint; the others need not be written.
fn newest_committed(jobs: &[Job]) -> BTreeMap<u16, u64> {
    let ops = jobs.iter().flat_map(|job| &job.ops);
    ops.filter_map(|(ticket, op)| match op {
        Op::Committed { shard, .. } => Some((shard.index(), *ticket)),
        _ => None,
    })
    .collect()
}
