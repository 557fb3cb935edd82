//! One shard's Raft group on this peer.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, SnapshotPolicy};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use super::admission::Spared;
use super::log::ShardLog;
use super::machine::{Machine, blocking};
use super::network::{Carrier, Connection, Network, Progress};
use super::quorum::Quorum;
use super::receive::{Reception, clear_staging};
use super::snapshot::{Mark, Source};
use super::status::Leadership;
use super::types::{Types, peer_of, position};
use super::{Error, Options, Parts};
use crate::env::disk::{Disk, Level, Room};
use crate::link::{Links, Peers};
use crate::types::{LogIndex, LogPosition, PeerId, Vertex};
use crate::wal::Bounds;

/// Entries in one append to a follower; the log also limits its bytes.
const APPEND_ENTRIES_MAX: u64 = 300;
/// How long a follower that cannot be reached is left alone: short, because a peer that restarts is back within a second.
const BACKOFF: &str = "10ms 20ms 40ms ...500ms";
/// A snapshot is only a name here ([`super::snapshot`]); openraft takes note of it between two entries.
const COMPACTION_MAX: Duration = Duration::from_secs(5);
/// How long a group that is to stop waits for the disk.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// A cheap handle of a running group; dropping the last one does not stop it, [`Group::stop`] does.
#[derive(Clone)]
pub struct Group {
    pub(super) shard: Vertex,
    pub(super) node: u64,
    pub(super) raft: Raft<Types, Machine>,
    pub(super) parts: Arc<Running>,
}

pub(super) struct Running {
    pub(super) options: Options,
    pub(super) wal: Arc<dyn crate::wal::RaftLog>,
    pub(super) progress: Progress,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) quorum: watch::Receiver<Quorum>,
    pub(super) peers: Peers,
    pub(super) links: Links,
    pub(super) source: Source,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) staging: PathBuf,
    pub(super) room: Arc<Room>,
    /// Which snapshot is coming in.
    pub(super) reception: Reception,
    /// Taken while the voters change, and while leadership moves: one thing at a time.
    pub(super) admission: tokio::sync::Mutex<()>,
    /// Whether others may be given up for this replica, and leadership may be given to it.
    is_fit: AtomicBool,
    /// Another replica that finds the leader gone has asked where this one stands, and it finds so, too.
    pub(super) canvassed: Notify,
    /// A leader has sent something that this replica took: what it knows of the leader is not from before its start.
    pub(super) heard: Notify,
    /// The replica that this leader has allowed to drop what it holds.
    pub(super) spared: Mutex<Option<Spared>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Nobody waits for the disk any more.
    given_up: CancellationToken,
}

impl Group {
    /// Starts the group from what is on disk.
    ///
    /// # Errors
    /// [`Error::Gap`] when the log and the store do not fit together; [`Error::Start`] when the log or the store cannot be read,
    /// [`Error::Malformed`] when they hold what they should not.
    pub async fn start(options: Options, parts: Parts) -> Result<Self, Error> {
        let Parts { shard, machine, .. } = parts;
        let start = |source: &dyn std::fmt::Display| Error::Start {
            shard,
            reason: source.to_string(),
        };
        let config = Arc::new(raft_config(&options, shard)?);
        let state = parts
            .mark
            .map(Mark::decode)
            .transpose()?
            .unwrap_or_default();
        check_store(shard, &state, &parts.wal.bounds(shard))?;
        clear_staging(&*parts.disk, &parts.staging, shard).map_err(|error| start(&error))?;
        let (sender, leadership) = watch::channel(Leadership::default());
        let (count, quorum) = watch::channel(Quorum::default());
        let running = Running {
            options,
            wal: parts.wal,
            progress: Progress::new(),
            leadership,
            quorum,
            peers: parts.peers,
            links: parts.links,
            source: Source {
                shard,
                store: parts.store,
            },
            disk: parts.disk,
            staging: parts.staging,
            room: parts.room,
            reception: Reception::default(),
            admission: tokio::sync::Mutex::default(),
            is_fit: AtomicBool::new(true),
            canvassed: Notify::new(),
            heard: Notify::new(),
            spared: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            given_up: CancellationToken::new(),
        };
        let node = running.options.node;
        let network = Network {
            shard,
            node,
            peers: running.peers.clone(),
            progress: running.progress.clone(),
        };
        let given_up = running.given_up.clone();
        let log = ShardLog::new(shard, Arc::clone(&running.wal), given_up);
        let alive = running.tasks.token();
        let source = running.source.clone();
        let durability = log.durability();
        let machine = Machine::new((machine, state), parts.observer, source, durability, alive);
        let raft = Raft::new(node, config, network, log, machine)
            .await
            .map_err(|error| start(&error))?;
        let group = Self {
            shard,
            node,
            raft,
            parts: Arc::new(running),
        };
        group.spawn(group.clone().follow_leadership(sender));
        group.spawn(group.clone().follow_quorum(count));
        group.spawn_all();
        Ok(group)
    }

