//! How a group comes to life, and who is in it at first. Who votes later is in `voters`.

use std::time::Duration;

use openraft::EmptyNode;
use openraft::async_runtime::WatchReceiver;
use tracing::{debug, info, warn};

use super::group::Group;
use super::types::{incarnation_of, node_id, peer_of};
use crate::types::{Incarnation, PeerId};

/// How often the preferred leader of a group without one stands for election when it starts.
const FIRST_ELECTION_INTERVAL: Duration = Duration::from_millis(150);

/// How often a leader tries again to take in a standby.
const STANDBY_INTERVAL: Duration = Duration::from_secs(1);
/// All founders are in this incarnation. A peer in a later one has forgotten whether its group exists, and is let in by the others.
const FOUNDERS: Incarnation = Incarnation(1);

/// A group without a leader for this long is worth a word.
const LEADERLESS_MAX: Duration = Duration::from_secs(10);

impl Group {
    /// Brings a new group to life and keeps its standbys in it.
    pub(super) async fn tend(self) {
        self.begin().await;
        let mut leadership = self.parts.leadership.clone();
        loop {
            let is_leading = leadership.borrow_and_update().is_ready;
            if is_leading {
                self.add_standbys().await;
            }
            let is_incomplete = is_leading && !self.missing_standbys().is_empty();
            let changed = leadership.changed();
            let changed = if is_incomplete {
                let changed = tokio::time::timeout(STANDBY_INTERVAL, changed).await;
                changed.unwrap_or(Ok(()))
            } else {
                changed.await
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Says so when the group is without a leader for long: too few of its voters are up, or they do not let this peer take part.
    pub(super) async fn tell_leaderless(self) {
        let mut leadership = self.parts.leadership.clone();
        loop {
            let led = leadership.wait_for(|now| now.leader.is_some());
            match tokio::time::timeout(LEADERLESS_MAX, led).await {
                Ok(Err(_)) => return,
                Ok(Ok(_)) => {}
                Err(_) => warn!(
                    shard = %self.shard,
                    "no leader yet: too few voters are up, or they refuse this peer (see their logs)"
                ),
            }
            if leadership
                .wait_for(|now| now.leader.is_some())
                .await
                .is_err()
                || leadership
                    .wait_for(|now| now.leader.is_none())
                    .await
                    .is_err()
            {
                return;
            }
        }
    }

    /// The preferred leader (first of the voters) founds a new group at once, and stands for election when it finds the group without a leader.
    /// The others do so only when it has not appeared for some time, one after the other.
    async fn begin(&self) {
        let options = &self.parts.options;
        let this = peer_of(self.node);
        let Some(rank) = options.voters.iter().position(|voter| *voter == this) else {
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
                Ok(false) if self.is_founder() => self.found().await,
                Ok(true) if rank == 0 && self.is_member() => {
                    // Only asks first, so that a replica whose log is behind disturbs nobody.
                    let _ = self.raft.trigger().elect(true).await;
                }
                Ok(_) | Err(_) => return,
            }
            tokio::time::sleep(FIRST_ELECTION_INTERVAL).await;
        }
    }

    fn is_founder(&self) -> bool {
        incarnation_of(self.node) == FOUNDERS
    }

    async fn found(&self) {
        let voters = self.parts.options.voters.iter();
        let voters: std::collections::BTreeMap<u64, EmptyNode> = voters
            .map(|peer| (node_id(*peer, FOUNDERS), EmptyNode {}))
            .collect();
        match self.raft.initialize(voters).await {
            Ok(()) => info!(shard = %self.shard, "founded the group"),
            // Another founder was first, which is just as good.
            Err(error) => debug!(shard = %self.shard, %error, "the group exists already"),
        }
    }

    /// The peers whose replicas are to be added: those that no life of is in the group, and that are not known to have begun anew. One that has asks to
    /// be let in by itself, as all do when a peer leads that has begun anew itself.
    fn missing_standbys(&self) -> Vec<PeerId> {
        if !self.is_founder() {
            return Vec::new();
        }
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let nodes = metrics.membership_config.membership().nodes();
        let present: Vec<PeerId> = nodes.map(|(node, _)| peer_of(*node)).collect();
        let is_known_anew = |peer: &PeerId| {
            let known = self.parts.peers.acquaintance(*peer);
            known.is_some_and(|known| known.incarnation > FOUNDERS)
        };
        let holders = self.parts.options.holders();
        let missing = holders.filter(|peer| !present.contains(peer) && !is_known_anew(peer));
        missing.collect()
    }

    async fn add_standbys(&self) {
        for standby in self.missing_standbys() {
            let node = node_id(standby, FOUNDERS);
            match self.raft.add_learner(node, EmptyNode {}, false).await {
                Ok(_) => info!(shard = %self.shard, %standby, "added the standby"),
                Err(error) => {
                    debug!(shard = %self.shard, %error, "could not add the standby; trying again");
                }
            }
        }
    }
}
