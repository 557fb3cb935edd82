//! Who is let into a group, and who may drop what it holds.
//!
//! A replica that lost what it held comes back under another Raft id, because the old one has voted and told what it stored. The leader takes
//! it in as a learner, and lets it take the place of the old id when it has caught up: a voter in one joint change (Raft, section 6), a
//! standby by adding and removing. Each step can be cut off by a crash; the replica asks again, and the leader goes on from what the
//! membership says. Begin with [`Group::admit`].

use std::collections::BTreeSet;
use std::sync::PoisonError;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode, Instant as _, RaftMetrics, ServerState};
use tokio::time::Instant;
use tracing::{debug, info};

use super::group::Group;
use super::types::{Membership, Types, incarnation_of, peer_of};
use super::{Error, Options};
use crate::types::{Incarnation, PeerId};

/// A learner may vote when it lacks at most this many entries: it then is no burden to a quorum that needs it. At full load that is a second or two.
const ADMISSION_LAG_MAX: u64 = 1000;

/// A voter holds practically everything when it lacks at most this many entries: some appends on their way.
const TAIL_LAG_MAX: u64 = 300;

/// How far a replica that asked to be let in has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is in the group as its peer is meant to be, and no earlier life of the peer is.
    Member,
    /// It is on its way: ask again.
    CatchingUp,
}

/// What is to be done next for a replica that asks to be let in.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Refuse(&'static str),
    AddLearner,
    /// It must have caught up before.
    Swap(ChangeMembers<u64, EmptyNode>),
    Nothing,
}

impl Group {
    /// Raft id of this replica.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// Whether this replica is in the group as far as it knows, and votes when its peer is meant to.
    pub fn is_member(&self) -> bool {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let is_in = membership.get_node(&self.node).is_some();
        let votes = membership.voter_ids().any(|node| node == self.node);
        is_in && (votes || !self.parts.options.voters.contains(&peer_of(self.node)))
    }

    /// The greatest incarnation of a peer among the replicas of this group, old and new; `None` when it is not among them.
    pub fn highest_incarnation(&self, peer: PeerId) -> Option<Incarnation> {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let effective = metrics.membership_config.membership().nodes();
        let committed = metrics.committed_membership_config.membership().nodes();
        let nodes = effective.chain(committed).map(|(node, _)| *node);
        nodes
            .filter(|node| peer_of(*node) == peer)
            .map(incarnation_of)
            .max()
    }

    /// Takes a replica in, as far as that is possible now. Only one is taken in at a time.
    ///
    /// # Errors
    /// [`Error::NotLeader`]; [`Error::NotAdmitted`] when it can never be let in under this Raft id; [`Error::Change`] when it did not work this time.
    pub async fn admit(&self, node: u64, deadline: Instant) -> Result<Admission, Error> {
        let change = async {
            let _one_at_a_time = self.parts.admission.lock().await;
            self.admit_alone(node).await
        };
        let late = |_| Error::Change {
            shard: self.shard,
            reason: "it takes longer than the caller waits".to_owned(),
        };
        tokio::time::timeout_at(deadline, change)
            .await
            .map_err(late)?
    }

