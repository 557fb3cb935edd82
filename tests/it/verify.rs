//! VerifyReplicas: what all replicas hold, compared while the cluster works on.

use std::time::Duration;

use cubecast::testing::TestCluster;
use cubecast_sdk::{Client, Code, Error, Reason, Start, VerifyOptions};
use tokio_util::sync::CancellationToken;

use crate::support::{bits, name_owned_by};

async fn client(cluster: &TestCluster, peer: usize) -> Client {
    Client::connect([cluster.address(peer)]).await.unwrap()
}

/// Publishes until told to stop, and says how often.
async fn load(client: Client, topic: String, stop: CancellationToken) -> u64 {
    let publisher = client.publisher("p");
    let mut count = 0;
    while !stop.is_cancelled() {
        publisher.publish(&topic, ["x"]).await.unwrap();
        count += 1;
    }
    count
}

// REQ F11: the replicas of every shard are compared at one place of the log while messages come in.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_equal_under_load() {
    let mut cluster = TestCluster::start().await;
    let client = client(&cluster, 3).await;
    client.create_publisher("p").await.unwrap();
    client.create_subscriber("s").await.unwrap();
    let (stop, mut loads) = (CancellationToken::new(), Vec::new());
    for owner in [0, 4, 7] {
        let topic = name_owned_by("news", owner);
        client.create_topic(&topic).await.unwrap();
        client
            .subscriber("s")
            .subscribe(&topic, Start::Earliest)
            .await
            .unwrap();
        loads.push(tokio::spawn(load(client.clone(), topic, stop.clone())));
    }
    for _ in 0..3 {
        let shards = client.verify_replicas(VerifyOptions::new()).await.unwrap();
        assert_eq!(shards.len(), 8);
        for (shard, index) in shards.iter().zip(0..) {
            assert!(shard.is_consistent, "{shard:?}");
            assert_eq!(
                (shard.vertex.clone(), shard.replicas.len()),
                (bits(index), 4)
            );
            assert!(shard.replicas.iter().all(|replica| replica.is_equal));
        }
    }
    stop.cancel();
    for load in loads {
        assert!(load.await.unwrap() > 0);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_is_compared_alone_and_digests_tell_contents_apart() {
    let mut cluster = TestCluster::start().await;
    let client = client(&cluster, 0).await;
    let topic = name_owned_by("news", 5);
    client.create_topic(&topic).await.unwrap();
    let compare = || client.verify_replicas(VerifyOptions::new().topic(&topic));
    let before = compare().await.unwrap();
    let elsewhere = VerifyOptions::new().vertex("101");
    client
        .create_topic(name_owned_by("other", 5))
        .await
        .unwrap();
    let same = compare().await.unwrap();
    client.publish(&topic, ["a"]).await.unwrap();
    let after = compare().await.unwrap();
    for shards in [&before, &same, &after] {
        assert_eq!((shards.len(), shards[0].vertex.as_str()), (1, "101"));
        assert!(shards[0].is_consistent, "{shards:?}");
    }
    assert_eq!(before[0].replicas, same[0].replicas);
    assert_ne!(before[0].replicas[0].digest, after[0].replicas[0].digest);
    let whole = client.verify_replicas(elsewhere).await.unwrap();
    assert_ne!(whole[0].replicas[0].digest, after[0].replicas[0].digest);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_is_away_is_told_and_never_taken_for_equal() {
    let mut cluster = TestCluster::start().await;
    let client = client(&cluster, 4).await;
    cluster.stop_peer(6).await;
    let options = VerifyOptions::new()
        .vertex("100")
        .vertex("001")
        .wait(Duration::from_secs(20));
    let shards = client.verify_replicas(options).await.unwrap();
    let vertices: Vec<_> = shards.iter().map(|shard| shard.vertex.as_str()).collect();
    assert_eq!(vertices, ["001", "100"]);
    assert!(shards[0].is_consistent, "{shards:?}");
    assert!(!shards[1].is_consistent);
    let away = shards[1]
        .replicas
        .iter()
        .find(|replica| replica.peer == 6)
        .unwrap();
    assert_eq!(
        (away.vertex.as_str(), &away.digest, away.is_equal),
        ("110", &None, false)
    );
    assert!(away.problem.is_some());
    assert_eq!(
        shards[1]
            .replicas
            .iter()
            .filter(|replica| replica.is_equal)
            .count(),
        3
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_are_refused() {
    let mut cluster = TestCluster::start().await;
    let client = client(&cluster, 2).await;
    let why = |error: Error| (error.code(), error.reason());
    for options in [
        VerifyOptions::new().vertex("2"),
        VerifyOptions::new().vertex("0000"),
        VerifyOptions::new().topic("t").vertex("000"),
    ] {
        let error = client.verify_replicas(options).await.unwrap_err();
        assert_eq!(error.fact("field"), Some("vertices"));
        assert_eq!(
            why(error),
            (Code::InvalidArgument, Some(Reason::FieldInvalid))
        );
    }
    let error = client
        .verify_replicas(VerifyOptions::new().topic("no topic"))
        .await;
    assert_eq!(why(error.unwrap_err()).1, Some(Reason::NameInvalid));
    let error = client
        .verify_replicas(VerifyOptions::new().topic("nowhere"))
        .await;
    assert_eq!(
        why(error.unwrap_err()),
        (Code::NotFound, Some(Reason::TopicNotFound))
    );
    cluster.stop().await;
}
