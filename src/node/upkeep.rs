//! What a peer does by itself, now and then: flush the store, let go of the log, trim topics, look at the disk, sweep.
//!
//! Begin with [`Upkeep::run`]. A failed flush is told by the store, not here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::storage;
use crate::env::clock::Clock;
use crate::env::disk::{Disk, Level, Room};
use crate::replica::{self, Replicas};
use crate::store::TopicStore;
use crate::types::ByteCount;

/// What was trimmed or deleted is removed in steps of this many rows, so that nothing else waits for long.
const SWEEP_ROWS: usize = 1000;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often the free room is looked at. A disk of 1 GiB/s fills the default reserve in a quarter of that, but half of the reserve is for followers.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);
/// The log is let go of at least this often: under load the store flushes by itself, and the log grows by as much as the disk takes.
const COMPACT_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// A shard's round of trims ends after this, wherever it is: the other shards wait meanwhile.
const RETAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Keeps one peer in order.
pub(super) struct Upkeep {
    pub(super) store: Arc<dyn TopicStore>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) room: Arc<Room>,
    pub(super) path: PathBuf,
    pub(super) replicas: Replicas,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) flush_interval: Duration,
    pub(super) retention_interval: Duration,
    /// Bytes of the log to keep for replicas that are behind.
    pub(super) keep: ByteCount,
    /// Work on the disk that was begun is waited for, also when the peer stops meanwhile.
    pub(super) tasks: TaskTracker,
}

impl Upkeep {
    /// Goes on until the peer stops.
    pub(super) async fn run(self, stop: CancellationToken) {
        let all = async {
            tokio::join!(
                self.flush(),
                self.compact(),
                self.retain(),
                self.watch_room(),
                self.sweep()
            )
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = all => {}
        }
    }

    /// Makes durable what was applied, so that the log may be let go of.
    async fn flush(&self) {
        let mut failures: u64 = 0;
        loop {
            tokio::time::sleep(self.flush_interval).await;
            let store = Arc::clone(&self.store);
            match self.tasks.spawn_blocking(move || store.checkpoint()).await {
                Ok(Err(error)) => {
                    if failures == 0 {
                        warn!(error = %storage::chain(&error), "the store was not flushed; trying again");
                    }
                    failures += 1;
                }
                Ok(Ok(())) => failures = 0,
                Err(_) => {}
            }
        }
    }

    async fn compact(&self) {
        let interval = self.flush_interval.min(COMPACT_INTERVAL_MAX);
        loop {
            tokio::time::sleep(interval).await;
            for replica in self.replicas.all() {
                replica.compact(self.keep).await;
                replica.tidy();
            }
        }
    }

    /// Proposes, where this peer leads, to trim what is too old or too much.
    async fn retain(&self) {
        loop {
            tokio::time::sleep(self.retention_interval).await;
            for replica in self.replicas.all() {
                let deadline = Instant::now() + RETAIN_TIME_MAX;
                match replica.retain(self.clock.now(), deadline).await {
                    Ok(0) => {}
                    Ok(trims) => debug!(shard = %replica.shard(), trims, "trimmed topics"),
                    Err(
                        error
                        @ (replica::Error::Damaged { .. } | replica::Error::Unreadable { .. }),
                    ) => warn!(%error, "could not see which topics to trim"),
                    // Leadership moves; whoever has it then trims.
                    Err(error) => debug!(shard = %replica.shard(), %error, "could not trim topics"),
                }
            }
        }
    }

    async fn watch_room(&self) {
        let mut level = Level::Ample;
        loop {
            let (room, disk) = (Arc::clone(&self.room), Arc::clone(&self.disk));
            let path = self.path.clone();
            let measured = self
                .tasks
                .spawn_blocking(move || storage::measure(&room, &*disk, &path));
            if measured.await.is_err() {
                return;
            }
            let now = self.room.level();
            if now != level {
                tell_room(now, &self.room);
                level = now;
            }
            tokio::time::sleep(ROOM_INTERVAL).await;
        }
    }

    /// Removes what was trimmed and what belonged to deleted topics, a little at a time. While there is more it takes half of the time, so that
    /// it keeps up with any load and leaves the other half to what flushes.
    async fn sweep(&self) {
        loop {
            let (store, began) = (Arc::clone(&self.store), Instant::now());
            let sweep = move || store.sweep(SWEEP_ROWS);
            let mut pause = SWEEP_INTERVAL;
            match self.tasks.spawn_blocking(sweep).await {
                Ok(Ok(0)) | Err(_) => {}
                Ok(Ok(rows)) => {
                    debug!(rows, "swept what was trimmed or deleted");
                    if rows >= SWEEP_ROWS {
                        pause = began.elapsed().min(SWEEP_INTERVAL);
                    }
                }
                Ok(Err(error)) => {
                    warn!(%error, "could not sweep what was trimmed or deleted; trying again");
                }
            }
            tokio::time::sleep(pause).await;
        }
    }
}

fn tell_room(level: Level, room: &Room) {
    let (free, reserve) = (room.free(), room.reserve());
    match level {
        Level::Ample => info!(%free, %reserve, "the disk has room again"),
        Level::Low => warn!(%free, %reserve, "the disk is nearly full: nothing more is published"),
        Level::Critical => {
            warn!(%free, %reserve, "the disk is all but full: nothing more is taken from leaders either");
        }
    }
}
