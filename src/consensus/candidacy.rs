//! Who stands for election when the leader is gone: exactly one.
//!
//! The survivors of a leader ask each other where they stand ([`super::standing`]). When as many as a quorum, this replica among them, find the
//! leader gone, the one of them that all others can vote for stands, at once; the rest wait, and look again. openraft's timers, which know
//! nothing of links, go on below all this and are the fallback.
//!
//! The lease of the leader that is gone does not stand in the way: see [`Group::finds_leader_gone`]. Begin with [`Group::watch_leader`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info};

use super::group::Group;
use super::standing::{Standing, View};
use super::status::Leadership;
use super::types::{Membership, peer_of};
use crate::link::LinkMap;
use crate::types::PeerId;

/// How long the others have to answer, unless those that have answered are enough: a round trip and a word with openraft's task, on a busy machine.
const PATIENCE: Duration = Duration::from_millis(500);
/// How soon at the earliest those who do not stand look again. At first they do so whenever a link changes and when another one looks, …
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(3);
/// … and after this in any case.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// After so many looks they only wait, each time twice as long, …
const QUICK_LOOKS: u32 = 50;
/// How long an election may take, with a sync on each of two busy disks. Whoever stands again sooner makes the votes on their way worthless, …
const ELECTION_MIN: Duration = Duration::from_millis(150);
/// … as the pause after each election that failed does, up to this: no storm, whatever the links do.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A group that knows no leader gets one from its founder, or from a transfer, or from an election that goes on. Only then anybody looks.
const LEADERLESS_MIN: Duration = Duration::from_millis(300);

/// What follows from the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// This replica stands.
    Stand,
    /// This one should.
    Leave(u64),
    /// Another leader is there, or too few find the old one gone.
    Wait,
}

impl Group {
    /// Stands for election whenever the leader is gone and this replica is the one to do so.
    pub(super) async fn watch_leader(self) {
        self.wait_for_knowledge().await;
        let mut leadership = self.parts.leadership.clone();
        let mut links = self.parts.links.watch();
        while self.vacancy(&mut leadership, &mut links).await.is_ok() {
            self.fill_vacancy().await;
        }
    }

    /// Waits until this replica may trust what it knows of the leader. After a start that is what was written down before, and when several peers were
    /// started again the leader that is written down is most likely about to come back, too. What a leader has sent since says more, and so does
    /// another replica that is past this and finds the leader gone: then this one may be the one that has to stand.
    async fn wait_for_knowledge(&self) {
        tokio::select! {
            () = self.parts.heard.notified() => {}
            () = self.parts.canvassed.notified() => {}
            () = tokio::time::sleep(self.parts.options.return_after) => {}
        }
    }

    /// Whether this voter's own links say that the leader of the group is gone.
    ///
    /// Then, and only then, it may vote within the leader's lease. That is safe, because votes are still given by term and log alone (Raft,
    /// sections 5.2 and 5.4.1): the lease only keeps a candidate from disturbing a leader that lives (Ongaro's thesis, section 4.2.3), and lets a
    /// leader read without asking, which this program never does (section 6.4.1; it reads by ReadIndex). Were the leader alive after all, it
    /// would find the greater term and step down; what it had not committed is of unknown fate, and told so.
    pub(super) fn finds_leader_gone(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let leader = metrics.borrow_watched().current_leader;
        leader.is_some_and(|leader| self.is_lost(leader))
    }

    /// Waits until the group has no leader, or one that is gone. An error: the group has stopped.
    async fn vacancy(
        &self,
        leadership: &mut watch::Receiver<Leadership>,
        links: &mut watch::Receiver<Arc<LinkMap>>,
    ) -> Result<(), watch::error::RecvError> {
        let mut leaderless: Option<Instant> = None;
        loop {
            let leader = leadership.borrow_and_update().leader;
            let is_lost = leader.is_some_and(|leader| links.borrow_and_update().is_lost(leader));
            leadership.has_changed()?;
            if is_lost {
                return Ok(());
            }
            leaderless = match leader {
                Some(_) => None,
                None => leaderless.or_else(|| Some(Instant::now() + LEADERLESS_MIN)),
            };
            tokio::select! {
                changed = leadership.changed() => changed?,
                changed = links.changed() => changed?,
                () = until(leaderless) => return Ok(()),
            }
        }
    }

