//! What submitters, readers and the writer share: the index of each shard and the queue.
//!
//! One lock guards both, so that what is visible and what is queued never differ in order. It is never held during I/O. Begin with
//! [`Shared::submit`] and [`Shared::next_group`].

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use bytes::Bytes;
use tokio::sync::watch;
use tracing::{info, warn};

use super::check::{after, check};
use super::index::{Placement, ShardLog};
use super::record::record_bytes;
use super::segment::Segment;
use super::{Completion, Error, Figures, Op, Options, STATE_BYTES_MAX};
use crate::types::{ByteCount, LogIndex};

/// Payloads up to this size are copied, so that an entry in memory never holds a whole receive buffer alive for a few bytes.
const COPY_BYTES_MAX: usize = 16 << 10;

/// Everything but the writer's own state.
pub(crate) struct Shared {
    options: Options,
    state: Mutex<State>,
    /// The queue has something to write, or the log is to stop.
    wake: Condvar,
    /// The queue has become shorter, or the log has stopped.
    room: Condvar,
    failed: watch::Sender<Option<Arc<Error>>>,
    syncs: AtomicU64,
}

/// Guarded by the lock.
#[derive(Debug)]
pub(crate) struct State {
    /// By the index of the vertex.
    pub(crate) shards: BTreeMap<u16, ShardLog>,
    /// The segments that exist, by number.
    pub(crate) segments: BTreeMap<u32, Arc<Segment>>,
    queue: VecDeque<Job>,
    /// Bytes of records queued or being written.
    queued_bytes: u64,
    /// Whether somebody waits for something in the queue.
    is_urgent: bool,
    /// The number of the latest operation.
    ticket: u64,
    status: Status,
    /// The writer waits without an end, because all that was written is marked.
    is_resting: bool,
    /// The writer waits for the disk to have room.
    is_waiting_for_room: bool,
    /// The thread that must not wait for room, because it makes it.
    writer: Option<ThreadId>,
}

#[derive(Debug)]
enum Status {
    Open,
    Closing,
    Closed,
    Failed(Arc<Error>),
}

/// What one call submitted.
pub(crate) struct Job {
    /// Operations with their numbers.
    pub(crate) ops: Vec<(u64, Op)>,
    /// `None` when nobody waits.
    pub(crate) done: Option<Completion>,
    /// Bytes of its records.
    pub(crate) bytes: u64,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("ops", &self.ops)
            .finish_non_exhaustive()
    }
}

/// What the writer does next.
pub(crate) struct Group {
    pub(crate) jobs: Vec<Job>,
    /// Nothing else waits: a mark is to protect what was written last.
    pub(crate) is_idle: bool,
    /// It is the last one.
    pub(crate) is_last: bool,
}

impl Shared {
    pub(crate) fn new(
        options: Options,
        shards: BTreeMap<u16, ShardLog>,
        segments: BTreeMap<u32, Arc<Segment>>,
    ) -> Self {
        Self {
            options,
            state: Mutex::new(State {
                shards,
                segments,
                queue: VecDeque::new(),
                queued_bytes: 0,
                is_urgent: false,
                ticket: 0,
                status: Status::Open,
                is_resting: false,
                is_waiting_for_room: false,
                writer: None,
            }),
            wake: Condvar::new(),
            room: Condvar::new(),
            failed: watch::channel(None).0,
            syncs: AtomicU64::new(0),
        }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The state. A panic elsewhere fails the log through the writer's guard, so a poisoned lock says nothing more.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn failed(&self) -> watch::Receiver<Option<Arc<Error>>> {
        self.failed.subscribe()
    }

    /// See [`super::RaftLog::submit`].
    pub(crate) fn submit(&self, mut ops: Vec<Op>, done: Completion) -> Result<(), Error> {
        let bytes = self.prepare(&mut ops)?;
        let is_urgent = ops.iter().any(|op| !matches!(op, Op::Committed { .. }));
        let mut state = self.wait_for_room(bytes)?;
        check(&state.shards, &ops)?;
        let first_ticket = state.ticket + 1;
        state.ticket += ops.len() as u64;
        for (ticket, op) in (first_ticket..).zip(&ops) {
            state.show(ticket, op);
        }
        let is_first = state.queue.is_empty();
        let (waiting, done) = if is_urgent {
            (Some(done), None)
        } else {
            (None, Some(done))
        };
        if !ops.is_empty() {
            let ops = (first_ticket..).zip(ops).collect();
            state.queue.push_back(Job {
                ops,
                done: waiting,
                bytes,
            });
            state.queued_bytes += bytes;
        }
        // What nobody waits for needs no wake-up of its own, unless the writer would never look.
        let is_to_wake = (is_urgent && !state.is_urgent) || (is_first && state.is_resting);
        state.is_urgent |= is_urgent;
        drop(state);
        if is_to_wake {
            self.wake.notify_one();
        }
        if let Some(done) = done {
            done(Ok(()));
        }
        Ok(())
    }

