//! One shard's Raft group on this peer.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{Instant as _, Raft, ReadPolicy, SnapshotPolicy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use super::log::ShardLog;
use super::machine::{Machine, blocking};
use super::network::{Network, Progress};
use super::receive::clear_staging;
use super::snapshot::{Mark, Source};
use super::status::Leadership;
use super::types::{Proposal, Types, peer_of, position};
use super::{Error, Options, Parts};
use crate::env::disk::{Disk, Room};
use crate::link::Peers;
use crate::shard;
use crate::types::{LogIndex, LogPosition, PeerId, Term, Vertex};
use crate::wal::Bounds;

/// Entries in one append to a follower; the log also limits its bytes.
const APPEND_ENTRIES_MAX: u64 = 300;
/// How long a follower that cannot be reached is left alone: short, because a peer that restarts is back within a second.
const BACKOFF: &str = "10ms 20ms 40ms ...500ms";
/// A snapshot is only a name here ([`super::snapshot`]); openraft takes note of it between two entries.
const COMPACTION_MAX: Duration = Duration::from_secs(5);

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
    pub(super) peers: Peers,
    pub(super) source: Source,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) staging: PathBuf,
    pub(super) room: Arc<Room>,
    /// Taken while a snapshot comes in, until it is installed.
    pub(super) receiving: Arc<tokio::sync::Mutex<()>>,
    /// Taken while a replica is let in.
    pub(super) admission: tokio::sync::Mutex<()>,
    /// The replica that this leader has allowed to drop what it holds.
    pub(super) spared: Mutex<Option<u64>>,
    tasks: TaskTracker,
    stop: CancellationToken,
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
        let (sender, leadership) = watch::channel(Leadership {
            leader: None,
            term: Term(0),
            is_ready: false,
        });
        let running = Running {
            options,
            wal: parts.wal,
            progress: Progress::new(),
            leadership,
            peers: parts.peers,
            source: Source {
                shard,
                store: parts.store,
            },
            disk: parts.disk,
            staging: parts.staging,
            room: parts.room,
            receiving: Arc::default(),
            admission: tokio::sync::Mutex::default(),
            spared: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let node = running.options.node;
        let network = Network {
            shard,
            node,
            peers: running.peers.clone(),
            progress: running.progress.clone(),
        };
        let log = ShardLog::new(shard, Arc::clone(&running.wal));
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
        group.spawn(group.clone().tend());
        group.spawn(group.clone().tell_failure());
        group.spawn(group.clone().tell_leaderless());
        Ok(group)
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

    /// Stops the group; its log and its store are then used no more. What it has acknowledged is on disk.
    pub async fn stop(&self) {
        self.parts.stop.cancel();
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

    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// [`Error::NotLeader`] and [`Error::NoQuorum`] when it was certainly not proposed, [`Error::OutcomeUnknown`] when it may still be applied.
    pub async fn propose(
        &self,
        command: Bytes,
    ) -> Result<(LogPosition, Option<shard::Outcome>), Error> {
        if self.has_lost_quorum() {
            return Err(Error::NoQuorum { shard: self.shard });
        }
        match self.raft.client_write(Proposal(command)).await {
            Ok(response) => Ok((position(&response.log_id), response.data.0)),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(self.not_leader())
            }
            Err(_) => Err(Error::OutcomeUnknown { shard: self.shard }),
        }
    }

    /// Whether this replica leads and has heard from no majority for as long as a lease lasts. What it took now could only wait, its fate
    /// unknown; a caller that is told so at once may ask others.
    fn has_lost_quorum(&self) -> bool {
        let metrics = self.raft.data_metrics();
        let heard = metrics.borrow_watched().last_quorum_acked;
        self.parts.options.voters.len() > 1
            && heard.is_some_and(|heard| heard.elapsed() > self.parts.options.election_timeout_max)
    }

    /// Waits until everything that was committed before the call is applied here (ReadIndex: Ongaro's thesis, section 6.4).
    ///
    /// # Errors
    /// [`Error::NotLeader`] when this replica does not lead, or no majority confirms that it does.
    pub async fn confirm_leadership(&self) -> Result<(), Error> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                Err(self.not_leader())
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(Error::NoQuorum { shard: self.shard })
            }
            Err(RaftError::Fatal(_)) => Err(Error::Stopped { shard: self.shard }),
        }
    }

    pub(super) fn not_leader(&self) -> Error {
        let Leadership { leader, term, .. } = *self.parts.leadership.borrow();
        Error::NotLeader {
            shard: self.shard,
            leader: leader.filter(|leader| *leader != peer_of(self.node)),
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
        let options = &self.parts.options;
        let rank = |peer: &PeerId| {
            let mut set = options.voters.iter().chain(&options.standbys);
            set.position(|member| member == peer)
        };
        holders.sort_by_key(|peer| rank(peer).unwrap_or(usize::MAX));
        holders
    }

    /// Lets the log go up to an entry, as far as a power cut cannot take back what was made of it. A follower that needs what is gone gets a snapshot.
    pub async fn compact(&self, upto: LogIndex) {
        let durable = match blocking(|| self.parts.source.freeze()) {
            Ok(Some(snapshot)) => snapshot.meta.last_log_id,
            Ok(None) => None,
            Err(error) => {
                warn!(shard = %self.shard, %error, "the store cannot tell how far it is durable; the log stays");
                return;
            }
        };
        let Some(durable) = durable else { return };
        let wanted = durable.index.min(upto.0);
        let purged = self.parts.wal.bounds(self.shard).purged;
        if purged.is_some_and(|purged| purged.position.index.0 >= wanted) {
            return;
        }
        if let Err(error) = self.purge(wanted).await {
            debug!(shard = %self.shard, error, "the log stays for now");
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

    /// Changes whenever a follower has stored more.
    pub fn watch_progress(&self) -> watch::Receiver<()> {
        self.parts.progress.watch()
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
    use super::*;
    use crate::proto::peer::v1 as proto;
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