    /// What goes on as long as the group runs.
    fn spawn_all(&self) {
        self.spawn(self.clone().tend());
        self.spawn(self.clone().watch_leader());
        self.spawn(self.clone().steward());
        self.spawn(self.clone().tell_failure());
        self.spawn(self.clone().tell_leaderless());
    }

    /// Runs a task until it ends or the group stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.parts.stop.clone();
        self.parts.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Stops the group; its log and its store are then used no more. What it has acknowledged is on disk; a disk that does not take what the
    /// group has in hand, because it is full, is not waited for.
    pub async fn stop(&self) {
        self.parts.stop.cancel();
        let mut ended = std::pin::pin!(self.end());
        if tokio::time::timeout(STOP_PATIENCE, &mut ended)
            .await
            .is_err()
        {
            warn!(shard = %self.shard, "the disk does not take what the group has in hand; the group stops without it");
            self.parts.given_up.cancel();
            ended.await;
        }
    }

    async fn end(&self) {
        if let Err(error) = self.raft.shutdown().await {
            warn!(shard = %self.shard, %error, "the group did not stop cleanly");
        }
        // openraft does not wait for its state machine, which may still apply what was committed.
        self.parts.tasks.close();
        self.parts.tasks.wait().await;
    }

    /// Waits until the group has failed, and says why: its log or its store could not be read or written. Another group may then be started.
    pub async fn failed(&self) -> String {
        let metrics = self.raft.metrics();
        // They change with the term, the leader and the members, not with each entry, and end with the group's task.
        let mut rare = self.raft.server_metrics();
        loop {
            let has_ended = rare.changed().await.is_err();
            if self.parts.stop.is_cancelled() {
                return std::future::pending().await;
            }
            match metrics.borrow_watched().running_state.clone() {
                Err(error) => return error.to_string(),
                Ok(()) if has_ended => return "its task ended".to_owned(),
                Ok(()) => {}
            }
        }
    }

    /// From now on this replica does not stand for election by itself and is given no leadership: it is not whole, or its peer is stopping.
    pub fn must_not_lead(&self) {
        self.parts.is_fit.store(false, Ordering::Relaxed);
    }

    pub(super) fn may_lead(&self) -> bool {
        self.parts.is_fit.load(Ordering::Relaxed)
    }

    /// The way to another replica, for a call that is not openraft's.
    pub(super) fn reach(&self, node: u64) -> Connection {
        let network = Network {
            shard: self.shard,
            node: self.node,
            peers: self.parts.peers.clone(),
            progress: self.parts.progress.clone(),
        };
        network.connect(node, Carrier::Unary)
    }