    /// Checks sizes and copies small payloads; the bytes of all records.
    fn prepare(&self, ops: &mut [Op]) -> Result<u64, Error> {
        let mut bytes: u64 = 0;
        let limit = self.options.record_bytes_max();
        for op in ops {
            match op {
                Op::Append { entries, .. } => {
                    for entry in entries {
                        bytes += sized(&entry.payload, limit)?;
                        copy_small(&mut entry.payload);
                    }
                }
                Op::HardState { state, .. } | Op::Committed { state, .. } => {
                    bytes += sized(state, limit.min(record_bytes(STATE_BYTES_MAX)))?;
                    copy_small(state);
                }
                Op::Purge { purged, .. } => {
                    bytes += sized(&purged.state, limit.min(record_bytes(STATE_BYTES_MAX)))?;
                    copy_small(&mut purged.state);
                }
                Op::TruncateAfter { .. } | Op::Reset { .. } => bytes += record_bytes(0),
            }
        }
        Ok(bytes)
    }

    /// Whether the queue is more than half full: what is submitted by one caller is far less than the other half.
    pub(crate) fn is_crowded(&self) -> bool {
        self.lock().queued_bytes > self.options.queue_bytes_max.0 / 2
    }

    /// Waits until the queue takes this much more; something always fits into an empty one.
    fn wait_for_room(&self, bytes: u64) -> Result<MutexGuard<'_, State>, Error> {
        let limit = self.options.queue_bytes_max.0;
        let is_writer = |state: &State| state.writer == Some(thread::current().id());
        let is_full = |state: &mut State| {
            let queued = state.queued_bytes;
            let fits = queued == 0 || queued.saturating_add(bytes) <= limit || is_writer(state);
            !fits && state.accepts().is_ok()
        };
        let wait_max = self.options.queue_wait_max;
        let waited = self.room.wait_timeout_while(self.lock(), wait_max, is_full);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        state.accepts()?;
        if timeout.timed_out() {
            let queued = state.queued_bytes;
            return Err(Error::Overloaded { queued, limit });
        }
        Ok(state)
    }

    /// Waits for work. `is_marked` says that nothing was written since the last mark.
    pub(crate) fn next_group(&self, is_marked: bool) -> Group {
        let mut state = self.lock();
        let mut is_idle = false;
        while !(state.is_urgent || is_idle || matches!(state.status, Status::Closing)) {
            if is_marked && state.queue.is_empty() {
                state.is_resting = true;
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.is_resting = false;
                continue;
            }
            let waited = self.wake.wait_timeout(state, self.options.idle_after);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            is_idle = timeout.timed_out();
        }
        let jobs = state.drain(self.options.group_bytes_max.0);
        let is_last = matches!(state.status, Status::Closing) && state.queue.is_empty();
        Group {
            jobs,
            is_idle,
            is_last,
        }
    }

    /// Tells readers where the records are, now that they are durable, and makes room in the queue.
    pub(crate) fn publish(&self, jobs: &[Job], placements: &[Placement]) {
        let cached_max = self.options.cache_bytes_max.0;
        let mut state = self.lock();
        let written = jobs.iter().rev().find_map(|job| job.ops.last());
        let written = written.map_or(0, |(ticket, _)| *ticket);
        for placement in placements {
            let log = state.shards.entry(placement.shard).or_default();
            log.place(placement);
        }
        for log in state.shards.values_mut() {
            log.evict(written, cached_max);
        }
        let bytes: u64 = jobs.iter().map(|job| job.bytes).sum();
        state.queued_bytes = state.queued_bytes.saturating_sub(bytes);
        drop(state);
        self.room.notify_all();
    }

    /// The segments that no shard needs any more, oldest first; they are no longer known afterwards.
    pub(crate) fn take_unneeded(&self, active: u32) -> Vec<Arc<Segment>> {
        let mut state = self.lock();
        let oldest = state
            .shards
            .values()
            .filter_map(ShardLog::oldest_segment)
            .min();
        let first = oldest.unwrap_or(active).min(active);
        let kept = state.segments.split_off(&first);
        std::mem::replace(&mut state.segments, kept)
            .into_values()
            .collect()
    }

    /// Lets readers find the records of a segment.
    pub(crate) fn add_segment(&self, segment: &Arc<Segment>) {
        let mut state = self.lock();
        state.segments.insert(segment.number, Arc::clone(segment));
    }

    /// A group became durable.
    pub(crate) fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn figures(&self) -> Figures {
        let state = self.lock();
        let bytes = state
            .segments
            .values()
            .map(|segment| u64::from(segment.bytes));
        Figures {
            bytes: ByteCount(bytes.sum()),
            segments: u32::try_from(state.segments.len()).unwrap_or(u32::MAX),
            syncs: self.syncs.load(Ordering::Relaxed),
            is_waiting_for_room: state.is_waiting_for_room,
        }
    }

    /// The calling thread is the writer.
    pub(crate) fn begin(&self) {
        self.lock().writer = Some(thread::current().id());
    }

    /// Whether the calling thread is the writer.
    pub(crate) fn is_writer(&self) -> bool {
        self.lock().writer == Some(thread::current().id())
    }

    /// Asks the writer to write what is queued and to end.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if matches!(state.status, Status::Open) {
            state.status = Status::Closing;
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Waits a while for others to make room on the disk; [`Error::Closed`] when the log is to end meanwhile.
    pub(crate) fn wait_for_disk(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.is_waiting_for_room, true) {
            warn!("the disk is full: the log waits for room for a segment");
        }
        let is_open = |state: &mut State| matches!(state.status, Status::Open);
        let interval = self.options.room_retry_interval;
        let waited = self.wake.wait_timeout_while(state, interval, is_open);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.accepts()
    }

    /// There was room on the disk.
    pub(crate) fn had_room(&self) {
        if std::mem::take(&mut self.lock().is_waiting_for_room) {
            info!("the disk has room again: the log goes on");
        }
    }

    /// The writer ended in order. `jobs` and all that is queued are what a full disk did not take.
    pub(crate) fn closed(&self, jobs: Vec<Job>) {
        let mut state = self.lock();
        state.status = Status::Closed;
        let queued = std::mem::take(&mut state.queue);
        drop(state);
        self.room.notify_all();
        for done in jobs.into_iter().chain(queued).filter_map(|job| job.done) {
            done(Err(Error::Closed));
        }
    }

    /// Fails the log for good, unless it has ended: `jobs` and all that is queued will never be durable.
    pub(crate) fn fail(&self, error: Error, jobs: Vec<Job>) {
        let cause = Arc::new(error);
        let mut state = self.lock();
        if matches!(state.status, Status::Failed(_) | Status::Closed) {
            return;
        }
        state.status = Status::Failed(Arc::clone(&cause));
        let queued = std::mem::take(&mut state.queue);
        drop(state);
        self.room.notify_all();
        self.failed.send_replace(Some(Arc::clone(&cause)));
        for done in jobs.into_iter().chain(queued).filter_map(|job| job.done) {
            done(Err(Error::Failed {
                cause: Arc::clone(&cause),
            }));
        }
    }
}

