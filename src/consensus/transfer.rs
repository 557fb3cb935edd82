//! Leadership goes from one replica to another without an election that anybody has to wait for.
//!
//! While a transfer runs openraft's leader takes no writes, sends no heartbeats and cannot call it off. So it is only begun towards a voter that is
//! whole and says that it may lead, and when it has given no new leader soon, another voter is asked to take over. If that fails too the timers
//! of the followers end it, after an election timeout at the latest.
//!
//! Raft, leadership transfer: Ongaro's thesis, section 3.10.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::network::{RPCOption, RaftNetworkV2};
use openraft::raft::TransferLeaderRequest;
use openraft::{Instant as _, RaftMetrics, ServerState};
use tracing::{debug, info};

use super::admission::is_near;
use super::group::Group;
use super::types::{Types, peer_of};
use crate::types::PeerId;

/// A voter holds practically everything when it lacks at most this many entries: some appends on their way.
const TAIL_LAG_MAX: u64 = 300;
/// A transfer takes a few milliseconds; then another voter is asked.
pub(super) const TRANSFER_MAX: Duration = Duration::from_millis(100);
/// How long voters have to say whether they may lead.
const PATIENCE: Duration = Duration::from_millis(50);
/// Voters that are asked to take over, one after the other.
const SUCCESSORS_MAX: usize = 3;

impl Group {
    /// Whether a voter was heard from within a lease, is not gone and has practically all of the log.
    pub(super) fn is_whole(&self, metrics: &RaftMetrics<Types>, node: u64) -> bool {
        self.is_heard(metrics, node) && !self.is_gone(node) && is_near(metrics, node, TAIL_LAG_MAX)
    }

    /// Whether a replica was heard from within a lease.
    pub(super) fn is_heard(&self, metrics: &RaftMetrics<Types>, node: u64) -> bool {
        let heard = metrics
            .heartbeat
            .as_ref()
            .and_then(|heard| heard.get(&node));
        heard
            .and_then(Option::as_ref)
            .is_some_and(|heard| heard.elapsed() <= self.parts.options.election_timeout_max)
    }

    /// Gives leadership to the voter that is furthest, when one is near the end of the log, was heard from lately and may lead; nothing else
    /// happens when this replica does not lead or there is none. A transfer to a voter that is not could cost an election timeout without a
    /// leader. Ends when another replica leads, or none could be made to.
    pub async fn hand_over(&self) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return;
        }
        let stored = |node: u64| {
            let replication = metrics.replication.as_ref();
            let matched = replication.and_then(|all| all.get(&node).copied().flatten());
            matched.map(|id| id.index)
        };
        let voters = metrics.membership_config.membership().voter_ids();
        let whole = voters.filter(|node| *node != self.node && self.is_whole(&metrics, *node));
        let mut successors = self.able(whole).await;
        successors.sort_by_key(|node| std::cmp::Reverse(stored(*node)));
        if successors.is_empty() {
            debug!(shard = %self.shard, "no voter could take over");
            return;
        }
        self.transfer(&successors).await;
    }

    /// Those of the replicas that say that they may lead.
    pub(super) async fn able(&self, nodes: impl Iterator<Item = u64>) -> Vec<u64> {
        let standings = self.ask_standings(nodes, PATIENCE, |_| false).await;
        let able = standings.into_iter().filter(|standing| standing.may_lead);
        able.map(|standing| standing.node).collect()
    }

    /// Gives leadership to the first of these that takes it. True: another replica leads.
    pub(super) async fn transfer(&self, successors: &[u64]) -> bool {
        // A change of the voters that is under way would not be finished by this leader.
        let _one_at_a_time = self.parts.admission.lock().await;
        let mut successors = successors.iter().copied().take(SUCCESSORS_MAX);
        let Some(first) = successors.next() else {
            return false;
        };
        info!(shard = %self.shard, peer = %peer_of(first), "handing leadership over");
        if self.raft.trigger().transfer_leader(first).await.is_err() {
            return false;
        }
        if self.is_succeeded().await {
            return true;
        }
        for next in successors {
            info!(shard = %self.shard, peer = %peer_of(next), "nobody has taken over yet: asking another voter");
            self.ask_to_lead(next).await;
            if self.is_succeeded().await {
                return true;
            }
        }
        debug!(shard = %self.shard, "leadership could not be handed over");
        false
    }

    /// Waits for another leader, for as long as a transfer may take.
    async fn is_succeeded(&self) -> bool {
        let this = peer_of(self.node);
        let mut leadership = self.parts.leadership.clone();
        let is_other = |leader: PeerId| leader != this;
        let succeeded = leadership.wait_for(|now| now.leader.is_some_and(is_other));
        let succeeded = tokio::time::timeout(TRANSFER_MAX, succeeded).await;
        matches!(succeeded, Ok(Ok(_)))
    }

    /// Tells a voter to stand for election, with the leader's leave, as openraft told the first one.
    async fn ask_to_lead(&self, node: u64) {
        let state = self
            .raft
            .with_raft_state(|state| (*state.vote_ref(), state.log_ids.last().copied()));
        let Ok((vote, last)) = state.await else {
            return;
        };
        if !vote.committed || vote.leader_id.node_id != self.node {
            // Somebody else's election is on its way.
            return;
        }
        let request = TransferLeaderRequest::new(vote, node, last);
        let option = RPCOption::new(TRANSFER_MAX);
        if let Err(error) = self.reach(node).transfer_leader(request, option).await {
            debug!(shard = %self.shard, peer = %peer_of(node), %error, "the voter does not answer");
        }
    }
}
