//! One shard's Raft group on this peer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{Instant as _, Raft, ReadPolicy, SnapshotPolicy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use super::log::ShardLog;
use super::machine::Machine;
use super::network::{Network, Progress};
use super::status::Leadership;
use super::types::{Proposal, Types, peer_of, position};
use super::{Error, Options, Parts};
use crate::shard;
use crate::types::{LogPosition, PeerId, Term, Vertex};
use crate::wal::Bounds;

/// Entries in one append to a follower; the log also limits its bytes.
const APPEND_ENTRIES_MAX: u64 = 300;
/// How long a follower that cannot be reached is left alone: short, because a peer that restarts is back within a second.
const BACKOFF: &str = "10ms 20ms 40ms ...500ms";

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
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Group {
    /// Starts the group from what is on disk.
    ///
    /// # Errors
    /// [`Error::Start`] when the log or the store cannot be read, [`Error::Malformed`] when they hold what they should not.
    pub async fn start(options: Options, parts: Parts) -> Result<Self, Error> {
        let Parts {
            shard,
            wal,
            peers,
            machine,
            mark,
            observer,
        } = parts;
        let progress = Progress::new();
        let network = Network {
            shard,
            node: options.node,
            peers,
            progress: progress.clone(),
        };
        check_store(shard, machine.applied(), &wal.bounds(shard))?;
        let log = ShardLog::new(shard, Arc::clone(&wal));
        let tasks = TaskTracker::new();
        let machine = Machine::new((machine, mark), observer, log.durability(), tasks.token())?;
        let config = Arc::new(raft_config(&options, shard)?);
        let start = |source: &dyn std::fmt::Display| Error::Start {
            shard,
            reason: source.to_string(),
        };
        let raft = Raft::new(options.node, config, network, log, machine)
            .await
            .map_err(|error| start(&error))?;

        let (sender, leadership) = watch::channel(Leadership {
            leader: None,
            term: Term(0),
            is_ready: false,
        });
        let running = Running {
            options,
            wal,
            progress,
            leadership,
            tasks,
            stop: CancellationToken::new(),
        };
        let group = Self {
            shard,
            node: running.options.node,
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

    /// Waits until the group has failed, and says why: its log or its store could not be read or written. It takes part again after a restart.
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

    fn not_leader(&self) -> Error {
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

    /// The replicas that are known to have an entry on stable storage: at least a majority once it is committed and this replica led it there.
    pub fn holders(&self, entry: LogPosition) -> Vec<PeerId> {
        let mut holders = self.parts.progress.holders(entry);
        let durable = self.parts.wal.durable(self.shard);
        if durable.is_some_and(|durable| durable.index >= entry.index) {
            holders.push(self.node);
        }
        // In the order of the replica set: the owner first, then its neighbours in bit order.
        let options = &self.parts.options;
        let rank = |node: &u64| {
            let mut set = options.voters.iter().chain(&options.standbys);
            set.position(|member| member == node)
        };
        holders.sort_by_key(|node| rank(node).unwrap_or(usize::MAX));
        holders.into_iter().map(peer_of).collect()
    }

    /// Changes whenever a follower has stored more.
    pub fn watch_progress(&self) -> watch::Receiver<()> {
        self.parts.progress.watch()
    }

    async fn tell_failure(self) {
        let why = self.failed().await;
        error!(shard = %self.shard, why, "the shard failed on this peer and stays stopped until a restart");
    }
}

/// The store follows the log. One that is ahead of it tells that the log lost its end, with entries that this peer said it had stored.
fn check_store(shard: Vertex, applied: Option<LogPosition>, log: &Bounds) -> Result<(), Error> {
    let purged = log.purged.as_ref().map(|purged| purged.position);
    let last = log.last.or(purged);
    match applied {
        Some(applied) if last.is_none_or(|last| last.index < applied.index) => Err(Error::Start {
            shard,
            reason: format!(
                "the store has applied entry {applied}, the write-ahead log ends with {}: the log has lost entries",
                last.map_or_else(|| "none".to_owned(), |last| format!("entry {last}"))
            ),
        }),
        _ => Ok(()),
    }
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
        // No snapshots yet, so a follower that is far behind gets the log, however long.
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
    use super::*;
    use crate::types::LogIndex;

    fn entry(index: u64) -> LogPosition {
        LogPosition {
            term: Term(1),
            index: LogIndex(index),
        }
    }

    #[test]
    fn log_that_ends_before_its_store_is_refused() {
        let shard = "000".parse().unwrap();
        let log = |last| Bounds {
            last,
            ..Bounds::default()
        };
        check_store(shard, None, &log(None)).unwrap();
        check_store(shard, None, &log(Some(entry(2)))).unwrap();
        check_store(shard, Some(entry(2)), &log(Some(entry(2)))).unwrap();
        for lost in [None, Some(entry(1))] {
            let error = check_store(shard, Some(entry(2)), &log(lost)).unwrap_err();
            assert!(matches!(error, Error::Start { .. }), "{error}");
        }
    }
}