/// The bytes of a record with this payload.
fn sized(payload: &Bytes, limit: u64) -> Result<u64, Error> {
    let bytes = record_bytes(payload.len() as u64);
    if bytes > limit {
        return Err(Error::TooLarge { bytes, limit });
    }
    Ok(bytes)
}

fn copy_small(payload: &mut Bytes) {
    if payload.len() <= COPY_BYTES_MAX {
        *payload = Bytes::copy_from_slice(payload);
    }
}

impl State {
    fn accepts(&self) -> Result<(), Error> {
        match &self.status {
            Status::Open => Ok(()),
            Status::Closing | Status::Closed => Err(Error::Closed),
            Status::Failed(cause) => Err(Error::Failed {
                cause: Arc::clone(cause),
            }),
        }
    }

    /// See [`super::RaftLog::aged`].
    pub(crate) fn aged(&self, shard: u16, keep: u64) -> Option<LogIndex> {
        let mut kept: u64 = 0;
        let mut oldest_kept = u32::MAX;
        for segment in self.segments.values().rev() {
            if kept >= keep {
                break;
            }
            kept = kept.saturating_add(u64::from(segment.bytes));
            oldest_kept = segment.number;
        }
        self.shards.get(&shard)?.last_before(oldest_kept)
    }

    /// Makes a checked operation visible.
    fn show(&mut self, ticket: u64, op: &Op) {
        let log = self.shards.entry(op.shard().index()).or_default();
        match op {
            Op::Append { entries, .. } => {
                for entry in entries {
                    log.append(ticket, entry.clone());
                }
            }
            Op::HardState { state, .. } => log.hard_state = Some(state.clone()),
            Op::Committed { state, .. } => log.committed = Some(state.clone()),
            Op::TruncateAfter { last, .. } => log.cut(ticket, after(*last)),
            Op::Purge { purged, .. } if purged.position.index.0 < log.range().0 => {}
            Op::Purge { purged, .. } => log.purge(ticket, purged.clone()),
            Op::Reset { .. } => log.reset(ticket),
        }
    }

    /// Takes jobs up to this many bytes off the queue, at least one when there is one.
    fn drain(&mut self, bytes_max: u64) -> Vec<Job> {
        let mut bytes: u64 = 0;
        let mut count = 0;
        for job in &self.queue {
            bytes = bytes.saturating_add(job.bytes);
            if bytes > bytes_max && count > 0 {
                break;
            }
            count += 1;
        }
        let jobs = self.queue.drain(..count).collect();
        self.is_urgent = self.queue.iter().any(|job| job.done.is_some());
        jobs
    }
}