    /// What a caller is told when this replica does not lead: who does, or that nobody can.
    pub fn not_leader(&self) -> Error {
        let Leadership { leader, term, .. } = *self.parts.leadership.borrow();
        let links = self.parts.links.now();
        let other = leader.filter(|leader| *leader != peer_of(self.node));
        let leader = other.filter(|leader| !links.is_gone(*leader));
        if leader.is_none() && !self.quorum().has_majority() {
            return self.no_quorum();
        }
        Error::NotLeader {
            shard: self.shard,
            leader,
            term,
        }
    }

    /// Who leads, kept up to date.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.parts.leadership.clone()
    }

    /// The peers whose replicas are known to have an entry on stable storage: at least a majority once it is committed and this replica led it there.
    pub fn holders(&self, entry: LogPosition) -> Vec<PeerId> {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let mut holders = self.parts.progress.holders(entry);
        // What an earlier life of a peer has stored is gone.
        holders.retain(|node| membership.get_node(node).is_some());
        let durable = self.parts.wal.durable(self.shard);
        if durable.is_some_and(|durable| durable.index >= entry.index) {
            holders.push(self.node);
        }
        let peers: BTreeSet<PeerId> = holders.into_iter().map(peer_of).collect();
        let mut holders: Vec<PeerId> = peers.into_iter().collect();
        // In the order of the replica set: the owner first, then its neighbours in bit order.
        let rank = |peer: &PeerId| {
            let mut set = self.parts.options.holders();
            set.position(|member| member == *peer)
        };
        holders.sort_by_key(|peer| rank(peer).unwrap_or(usize::MAX));
        holders
    }

    /// Lets the log go up to an entry, as far as a power cut cannot take back what was made of it. A follower that needs what is gone gets a snapshot.
    pub async fn compact(&self, upto: LogIndex) {
        let purged = self.parts.wal.bounds(self.shard).purged;
        let purged = purged.map(|purged| purged.position.index);
        if purged >= Some(upto) {
            return;
        }
        let durable = match blocking(|| self.parts.source.freeze()) {
            Ok(Some(snapshot)) => snapshot.meta.last_log_id,
            Ok(None) => None,
            Err(error) => {
                warn!(shard = %self.shard, %error, "the store cannot tell how far it is durable; the log stays");
                return;
            }
        };
        let Some(durable) = durable else { return };
        let wanted = self.spare_for_snapshots(durable.index.min(upto.0));
        if purged >= Some(LogIndex(wanted)) {
            return;
        }
        if let Err(error) = self.purge(wanted).await {
            debug!(shard = %self.shard, error, "the log stays for now");
        }
    }

    /// The last entry to let go of, for the sake of those who get a snapshot; when the disk has little room they must begin again.
    fn spare_for_snapshots(&self, wanted: u64) -> u64 {
        let stored = |node| self.parts.progress.stored(node).map(|last| last.index.0);
        match (
            self.parts.progress.deliveries.limit(stored),
            self.parts.room.level(),
        ) {
            (Some(limit), Level::Ample) => wanted.min(limit),
            _ => wanted,
        }
    }

    async fn purge(&self, upto: u64) -> Result<(), String> {
        let trigger = self.raft.trigger();
        let has =
            |snapshot: Option<super::types::LogId>| snapshot.is_some_and(|id| id.index >= upto);
        let known = self.raft.data_metrics().borrow_watched().snapshot;
        if !has(known) {
            trigger
                .snapshot()
                .await
                .map_err(|error| error.to_string())?;
            let wait = self.raft.wait(Some(COMPACTION_MAX));
            let taken = wait.metrics(|metrics| has(metrics.snapshot), "a snapshot");
            taken.await.map_err(|error| error.to_string())?;
        }
        trigger
            .purge_log(upto)
            .await
            .map_err(|error| error.to_string())
    }

    async fn tell_failure(self) {
        let why = self.failed().await;
        error!(shard = %self.shard, why, "the group of the shard failed on this peer");
    }
}

