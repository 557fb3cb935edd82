//! Who is a peer and who is not, and what a shard does when too many of its peers are gone.

use std::future::Future;
use std::time::Duration;

use cubecast::proto::peer::v1::directory_service_client::DirectoryServiceClient;
use cubecast::proto::peer::v1::link_service_client::LinkServiceClient;
use cubecast::proto::peer::v1::raft_service_client::RaftServiceClient;
use cubecast::proto::peer::v1::{
    AppendRequest, BeatRequest, HeartbeatRequest, ListShardRequest, ListShardSubscriptionsRequest,
    RemoveSubscriptionsRequest, ResolveRequest, ShardTailRequest, TransferLeaderRequest,
    VoteRequest,
};
use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::peer_service_client::PeerServiceClient;
use cubecast_sdk::proto::v1::{PublishRequest, PublishResponse, PublishSequence};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::support::{
    Plain, all_know_gone, bits, create_publisher, create_subscriber, create_topic, message,
    name_owned_by, plain, publish_as, pull, reason, subscribe,
};
use crate::wire::{PATIENCE, Wire, assert_healthy, errors, expected, told};

/// How a caller says who it is: cluster, peer, data directory, incarnation.
type Claim = [(&'static str, &'static str); 4];

const fn claim(cluster: &'static str, peer: &'static str, directory: &'static str) -> Claim {
    [
        ("cubecast-cluster", cluster),
        ("cubecast-peer", peer),
        ("cubecast-directory", directory),
        ("cubecast-incarnation", "1"),
    ]
}

const SOME_DIRECTORY: &str = "0123456789abcdef0123456789abcdef";

