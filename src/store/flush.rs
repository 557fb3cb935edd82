//! From memory to disk: which memtable takes commits, when it is sealed, and the thread that flushes the sealed one.
//!
//! ```text
//! commit ──► active ──(full, or a checkpoint)──► sealed ──(flush thread)──► engine
//! ```
//! There are two memtables at most: when the active one is full and the sealed one is still being flushed, committers wait. A flush ingests
//! the batches, then makes all rows, dooms and marks durable in one write. After a crash between the two the engine has batches that no
//! row speaks of; they are written again, the same, when the log is replayed from the marks.
//!
//! A full disk leaves the sealed memtable where it is, and the flush is tried again from its beginning after a pause. Any other failure
//! is final: nothing tells what the disk has then. Begin with [`Shared`].

use std::collections::BTreeMap;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::warn;

use super::engine::{Durability, Engine, Space};
use super::epoch::Contents;
use super::memtable::Memtable;
use super::{Error, Writes, inspect, key};
use crate::types::{ByteCount, Vertex};

/// How long a flush that found the disk full waits before it tries again. Room comes back when somebody makes it, not sooner.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// How often the flush thread looks whether the engine has stopped itself. What is left of its threads may then be spinning.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// An engine that stops itself is opened anew. One that meets damage while it compacts does so at nearly each flush: a stop adds this, a
/// flush takes one away.
const STOP_WEIGHT: u32 = 2;
/// Beyond this the damage is looked for. When there is some the store fails: it has to be made anew from other replicas.
const STOPS_MAX: u32 = 6;
/// When it was looked for so many times and none was found, what stops the engine is where no read goes, and the store fails, too.
const SEARCHES_MAX: u32 = 2;

/// What the callers and the flush thread share.
pub(super) struct Shared<E> {
    pub(super) engine: E,
    /// A memtable is full when it takes this much.
    memtable_bytes: u64,
    tables: RwLock<Tables>,
    flow: Mutex<Flow>,
    /// The flow has changed.
    changed: Condvar,
    /// Held by whoever writes to the engine, and while it is frozen: a frozen engine is never in the middle of a flush.
    writing: Mutex<()>,
    /// Marks that nothing can take back, by shard number.
    durable: Mutex<BTreeMap<u16, Bytes>>,
    /// Something may be doomed in the engine.
    has_dooms: AtomicBool,
    pub(super) contents: Contents,
    pub(super) failure: watch::Sender<Option<Arc<Error>>>,
}

/// The memtables. Commits hold the lock shared while they insert, so a table is sealed between commits.
#[derive(Default)]
struct Tables {
    active: Arc<Memtable>,
    sealed: Option<Arc<Memtable>>,
}

/// How far flushing has come. Taken before the lock of the tables where both are needed.
#[derive(Debug, Default)]
struct Flow {
    /// Tables sealed so far.
    sealed_count: u64,
    /// Tables flushed so far; one less than sealed while one is being flushed.
    flushed_count: u64,
    flushed_bytes: u64,
    /// Flushes that found the disk full, and engines that could not be opened again.
    setback_count: u64,
    /// The last of them, for those that wait.
    setback: Option<Error>,
    /// There was no flush since.
    is_waiting_for_room: bool,
    is_closing: bool,
}

impl Flow {
    /// There was no flush, and those that wait for one must not wait until there is.
    fn suffer(&mut self, error: &Error) {
        self.setback_count += 1;
        self.setback = Some(error.clone());
        self.is_waiting_for_room = true;
    }
}

