//! What a replica knows of its group: who leads, who is in it, how far each is.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tracing::info;

use super::group::Group;
use super::quorum::Quorum;
use super::types::peer_of;
use crate::link::LinkMap;
use crate::types::{LogIndex, LogPosition, PeerId, Term};

/// Who leads, as this replica knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader. `None` between leaders.
    pub leader: Option<PeerId>,
    /// The term of that leader, or the greatest term seen.
    pub term: Term,
    /// This replica leads and has applied an entry of its own in its term, so it has applied all that earlier leaders committed.
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
    /// All replicas, this one included, in the order of their peers. A peer that begins anew is there once, as it is now.
    pub replicas: Vec<Member>,
    /// The voters, and how many of them can be reached.
    pub quorum: Quorum,
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

impl Group {
    /// What this replica knows of the group.
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let mut replicas: BTreeMap<PeerId, Member> = BTreeMap::new();
        // Of the lives of one peer the later ones have greater ids.
        for (node, _) in membership.nodes() {
            let peer = peer_of(*node);
            let member = Member {
                peer,
                is_voter: voters.contains(node),
                stored: self.stored_index(*node),
            };
            replicas.insert(peer, member);
        }
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
            replicas: replicas.into_values().collect(),
            quorum: self.quorum(),
        }
    }

    /// Waits until an entry is applied here; for ever when the group ends before.
    pub async fn applied(&self, index: LogIndex) {
        let wait = self.raft.wait(None);
        let applied = wait.applied_index_at_least(Some(index.0), "applied");
        if applied.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until nothing more is to be heard of an entry of this leader: every replica has it, or one that has not is gone, or another replica leads.
    pub async fn spread(&self, entry: LogPosition) {
        let this = peer_of(self.node);
        let mut progress = self.parts.progress.watch();
        let mut links = self.parts.links.watch();
        let mut leadership = self.parts.leadership.clone();
        loop {
            let leads = leadership.borrow_and_update().leader == Some(this);
            if !leads || !self.is_awaited(entry, &links.borrow_and_update()) {
                return;
            }
            let changed = tokio::select! {
                changed = progress.changed() => changed,
                changed = links.changed() => changed,
                changed = leadership.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Whether all that lack an entry, of which there are some, may still store it.
    fn is_awaited(&self, entry: LogPosition, links: &LinkMap) -> bool {
        let holders = self.holders(entry);
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        let replicas: BTreeSet<PeerId> = nodes.map(|(node, _)| peer_of(*node)).collect();
        let mut lacking = replicas.iter().filter(|peer| !holders.contains(peer));
        let Some(first) = lacking.next() else {
            return false;
        };
        !links.is_gone(*first) && !lacking.any(|peer| links.is_gone(*peer))
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

    /// Turns openraft's metrics into [`Leadership`], and says so when it changes.
    pub(super) async fn follow_leadership(self, sender: watch::Sender<Leadership>) {
        let mut server = self.raft.server_metrics();
        let mut data = self.raft.data_metrics();
        loop {
            let now = {
                let server = server.borrow_watched();
                let term = server.vote.leader_id.term;
                let is_leader = matches!(server.state, ServerState::Leader);
                let applied = data.borrow_watched().last_applied;
                // An entry of its own, not only of its term: openraft may give a term to one leader after the other.
                let is_own = applied.is_some_and(|id| {
                    (id.leader_id.term, id.leader_id.node_id) == (term, self.node)
                });
                Leadership {
                    leader: server.current_leader.map(peer_of),
                    term: Term(term),
                    is_ready: is_leader && is_own,
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