/// The store follows the log. One that is ahead of it tells that the log lost its end, with entries that this peer said it had stored; one that is behind its
/// beginning, that the store lost what the log was purged for. Only a snapshot takes the store ahead, until openraft has purged the log up to there.
fn check_store(shard: Vertex, state: &Mark, log: &Bounds) -> Result<(), Error> {
    let applied = state.applied.as_ref().map(position);
    let purged = log.purged.as_ref().map(|purged| purged.position);
    let last = log.last.or(purged);
    let gap = |reason| Err(Error::Gap { shard, reason });
    let tell = |position: Option<LogPosition>| {
        position.map_or_else(|| "none".to_owned(), |position| format!("entry {position}"))
    };
    if purged.is_some_and(|purged| applied.is_none_or(|applied| applied.index < purged.index)) {
        return gap(format!(
            "the store has applied {}, the write-ahead log begins after {}: the store has lost entries",
            tell(applied),
            tell(purged)
        ));
    }
    let is_ahead =
        applied.is_some_and(|applied| last.is_none_or(|last| last.index < applied.index));
    if is_ahead && state.applied != state.installed {
        return gap(format!(
            "the store has applied {}, the write-ahead log ends with {}: the log has lost entries",
            tell(applied),
            tell(last)
        ));
    }
    Ok(())
}

fn raft_config(options: &Options, shard: Vertex) -> Result<openraft::Config, Error> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: format!("{}/{shard}", options.cluster),
        heartbeat_interval: millis(options.heartbeat_interval),
        election_timeout_min: millis(options.election_timeout_min),
        election_timeout_max: millis(options.election_timeout_max),
        max_payload_entries: APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        // What is purged, and when, is decided in `Group::compact` only; a follower that is far behind gets the log as long as it is there.
        replication_lag_threshold: u64::MAX,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        backoff: BACKOFF.to_owned(),
        ..Default::default()
    };
    config.validate().map_err(|error| Error::Start {
        shard,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::convert;
    use bytes::Bytes;

    use super::*;
    use crate::proto::peer::v1 as proto;
    use crate::types::Term;
    use crate::wal::Purged;

    fn entry(index: u64) -> LogPosition {
        LogPosition {
            term: Term(1),
            index: LogIndex(index),
        }
    }

    fn applied(index: u64, installed: Option<u64>) -> Mark {
        let id = |index| {
            convert::log_id_from_proto(&proto::LogId {
                term: 1,
                node: 1,
                index,
            })
        };
        Mark {
            applied: Some(id(index)),
            installed: installed.map(id),
            ..Mark::default()
        }
    }

    #[test]
    fn log_that_ends_before_its_store_is_damage() {
        let shard = "000".parse().unwrap();
        let log = |last| Bounds {
            last,
            ..Bounds::default()
        };
        check_store(shard, &Mark::default(), &log(None)).unwrap();
        check_store(shard, &Mark::default(), &log(Some(entry(2)))).unwrap();
        check_store(shard, &applied(2, None), &log(Some(entry(2)))).unwrap();
        for lost in [None, Some(entry(1))] {
            for installed in [None, Some(1)] {
                let error = check_store(shard, &applied(2, installed), &log(lost)).unwrap_err();
                assert!(matches!(error, Error::Gap { .. }), "{error}");
            }
            check_store(shard, &applied(2, Some(2)), &log(lost)).unwrap();
        }
    }

    #[test]
    fn store_that_ends_before_its_log_begins_is_damage() {
        let shard = "000".parse().unwrap();
        let log = Bounds {
            last: Some(entry(9)),
            purged: Some(Purged {
                position: entry(5),
                state: Bytes::new(),
            }),
            ..Bounds::default()
        };
        check_store(shard, &applied(5, None), &log).unwrap();
        for lost in [Mark::default(), applied(4, None), applied(4, Some(4))] {
            let error = check_store(shard, &lost, &log).unwrap_err();
            assert!(matches!(error, Error::Gap { .. }), "{error}");
        }
    }
}