/// No half-made change can be seen behind these locks: each holds a few plain values that are set one by one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E: Engine> Shared<E> {
    pub(super) fn new(engine: E, memtable_bytes: ByteCount) -> Arc<Self> {
        Arc::new(Self {
            engine,
            memtable_bytes: memtable_bytes.0.max(1),
            tables: RwLock::default(),
            flow: Mutex::default(),
            changed: Condvar::new(),
            writing: Mutex::default(),
            durable: Mutex::default(),
            has_dooms: AtomicBool::new(true),
            contents: Contents::default(),
            failure: watch::Sender::default(),
        })
    }

    fn shared_tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memtables to read, the newest first.
    pub(super) fn layers(&self) -> Vec<Arc<Memtable>> {
        let tables = self.shared_tables();
        let mut layers = Vec::with_capacity(2);
        layers.push(Arc::clone(&tables.active));
        layers.extend(tables.sealed.as_ref().map(Arc::clone));
        layers
    }

    /// Keeps others from writing to the engine.
    pub(super) fn write_gate(&self) -> MutexGuard<'_, ()> {
        lock(&self.writing)
    }

    pub(super) fn durable(&self) -> MutexGuard<'_, BTreeMap<u16, Bytes>> {
        lock(&self.durable)
    }

    pub(super) fn check_failure(&self) -> Result<(), Error> {
        match &*self.failure.borrow() {
            Some(error) => Err(Error::clone(error)),
            None => Ok(()),
        }
    }

    /// Inserts a commit; says whether the table is full now.
    pub(super) fn insert(&self, shard: Vertex, writes: Writes, mark: Bytes) -> Result<bool, Error> {
        loop {
            self.check_failure()?;
            {
                let tables = self.shared_tables();
                let is_full = || tables.active.bytes() >= self.memtable_bytes;
                if tables.sealed.is_none() || !is_full() {
                    tables.active.insert(shard, writes, Some(mark));
                    return Ok(is_full());
                }
            }
            self.wait_for_table()?;
        }
    }

    /// Waits until a commit may be inserted.
    fn wait_for_table(&self) -> Result<(), Error> {
        let mut flow = lock(&self.flow);
        while self.is_blocked() {
            self.check_failure()?;
            flow = self.wait(flow);
        }
        Ok(())
    }

    fn wait<'a>(&self, flow: MutexGuard<'a, Flow>) -> MutexGuard<'a, Flow> {
        self.changed
            .wait(flow)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a commit would wait.
    pub(super) fn is_blocked(&self) -> bool {
        let tables = self.shared_tables();
        tables.sealed.is_some() && tables.active.bytes() >= self.memtable_bytes
    }

    /// Seals the active table when it is full and the one before is flushed.
    pub(super) fn seal_full(&self) {
        let mut flow = lock(&self.flow);
        self.seal(&mut flow, self.memtable_bytes);
    }

    fn seal(&self, flow: &mut Flow, bytes_min: u64) {
        let mut tables = self.tables_mut();
        if tables.sealed.is_some() || tables.active.bytes() < bytes_min.max(1) {
            return;
        }
        tables.sealed = Some(std::mem::take(&mut tables.active));
        flow.sealed_count += 1;
        self.changed.notify_all();
    }

    /// See [`super::TopicStore::checkpoint`]. `flush` is called when nobody else would flush.
    pub(super) fn checkpoint(&self, flush: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        let mut flow = lock(&self.flow);
        let is_active_empty = self.shared_tables().active.is_empty();
        let target = flow.sealed_count + u64::from(!is_active_empty);
        let setback_count = flow.setback_count;
        loop {
            self.check_failure()?;
            if flow.flushed_count >= target {
                return Ok(());
            }
            if flow.setback_count > setback_count
                && let Some(error) = &flow.setback
            {
                return Err(error.clone());
            }
            if flow.sealed_count < target {
                self.seal(&mut flow, 1);
            }
            drop(flow);
            flush()?;
            flow = lock(&self.flow);
            if flow.flushed_count < target && flow.setback_count == setback_count {
                self.check_failure()?;
                flow = self.wait(flow);
            }
        }
    }

    /// Flushes the sealed table, if there is one.
    pub(super) fn flush_sealed(&self) -> Result<(), Error> {
        let Some(sealed) = self.shared_tables().sealed.clone() else {
            return Ok(());
        };
        let result = self.flush(&sealed);
        let mut flow = lock(&self.flow);
        match &result {
            Ok(()) => {
                self.tables_mut().sealed = None;
                flow.flushed_count += 1;
                flow.flushed_bytes += sealed.bytes();
                flow.is_waiting_for_room = false;
                self.seal(&mut flow, self.memtable_bytes);
            }
            Err(error @ Error::Full(_)) => flow.suffer(error),
            // The flush thread opens the engine anew.
            Err(Error::Stopped(_)) => {}
            Err(error) => {
                drop(flow);
                self.fail(error);
            }
        }
        self.changed.notify_all();
        result
    }

    pub(super) fn fail(&self, error: &Error) {
        self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            if is_first {
                *failure = Some(Arc::new(error.clone()));
            }
            is_first
        });
        // Under the lock, so that nobody checks before and waits after.
        drop(lock(&self.flow));
        self.changed.notify_all();
    }

    /// Writes a table into the engine, durably, and publishes its marks.
    pub(super) fn flush(&self, table: &Memtable) -> Result<(), Error> {
        let _gate = self.write_gate();
        self.engine.ingest(&mut table.encoded_batches())?;
        self.engine.write(table.encoded_rows(), Durability::Power)?;
        if table.has_dooms() {
            self.has_dooms.store(true, Ordering::SeqCst);
        }
        self.durable().extend(table.marks());
        Ok(())
    }

    /// What is doomed in the engine, at most `limit` of it. Does not look where nothing can have come since it found nothing.
    pub(super) fn dooms(&self, limit: usize) -> Result<Vec<Bytes>, Error> {
        // Taken back before it is looked, so that what is flushed meanwhile is looked for again.
        if !self.has_dooms.swap(false, Ordering::SeqCst) {
            return Ok(Vec::new());
        }
        let prefix = key::dooms();
        let end = key::after_prefix(&prefix);
        let dooms = self.engine.keys(Space::Meta, &prefix..&end, limit);
        if !matches!(&dooms, Ok(dooms) if dooms.is_empty()) {
            self.has_dooms.store(true, Ordering::SeqCst);
        }
        dooms
    }

    /// Adds what is known here to the engine's figures.
    pub(super) fn figures(&self) -> Result<super::Figures, Error> {
        let memtable_bytes: u64 = self.layers().iter().map(|table| table.bytes()).sum();
        let engine = self.engine.figures()?;
        let flow = lock(&self.flow);
        Ok(super::Figures {
            memtable_bytes: ByteCount(memtable_bytes),
            flush_count: flow.flushed_count,
            flushed_bytes: ByteCount(flow.flushed_bytes),
            is_waiting_for_room: flow.is_waiting_for_room,
            ..engine
        })
    }

    /// The work of the flush thread, until it is closed or a flush fails for good.
    fn run(&self) {
        let (mut stops, mut searches) = (0, 0);
        while let Some(is_sealed) = self.wait_for_sealed() {
            let result = if is_sealed {
                self.flush_sealed()
            } else {
                self.engine.check()
            };
            let is_full = matches!(result, Err(Error::Full(_)));
            match &result {
                Ok(()) => {
                    stops -= u32::from(is_sealed).min(stops);
                    if stops == 0 {
                        searches = 0;
                    }
                    continue;
                }
                // A full disk is also why the engine stops itself.
                Err(Error::Full(_)) => stops = 0,
                Err(Error::Stopped(_)) => stops += STOP_WEIGHT,
                Err(error) => return self.fail(error),
            }
            if is_full || stops > STOPS_MAX {
                self.pause();
            }
            if let Err(error) = self.revive() {
                warn!(%error, "the store cannot be opened again yet");
                // One that stopped itself while it was opened is only tried again.
                if !matches!(error, Error::Stopped(_)) {
                    lock(&self.flow).suffer(&error);
                    self.changed.notify_all();
                }
                self.pause();
            } else if stops > STOPS_MAX {
                // Not from nothing: only flushes that come to an end say that all is well.
                stops = STOP_WEIGHT;
                searches += 1;
                if let Some(damage) = self.examine() {
                    return self.fail(&damage);
                }
                if let Err(Error::Stopped(source)) = result
                    && searches >= SEARCHES_MAX
                {
                    return self.fail(&Error::Unreadable {
                        space: Space::Messages.name(),
                        key: "(none that is read)".to_owned(),
                        source,
                    });
                }
            }
        }
    }

    fn revive(&self) -> Result<(), Error> {
        let _gate = self.write_gate();
        self.engine.revive()
    }

    /// Looks for the damage that makes the engine stop itself again and again. Reads everything.
    fn examine(&self) -> Option<Error> {
        let mut first = None;
        let read = inspect::read_all(&self.engine, &mut |finding| {
            if let Some(shard) = finding.shard {
                let epoch = self.contents.epoch(shard);
                let found = Err::<(), _>(finding.error.clone());
                let _ = self.contents.noted((shard, epoch), found);
            }
            first.get_or_insert(finding.error);
        });
        if let Err(error) = read {
            warn!(%error, "the store cannot be read through");
        }
        first
    }

    /// Waits until there is something to flush, or it is time to look after the engine; `None` when the store is closing.
    fn wait_for_sealed(&self) -> Option<bool> {
        let flow = lock(&self.flow);
        let is_idle = |flow: &mut Flow| !flow.is_closing && flow.sealed_count == flow.flushed_count;
        let waited = self
            .changed
            .wait_timeout_while(flow, CHECK_INTERVAL, is_idle);
        let (flow, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!flow.is_closing).then(|| flow.sealed_count > flow.flushed_count)
    }

    fn pause(&self) {
        let flow = lock(&self.flow);
        let is_open = |flow: &mut Flow| !flow.is_closing;
        let waited = self.changed.wait_timeout_while(flow, FULL_PAUSE, is_open);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn close(&self) {
        lock(&self.flow).is_closing = true;
        self.changed.notify_all();
    }
}

/// The flush thread. Ends when this is dropped, without flushing what is left: the log has it.
pub(super) struct Flusher<E: Engine> {
    shared: Arc<Shared<E>>,
    thread: Option<JoinHandle<()>>,
}

impl<E: Engine> Flusher<E> {
    pub(super) fn start(shared: &Arc<Shared<E>>) -> Result<Self, Error> {
        let of_thread = Arc::clone(shared);
        let thread = thread::Builder::new()
            .name("store-flush".to_owned())
            .spawn(move || {
                // Those that wait for a flush must hear of it when there will be none.
                if panic::catch_unwind(AssertUnwindSafe(|| of_thread.run())).is_err() {
                    let died = io::Error::other("the thread that flushes the store has died");
                    of_thread.fail(&Error::Engine(Arc::new(died)));
                }
            })
            .map_err(|error| Error::Engine(Arc::new(error)))?;
        Ok(Self {
            shared: Arc::clone(shared),
            thread: Some(thread),
        })
    }
}

impl<E: Engine> Drop for Flusher<E> {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been told on standard error already.
            let _ = thread.join();
        }
    }
}
