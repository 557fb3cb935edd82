//! A peer that lost its disk.

use super::*;
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::raft_service_client::RaftServiceClient;

const NEW: Incarnation = Incarnation(1_700_000_000);

/// Asks the leader until the replica is in.
async fn join(cluster: &Cluster, number: u16) {
    let life = cluster.peer(number).life.as_ref().unwrap();
    let end = deadline();
    loop {
        let (peers, node) = (&life.peers, cluster.peer(number).node());
        let answer = ask_admission(peers, PeerId(0), shard(), node, Intent::Joining).await;
        match answer.unwrap() {
            Answer::Member => return,
            Answer::CatchingUp | Answer::TryAgain { .. } => {}
            answer => panic!("{answer:?}"),
        }
        assert!(Instant::now() < end, "not let in in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// REQ F6
#[tokio::test(flavor = "multi_thread")]
async fn wiped_voter_and_standby_come_back_under_new_ids() {
    let mut cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let last = cluster.publish(300).await;
    for number in PEERS {
        cluster.applied(number, last).await;
    }
    cluster.compact(0).await;
    for number in [2, 4] {
        cluster.down(number).await;
        cluster.wipe(number, NEW);
        cluster.up(number).await;
        assert!(!cluster.group(number).is_member());
        let life = cluster.peer(number).life.as_ref().unwrap();
        let greeting = greet(&life.peers, PeerId(0)).await.unwrap();
        assert_eq!(greeting.latest(), Some(Incarnation(1)));
        assert_eq!(
            greeting.known.map(|known| known.directory),
            Some(u128::from(number))
        );
        join(&cluster, number).await;
        let last = cluster.publish(2).await;
        cluster.applied(number, last).await;
        until("it knows that it is in", || {
            cluster.group(number).is_member()
        })
        .await;
        assert_eq!(cluster.digest(number), cluster.digest(0));
        let greeting = greet(
            &cluster.peer(number).life.as_ref().unwrap().peers,
            PeerId(1),
        )
        .await;
        assert_eq!(greeting.unwrap().latest(), Some(NEW));
    }
    let status = cluster.group(0).status();
    let replicas: Vec<(u16, bool)> = status
        .replicas
        .iter()
        .map(|replica| (replica.peer.0, replica.is_voter))
        .collect();
    assert_eq!(replicas, [(0, true), (1, true), (2, true), (4, false)]);
    // The new voter counts: without another one there still is a majority.
    cluster.down(1).await;
    let last = cluster.publish(1).await;
    let holders = cluster.group(0).holders(last);
    assert_eq!(holders[..2], [PeerId(0), PeerId(2)]);
    cluster.stop().await;
}

// REQ F6
#[tokio::test(flavor = "multi_thread")]
async fn wiped_leader_founds_nothing_and_comes_back() {
    let mut cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let last = cluster.publish(3).await;
    cluster.applied(1, last).await;
    cluster.applied(2, last).await;
    cluster.down(0).await;
    cluster.wipe(0, NEW);
    cluster.up(0).await;
    let leads = || {
        let mut others = [1, 2].into_iter();
        others.find(|number| cluster.group(*number).leadership().borrow().is_ready)
    };
    until("another leader", || leads().is_some()).await;
    let leader = PeerId(leads().unwrap());
    let end = deadline();
    let node = cluster.peer(0).node();
    let life = cluster.peer(0).life.as_ref().unwrap();
    loop {
        let answer = ask_admission(&life.peers, leader, shard(), node, Intent::Joining).await;
        match answer.unwrap() {
            Answer::Member => break,
            answer => assert!(Instant::now() < end, "{answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.applied(0, last).await;
    assert_eq!(cluster.digest(0), cluster.digest(leader.0));
    cluster.group(leader.0).hand_over().await;
    let stranger = ask_admission(
        &life.peers,
        leader,
        shard(),
        node_id(PeerId(0), Incarnation(5)),
        Intent::Joining,
    );
    let stranger = stranger.await.unwrap();
    assert!(
        matches!(stranger, Answer::Refused { .. } | Answer::NotLeader { .. }),
        "{stranger:?}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn call_for_another_life_is_refused() {
    let cluster = Cluster::start().await;
    let sender = &cluster.peer(0).life.as_ref().unwrap().peers;
    let mut client = RaftServiceClient::new(sender.channel(PeerId(1)).unwrap());
    let request = |target: u64| {
        let message = proto::VoteRequest {
            shard: u32::from(shard().index()),
            vote: Some(proto::Vote {
                term: 1,
                node: cluster.peer(0).node(),
                committed: false,
            }),
            pre_vote: true,
            ..proto::VoteRequest::default()
        };
        let mut request = sender.request(message);
        request.metadata_mut().insert(TARGET_KEY, target.into());
        request
    };
    client.vote(request(cluster.peer(1).node())).await.unwrap();
    let refused = client.vote(request(node_id(PeerId(1), NEW))).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_replica_is_spared_and_only_when_the_others_are_whole() {
    let mut cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let last = cluster.publish(3).await;
    for number in PEERS {
        cluster.applied(number, last).await;
    }
    let nodes: Vec<u64> = [0, 1, 2].map(|number| cluster.peer(number).node()).to_vec();
    until_spared(&cluster, nodes[1]).await;
    for node in [nodes[0], nodes[2]] {
        let refused = cluster.group(0).spare(node, soon()).await.unwrap_err();
        assert!(matches!(refused, Error::CannotSpare { .. }), "{refused}");
    }
    cluster.group(0).spare(nodes[1], soon()).await.unwrap();
    let follower = cluster.group(2).spare(nodes[1], soon()).await.unwrap_err();
    assert!(matches!(follower, Error::NotLeader { .. }), "{follower}");
    cluster.down(2).await;
    let end = deadline();
    while cluster.group(0).spare(nodes[1], soon()).await.is_ok() {
        assert!(Instant::now() < end, "peer 2 is not missed");
    }
    cluster.stop().await;
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

async fn until_spared(cluster: &Cluster, node: u64) {
    let end = deadline();
    while let Err(refused) = cluster.group(0).spare(node, soon()).await {
        assert!(Instant::now() < end, "{refused}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// G1: what the replica that goes has acknowledged, the others have on disk before it may go; a few entries on their way are as good as lost.
#[tokio::test(flavor = "multi_thread")]
async fn replica_is_spared_only_when_the_others_have_every_entry() {
    let cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let first = cluster.publish(1).await;
    for number in PEERS {
        cluster.applied(number, first).await;
    }
    let node = cluster.peer(1).node();
    until_spared(&cluster, node).await;
    // Peer 2 takes nothing, but is heard from; what follows is on the disks of the leader and of the one that wants to go.
    let full = crate::env::faulty::FaultyDisk::new(1);
    full.limit(0);
    let room = Arc::clone(&cluster.peer(2).room);
    room.measure(&full, Path::new("/")).unwrap();
    let last = cluster.publish(1).await;
    cluster.applied(1, last).await;
    let refused = cluster.group(0).spare(node, soon()).await.unwrap_err();
    assert!(matches!(refused, Error::CannotSpare { .. }), "{refused}");
    room.measure(&SystemDisk, Path::new("/tmp")).unwrap();
    cluster.applied(2, last).await;
    until_spared(&cluster, node).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_hands_over() {
    let cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let leader = || cluster.group(0).leadership().borrow().leader;
    let end = deadline();
    while leader() == Some(PeerId(0)) {
        assert!(Instant::now() < end, "it still leads");
        cluster.group(0).hand_over().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until("another one leads", || leader().is_some()).await;
    cluster.stop().await;
}