/// A message with what its sender claims to be.
fn say<T>(message: T, claim: &[(&'static str, &'static str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (key, value) in claim {
        request.metadata_mut().insert(*key, value.parse().unwrap());
    }
    request
}

/// The errors of all calls of the peers' own package, from a caller that says this of itself.
async fn refusals(address: &str, claim: &[(&'static str, &'static str)]) -> Vec<Status> {
    let channel = Channel::from_shared(address.to_owned())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut raft = RaftServiceClient::new(channel.clone());
    let mut link = LinkServiceClient::new(channel.clone());
    let mut directory = DirectoryServiceClient::new(channel);
    errors![
        link.beat(say(tokio_stream::once(BeatRequest::default()), claim)),
        raft.append(say(tokio_stream::once(AppendRequest::default()), claim)),
        raft.heartbeat(say(HeartbeatRequest::default(), claim)),
        raft.vote(say(
            VoteRequest {
                shard: 4,
                ..Default::default()
            },
            claim
        )),
        raft.transfer_leader(say(
            TransferLeaderRequest {
                shard: 4,
                ..Default::default()
            },
            claim
        )),
        directory.resolve(say(
            ResolveRequest {
                kind: 1,
                name: "p".into()
            },
            claim
        )),
        directory.list_shard(say(
            ListShardRequest {
                shard: 4,
                kind: 3,
                limit: 1,
                ..Default::default()
            },
            claim
        )),
        directory.list_shard_subscriptions(say(
            ListShardSubscriptionsRequest {
                shard: 4,
                limit: 1,
                ..Default::default()
            },
            claim,
        )),
        directory.shard_tail(say(ShardTailRequest { shard: 4 }, claim)),
        directory.remove_subscriptions(say(
            RemoveSubscriptionsRequest {
                shard: 4,
                subscriber: "s".into()
            },
            claim
        )),
    ]
}

// G7: only peers of the cluster, with the directory that they had before, are let in.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_call_what_is_for_peers() {
    let mut cluster = TestCluster::start().await;
    let forged = claim("cubecast", "5", SOME_DIRECTORY);
    let claims: [&[(&str, &str)]; 7] = [
        &[],
        &forged[..2],
        &claim("another", "5", SOME_DIRECTORY),
        &claim("cubecast", "not a number", SOME_DIRECTORY),
        // Nobody, and the peer that is asked.
        &claim("cubecast", "99", SOME_DIRECTORY),
        &claim("cubecast", "4", SOME_DIRECTORY),
        // A peer that shares a shard, and so is known, with another directory.
        &forged,
    ];
    for claim in claims {
        for status in refusals(cluster.address(4), claim).await {
            assert_eq!(
                told(&status),
                expected(Code::PermissionDenied, "NOT_A_PEER", &[]),
                "{claim:?}"
            );
        }
    }
    // Nothing of it was remembered: the true peers are still let in, also after a restart.
    cluster.stop_peer(4).await;
    cluster.start_peer(4).await;
    cluster.ready().await;
    assert_healthy(&mut plain(cluster.address(4)).await, "after-strangers").await;
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}

/// A publisher whose shard loses no majority in these tests.
fn publisher() -> String {
    name_owned_by("p", 0)
}

/// A subscriber, likewise.
fn subscriber() -> String {
    name_owned_by("s", 0)
}

/// A publish that may be repeated. The deadline is the peer's to keep: the client would wait longer.
async fn publish_within(
    mut client: PeerServiceClient<Wire>,
    topic: &str,
    sequence: u64,
    timeout: Duration,
) -> Result<PublishResponse, Status> {
    let mut request = Request::new(PublishRequest {
        topic: topic.to_owned(),
        publisher: publisher(),
        sequence: Some(PublishSequence {
            session: 1,
            sequence,
        }),
        messages: vec![message(&format!("m{sequence}"))],
        ..Default::default()
    });
    request.metadata_mut().insert(
        "grpc-timeout",
        format!("{}m", timeout.as_millis()).parse().unwrap(),
    );
    client
        .publish(request)
        .await
        .map(tonic::Response::into_inner)
}

/// A topic of peer 4 with a subscriber, and three messages published through peer 3, which has no part in it.
async fn prepare(cluster: &TestCluster) -> (String, Plain) {
    let topic = name_owned_by("majority", 4);
    let mut client = plain(cluster.address(3)).await;
    create_topic(&mut client, &topic).await;
    create_publisher(&mut client, &publisher()).await;
    create_subscriber(&mut client, &subscriber()).await;
    subscribe(&mut client, &topic, &subscriber()).await;
    for sequence in 0..3 {
        publish_as(
            &mut client,
            &topic,
            (&publisher(), 1, sequence),
            &format!("m{sequence}"),
        )
        .await
        .unwrap();
    }
    (topic, client)
}

/// Repeats until it succeeds.
async fn eventually<T, F: Future<Output = Result<T, Status>>>(mut attempt: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(status) => assert!(Instant::now() < deadline, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Why a shard without a majority takes nothing.
const WITHOUT_LEADER: [&str; 3] = ["NO_LEADER", "NO_QUORUM", "PEER_UNREACHABLE"];

/// No standby steps in while a test takes the majority away.
const SAME_VOTERS: [(&str, &str); 1] = [("failover.standby_after", "60s")];

/// How much later than its deadline an answer may come on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

// G6, G8: the leader and another voter are gone. The refusal is typed and in time, and it is definite.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_a_publish_is_refused_in_time_and_nothing_is_lost() {
    let mut cluster = TestCluster::with_settings(&SAME_VOTERS).await;
    let (topic, mut client) = prepare(&cluster).await;
    let wire = Wire::connect(cluster.address(3)).await.unwrap();
    cluster.stop_peer(4).await;
    cluster.stop_peer(5).await;
    all_know_gone(&cluster, &[4, 5]).await;
    // Through a peer without a part in the shard, through the last voter, and through the standby.
    for peer in [3, 6, 0] {
        let wire = Wire::connect(cluster.address(peer)).await.unwrap();
        for timeout in [Duration::from_millis(300), PATIENCE] {
            let began = Instant::now();
            let refused = publish_within(wire.client(), &topic, 3, timeout).await;
            let (status, took) = (refused.unwrap_err(), began.elapsed());
            assert!(took < timeout + SLACK, "peer {peer}: {took:?}");
            assert_eq!(told(&status).2.get("shard"), Some(&bits(4)), "{status:?}");
            match reason(&status) {
                (Code::Unavailable, reason) if WITHOUT_LEADER.contains(&reason.as_str()) => {}
                // A short deadline may come while a peer is being asked.
                (Code::Unknown, reason) if reason == "OUTCOME_UNKNOWN" && took * 2 > timeout => {
                    assert!(timeout < PATIENCE, "peer {peer} after {took:?}");
                }
                other => panic!("peer {peer} after {took:?}: {other:?}"),
            }
        }
    }
    let status = publish_within(wire.client(), &topic, 3, PATIENCE)
        .await
        .unwrap_err();
    let quorum = [
        ("shard", bits(4)),
        ("voters", "3".into()),
        ("reachable", "1".into()),
    ];
    let quorum = quorum.each_ref().map(|(key, value)| (*key, value.as_str()));
    assert_eq!(
        told(&status),
        expected(Code::Unavailable, "NO_QUORUM", &quorum),
        "at once, long before the deadline"
    );
    cluster.start_peer(5).await;
    let published = eventually(|| {
        let (wire, topic) = (wire.clone(), topic.clone());
        async move { publish_within(wire.client(), &topic, 3, PATIENCE).await }
    });
    let published = published.await;
    assert_eq!((published.first_offset, published.is_duplicate), (3, false));
    cluster.start_peer(4).await;
    cluster.ready().await;
    assert_eq!(
        pull(&mut client, &topic, &subscriber()).await,
        ["m0", "m1", "m2", "m3"]
    );
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}

// G6, G8: the leader lives and its majority is gone. What it had taken is of unknown fate; then it takes nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_its_majority_soon_refuses_and_stores_nothing_twice() {
    let mut cluster = TestCluster::with_settings(&SAME_VOTERS).await;
    let (topic, mut client) = prepare(&cluster).await;
    let wire = Wire::connect(cluster.address(3)).await.unwrap();
    cluster.stop_peer(5).await;
    cluster.stop_peer(6).await;
    let timeout = Duration::from_millis(500);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let began = Instant::now();
        let status = publish_within(wire.client(), &topic, 3, timeout)
            .await
            .unwrap_err();
        assert!(began.elapsed() < timeout + SLACK, "{:?}", began.elapsed());
        match reason(&status) {
            (Code::Unavailable, reason)
                if ["NO_QUORUM", "NO_LEADER"].contains(&reason.as_str()) =>
            {
                break;
            }
            (Code::Unknown, reason) if reason == "OUTCOME_UNKNOWN" => {}
            other => panic!("{other:?}: {status:?}"),
        }
        assert!(
            Instant::now() < deadline,
            "the leader still takes what it cannot commit"
        );
    }
    cluster.start_peer(5).await;
    eventually(|| {
        let (wire, topic) = (wire.clone(), topic.clone());
        async move { publish_within(wire.client(), &topic, 3, PATIENCE).await }
    })
    .await;
    cluster.start_peer(6).await;
    cluster.ready().await;
    publish_as(&mut client, &topic, (&publisher(), 1, 4), "m4")
        .await
        .unwrap();
    assert_eq!(
        pull(&mut client, &topic, &subscriber()).await,
        ["m0", "m1", "m2", "m3", "m4"]
    );
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}
