//! Peers that are gone: who stands, who votes, who leads, what is refused. The links are what a test says they are.

use std::collections::BTreeSet;

use openraft::async_runtime::WatchReceiver;

use super::super::convert;
use super::*;
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::raft_service_client::RaftServiceClient;
use crate::types::Term;

/// Timers do nothing within the time of a test: what happens, happens by the links.
const EVENTS: Pace = Pace {
    election_timeout: Duration::from_secs(100),
    standby_after: Duration::from_millis(50),
    return_after: Duration::from_millis(100),
};

/// As [`EVENTS`], with voters that stay.
const SAME_VOTERS: Pace = Pace {
    standby_after: Duration::from_secs(100),
    ..EVENTS
};

impl Cluster {
    /// Tells one peer about the links of another one.
    fn tell(&self, whom: u16, number: u16, state: LinkState) {
        if let Some(life) = &self.peer(whom).life {
            life.links.send_modify(|map| {
                let now = LinkMap::clone(map).with_peer(PeerId(number), state);
                *map = Arc::new(now);
            });
        }
    }

    /// Tells all other peers about the links of one.
    fn tell_all(&self, number: u16, state: LinkState) {
        for whom in PEERS.into_iter().filter(|whom| *whom != number) {
            self.tell(whom, number, state);
        }
    }

    /// Kills a peer, and lets the others know.
    async fn kill(&mut self, number: u16) {
        self.down(number).await;
        self.tell_all(number, LinkState::Dead);
    }

    /// Starts a killed peer, and lets the others know.
    async fn revive(&mut self, number: u16) {
        self.up(number).await;
        self.tell_all(number, LinkState::Up);
        // Its links to those that are dead do not work.
        for dead in PEERS
            .into_iter()
            .filter(|other| self.peer(*other).life.is_none())
        {
            self.tell_all(dead, LinkState::Dead);
        }
    }

    /// The peer that leads and may be read.
    fn leader(&self) -> Option<u16> {
        let mut up = PEERS
            .into_iter()
            .filter(|number| self.peer(*number).life.is_some());
        up.find(|number| self.group(*number).leadership().borrow().is_ready)
    }

    async fn led_by_somebody(&self) -> u16 {
        until("somebody leads", || self.leader().is_some()).await;
        self.leader().unwrap()
    }

    /// The voters, as the leader knows; `None` while they change, and until that is committed: else a second death might find the earlier ones.
    fn voters(&self) -> Option<BTreeSet<u16>> {
        let group = self.group(self.leader()?);
        let metrics = group.raft.server_metrics().borrow_watched().clone();
        if metrics.membership_config != metrics.committed_membership_config {
            return None;
        }
        let membership = metrics.membership_config.membership();
        match membership.get_joint_config().as_slice() {
            [voters] => Some(voters.iter().map(|node| peer_of(*node).0).collect()),
            _ => None,
        }
    }

    async fn vote(&self, voters: &[u16]) {
        let expected = Some(voters.iter().copied().collect());
        until(&format!("{voters:?} vote"), || self.voters() == expected).await;
    }

