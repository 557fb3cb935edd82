//! One shard's Raft group on this peer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::raft::TransferLeaderRequest;
use openraft::{EmptyNode, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::convert;
use super::log::ShardLog;
use super::machine::Machine;
use super::network::{Network, Progress};
use super::types::{LogId, Proposal, Types, Vote, peer_of, position};
use super::{Error, Options, Parts};
use crate::proto::peer::v1 as proto;
use crate::shard;
use crate::types::{LogIndex, LogPosition, PeerId, Term, Vertex};

/// Entries in one append to a follower; the log also limits its bytes.
const APPEND_ENTRIES_MAX: u64 = 300;
/// How long a follower that cannot be reached is left alone: short, because a peer that restarts is back within a second.
const BACKOFF: &str = "10ms 20ms 40ms ...500ms";
/// How often the preferred leader of a group without one stands for election when it starts.
const FIRST_ELECTION_INTERVAL: Duration = Duration::from_millis(150);

/// Who leads, as this replica knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// The leader. `None` between leaders.
    pub leader: Option<PeerId>,
    /// The term of that leader, or the greatest term seen.
    pub term: Term,
    /// This replica leads and has applied an entry of its own term, so it has applied all that earlier leaders committed.
    pub is_ready: bool,
}

/// What a replica does in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It orders the entries.
    Leader,
    /// It votes and holds the log.
    Follower,
    /// It stands for election.
    Candidate,
    /// It holds the log and does not vote.
    Learner,
    /// It is stopped.
    Stopped,
}

/// A replica's view of its group.
#[derive(Debug, Clone)]
pub struct Status {
    /// What this replica does.
    pub role: Role,
    /// The greatest term seen.
    pub term: Term,
    /// The leader, when known.
    pub leader: Option<PeerId>,
    /// The last entry of this replica's log.
    pub last: Option<LogIndex>,
    /// The last entry known to be on a majority.
    pub committed: Option<LogIndex>,
    /// The last entry applied here.
    pub applied: Option<LogIndex>,
    /// All replicas, this one included, in the order of their Raft ids.
    pub replicas: Vec<Member>,
}

/// One replica of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Whose it is.
    pub peer: PeerId,
    /// Whether it votes.
    pub is_voter: bool,
    /// The last entry that it is known to have on stable storage; only a leader knows it of others.
    pub stored: Option<LogIndex>,
}

/// A cheap handle of a running group; dropping the last one does not stop it, [`Group::stop`] does.
#[derive(Clone)]
pub struct Group {
    shard: Vertex,
    node: u64,
    raft: Raft<Types, Machine>,
    parts: Arc<Running>,
}

struct Running {
    options: Options,
    wal: Arc<dyn crate::wal::RaftLog>,
    progress: Progress,
    leadership: watch::Receiver<Leadership>,
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
        let log = ShardLog::new(shard, Arc::clone(&wal));
        let machine = Machine::new(machine, mark, observer)?;
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
            tasks: TaskTracker::new(),
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

    /// Stops the group. What it has acknowledged is on disk.
    pub async fn stop(&self) {
        self.parts.stop.cancel();
        self.parts.tasks.close();
        self.parts.tasks.wait().await;
        if let Err(error) = self.raft.shutdown().await {
            warn!(shard = %self.shard, %error, "the group did not stop cleanly");
        }
    }

    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// [`Error::NotLeader`] when it was certainly not proposed, [`Error::OutcomeUnknown`] when it may still be applied.
    pub async fn propose(
        &self,
        command: Bytes,
    ) -> Result<(LogPosition, Option<shard::Outcome>), Error> {
        match self.raft.client_write(Proposal(command)).await {
            Ok(response) => Ok((position(&response.log_id), response.data.0)),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(self.not_leader())
            }
            Err(_) => Err(Error::OutcomeUnknown { shard: self.shard }),
        }
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