    async fn admit_alone(&self, node: u64) -> Result<Admission, Error> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return Err(self.not_leader());
        }
        let options = &self.parts.options;
        let membership = metrics.membership_config.membership();
        match step(membership, options, node) {
            Step::Refuse(reason) => Err(Error::NotAdmitted {
                shard: self.shard,
                node,
                reason: reason.to_owned(),
            }),
            Step::Nothing => Ok(Admission::Member),
            Step::AddLearner => {
                info!(shard = %self.shard, peer = %peer_of(node), node, "a replica begins anew as a learner");
                let added = self.raft.add_learner(node, EmptyNode {}, false).await;
                added.map_err(|error| self.change_failed(error))?;
                Ok(Admission::CatchingUp)
            }
            Step::Swap(_) if !is_near(&metrics, node, ADMISSION_LAG_MAX) => {
                Ok(Admission::CatchingUp)
            }
            Step::Swap(change) => {
                let changed = self.raft.change_membership(change, false).await;
                let changed = changed.map_err(|error| self.change_failed(error))?;
                let now = changed.membership.unwrap_or_default();
                info!(shard = %self.shard, peer = %peer_of(node), node, members = %now, "a replica took its place again");
                match step(&now, options, node) {
                    Step::Nothing => Ok(Admission::Member),
                    _ => Ok(Admission::CatchingUp),
                }
            }
        }
    }

    fn change_failed(&self, error: RaftError<Types, ClientWriteError<Types>>) -> Error {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => self.not_leader(),
            error => Error::Change {
                shard: self.shard,
                reason: error.to_string(),
            },
        }
    }

    /// Whether a replica may drop what it holds: the leader and every other voter have it all. From then on no other replica may, until this one is in the
    /// group again under its next Raft id: two that begin anew at once would leave a group of three without a majority for ever.
    ///
    /// # Errors
    /// [`Error::NotLeader`]; [`Error::CannotSpare`] with what stands in the way.
    pub fn can_spare(&self, node: u64) -> Result<(), Error> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return Err(self.not_leader());
        }
        let membership = metrics.membership_config.membership();
        let mut spared = self
            .parts
            .spared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_other_away = spared
            .filter(|other| peer_of(*other) != peer_of(node))
            .is_some_and(|other| membership.get_node(&other).is_some());
        let reason = if is_other_away {
            Some("another replica is about to begin anew".to_owned())
        } else {
            self.obstacle(&metrics, node)
        };
        match reason {
            Some(reason) => Err(Error::CannotSpare {
                shard: self.shard,
                node,
                reason,
            }),
            None => {
                *spared = Some(node);
                Ok(())
            }
        }
    }

    /// Why the others could not do without this replica.
    fn obstacle(&self, metrics: &RaftMetrics<Types>, node: u64) -> Option<String> {
        let membership = metrics.membership_config.membership();
        if node == self.node {
            return Some("it leads".to_owned());
        }
        let damaged = self.parts.source.store.damaged();
        if damaged.borrow().contains_key(&self.shard.index()) {
            return Some("the leader has found damage itself".to_owned());
        }
        let is_settled = membership.get_joint_config().len() == 1
            && metrics.membership_config == metrics.committed_membership_config;
        if !is_settled {
            return Some("a change of the members is under way".to_owned());
        }
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let is_newcomer = |other: u64| {
            let peer = peer_of(other);
            !voters.contains(&other)
                && peer != peer_of(node)
                && self.parts.options.voters.contains(&peer)
        };
        if membership.nodes().any(|(other, _)| is_newcomer(*other)) {
            return Some("another replica is catching up".to_owned());
        }
        // Not the earlier lives of its own peer either: one that lost its log asks under its next id.
        let others = voters
            .iter()
            .filter(|other| peer_of(**other) != peer_of(node) && **other != self.node);
        let mut absent = others.filter(|other| !self.is_whole(metrics, **other));
        absent
            .next()
            .map(|other| format!("peer {} is not reached or is behind", peer_of(*other)))
    }

    /// Whether a voter was heard from within a lease and has practically all of the log.
    fn is_whole(&self, metrics: &RaftMetrics<Types>, node: u64) -> bool {
        let heard = metrics
            .heartbeat
            .as_ref()
            .and_then(|heard| heard.get(&node));
        let is_fresh = heard
            .and_then(Option::as_ref)
            .is_some_and(|heard| heard.elapsed() <= self.parts.options.election_timeout_max);
        is_fresh && is_near(metrics, node, TAIL_LAG_MAX)
    }

    /// Gives leadership to the voter that is furthest, when one is near the end of the log and was heard from lately; nothing else happens when this
    /// replica does not lead or there is none. A transfer to a voter that is not could cost an election timeout without a leader.
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
        let Some(successor) = whole.max_by_key(|node| stored(*node)) else {
            debug!(shard = %self.shard, "no voter could take over");
            return;
        };
        info!(shard = %self.shard, peer = %peer_of(successor), "handing leadership over");
        if let Err(error) = self.raft.trigger().transfer_leader(successor).await {
            debug!(shard = %self.shard, %error, "could not hand leadership over");
        }
    }
}

/// Whether a replica is known to have stored all but the last `lag` entries of the leader's log.
fn is_near(metrics: &RaftMetrics<Types>, node: u64, lag: u64) -> bool {
    let matched = metrics
        .replication
        .as_ref()
        .and_then(|replication| replication.get(&node).copied().flatten());
    let last = metrics.last_log_index.unwrap_or(0);
    matched.is_some_and(|matched| last.saturating_sub(matched.index) <= lag)
}

