//! StopNode: a peer fails for real, alone, and returns from its disk.

use std::time::Duration;

use cubecast::node::State;
use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::cluster_service_client::ClusterServiceClient;
use cubecast_sdk::proto::v1::{GetNodeStatusRequest, StopNodeRequest, WatchClusterRequest};
use tonic::Code;
use tonic::transport::Channel;

use crate::support::{
    Plain, all_know_gone, create_subscriber, create_topic, name_owned_by, plain, publish, pull,
    reason, subscribe,
};

const ENABLED: &[(&str, &str)] = &[("fault_injection", "true")];

fn for_a_while(time: Duration) -> StopNodeRequest {
    StopNodeRequest {
        down_time: Some(time.try_into().unwrap()),
        stay_down: false,
    }
}

fn until_told() -> StopNodeRequest {
    StopNodeRequest {
        down_time: None,
        stay_down: true,
    }
}

async fn down(cluster: &TestCluster, peer: usize) {
    let mut state = cluster.switch(peer).state();
    let is_down = |state: &State| matches!(state, State::Down);
    drop(state.wait_for(is_down).await.unwrap());
}

async fn up(cluster: &TestCluster, peer: usize) {
    let mut state = cluster.switch(peer).state();
    let is_up = |state: &State| matches!(state, State::Up(_));
    drop(state.wait_for(is_up).await.unwrap());
}

/// Whether somebody listens where the peer does.
async fn is_there(cluster: &TestCluster, peer: usize) -> bool {
    let endpoint = Channel::from_shared(cluster.address(peer).to_owned()).unwrap();
    endpoint.connect().await.is_ok()
}

// REQ D12
#[tokio::test(flavor = "multi_thread")]
async fn nobody_stops_a_peer_that_does_not_allow_it() {
    let mut cluster = TestCluster::start().await;
    let mut client = plain(cluster.address(4)).await;
    let status = client.stop_node(until_told()).await.unwrap_err();
    assert_eq!(
        reason(&status),
        (Code::PermissionDenied, "FAULTS_DISABLED".to_owned())
    );
    let told = client.get_node_status(GetNodeStatusRequest {}).await;
    assert!(!told.unwrap().into_inner().has_fault_injection);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_that_makes_no_sense_is_refused() {
    let mut cluster = TestCluster::with_settings(ENABLED).await;
    let mut client = plain(cluster.address(4)).await;
    let both = StopNodeRequest {
        stay_down: true,
        ..for_a_while(Duration::from_secs(1))
    };
    for request in [for_a_while(Duration::from_secs(3601)), both] {
        let status = client.stop_node(request).await.unwrap_err();
        assert_eq!(
            reason(&status),
            (Code::InvalidArgument, "FIELD_INVALID".to_owned())
        );
    }
    let told = client.get_node_status(GetNodeStatusRequest {}).await;
    assert!(told.unwrap().into_inner().is_ready);
    cluster.stop().await;
}

// REQ A13, REQ E4: the peer fails at once and returns by itself with what it had.
#[tokio::test(flavor = "multi_thread")]
async fn peer_returns_after_its_time_with_all_that_it_had() {
    let mut cluster = TestCluster::with_settings(ENABLED).await;
    let topic = name_owned_by("news", 4);
    let (mut owner, mut other) = (
        plain(cluster.address(4)).await,
        plain(cluster.address(3)).await,
    );
    create_topic(&mut other, &topic).await;
    create_subscriber(&mut other, "alice").await;
    subscribe(&mut other, &topic, "alice").await;
    publish(&mut other, &topic, &["before"]).await.unwrap();
    let before = started(&mut owner).await;

    let answer = owner.stop_node(for_a_while(Duration::from_secs(2)));
    let answer = answer.await.unwrap().into_inner();
    assert_eq!(answer.peer, 4);
    assert!(answer.return_time.is_some());
    down(&cluster, 4).await;
    assert!(!is_there(&cluster, 4).await, "its listener is closed");
    assert!(
        owner
            .get_node_status(GetNodeStatusRequest {})
            .await
            .is_err(),
        "its connections are cut"
    );
    // A publish without a number that meets a connection while it breaks is of unknown fate.
    all_know_gone(&cluster, &[4]).await;
    publish(&mut other, &topic, &["meanwhile"]).await.unwrap();

    up(&cluster, 4).await;
    cluster.ready().await;
    let mut owner = plain(cluster.address(4)).await;
    assert!(started(&mut owner).await > before, "it is another life");
    assert_eq!(
        pull(&mut owner, &topic, "alice").await,
        ["before", "meanwhile"]
    );
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}

// REQ A13: one peer of a process stays down alone, until it is told to return.
#[tokio::test(flavor = "multi_thread")]
async fn peer_stays_down_until_it_is_told_to_return() {
    let mut cluster = TestCluster::with_settings(ENABLED).await;
    let mut client = plain(cluster.address(6)).await;
    let answer = client.stop_node(until_told()).await.unwrap().into_inner();
    assert_eq!((answer.peer, answer.return_time), (6, None));
    down(&cluster, 6).await;
    for peer in 0..8 {
        assert_eq!(is_there(&cluster, peer).await, peer != 6);
    }
    cluster.switch(6).resume();
    up(&cluster, 6).await;
    cluster.ready().await;
    assert!(is_there(&cluster, 6).await);
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}

// The peer waits for its answer to be on its way, not for the connection to be quiet.
#[tokio::test(flavor = "multi_thread")]
async fn answer_comes_though_its_connection_is_busy() {
    let mut cluster = TestCluster::with_settings(ENABLED).await;
    for _ in 0..3 {
        let endpoint = Channel::from_shared(cluster.address(2).to_owned()).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let mut watch = ClusterServiceClient::new(channel.clone());
        let watched = watch.watch_cluster(WatchClusterRequest {}).await.unwrap();
        let answer = Plain::new(channel).stop_node(until_told()).await.unwrap();
        assert_eq!(answer.into_inner().peer, 2);
        drop(watched);
        down(&cluster, 2).await;
        cluster.switch(2).resume();
        up(&cluster, 2).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_that_is_down_can_be_stopped() {
    let mut cluster = TestCluster::with_settings(ENABLED).await;
    let mut client = plain(cluster.address(1)).await;
    client.stop_node(until_told()).await.unwrap();
    down(&cluster, 1).await;
    cluster.stop_peer(1).await;
    cluster.start_peer(1).await;
    cluster.ready().await;
    cluster.stop().await;
}

/// When the peer's life began.
async fn started(client: &mut Plain) -> (i64, i32) {
    let status = client.get_node_status(GetNodeStatusRequest {}).await;
    let time = status.unwrap().into_inner().start_time.unwrap();
    (time.seconds, time.nanos)
}