    /// What this replica knows of the group.
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let replicas = membership
            .nodes()
            .map(|(node, _)| Member {
                peer: peer_of(*node),
                is_voter: voters.contains(node),
                stored: self.stored_index(*node),
            })
            .collect();
        Status {
            role: if metrics.running_state.is_err() {
                Role::Stopped
            } else {
                role(metrics.state)
            },
            term: Term(metrics.current_term),
            leader: metrics.current_leader.map(peer_of),
            last: metrics.last_log_index.map(LogIndex),
            committed: metrics.local_committed.map(|id| LogIndex(id.index)),
            applied: metrics.last_applied.map(|id| LogIndex(id.index)),
            replicas,
        }
    }

    fn stored_index(&self, node: u64) -> Option<LogIndex> {
        if node == self.node {
            return self
                .parts
                .wal
                .durable(self.shard)
                .map(|durable| durable.index);
        }
        self.parts
            .progress
            .stored(node)
            .map(|position| position.index)
    }

    /// Appends what a leader streams. Each answer is sent after the entries are on disk; the stream ends after the first that is not a success.
    pub fn append(
        &self,
        requests: impl Stream<Item = proto::AppendRequest> + Send + 'static,
    ) -> impl Stream<Item = Result<proto::AppendResponse, Error>> + Send + 'static {
        let shard = self.shard;
        // A message that does not parse ends the stream, as if the leader had stopped sending.
        let requests = requests
            .map(convert::append_from_proto)
            .take_while(move |request| {
                if let Err(error) = request {
                    warn!(%shard, %error, "a leader sent what is not an append");
                }
                std::future::ready(request.is_ok())
            })
            .filter_map(|request| std::future::ready(request.ok()));
        self.raft
            .stream_append(requests)
            .map(move |answer| match answer {
                Ok(result) => Ok(convert::stored_to_proto(&result)),
                Err(_) => Err(Error::Stopped { shard }),
            })
    }

    /// One append outside the stream: a heartbeat.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Stopped`].
    pub async fn heartbeat(
        &self,
        request: proto::HeartbeatRequest,
    ) -> Result<proto::HeartbeatResponse, Error> {
        let append = request.append.ok_or(Error::Malformed { field: "append" })?;
        let append = convert::append_from_proto(append)?;
        let previous = append.prev_log_id;
        let last = append.entries.last().map(|entry| entry.log_id).or(previous);
        let response = self
            .raft
            .append_entries(append)
            .await
            .map_err(|_| Error::Stopped { shard: self.shard })?;
        if response.is_conflict() && previous.is_none() {
            return Err(Error::Malformed { field: "previous" });
        }
        let answer = convert::stored_to_proto(&response.into_stream_result(previous, last));
        Ok(proto::HeartbeatResponse {
            append: Some(answer),
        })
    }

    /// Answers a candidate.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Stopped`].
    pub async fn vote(&self, request: proto::VoteRequest) -> Result<proto::VoteResponse, Error> {
        let parsed = convert::vote_request_from_proto(&request)?;
        let response = if request.pre_vote {
            self.raft.pre_vote(parsed).await
        } else {
            self.raft.vote(parsed).await
        };
        let response = response.map_err(|_| Error::Stopped { shard: self.shard })?;
        Ok(convert::vote_response_to_proto(&response))
    }

    /// Takes over from the leader that asks for it.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Stopped`].
    pub async fn take_over(
        &self,
        request: proto::TransferLeaderRequest,
    ) -> Result<proto::TransferLeaderResponse, Error> {
        let from: Vote = request
            .from_leader
            .as_ref()
            .map(convert::vote_from_proto)
            .ok_or(Error::Malformed {
                field: "from_leader",
            })?;
        let last: Option<LogId> = request.last_log_id.as_ref().map(convert::log_id_from_proto);
        let request = TransferLeaderRequest::new(from, request.to_node, last);
        let answer = self
            .raft
            .handle_transfer_leader(request)
            .await
            .map_err(|_| Error::Stopped { shard: self.shard })?;
        Ok(proto::TransferLeaderResponse {
            accepted: answer.is_ok(),
        })
    }

    /// Turns openraft's metrics into [`Leadership`], and says so when it changes.
    async fn follow_leadership(self, sender: watch::Sender<Leadership>) {
        let mut server = self.raft.server_metrics();
        let mut data = self.raft.data_metrics();
        loop {
            let now = {
                let server = server.borrow_watched();
                let term = server.vote.leader_id.term;
                let is_leader = matches!(server.state, ServerState::Leader);
                let applied_term = data
                    .borrow_watched()
                    .last_applied
                    .map(|id| id.leader_id.term);
                Leadership {
                    leader: server.current_leader.map(peer_of),
                    term: Term(term),
                    is_ready: is_leader && applied_term == Some(term),
                }
            };
            let is_new = sender.send_if_modified(|old| std::mem::replace(old, now) != now);
            if is_new {
                info!(shard = %self.shard, leader = ?now.leader.map(|peer| peer.0), term = %now.term, ready = now.is_ready, "leadership changed");
            }
            let waits_for_apply = now.leader == Some(peer_of(self.node)) && !now.is_ready;
            let changed = if waits_for_apply {
                tokio::select! {
                    changed = server.changed() => changed.is_ok(),
                    changed = data.changed() => changed.is_ok(),
                }
            } else {
                server.changed().await.is_ok()
            };
            if !changed {
                return;
            }
        }
    }

    /// Brings a new group to life and keeps its standbys in it.
    async fn tend(self) {
        self.begin().await;
        let mut leadership = self.parts.leadership.clone();
        loop {
            if leadership.borrow_and_update().is_ready {
                self.add_standbys().await;
            }
            if leadership.changed().await.is_err() {
                return;
            }
        }
    }

    /// The preferred leader (first of the voters) founds a new group at once, and stands for election when it finds the group without a leader.
    /// The others do so only when it has not appeared for some time, one after the other.
    async fn begin(&self) {
        let options = &self.parts.options;
        let Some(rank) = options.voters.iter().position(|voter| *voter == self.node) else {
            return;
        };
        let patience = options.election_timeout_max * u32::try_from(2 * rank).unwrap_or(u32::MAX);
        let mut leadership = self.parts.leadership.clone();
        let has_leader = leadership.wait_for(|now| now.leader.is_some());
        if tokio::time::timeout(patience, has_leader).await.is_ok() && rank > 0 {
            return;
        }
        while self.parts.leadership.borrow().leader.is_none() {
            match self.raft.is_initialized().await {
                Ok(false) => self.found().await,
                Ok(true) if rank == 0 => {
                    // Only asks first, so that a replica whose log is behind disturbs nobody.
                    let _ = self.raft.trigger().elect(true).await;
                }
                Ok(true) | Err(_) => return,
            }
            tokio::time::sleep(FIRST_ELECTION_INTERVAL).await;
        }
    }

    async fn found(&self) {
        let voters: std::collections::BTreeMap<u64, EmptyNode> = self
            .parts
            .options
            .voters
            .iter()
            .map(|node| (*node, EmptyNode {}))
            .collect();
        match self.raft.initialize(voters).await {
            Ok(()) => info!(shard = %self.shard, "founded the group"),
            // Another founder was first, which is just as good.
            Err(error) => debug!(shard = %self.shard, %error, "the group exists already"),
        }
    }

    async fn add_standbys(&self) {
        for standby in &self.parts.options.standbys {
            let metrics = self.raft.server_metrics().borrow_watched().clone();
            if metrics.membership_config.get_node(standby).is_some() {
                continue;
            }
            match self.raft.add_learner(*standby, EmptyNode {}, false).await {
                Ok(_) => {
                    info!(shard = %self.shard, standby = peer_of(*standby).0, "added the standby")
                }
                Err(error) => {
                    debug!(shard = %self.shard, %error, "could not add the standby; the next leader will")
                }
            }
        }
    }
}

fn role(state: ServerState) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
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
