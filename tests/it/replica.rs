//! One replica: read directly, and caught up by command.

use cubecast::testing::TestCluster;
use cubecast_sdk::{Client, Code, Error, Pulled, Reason, ReplicaPullOptions, ShardOf};

use crate::support::{bits, name_owned_by};

async fn client(cluster: &TestCluster, peer: usize) -> Client {
    Client::connect([cluster.address(peer)]).await.unwrap()
}

fn why(error: &Error) -> (Code, Option<Reason>) {
    (error.code(), error.reason())
}

fn texts(pulled: Pulled) -> Vec<String> {
    let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
    pulled
        .into_iter()
        .map(|message| text(&message.payload))
        .collect()
}

// REQ A8–A12, W1: an operator reads one replica; the messages are those of a pull, and the owner is named.
#[tokio::test(flavor = "multi_thread")]
async fn each_replica_is_read_by_itself() {
    let mut cluster = TestCluster::start().await;
    let client = client(&cluster, 3).await;
    let topic = name_owned_by("news", 4);
    client.create_topic(topic.as_str()).await.unwrap();
    client.publish(&topic, ["a", "b", "c"]).await.unwrap();
    let everything = ReplicaPullOptions::new();
    for holder in [4, 5, 6, 0_u16] {
        let peer = cluster.address(usize::from(holder));
        client
            .sync_replica(peer, ShardOf::Topic(topic.clone()))
            .await
            .unwrap();
        let pulled = client.replica_pull(peer, &topic, everything).await.unwrap();
        let source = pulled.source.clone().unwrap();
        assert_eq!((source.served_by, source.owner), (bits(holder), bits(4)));
        assert_eq!((pulled.next_offset, pulled.head_offset), (3, 3));
        assert_eq!(texts(pulled), ["a", "b", "c"]);
        let later = everything.first_offset(1).max_messages(1);
        let pulled = client.replica_pull(peer, &topic, later).await.unwrap();
        assert_eq!((pulled.next_offset, pulled.head_offset), (2, 3));
        assert_eq!(texts(pulled), ["b"]);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_cannot_be_read_says_why() {
    let mut cluster = TestCluster::start().await;
    let client = client(&cluster, 4).await;
    let (topic, here) = (name_owned_by("news", 4), cluster.address(4));
    let everything = ReplicaPullOptions::new();
    let absent = client
        .replica_pull(here, &topic, everything)
        .await
        .unwrap_err();
    assert_eq!(why(&absent), (Code::NotFound, Some(Reason::TopicNotFound)));
    client.create_topic(topic.as_str()).await.unwrap();
    let elsewhere = cluster.address(3);
    let none = client
        .replica_pull(elsewhere, &topic, everything)
        .await
        .unwrap_err();
    assert_eq!(
        why(&none),
        (Code::FailedPrecondition, Some(Reason::NotReplica))
    );
    assert_eq!(none.fact("replicas"), Some("100,101,110,000"));
    let beyond = everything.first_offset(1);
    let beyond = client.replica_pull(here, &topic, beyond).await.unwrap_err();
    assert_eq!(
        why(&beyond),
        (Code::OutOfRange, Some(Reason::OffsetOutOfRange))
    );
    let wrong = ShardOf::Vertex("1000".to_owned());
    let wrong = client.sync_replica(here, wrong).await.unwrap_err();
    assert_eq!(
        why(&wrong),
        (Code::InvalidArgument, Some(Reason::FieldInvalid))
    );
    let none = ShardOf::Vertex(bits(4));
    let none = client.sync_replica(elsewhere, none).await.unwrap_err();
    assert_eq!(why(&none).1, Some(Reason::NotReplica));
    cluster.stop().await;
}

// REQ W2: a catch-up by command ends when the replica has all that was committed before.
#[tokio::test(flavor = "multi_thread")]
async fn replica_catches_up_before_the_answer_comes() {
    let mut cluster = TestCluster::start().await;
    let client = client(&cluster, 4).await;
    let topic = name_owned_by("news", 4);
    client.create_topic(topic.as_str()).await.unwrap();
    cluster.stop_peer(6).await;
    for _ in 0..50 {
        client.publish(&topic, ["x"]).await.unwrap();
    }
    cluster.start_peer(6).await;
    let peer = cluster.address(6);
    let synced = client
        .sync_replica(peer, ShardOf::Vertex(bits(4)))
        .await
        .unwrap();
    assert_eq!(synced.shard.shard, bits(4));
    assert!(synced.entries_received <= 60, "{synced:?}");
    let pulled = client
        .replica_pull(peer, &topic, ReplicaPullOptions::new())
        .await;
    assert_eq!(pulled.unwrap().len(), 50);
    cluster.stop().await;
}

// REQ A8–A12: lag and health of each replica.
#[tokio::test(flavor = "multi_thread")]
async fn dead_replica_is_told_where_the_topic_is_located() {
    let mut cluster = TestCluster::start().await;
    let client = client(&cluster, 4).await;
    let topic = name_owned_by("news", 4);
    client.create_topic(topic.as_str()).await.unwrap();
    cluster.fail_peer(6).await;
    let mut asked = 0;
    loop {
        let located = client.locate_topic(&topic).await.unwrap();
        let health = |peer| {
            let replica = located.replicas.iter().find(|replica| replica.peer == peer);
            replica.unwrap().is_reachable
        };
        assert_eq!(health(4), Some(true));
        if health(6) == Some(false) {
            break;
        }
        asked += 1;
        assert!(asked < 100_000, "{located:?}");
    }
    cluster.stop().await;
}