fn step(membership: &Membership, options: &Options, node: u64) -> Step {
    let peer = peer_of(node);
    let is_meant_to_vote = options.voters.contains(&peer);
    if !is_meant_to_vote && !options.standbys.contains(&peer) {
        return Step::Refuse("its peer does not belong to the shard");
    }
    let nodes = || membership.nodes().map(|(other, _)| *other);
    let mut lives = nodes().filter(|other| peer_of(*other) == peer && *other != node);
    if lives.any(|other| incarnation_of(other) > incarnation_of(node)) {
        return Step::Refuse("a later life of its peer is known");
    }
    if membership.get_node(&node).is_none() {
        return Step::AddLearner;
    }
    let configurations = membership.get_joint_config();
    let old: BTreeSet<u64> = nodes()
        .filter(|other| peer_of(*other) == peer && *other != node)
        .collect();
    let last = configurations.last().cloned().unwrap_or_default();
    let votes = last.contains(&node);
    if configurations.len() == 1 && old.is_empty() && (votes || !is_meant_to_vote) {
        return Step::Nothing;
    }
    let mut goal: BTreeSet<u64> = last.difference(&old).copied().collect();
    if is_meant_to_vote || last.intersection(&old).next().is_some() {
        goal.insert(node);
    }
    // Old ids that vote leave with the change of the voters.
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let learners: BTreeSet<u64> = old.difference(&voters).copied().collect();
    Step::Swap(ChangeMembers::Batch(vec![
        ChangeMembers::RemoveNodes(learners),
        ChangeMembers::ReplaceAllVoters(goal),
    ]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::types::node_id;
    use super::*;

    fn life(peer: u16, incarnation: u32) -> u64 {
        node_id(PeerId(peer), Incarnation(incarnation))
    }

    fn options() -> Options {
        Options {
            cluster: "test".to_owned(),
            node: life(0, 1),
            voters: [0, 1, 2].map(PeerId).to_vec(),
            standbys: vec![PeerId(4)],
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(400),
            election_timeout_max: Duration::from_millis(800),
        }
    }

    fn membership(configurations: &[&[u64]], learners: &[u64]) -> Membership {
        let voters: Vec<BTreeSet<u64>> = configurations
            .iter()
            .map(|voters| voters.iter().copied().collect())
            .collect();
        let nodes: BTreeMap<u64, EmptyNode> = voters
            .iter()
            .flatten()
            .chain(learners)
            .map(|node| (*node, EmptyNode {}))
            .collect();
        Membership::new(voters, nodes).unwrap()
    }

    fn swap(learners: &[u64], goal: &[u64]) -> Step {
        Step::Swap(ChangeMembers::Batch(vec![
            ChangeMembers::RemoveNodes(learners.iter().copied().collect()),
            ChangeMembers::ReplaceAllVoters(goal.iter().copied().collect()),
        ]))
    }

    #[test]
    fn voter_begins_as_a_learner_and_takes_the_place_of_its_old_id() {
        let voters = [life(0, 1), life(1, 1), life(2, 1)];
        let new = life(2, 7);
        let now = membership(&[&voters], &[life(4, 1)]);
        assert_eq!(step(&now, &options(), new), Step::AddLearner);
        let goal = [life(0, 1), life(1, 1), new];
        let now = membership(&[&voters], &[life(4, 1), new]);
        assert_eq!(step(&now, &options(), new), swap(&[], &goal));
        // Cut off in the middle of the joint change.
        let now = membership(&[&voters, &goal], &[life(4, 1)]);
        assert_eq!(step(&now, &options(), new), swap(&[], &goal));
        let now = membership(&[&goal], &[life(4, 1)]);
        assert_eq!(step(&now, &options(), new), Step::Nothing);
        // The old id was left in as a learner.
        let now = membership(&[&goal], &[life(2, 1)]);
        assert_eq!(step(&now, &options(), new), swap(&[life(2, 1)], &goal));
    }

    #[test]
    fn life_that_ended_before_it_voted_leaves_too() {
        let voters = [life(0, 1), life(1, 1), life(2, 1)];
        let now = membership(&[&voters], &[life(2, 5), life(2, 7)]);
        let goal = [life(0, 1), life(1, 1), life(2, 7)];
        assert_eq!(
            step(&now, &options(), life(2, 7)),
            swap(&[life(2, 5)], &goal)
        );
        let refused = step(&now, &options(), life(2, 6));
        assert!(matches!(refused, Step::Refuse(_)), "{refused:?}");
    }

    #[test]
    fn standby_stays_a_standby() {
        let voters = [life(0, 1), life(1, 1), life(2, 1)];
        let now = membership(&[&voters], &[life(4, 1), life(4, 3)]);
        assert_eq!(
            step(&now, &options(), life(4, 3)),
            swap(&[life(4, 1)], &voters)
        );
        let now = membership(&[&voters], &[life(4, 3)]);
        assert_eq!(step(&now, &options(), life(4, 3)), Step::Nothing);
    }

    #[test]
    fn stranger_is_refused() {
        let now = membership(&[&[life(0, 1)]], &[]);
        let refused = step(&now, &options(), life(3, 1));
        assert!(matches!(refused, Step::Refuse(_)), "{refused:?}");
    }
}
