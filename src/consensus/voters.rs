//! Who votes: the standby in place of a voter that is gone, and the owner again when it is back.
//!
//! The number of voters never changes, one is replaced at a time, and each change goes through a joint configuration (Raft, section 6). One that was cut
//! off half-way, because its leader died, is finished first: as long as it lasts, two majorities are needed. Whoever stepped back stays in
//! the group as a standby, and gets every entry. The decision is in [`plan`], which is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::raft::Precondition;
use openraft::{ChangeMembers, EmptyNode, RaftMetrics};
use tokio::time::Instant;
use tracing::{debug, info};

use super::admission::{ADMISSION_LAG_MAX, is_near};
use super::group::Group;
use super::quorum::quorum;
use super::types::{Membership, Types, peer_of};
use super::vigil::Vigil;
use crate::types::PeerId;

/// A change that takes longer than this has most likely lost its majority. It is finished later.
const CHANGE_MAX: Duration = Duration::from_secs(5);

/// How a replica is, as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Gone, and for long enough to replace it.
    Lost,
    /// Gone.
    Away,
    /// There, but behind.
    Behind,
    /// There, and practically at the end of the log.
    Fit,
}

/// What is to be done about the voters next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A change that was begun is to be finished.
    Finish,
    /// One voter steps back for another replica.
    Swap {
        /// Who steps back.
        out: u64,
        /// Who votes instead.
        into: u64,
    },
}

/// The next change, when one is due and possible. `order` is the peers of the shard, the owner first; those that vote by preference are the first
/// of them, as many as there are voters.
pub(super) fn plan(
    membership: &Membership,
    order: &[PeerId],
    this: u64,
    conditions: &BTreeMap<u64, Condition>,
) -> Option<Change> {
    let [voters] = membership.get_joint_config().as_slice() else {
        return (!membership.get_joint_config().is_empty()).then_some(Change::Finish);
    };
    let condition = |node: u64| conditions.get(&node).copied().unwrap_or(Condition::Away);
    let rank = |node: u64| {
        let rank = order.iter().position(|peer| *peer == peer_of(node));
        rank.unwrap_or(usize::MAX)
    };
    let voting_peers: BTreeSet<PeerId> = voters.iter().map(|node| peer_of(*node)).collect();
    let spare = membership.nodes().map(|(node, _)| *node).filter(|node| {
        // A peer whose earlier life votes comes in by the door (`admission`), which removes that one for good.
        !voting_peers.contains(&peer_of(*node)) && condition(*node) == Condition::Fit
    });
    let into = spare.min_by_key(|node| (rank(*node), std::cmp::Reverse(*node)))?;
    let others = || voters.iter().copied().filter(|node| *node != this);
    let lost = others().filter(|node| condition(*node) == Condition::Lost);
    let out = match lost.max_by_key(|node| rank(*node)) {
        Some(lost) => lost,
        // All voters are there. Only the owner has a right to be one.
        None if rank(into) == 0 => others().max_by_key(|node| rank(*node))?,
        None => return None,
    };
    let next: BTreeSet<u64> = voters
        .iter()
        .copied()
        .filter(|node| *node != out)
        .chain([into])
        .collect();
    let is_away = |node| matches!(condition(node), Condition::Away | Condition::Lost);
    let after = Membership::new(vec![voters.clone(), next], nodes(membership)).ok()?;
    quorum(&after, is_away)
        .has_majority()
        .then_some(Change::Swap { out, into })
}

fn nodes(membership: &Membership) -> BTreeMap<u64, EmptyNode> {
    membership
        .nodes()
        .map(|(node, _)| (*node, EmptyNode {}))
        .collect()
}

impl Group {
    /// How each replica is.
    pub(super) fn conditions(
        &self,
        metrics: &RaftMetrics<Types>,
        vigil: &Vigil,
    ) -> BTreeMap<u64, Condition> {
        let membership = metrics.membership_config.membership();
        let (now, patience) = (Instant::now(), self.parts.options.standby_after);
        let condition = |node: u64| {
            if node == self.node {
                return Condition::Fit;
            }
            match vigil.absence(node, now) {
                Some(absence) if absence >= patience => Condition::Lost,
                Some(_) => Condition::Away,
                None if is_near(metrics, node, ADMISSION_LAG_MAX) => Condition::Fit,
                None => Condition::Behind,
            }
        };
        let nodes = membership.nodes().map(|(node, _)| *node);
        nodes.map(|node| (node, condition(node))).collect()
    }

