//! Who is let into a group, and who may drop what it holds.
//!
//! A replica that lost what it held comes back under another Raft id, because the old one has voted and told what it stored. The leader takes
//! it in as a learner, and lets it take the place that the old id has by then, when it has caught up: that of a voter in one joint change
//! (Raft, section 6), that of a standby by removing the old id. Each step can be cut off by a crash; the replica asks again, and the leader goes
//! on from what the membership says. Begin with [`Group::admit`].

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode, RaftMetrics, ServerState};
use tokio::time::Instant;
use tracing::info;

use super::group::Group;
use super::types::{Membership, Types, incarnation_of, peer_of};
use super::{Error, Options};
use crate::types::{Incarnation, PeerId};

/// A learner may vote when it lacks at most this many entries: it then is no burden to a quorum that needs it. At full load that is a second or two.
pub(super) const ADMISSION_LAG_MAX: u64 = 1000;

/// A replica may use leave to drop what it holds for so long after it has asked: twice as long as a leader takes to answer.
pub const LEAVE_MAX: Duration = Duration::from_secs(10);

/// How often it is looked whether all have stored the end of the log: they do within one round.
const STORED_INTERVAL: Duration = Duration::from_millis(5);

/// A replica that was allowed to drop what it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spared {
    /// It is away until this Raft id is no longer a member; or it has not used its leave, and is heard from later.
    node: u64,
    at: Instant,
}

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
    /// This peer's configuration does not know the replica. That is no reason to drop what it holds: the one or the other may be wrong, or new.
    Unknown,
    AddLearner,
    /// The voters are changing: that is finished first.
    Wait,
    /// It must have caught up before.
    Swap(ChangeMembers<u64, EmptyNode>),
    Nothing,
}

impl Group {
    /// Raft id of this replica.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// Whether this replica is in the group as far as it knows, and no earlier life of its peer has the vote that is to be its own.
    pub fn is_member(&self) -> bool {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let is_in = membership.get_node(&self.node).is_some();
        let mut voters = membership.voter_ids();
        let has_heirloom = voters.any(|node| is_earlier(node, self.node));
        is_in && !has_heirloom
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
            Step::Unknown => Err(Error::Change {
                shard: self.shard,
                reason: "its peer does not belong to the shard as this peer is configured"
                    .to_owned(),
            }),
            Step::Nothing => Ok(Admission::Member),
            Step::AddLearner => {
                info!(shard = %self.shard, peer = %peer_of(node), node, "a replica begins anew as a learner");
                let added = self.raft.add_learner(node, EmptyNode {}, false).await;
                added.map_err(|error| self.change_failed(error))?;
                Ok(Admission::CatchingUp)
            }
            Step::Wait => Ok(Admission::CatchingUp),
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

    /// Whether a replica may drop what it holds: the leader and every other voter have all that is in the log now, on disk, and a majority confirms that the
    /// leader still leads. From then on no other replica may, until this one is in the group again under its next Raft id: two that begin anew at once
    /// would leave a group of three without a majority for ever. Leave counts only for a replica whose own group does not run, so that it cannot have
    /// acknowledged more meanwhile, and only for [`LEAVE_MAX`]: a later leader does not know of it, but misses that replica too.
    ///
    /// # Errors
    /// [`Error::NotLeader`]; [`Error::NoQuorum`]; [`Error::CannotSpare`] with what stands in the way.
    pub async fn spare(&self, node: u64, deadline: Instant) -> Result<(), Error> {
        // All that the replica has ever acknowledged came from a leader, and is in this log by now if it counts.
        let end = self.raft.metrics().borrow_watched().last_log_index;
        self.check_spare(node)?;
        let everywhere = async {
            self.confirm_leadership().await?;
            self.stored_without(node, end).await
        };
        let late = |_| self.cannot_spare(node, "the others do not hold all of the log yet");
        tokio::time::timeout_at(deadline, everywhere)
            .await
            .map_err(late)??;
        let mut spared = self.spared();
        self.may_go(*spared, node)?;
        *spared = Some(Spared {
            node,
            at: Instant::now(),
        });
        Ok(())
    }

    fn spared(&self) -> MutexGuard<'_, Option<Spared>> {
        let spared = self.parts.spared.lock();
        spared.unwrap_or_else(PoisonError::into_inner)
    }

    fn check_spare(&self, node: u64) -> Result<(), Error> {
        let spared = *self.spared();
        self.may_go(spared, node)
    }

    fn cannot_spare(&self, node: u64, reason: impl Into<String>) -> Error {
        Error::CannotSpare {
            shard: self.shard,
            node,
            reason: reason.into(),
        }
    }

