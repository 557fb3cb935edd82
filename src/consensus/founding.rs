//! How a group comes to life, and who is in it.

use std::time::Duration;

use openraft::EmptyNode;
use openraft::async_runtime::WatchReceiver;
use tracing::{debug, info, warn};

use super::group::Group;
use super::types::peer_of;

/// How often the preferred leader of a group without one stands for election when it starts.
const FIRST_ELECTION_INTERVAL: Duration = Duration::from_millis(150);

/// How often a leader tries again to take in a standby.
const STANDBY_INTERVAL: Duration = Duration::from_secs(1);
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

    /// The standbys that are not in the group yet.
    fn missing_standbys(&self) -> Vec<u64> {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let standbys = self.parts.options.standbys.iter();
        let missing = standbys.filter(|node| metrics.membership_config.get_node(node).is_none());
        missing.copied().collect()
    }

    async fn add_standbys(&self) {
        for standby in self.missing_standbys() {
            match self.raft.add_learner(standby, EmptyNode {}, false).await {
                Ok(_) => {
                    info!(shard = %self.shard, standby = peer_of(standby).0, "added the standby");
                }
                Err(error) => {
                    debug!(shard = %self.shard, %error, "could not add the standby; trying again");
                }
            }
        }
    }
}