    /// Makes a change, if nobody else makes one. True: it is made.
    pub(super) async fn change_voters(
        &self,
        change: &Change,
        metrics: &RaftMetrics<Types>,
    ) -> bool {
        let members: ChangeMembers<u64, EmptyNode> = match change {
            // Nothing more than what the change that was begun says: the second of its two configurations.
            Change::Finish => ChangeMembers::AddVoterIds(BTreeSet::new()),
            Change::Swap { out, into } => ChangeMembers::Batch(vec![
                ChangeMembers::AddVoterIds(BTreeSet::from([*into])),
                ChangeMembers::RemoveVoters(BTreeSet::from([*out])),
            ]),
        };
        // Whatever the decision was made on must still hold.
        let seen = Precondition::LastMembershipLogId {
            last_membership_log_id: *metrics.membership_config.log_id(),
        };
        let change_now = async {
            let _one_at_a_time = self.parts.admission.lock().await;
            self.raft.change_membership_if(members, true, [seen]).await
        };
        match tokio::time::timeout(CHANGE_MAX, change_now).await {
            Ok(Ok(changed)) => {
                let now = changed.membership.unwrap_or_default();
                info!(shard = %self.shard, ?change, members = %now, "the voters changed");
                true
            }
            Ok(Err(error)) => {
                debug!(shard = %self.shard, ?change, %error, "the voters could not be changed");
                false
            }
            Err(_) => {
                debug!(shard = %self.shard, ?change, "the change of the voters takes too long");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::node_id;
    use super::*;
    use crate::types::Incarnation;

    const ORDER: [PeerId; 4] = [PeerId(0), PeerId(1), PeerId(2), PeerId(4)];

    fn node(peer: u16) -> u64 {
        node_id(PeerId(peer), Incarnation(1))
    }

    fn set(peers: &[u16]) -> BTreeSet<u64> {
        peers.iter().map(|peer| node(*peer)).collect()
    }

    /// All four peers are in the group.
    fn members(configurations: &[&[u16]]) -> Membership {
        let voters = configurations.iter().map(|peers| set(peers)).collect();
        let nodes: BTreeMap<u64, EmptyNode> = ORDER
            .iter()
            .map(|peer| (node(peer.0), EmptyNode {}))
            .collect();
        Membership::new(voters, nodes).unwrap()
    }

    /// Those that are not named are fit.
    fn planned(now: &Membership, leader: u16, conditions: &[(u16, Condition)]) -> Option<Change> {
        let mut all: BTreeMap<u64, Condition> = now
            .nodes()
            .map(|(node, _)| (*node, Condition::Fit))
            .collect();
        for (peer, condition) in conditions {
            all.insert(node(*peer), *condition);
        }
        plan(now, &ORDER, node(leader), &all)
    }

    fn swap(out: u16, into: u16) -> Option<Change> {
        Some(Change::Swap {
            out: node(out),
            into: node(into),
        })
    }

    #[test]
    fn standby_takes_the_place_of_a_voter_that_is_lost() {
        let now = members(&[&[0, 1, 2]]);
        assert_eq!(planned(&now, 1, &[]), None);
        assert_eq!(planned(&now, 1, &[(0, Condition::Away)]), None);
        assert_eq!(planned(&now, 1, &[(0, Condition::Lost)]), swap(0, 4));
        let behind = [(0, Condition::Lost), (4, Condition::Behind)];
        assert_eq!(planned(&now, 1, &behind), None);
    }

    #[test]
    fn nothing_changes_without_both_majorities() {
        let now = members(&[&[0, 1, 2]]);
        let two = [(0, Condition::Lost), (2, Condition::Away)];
        assert_eq!(planned(&now, 1, &two), None);
        let both = [(0, Condition::Lost), (4, Condition::Lost)];
        assert_eq!(planned(&now, 1, &both), None);
    }

    #[test]
    fn owner_takes_its_place_back_and_others_do_not() {
        let without_owner = members(&[&[1, 2, 4]]);
        assert_eq!(planned(&without_owner, 1, &[]), swap(4, 0));
        assert_eq!(planned(&without_owner, 1, &[(0, Condition::Behind)]), None);
        let without_neighbour = members(&[&[0, 2, 4]]);
        assert_eq!(planned(&without_neighbour, 0, &[]), None);
    }

    #[test]
    fn leader_never_steps_back_itself() {
        let now = members(&[&[1, 2, 4]]);
        assert_eq!(planned(&now, 4, &[]), swap(2, 0));
    }

    #[test]
    fn owner_comes_in_for_a_lost_voter_first() {
        let now = members(&[&[1, 2, 4]]);
        assert_eq!(planned(&now, 2, &[(1, Condition::Lost)]), swap(1, 0));
    }

    #[test]
    fn change_that_was_cut_off_is_finished_before_anything_else() {
        let now = members(&[&[0, 1, 2], &[1, 2, 4]]);
        let change = planned(&now, 1, &[(0, Condition::Lost)]);
        assert_eq!(change, Some(Change::Finish));
        assert_eq!(planned(&Membership::default(), 1, &[]), None);
    }

    #[test]
    fn peer_whose_earlier_life_votes_is_no_standby() {
        let later = node_id(PeerId(2), Incarnation(7));
        let nodes: BTreeMap<u64, EmptyNode> = set(&[0, 1, 2])
            .into_iter()
            .chain([later])
            .map(|node| (node, EmptyNode {}))
            .collect();
        let now = Membership::new(vec![set(&[0, 1, 2])], nodes).unwrap();
        assert_eq!(planned(&now, 0, &[(2, Condition::Lost)]), None);
    }

    #[test]
    fn single_voter_stays() {
        let nodes: BTreeMap<u64, EmptyNode> = set(&[0, 1])
            .into_iter()
            .map(|node| (node, EmptyNode {}))
            .collect();
        let now = Membership::new(vec![set(&[0])], nodes).unwrap();
        assert_eq!(planned(&now, 0, &[]), None);
    }
}