    /// Whether nothing stands in the way, as far as is known without asking.
    fn may_go(&self, spared: Option<Spared>, node: u64) -> Result<(), Error> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return Err(self.not_leader());
        }
        let membership = metrics.membership_config.membership();
        let others = spared.filter(|other| peer_of(other.node) != peer_of(node));
        let is_other_away = others.is_some_and(|other| {
            let is_over = other.at.elapsed() > 2 * LEAVE_MAX && self.is_heard(&metrics, other.node);
            membership.get_node(&other.node).is_some() && !is_over
        });
        let reason = if is_other_away {
            Some("another replica is about to begin anew".to_owned())
        } else {
            self.obstacle(&metrics, node)
        };
        match reason {
            Some(reason) => Err(self.cannot_spare(node, reason)),
            None => Ok(()),
        }
    }

    /// Waits until this replica and all voters but those of one peer have stored the log up to an entry.
    async fn stored_without(&self, node: u64, end: Option<u64>) -> Result<(), Error> {
        let Some(end) = end else { return Ok(()) };
        loop {
            let metrics = self.raft.metrics().borrow_watched().clone();
            if metrics.state != ServerState::Leader {
                return Err(self.not_leader());
            }
            let matched = |other: u64| {
                let replication = metrics.replication.as_ref();
                let matched = replication.and_then(|all| all.get(&other).copied().flatten());
                matched.is_some_and(|matched| matched.index >= end)
            };
            let mut voters = metrics.membership_config.membership().voter_ids();
            let is_everywhere = voters.all(|other| {
                other == self.node || peer_of(other) == peer_of(node) || matched(other)
            });
            if is_everywhere && self.has_stored(end) {
                return Ok(());
            }
            tokio::time::sleep(STORED_INTERVAL).await;
        }
    }

    /// Whether this replica has the log up to an entry on disk, or what came of it.
    fn has_stored(&self, index: u64) -> bool {
        let durable = self.parts.wal.durable(self.shard);
        let purged = || self.parts.wal.bounds(self.shard).purged;
        durable.is_some_and(|durable| durable.index.0 >= index)
            || purged().is_some_and(|purged| purged.position.index.0 >= index)
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
            let is_heir = voters.iter().any(|voter| is_earlier(*voter, other));
            peer_of(other) != peer_of(node) && is_heir
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
}

/// Whether a replica is known to have stored all but the last `lag` entries of the leader's log.
pub(super) fn is_near(metrics: &RaftMetrics<Types>, node: u64, lag: u64) -> bool {
    let matched = metrics
        .replication
        .as_ref()
        .and_then(|replication| replication.get(&node).copied().flatten());
    let last = metrics.last_log_index.unwrap_or(0);
    matched.is_some_and(|matched| last.saturating_sub(matched.index) <= lag)
}

/// Whether one Raft id is of an earlier life of the other one's peer.
fn is_earlier(node: u64, than: u64) -> bool {
    peer_of(node) == peer_of(than) && incarnation_of(node) < incarnation_of(than)
}

fn step(membership: &Membership, options: &Options, node: u64) -> Step {
    if !options.holders().any(|peer| peer == peer_of(node)) {
        return Step::Unknown;
    }
    let nodes = || membership.nodes().map(|(other, _)| *other);
    if nodes().any(|other| is_earlier(node, other)) {
        return Step::Refuse("a later life of its peer is known");
    }
    if membership.get_node(&node).is_none() {
        return Step::AddLearner;
    }
    let old: BTreeSet<u64> = nodes().filter(|other| is_earlier(*other, node)).collect();
    if old.is_empty() {
        return Step::Nothing;
    }
    let [voters] = membership.get_joint_config().as_slice() else {
        return Step::Wait;
    };
    // A vote that the old id has goes over to the new one; whether the new one is to have one otherwise is not decided here (`voters`).
    let mut goal: BTreeSet<u64> = voters.difference(&old).copied().collect();
    if goal.len() < voters.len() {
        goal.insert(node);
    }
    // Old ids that vote leave with the change of the voters.
    let learners: BTreeSet<u64> = old.difference(voters).copied().collect();
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
            standby_after: Duration::from_secs(10),
            return_after: Duration::from_secs(10),
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
        // Cut off in the middle of the joint change, which the leader finishes.
        let now = membership(&[&voters, &goal], &[life(4, 1)]);
        assert_eq!(step(&now, &options(), new), Step::Wait);
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
    fn vote_stays_where_it_went_meanwhile() {
        // The standby has taken the place of peer 0, which then lost its disk.
        let voters = [life(1, 1), life(2, 1), life(4, 1)];
        let new = life(0, 7);
        let now = membership(&[&voters], &[life(0, 1)]);
        assert_eq!(step(&now, &options(), new), Step::AddLearner);
        let now = membership(&[&voters], &[life(0, 1), new]);
        let swapped = swap(&[life(0, 1)], &voters);
        assert_eq!(step(&now, &options(), new), swapped);
        let now = membership(&[&voters], &[new]);
        assert_eq!(step(&now, &options(), new), Step::Nothing);
        // The standby that votes loses its disk as well.
        let other = life(4, 8);
        let now = membership(&[&voters], &[new, other]);
        let goal = [life(1, 1), life(2, 1), other];
        assert_eq!(step(&now, &options(), other), swap(&[], &goal));
    }

    #[test]
    fn stranger_is_not_let_in_and_not_told_to_begin_anew() {
        let now = membership(&[&[life(0, 1)]], &[]);
        assert_eq!(step(&now, &options(), life(3, 1)), Step::Unknown);
    }
}