    /// Publishes through whoever leads, until one publish is acknowledged.
    async fn publish_anywhere(&self) -> LogPosition {
        let end = deadline();
        loop {
            let leader = self.led_by_somebody().await;
            let proposed = self.group(leader).propose(append().encode()).await;
            match proposed {
                Ok((position, outcome)) => {
                    outcome.unwrap().unwrap();
                    return position;
                }
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_survivor_stands_when_the_leader_is_gone() {
    let mut cluster = Cluster::start_with(SAME_VOTERS).await;
    cluster.propose(create()).await;
    let last = cluster.publish(20).await;
    for number in PEERS {
        cluster.applied(number, last).await;
    }
    let term = |number: u16| cluster.group(number).status().term;
    let before = term(1);
    cluster.kill(0).await;
    let leader = cluster.led_by_somebody().await;
    // Of equals the first replica.
    assert_eq!(leader, 1);
    cluster.publish_anywhere().await;
    let term = cluster.group(1).status().term;
    assert_eq!(term, Term(before.0 + 1), "there was one election");
    cluster.stop().await;
}

/// Leadership does not go back within the time of a test.
const NO_RETURN: Pace = Pace {
    return_after: Duration::from_secs(100),
    ..SAME_VOTERS
};

/// What a replica has heard of the leader since its start is worth as much as what one that was never down knows.
#[tokio::test(flavor = "multi_thread")]
async fn replica_that_has_just_returned_stands_when_the_leader_it_heard_is_gone() {
    let mut cluster = Cluster::start_with(NO_RETURN).await;
    cluster.propose(create()).await;
    cluster.kill(1).await;
    cluster.publish(3).await;
    cluster.revive(1).await;
    let last = cluster.publish(3).await;
    for number in PEERS {
        cluster.applied(number, last).await;
    }
    cluster.kill(0).await;
    // Of equals the first replica.
    assert_eq!(cluster.led_by_somebody().await, 1);
    cluster.publish_anywhere().await;
    cluster.stop().await;
}

/// The leader that is written down may be about to come back, as after a restart of all.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_have_heard_nobody_since_their_start_wait_for_the_leader() {
    let mut cluster = Cluster::start_with(NO_RETURN).await;
    cluster.propose(create()).await;
    let last = cluster.publish(3).await;
    for number in PEERS {
        cluster.applied(number, last).await;
    }
    let before = cluster.group(1).status().term;
    for number in PEERS {
        cluster.down(number).await;
    }
    for number in [1, 2, 4] {
        cluster.up(number).await;
        cluster.tell(number, 0, LinkState::Dead);
    }
    // Both are asked and answer: the links of both say so.
    for number in [1, 2] {
        let standing = cluster.group(number).standing().await.unwrap();
        assert_eq!(standing.view, super::super::standing::View::Headless);
    }
    cluster.up(0).await;
    cluster.tell_all(0, LinkState::Up);
    cluster.led_by(0).await;
    assert_eq!(cluster.group(1).status().term, Term(before.0 + 1));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn survivor_with_the_longest_log_leads() {
    let mut cluster = Cluster::start_with(SAME_VOTERS).await;
    cluster.propose(create()).await;
    cluster.down(1).await;
    let last = cluster.publish(50).await;
    cluster.applied(2, last).await;
    // It cannot catch up before the leader dies: it is told of nobody until then.
    cluster.down(0).await;
    cluster.up(1).await;
    for whom in [1, 2, 4] {
        cluster.tell(whom, 0, LinkState::Dead);
    }
    assert_eq!(cluster.led_by_somebody().await, 2);
    let last = cluster.publish_anywhere().await;
    cluster.applied(1, last).await;
    assert_eq!(cluster.digest(1), cluster.digest(2));
    cluster.stop().await;
}

/// A vote that peer 1 asks of peer 2, with so many entries less than it has.
async fn ask_vote(cluster: &Cluster, less: u64) -> proto::VoteResponse {
    let own = cluster.group(1).standing().await.unwrap();
    let mut last = convert::log_id_to_proto(&own.last.unwrap());
    last.index -= less;
    let request = proto::VoteRequest {
        shard: u32::from(shard().index()),
        vote: Some(proto::Vote {
            term: own.vote.leader_id.term + 1,
            node: cluster.peer(1).node(),
            committed: false,
        }),
        last_log_id: Some(last),
        leadership_transfer: false,
        pre_vote: false,
    };
    let peers = &cluster.peer(1).life.as_ref().unwrap().peers;
    let mut client = RaftServiceClient::new(peers.channel(PeerId(2)).unwrap());
    let mut request = peers.request(request);
    let target = cluster.peer(2).node();
    request.metadata_mut().insert(TARGET_KEY, target.into());
    client.vote(request).await.unwrap().into_inner()
}

/// The lease gives way to what the voter sees itself, and to nothing that a candidate says; term and log count as ever.
#[tokio::test(flavor = "multi_thread")]
async fn voter_keeps_the_lease_unless_it_finds_the_leader_gone_itself() {
    let cluster = Cluster::start_with(SAME_VOTERS).await;
    cluster.propose(create()).await;
    let last = cluster.publish(5).await;
    for number in PEERS {
        cluster.applied(number, last).await;
    }
    // The candidate alone is wrong about the leader.
    cluster.group(1).must_not_lead();
    cluster.tell(1, 0, LinkState::Dead);
    assert!(!ask_vote(&cluster, 0).await.granted);
    assert_eq!(cluster.leader(), Some(0));
    cluster.group(2).must_not_lead();
    cluster.tell(2, 0, LinkState::Dead);
    assert!(!ask_vote(&cluster, 1).await.granted, "its log is shorter");
    assert!(ask_vote(&cluster, 0).await.granted);
    cluster.stop().await;
}

// REQ F4, G6: with four copies a shard goes on through a second failure, after the standby has stepped in.
#[tokio::test(flavor = "multi_thread")]
async fn standby_votes_in_place_of_the_dead() {
    let mut cluster = Cluster::start_with(EVENTS).await;
    cluster.propose(create()).await;
    cluster.publish(20).await;
    cluster.kill(2).await;
    cluster.vote(&[0, 1, 4]).await;
    cluster.kill(0).await;
    cluster.publish_anywhere().await;
    // Two of three live, and nobody is left to step in.
    let quorum = cluster.group(cluster.leader().unwrap()).quorum();
    assert_eq!((quorum.voters, quorum.reachable), (3, 2));
    cluster.revive(2).await;
    cluster.vote(&[1, 2, 4]).await;
    let last = cluster.publish_anywhere().await;
    for number in [1, 2, 4] {
        cluster.applied(number, last).await;
        assert_eq!(cluster.digest(number), cluster.digest(1));
    }
    cluster.stop().await;
}

// REQ F5, D4: the owner catches up, votes again, and leads again; another peer that returns stays the standby.
#[tokio::test(flavor = "multi_thread")]
async fn owner_that_returns_votes_and_leads_again() {
    let mut cluster = Cluster::start_with(EVENTS).await;
    cluster.propose(create()).await;
    cluster.kill(0).await;
    cluster.vote(&[1, 2, 4]).await;
    let last = cluster.publish_anywhere().await;
    cluster.revive(0).await;
    cluster.led_by(0).await;
    cluster.vote(&[0, 1, 2]).await;
    cluster.applied(0, last).await;
    cluster.kill(1).await;
    cluster.vote(&[0, 2, 4]).await;
    cluster.revive(1).await;
    let last = cluster.publish(3).await;
    cluster.applied(1, last).await;
    cluster.vote(&[0, 2, 4]).await;
    for number in PEERS {
        cluster.applied(number, last).await;
        assert_eq!(cluster.digest(number), cluster.digest(0));
    }
    cluster.stop().await;
}

/// A leader that dies between the two steps of a change leaves two sets of voters. Here the standby that came in is the only one left that knows.
#[tokio::test(flavor = "multi_thread")]
async fn change_that_a_dead_leader_left_is_finished() {
    let mut cluster = Cluster::start_with(EVENTS).await;
    cluster.propose(create()).await;
    let last = cluster.publish(5).await;
    for number in PEERS {
        cluster.applied(number, last).await;
    }
    // Without these two the first of the two steps is never committed.
    cluster.down(1).await;
    cluster.down(2).await;
    let goal: BTreeSet<u64> = [0, 1, 4].map(|number| cluster.peer(number).node()).into();
    let is_joint = || {
        let metrics = cluster.group(4).raft.server_metrics();
        let members = metrics.borrow_watched().membership_config.as_ref().clone();
        members.membership().get_joint_config().len() == 2
    };
    let group = cluster.group(0).clone();
    tokio::select! {
        changed = group.raft.change_membership(goal, true) => panic!("{changed:?}"),
        () = until("the change is begun", is_joint) => {}
    }
    cluster.down(0).await;
    cluster.up(1).await;
    cluster.up(2).await;
    cluster.tell_all(0, LinkState::Dead);
    // The standby finishes the change. The two that know nothing of it are a majority without it; if they are quicker, it never was.
    let leader = cluster.led_by_somebody().await;
    cluster.vote(&[1, 2, 4]).await;
    let last = cluster.publish_anywhere().await;
    for number in [1, 2, 4] {
        cluster.applied(number, last).await;
        assert_eq!(
            cluster.digest(number),
            cluster.digest(leader),
            "{leader} led"
        );
    }
    cluster.stop().await;
}

// REQ F6
#[tokio::test(flavor = "multi_thread")]
async fn wiped_owner_comes_back_after_its_vote_went_to_the_standby() {
    let mut cluster = Cluster::start_with(EVENTS).await;
    cluster.propose(create()).await;
    cluster.kill(0).await;
    cluster.vote(&[1, 2, 4]).await;
    cluster.publish_anywhere().await;
    cluster.wipe(0, Incarnation(1_700_000_000));
    cluster.revive(0).await;
    let end = deadline();
    let (node, mut asked) = (cluster.peer(0).node(), 1);
    loop {
        let peers = &cluster.peer(0).life.as_ref().unwrap().peers;
        let answer = ask_admission(peers, PeerId(asked), shard(), node, Intent::Joining).await;
        match answer.unwrap() {
            Answer::Member => break,
            Answer::NotLeader { leader } => asked = leader.map_or(1, |leader| leader.0),
            answer => assert!(Instant::now() < end, "{answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.led_by(0).await;
    cluster.vote(&[0, 1, 2]).await;
    let replicas = cluster.group(0).status().replicas;
    assert_eq!(replicas.len(), 4, "{replicas:?}");
    let last = cluster.publish_anywhere().await;
    for number in PEERS {
        cluster.applied(number, last).await;
        assert_eq!(cluster.digest(number), cluster.digest(0));
    }
    cluster.stop().await;
}

// G6, G8
#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_when_the_majority_goes_is_of_unknown_fate() {
    let mut cluster = Cluster::start_with(SAME_VOTERS).await;
    cluster.propose(create()).await;
    let last = cluster.publish(1).await;
    cluster.down(1).await;
    cluster.down(2).await;
    let proposed = cluster.group(0).propose(append().encode());
    let lose = async {
        until("it is in the log", || {
            cluster.group(0).status().last > Some(last.index)
        })
        .await;
        cluster.tell(0, 1, LinkState::Dead);
        cluster.tell(0, 2, LinkState::Silent);
    };
    let (unknown, ()) = tokio::join!(proposed, lose);
    assert!(
        matches!(unknown, Err(Error::OutcomeUnknown { .. })),
        "{unknown:?}"
    );
    let refused = cluster.group(0).propose(append().encode()).await;
    let expected = Error::NoQuorum {
        shard: shard(),
        voters: 3,
        reachable: 1,
    };
    assert_eq!(refused.unwrap_err(), expected);
    assert_eq!(cluster.group(0).confirm_leadership().await, Err(expected));
    cluster.stop().await;
}

/// openraft cannot call a transfer off. When it gives no leader, another voter is asked to take over.
#[tokio::test(flavor = "multi_thread")]
async fn transfer_that_fails_goes_to_another_voter() {
    let mut cluster = Cluster::start_with(SAME_VOTERS).await;
    cluster.propose(create()).await;
    let last = cluster.publish(3).await;
    for number in PEERS {
        cluster.applied(number, last).await;
    }
    let (dead, whole) = (cluster.peer(2).node(), cluster.peer(1).node());
    cluster.down(2).await;
    assert!(cluster.group(0).transfer(&[dead, whole]).await);
    assert_eq!(cluster.led_by_somebody().await, 1);
    cluster.publish_anywhere().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_must_not_lead_is_given_no_leadership() {
    let cluster = Cluster::start_with(EVENTS).await;
    cluster.propose(create()).await;
    let last = cluster.publish(3).await;
    for number in PEERS {
        cluster.applied(number, last).await;
    }
    cluster.group(1).must_not_lead();
    cluster.group(0).must_not_lead();
    cluster.group(0).hand_over().await;
    // The owner is there and whole, and stays a follower.
    assert_eq!(cluster.led_by_somebody().await, 2);
    cluster.publish_anywhere().await;
    assert_eq!(cluster.leader(), Some(2));
    cluster.stop().await;
}
