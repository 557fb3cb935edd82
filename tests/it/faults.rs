//! Links that fail on purpose.

use std::time::Duration;

use cubecast::testing::TestCluster;
use cubecast_sdk::{Client, Code, Consistency, Error, Fault, Reason};
use tokio::time::Instant;

use crate::support::name_owned_by;

const ENABLED: &[(&str, &str)] = &[("fault_injection", "true")];

async fn client(cluster: &TestCluster, peer: usize) -> Client {
    Client::connect([cluster.address(peer)]).await.unwrap()
}

fn why(error: &Error) -> (Code, Option<Reason>) {
    (error.code(), error.reason())
}

// REQ D12: nobody disturbs a peer that does not allow it.
#[tokio::test(flavor = "multi_thread")]
async fn faults_are_refused_unless_they_are_enabled() {
    let mut cluster = TestCluster::start().await;
    let (client, peer) = (client(&cluster, 2).await, cluster.address(2));
    let refusals = [
        client
            .inject_fault(peer, Fault::new().with_cut())
            .await
            .unwrap_err(),
        client.clear_faults(peer, &[]).await.unwrap_err(),
        client.faults(peer).await.unwrap_err(),
    ];
    for error in refusals {
        assert_eq!(
            why(&error),
            (Code::PermissionDenied, Some(Reason::FaultsDisabled))
        );
        assert_eq!(error.fact("peer"), Some("2"));
    }
    cluster.stop().await;
}

// REQ E8: the latency of a link can be set by hand.
#[tokio::test(flavor = "multi_thread")]
async fn delay_holds_calls_back_until_it_is_cleared() {
    let mut cluster = TestCluster::with_settings(ENABLED).await;
    let (client, peer) = (client(&cluster, 3).await, cluster.address(3));
    let topic = name_owned_by("news", 4);
    client.create_topic(topic.as_str()).await.unwrap();
    // Peer 3 has no replica of the shard and passes the call on.
    let mut asked = crate::support::plain(peer).await;
    let delay = Duration::from_millis(120);
    let fault = Fault::new().with_delay(delay);
    let injected = client.inject_fault(peer, fault.clone()).await.unwrap();
    assert_eq!(injected.fault, fault);
    assert_eq!(
        client.faults(peer).await.unwrap(),
        std::slice::from_ref(&injected)
    );
    let begun = Instant::now();
    crate::support::publish(&mut asked, &topic, &["slow"])
        .await
        .unwrap();
    assert!(begun.elapsed() >= delay);
    let cleared = client.clear_faults(peer, &[injected.id]).await.unwrap();
    assert_eq!(cleared, std::slice::from_ref(&injected));
    assert!(client.faults(peer).await.unwrap().is_empty());
    let again = client.clear_faults(peer, &[injected.id]).await.unwrap_err();
    assert_eq!(why(&again), (Code::NotFound, Some(Reason::FaultNotFound)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_ends_by_itself() {
    let mut cluster = TestCluster::with_settings(ENABLED).await;
    let (client, peer) = (client(&cluster, 5).await, cluster.address(5));
    let cut = Fault::new().with_cut().with_peer(4);
    let cut = cut.with_duration(Duration::from_millis(50));
    client.inject_fault(peer, cut).await.unwrap();
    let mut asked = 0;
    while !client.faults(peer).await.unwrap().is_empty() {
        asked += 1;
        assert!(asked < 100_000, "it does not end");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_that_makes_no_sense_is_refused() {
    let mut cluster = TestCluster::with_settings(ENABLED).await;
    let (client, peer) = (client(&cluster, 1).await, cluster.address(1));
    let stranger = Fault::new().with_cut().with_peer(8);
    let error = client.inject_fault(peer, stranger).await.unwrap_err();
    assert_eq!(why(&error), (Code::NotFound, Some(Reason::PeerNotFound)));
    for fault in [
        Fault::new(),
        Fault::new().with_loss(1.5),
        Fault::new().with_cut().with_peer(1),
    ] {
        let error = client.inject_fault(peer, fault).await.unwrap_err();
        assert_eq!(
            why(&error),
            (Code::InvalidArgument, Some(Reason::FieldInvalid))
        );
    }
    cluster.stop().await;
}

// REQ T6, W9: a call finds its way round a link that lets nothing pass.
#[tokio::test(flavor = "multi_thread")]
async fn cut_link_is_gone_round() {
    let mut cluster = TestCluster::with_settings(ENABLED).await;
    let client = client(&cluster, 3).await;
    let topic = name_owned_by("news", 4);
    client.create_topic(topic.as_str()).await.unwrap();
    for (peer, other) in [(3, 4), (4, 3)] {
        let cut = Fault::new().with_cut().with_peer(other);
        client
            .inject_fault(cluster.address(peer), cut)
            .await
            .unwrap();
    }
    client.publish(&topic, ["round"]).await.unwrap();
    let found = client.topic(&topic, Consistency::Linearizable).await;
    assert_eq!(found.unwrap().item.next_offset, 1);
    cluster.stop().await;
}
