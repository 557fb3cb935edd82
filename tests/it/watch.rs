//! WatchCluster and GetCluster: how a peer sees the others.

use std::collections::BTreeSet;

use cubecast::testing::TestCluster;
use cubecast_sdk::{Client, ClusterChange, ClusterEvent, Error, Fault, Link, MemberState, Reason};
use futures::TryStreamExt;
use futures::stream::BoxStream;

use crate::support::bits;

type Changes = BoxStream<'static, Result<ClusterChange, Error>>;

async fn watch(cluster: &TestCluster, peer: usize) -> (Client, Changes) {
    let client = Client::connect([cluster.address(peer)]).await.unwrap();
    let changes = client.watch_cluster_at(cluster.address(peer)).await;
    (client, changes.unwrap())
}

/// The next event that this finds something in.
async fn find<T>(changes: &mut Changes, found: impl Fn(&ClusterEvent) -> Option<T>) -> T {
    loop {
        let change = changes.try_next().await.unwrap();
        if let Some(found) = found(&change.unwrap().event) {
            return found;
        }
    }
}

/// A member is told to be in this state, alone or with all others.
fn is_in(state: MemberState, peer: u32) -> impl Fn(&ClusterEvent) -> Option<()> {
    move |event| {
        let mut told = match event {
            ClusterEvent::Whole(cluster) => cluster.members.clone(),
            ClusterEvent::Member(member) => vec![member.clone()],
            _ => Vec::new(),
        };
        told.retain(|member| member.peer == peer && member.state == state);
        (!told.is_empty()).then_some(())
    }
}

// REQ F9: all peers hear each other, and say so.
#[tokio::test(flavor = "multi_thread")]
async fn whole_cluster_comes_first_and_everybody_is_alive() {
    let mut cluster = TestCluster::start().await;
    let (client, mut changes) = watch(&cluster, 0).await;
    let first = changes.try_next().await.unwrap().unwrap();
    let ClusterEvent::Whole(whole) = first.event else {
        panic!("the first event is everything: {:?}", first.event)
    };
    assert_eq!((whole.members.len(), whole.vertices.len()), (8, 8));
    // Told at first, or when the first heartbeats come.
    let own = |link: &&Link| link.from_peer == 0 && link.is_up;
    let mut up: BTreeSet<u32> = whole
        .links
        .iter()
        .filter(own)
        .map(|link| link.to_peer)
        .collect();
    while up.len() < 7 {
        let next = find(&mut changes, |event| match event {
            ClusterEvent::Link(link) => own(&link).then_some(link.to_peer),
            _ => None,
        });
        up.insert(next.await);
    }
    let seen = client.cluster().await.unwrap();
    for member in seen.members.iter().filter(|member| member.peer != 0) {
        assert_eq!(member.state, MemberState::Alive);
        assert!(member.heard_time.is_some(), "{member:?}");
    }
    let led = seen.vertices.iter().find(|vertex| vertex.vertex == "000");
    assert_eq!(led.unwrap().voters.len(), 3);
    cluster.stop().await;
}

// REQ F9, W9: death, the new leader and the return are told as they happen.
#[tokio::test(flavor = "multi_thread")]
async fn death_new_leader_and_return_are_told() {
    let mut cluster = TestCluster::start().await;
    let (_client, mut changes) = watch(&cluster, 5).await;
    find(&mut changes, is_in(MemberState::Alive, 4)).await;
    cluster.fail_peer(4).await;
    find(&mut changes, is_in(MemberState::Down, 4)).await;
    // Peer 5 has a replica of shard 100.
    let leader = find(&mut changes, |event| match event {
        ClusterEvent::Vertex(vertex) if vertex.vertex == bits(4) => {
            vertex.leader.filter(|leader| *leader != 4)
        }
        _ => None,
    });
    assert!([5, 6, 0].contains(&leader.await));
    cluster.start_peer(4).await;
    find(&mut changes, is_in(MemberState::Alive, 4)).await;
    cluster.stop().await;
}

// REQ F9, W9: also of shards that the peer has no replica of, though no call passes it.
#[tokio::test(flavor = "multi_thread")]
async fn leaders_of_shards_elsewhere_are_told() {
    let mut cluster = TestCluster::start().await;
    let (client, mut changes) = watch(&cluster, 3).await;
    let first = changes.try_next().await.unwrap().unwrap();
    let ClusterEvent::Whole(mut whole) = first.event else {
        panic!("the first event is everything: {:?}", first.event)
    };
    // Told at first, or when the leaders have said so.
    while whole.vertices.iter().any(|vertex| vertex.leader.is_none()) {
        changes.try_next().await.unwrap().unwrap();
        *whole = client.cluster().await.unwrap();
    }
    let of_another = |leader: u32| {
        move |event: &ClusterEvent| match event {
            ClusterEvent::Vertex(vertex) if vertex.vertex == bits(4) => vertex
                .leader
                .filter(|now| *now != leader)
                .map(|now| (now, vertex.term)),
            _ => None,
        }
    };
    cluster.fail_peer(4).await;
    let (leader, term) = find(&mut changes, of_another(4)).await;
    assert!([5, 6, 0].contains(&leader));
    cluster.start_peer(4).await;
    // Leadership comes home.
    let (home, later) = find(&mut changes, of_another(leader)).await;
    assert_eq!(home, 4);
    assert!(later > term, "{later} after {term}");
    cluster.stop().await;
}

// REQ F9: who is silent is suspected, and alive again when it is heard.
#[tokio::test(flavor = "multi_thread")]
async fn silent_peer_is_suspected_until_it_is_heard_again() {
    let mut cluster = TestCluster::with_settings(&[("fault_injection", "true")]).await;
    let (client, mut changes) = watch(&cluster, 1).await;
    find(&mut changes, is_in(MemberState::Alive, 6)).await;
    let peer = cluster.address(6);
    client
        .inject_fault(peer, Fault::new().with_cut())
        .await
        .unwrap();
    find(&mut changes, is_in(MemberState::Suspect, 6)).await;
    client.clear_faults(peer, &[]).await.unwrap();
    find(&mut changes, is_in(MemberState::Alive, 6)).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_ends_with_a_reason_when_the_peer_stops() {
    let mut cluster = TestCluster::start().await;
    let (_client, mut changes) = watch(&cluster, 7).await;
    assert!(changes.try_next().await.unwrap().is_some());
    cluster.stop_peer(7).await;
    let error = loop {
        match changes.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ends without a reason"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(Reason::ShuttingDown), "{error}");
    cluster.stop().await;
}