    /// Until there is a leader: finds out who is to stand, and stands when it is this one.
    async fn fill_vacancy(&self) {
        let begun = Instant::now();
        let (mut pause, mut looks) = (ELECTION_MIN, 0_u32);
        while self.is_headless() && self.parts.leadership.has_changed().is_ok() {
            let looked = Instant::now();
            let verdict = if self.may_lead() && self.quorum().has_majority() {
                self.canvass().await
            } else {
                Verdict::Wait
            };
            debug!(shard = %self.shard, ?verdict, "the leader is gone");
            if verdict == Verdict::Stand && self.is_headless() {
                info!(shard = %self.shard, after = ?begun.elapsed(), "the leader is gone: standing for election");
                if self.raft.trigger().elect(false).await.is_err() {
                    return;
                }
                self.wait_for_leader(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            } else {
                self.wait_to_look(looked, looks).await;
            }
            looks = looks.saturating_add(1);
        }
    }

    /// Waits until it is worth to look again.
    async fn wait_to_look(&self, looked: Instant, looks: u32) {
        let mut links = self.parts.links.watch();
        let news = async {
            if looks >= QUICK_LOOKS {
                return std::future::pending().await;
            }
            tokio::select! {
                _ = links.changed() => {}
                () = self.parts.canvassed.notified() => {}
            }
            tokio::time::sleep_until(looked + LOOK_INTERVAL_MIN).await;
        };
        tokio::select! {
            () = news => {}
            () = self.wait_for_leader(look_interval(looks)) => {}
        }
    }

    fn is_headless(&self) -> bool {
        let leader = self.parts.leadership.borrow().leader;
        leader.is_none_or(|leader| self.parts.links.now().is_lost(leader))
    }

    /// Waits for a leader that is there, or for so long; at the latest when a later term than the next one has begun.
    async fn wait_for_leader(&self, pause: Duration) {
        let mut leadership = self.parts.leadership.clone();
        let term = leadership.borrow().term.0;
        let is_led = |now: &Leadership| {
            let is_there = |leader| !self.parts.links.now().is_lost(leader);
            now.leader.is_some_and(is_there) || now.term.0 > term + 1
        };
        // Either way the caller looks again.
        let _ = tokio::time::timeout(pause, leadership.wait_for(is_led)).await;
    }

    /// Asks the other voters where they stand, and judges.
    async fn canvass(&self) -> Verdict {
        let Ok(own) = self.standing().await else {
            return Verdict::Wait;
        };
        if !own.may_lead || own.view != View::Headless {
            return Verdict::Wait;
        }
        let metrics = self.raft.server_metrics();
        let membership = metrics
            .borrow_watched()
            .membership_config
            .membership()
            .clone();
        let order: Vec<PeerId> = self.parts.options.holders().collect();
        let judged = |answers: &[Standing]| judge(&own, answers, &membership, &order);
        let are_enough = |answers: &[Standing]| judged(answers) != Verdict::Wait;
        // Nobody waits for the one that is lost, which others may still take for reachable.
        let leader = self.parts.leadership.borrow().leader;
        let is_lost = |node: &u64| leader == Some(peer_of(*node)) && self.is_lost(*node);
        let voters = membership.voter_ids().filter(|node| !is_lost(node));
        let answers = self.ask_standings(voters, PATIENCE, are_enough).await;
        judged(&answers)
    }
}

/// How long to wait after a look without a result, when there were so many before.
fn look_interval(looks: u32) -> Duration {
    let late = looks.saturating_sub(QUICK_LOOKS).min(8);
    (LOOK_INTERVAL * (1 << late)).min(PAUSE_MAX)
}

/// Waits for an instant, or for ever.
pub(super) async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Who is to stand: the one with the longest log of those who may lead, the owner before others with the same, if a quorum can vote for it. One voter that
/// follows a later leader stops everybody: it is about to be heard of.
fn judge(
    own: &Standing,
    answers: &[Standing],
    membership: &Membership,
    order: &[PeerId],
) -> Verdict {
    let all = || std::iter::once(own).chain(answers);
    let is_newer = |other: &Standing| {
        let leader = |standing: &Standing| {
            let leader = standing.vote.leader_id;
            (leader.term, leader.node_id)
        };
        matches!(other.view, View::Led(_)) && leader(other) > leader(own)
    };
    if all().any(is_newer) {
        return Verdict::Wait;
    }
    // A leader that died and is back already may be followed still by those that did not notice; it knows best that it does not lead.
    let is_led_by_own = |standing: &Standing| standing.view == View::Led(own.node);
    let finds_gone =
        |standing: &&Standing| standing.view == View::Headless || is_led_by_own(standing);
    let headless = || all().filter(finds_gone);
    let rank = |node: u64| {
        let rank = order.iter().position(|peer| *peer == peer_of(node));
        rank.unwrap_or(usize::MAX)
    };
    // Raft's own order of logs (section 5.4.1): of two the one with the later last entry is more up to date.
    let best = headless()
        .filter(|standing| standing.may_lead)
        .max_by_key(|standing| {
            let preference = std::cmp::Reverse((rank(standing.node), standing.node));
            (standing.last, preference)
        });
    let Some(best) = best else {
        return Verdict::Wait;
    };
    let supporters: BTreeSet<u64> = headless()
        .filter(|standing| standing.last <= best.last)
        .map(|standing| standing.node)
        .collect();
    let mut configurations = membership.get_joint_config().iter();
    let is_quorum = !membership.get_joint_config().is_empty()
        && configurations.all(|voters| voters.intersection(&supporters).count() > voters.len() / 2);
    match is_quorum {
        false => Verdict::Wait,
        true if best.node == own.node => Verdict::Stand,
        true => Verdict::Leave(best.node),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::EmptyNode;

    use super::super::convert::{log_id_from_proto, vote_from_proto};
    use super::super::types::node_id;
    use super::*;
    use crate::proto::peer::v1 as proto;
    use crate::types::Incarnation;

    const ORDER: [PeerId; 4] = [PeerId(4), PeerId(5), PeerId(6), PeerId(0)];

    fn node(peer: u16) -> u64 {
        node_id(PeerId(peer), Incarnation(1))
    }

    /// Finds the leader of term 3 gone, with so many entries of that term.
    fn headless(peer: u16, entries: u64) -> Standing {
        Standing {
            node: node(peer),
            vote: vote_from_proto(&proto::Vote {
                term: 3,
                node: node(4),
                committed: true,
            }),
            last: Some(log_id_from_proto(&proto::LogId {
                term: 3,
                node: node(4),
                index: entries,
            })),
            view: View::Headless,
            may_lead: true,
        }
    }

    fn membership(configurations: &[&[u16]]) -> Membership {
        let voters: Vec<BTreeSet<u64>> = configurations
            .iter()
            .map(|peers| peers.iter().map(|peer| node(*peer)).collect())
            .collect();
        let nodes: BTreeMap<u64, EmptyNode> = voters
            .iter()
            .flatten()
            .map(|node| (*node, EmptyNode {}))
            .collect();
        Membership::new(voters, nodes).unwrap()
    }

    fn judged(own: &Standing, answers: &[Standing], configurations: &[&[u16]]) -> Verdict {
        judge(own, answers, &membership(configurations), &ORDER)
    }

    #[test]
    fn longest_log_stands_and_nobody_else() {
        let (short, long) = (headless(5, 7), headless(6, 8));
        let voters: &[&[u16]] = &[&[4, 5, 6]];
        assert_eq!(
            judged(&long, std::slice::from_ref(&short), voters),
            Verdict::Stand
        );
        assert_eq!(
            judged(&short, std::slice::from_ref(&long), voters),
            Verdict::Leave(node(6))
        );
    }

    #[test]
    fn later_term_is_a_longer_log() {
        let mut later = headless(6, 2);
        later.last = Some(log_id_from_proto(&proto::LogId {
            term: 4,
            node: node(6),
            index: 2,
        }));
        let verdict = judged(&headless(5, 7), &[later], &[&[4, 5, 6]]);
        assert_eq!(verdict, Verdict::Leave(node(6)));
    }

    #[test]
    fn among_equals_the_owner_stands_then_the_first_replica() {
        let voters: &[&[u16]] = &[&[4, 6, 0]];
        let (owner, last) = (headless(4, 7), headless(0, 7));
        assert_eq!(
            judged(&last, std::slice::from_ref(&owner), voters),
            Verdict::Leave(node(4))
        );
        let verdict = judged(&headless(6, 7), &[last], voters);
        assert_eq!(verdict, Verdict::Stand);
    }

    #[test]
    fn nobody_stands_without_a_quorum_that_finds_the_leader_gone() {
        let own = headless(5, 7);
        assert_eq!(judged(&own, &[], &[&[4, 5, 6]]), Verdict::Wait);
        let led = Standing {
            view: View::Led(node(4)),
            ..headless(6, 7)
        };
        assert_eq!(judged(&own, &[led], &[&[4, 5, 6]]), Verdict::Wait);
        // A standby counts for nothing.
        assert_eq!(
            judged(&own, &[headless(0, 7)], &[&[4, 5, 6]]),
            Verdict::Wait
        );
    }

    #[test]
    fn joint_change_needs_both_quorums() {
        let own = headless(5, 7);
        let joint: &[&[u16]] = &[&[4, 5, 6], &[4, 5, 0]];
        assert_eq!(judged(&own, &[headless(6, 7)], joint), Verdict::Wait);
        let both = [headless(6, 7), headless(0, 7)];
        assert_eq!(judged(&own, &both, joint), Verdict::Stand);
    }

    #[test]
    fn later_leader_stops_everybody() {
        let own = headless(5, 7);
        let led = Standing {
            view: View::Led(node(6)),
            vote: vote_from_proto(&proto::Vote {
                term: 4,
                node: node(6),
                committed: true,
            }),
            ..headless(0, 7)
        };
        let answers = [headless(6, 7), led];
        assert_eq!(judged(&own, &answers, &[&[5, 6, 0]]), Verdict::Wait);
    }

    #[test]
    fn damaged_replica_supports_and_does_not_stand() {
        let damaged = Standing {
            may_lead: false,
            ..headless(5, 7)
        };
        let voters: &[&[u16]] = &[&[4, 5, 6]];
        let verdict = judged(&headless(6, 7), std::slice::from_ref(&damaged), voters);
        assert_eq!(verdict, Verdict::Stand);
        // Its log is longer, so that it could not give its vote.
        assert_eq!(judged(&headless(6, 6), &[damaged], voters), Verdict::Wait);
    }
}
