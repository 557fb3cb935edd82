//! How many of a shard's voters can be reached, as this peer's links tell.
//!
//! A call to a shard that has lost its majority is refused at once instead of waiting for its deadline (guarantee G6). It is a forecast and no
//! more: what is committed is decided by Raft alone.

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tracing::info;

use super::Error;
use super::group::Group;
use super::types::{Membership, peer_of};
use crate::link::LinkMap;

/// The voters of a shard and how many of them can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quorum {
    /// How many vote. While the voters change: of the old or the new ones, whichever are nearer to having no majority. 0: nobody knows yet.
    pub voters: usize,
    /// Those of them that are not gone, this replica included when it votes.
    pub reachable: usize,
}

impl Quorum {
    /// Whether a majority can be reached, as far as is known.
    pub fn has_majority(self) -> bool {
        self.voters == 0 || self.reachable > self.voters / 2
    }

    /// How many more may go.
    fn spare(self) -> Option<usize> {
        self.reachable.checked_sub(self.voters / 2 + 1)
    }
}

/// The quorum of a membership, where a replica for which `is_away` holds cannot be reached.
pub(super) fn quorum(membership: &Membership, is_away: impl Fn(u64) -> bool) -> Quorum {
    let configurations = membership.get_joint_config().iter();
    let quorums = configurations.map(|voters| Quorum {
        voters: voters.len(),
        reachable: voters.iter().filter(|node| !is_away(**node)).count(),
    });
    quorums
        .min_by_key(|quorum| quorum.spare())
        .unwrap_or_default()
}

/// Whether a Raft id will never answer again, because its peer has a later one in the group: it lost its disk.
pub(super) fn is_superseded(membership: &Membership, node: u64) -> bool {
    let mut nodes = membership.nodes();
    nodes.any(|(other, _)| peer_of(*other) == peer_of(node) && *other > node)
}

impl Group {
    /// The voters, and how many of them can be reached now.
    pub fn quorum(&self) -> Quorum {
        *self.parts.quorum.borrow()
    }

    /// Whether a majority can be reached.
    ///
    /// # Errors
    /// [`Error::NoQuorum`].
    pub fn check_quorum(&self) -> Result<(), Error> {
        if self.quorum().has_majority() {
            Ok(())
        } else {
            Err(self.no_quorum())
        }
    }

    /// Waits until no majority can be reached.
    pub async fn quorum_lost(&self) {
        let mut quorum = self.parts.quorum.clone();
        if quorum.wait_for(|now| !now.has_majority()).await.is_err() {
            // The group is stopping, and says so elsewhere.
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn no_quorum(&self) -> Error {
        let Quorum { voters, reachable } = self.quorum();
        Error::NoQuorum {
            shard: self.shard,
            voters,
            reachable,
        }
    }

    pub(super) fn count_quorum(&self, links: &LinkMap) -> Quorum {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let is_away = |node| links.is_gone(peer_of(node)) || is_superseded(membership, node);
        quorum(membership, is_away)
    }

    /// Keeps the count up to date.
    pub(super) async fn follow_quorum(self, sender: watch::Sender<Quorum>) {
        let mut links = self.parts.links.watch();
        let mut members = self.raft.server_metrics();
        loop {
            let now = self.count_quorum(&links.borrow_and_update());
            let mut before = now;
            if sender.send_if_modified(|old| {
                before = std::mem::replace(old, now);
                before != now
            }) && before.has_majority() != now.has_majority()
            {
                let Quorum { voters, reachable } = now;
                info!(shard = %self.shard, voters, reachable, "a majority came or went");
            }
            let changed = tokio::select! {
                changed = links.changed() => changed.is_ok(),
                changed = members.changed() => changed.is_ok(),
            };
            if !changed {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::EmptyNode;

    use super::*;

    fn membership(configurations: &[&[u64]]) -> Membership {
        let voters: Vec<BTreeSet<u64>> = configurations
            .iter()
            .map(|voters| voters.iter().copied().collect())
            .collect();
        let nodes: BTreeMap<u64, EmptyNode> = voters
            .iter()
            .flatten()
            .map(|node| (*node, EmptyNode {}))
            .collect();
        Membership::new(voters, nodes).unwrap()
    }

    #[test]
    fn majority_is_needed_of_the_old_and_of_the_new_voters() {
        let gone = |nodes: &'static [u64]| move |node: u64| nodes.contains(&node);
        let whole = membership(&[&[1, 2, 3]]);
        assert!(quorum(&whole, gone(&[3])).has_majority());
        let lost = quorum(&whole, gone(&[2, 3]));
        assert!(!lost.has_majority());
        assert_eq!((lost.voters, lost.reachable), (3, 1));
        let joint = membership(&[&[1, 2, 3], &[1, 2, 4]]);
        assert!(quorum(&joint, gone(&[3, 4])).has_majority());
        assert!(!quorum(&joint, gone(&[2, 4])).has_majority());
        assert!(!quorum(&joint, gone(&[2, 3])).has_majority());
    }

    #[test]
    fn nothing_is_refused_before_the_voters_are_known() {
        assert!(quorum(&Membership::default(), |_| true).has_majority());
    }

    #[test]
    fn earlier_life_is_away_for_good() {
        let now = membership(&[&[0x1_0001, 0x1_0002, 0x7_0002]]);
        assert!(is_superseded(&now, 0x1_0002));
        assert!(!is_superseded(&now, 0x7_0002) && !is_superseded(&now, 0x1_0001));
    }
}
