//! The defects of the reference systems that must not come back.

use cubecast::testing::TestCluster;
use cubecast::types::TopicName;
use cubecast_sdk::proto::v1::{CreateTopicRequest, PullRequest};
use tonic::Code;

use crate::support::{
    bits, create_publisher, create_subscriber, create_topic, name_owned_by, plain, publish,
    publish_as, pull, reason, subscribe, vertex,
};

// REQ D1: ids lived only on peer 000.
#[tokio::test(flavor = "multi_thread")]
async fn without_peer_000_ids_are_created_and_used() {
    let mut cluster = TestCluster::start().await;
    cluster.stop_peer(0).await;
    let mut client = plain(cluster.address(6)).await;
    for owner in 0..8 {
        let publisher = name_owned_by("publisher", owner);
        let subscriber = name_owned_by("subscriber", owner);
        let topic = name_owned_by("topic", owner);
        create_publisher(&mut client, &publisher).await;
        create_subscriber(&mut client, &subscriber).await;
        create_topic(&mut client, &topic).await;
        subscribe(&mut client, &topic, &subscriber).await;
        publish_as(&mut client, &topic, (&publisher, 1, 0), "hello")
            .await
            .unwrap();
        assert_eq!(pull(&mut client, &topic, &subscriber).await, ["hello"]);
    }
    cluster.stop().await;
}

// REQ D3: a replica's answer had another shape. One message type everywhere: the same bytes come through every peer.
#[tokio::test(flavor = "multi_thread")]
async fn every_peer_gives_the_same_answer() {
    let mut cluster = TestCluster::start().await;
    let mut client = plain(cluster.address(2)).await;
    create_topic(&mut client, "news").await;
    create_subscriber(&mut client, "s").await;
    subscribe(&mut client, "news", "s").await;
    publish(&mut client, "news", &["a", "b"]).await.unwrap();
    publish(&mut client, "news", &["c"]).await.unwrap();
    let mut answers = Vec::new();
    for peer in 0..8 {
        let mut client = plain(cluster.address(peer)).await;
        let request = PullRequest {
            topic: "news".to_owned(),
            subscriber: "s".to_owned(),
            ..Default::default()
        };
        answers.push(client.pull(request).await.unwrap().into_inner().batches);
    }
    assert_eq!(answers[0].len(), 2);
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    cluster.stop().await;
}

// REQ D9: a partial replication reported success for all replicas.
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_names_only_replicas_that_have_it() {
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("named", 4);
    let mut client = plain(cluster.address(4)).await;
    create_topic(&mut client, &topic).await;
    let neighbour = 5;
    cluster.stop_peer(neighbour).await;
    let mut named = std::collections::BTreeSet::new();
    for number in 0..20 {
        let published = publish(&mut client, &topic, &[&format!("m{number}")])
            .await
            .unwrap();
        assert!(
            published.stored_by.len() >= 2,
            "at least a majority of the three voters: {published:?}"
        );
        assert!(!published.stored_by.contains(&bits(5)), "{published:?}");
        named.extend(published.stored_by);
    }
    cluster.assert_replicas_equal().await;
    for bits in &named {
        let peer = usize::from_str_radix(bits, 2).unwrap();
        let replica = cluster.node(peer).replicas().get(vertex(4)).unwrap();
        let topic = replica
            .view()
            .topic(&TopicName::new(&topic).unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(topic.next_offset.0, 20, "peer {bits}");
    }
    cluster.stop().await;
}

// REQ D11, G3: a retry after a time-out duplicated the message.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_publish_through_any_peer_is_stored_once() {
    let mut cluster = TestCluster::start().await;
    let mut client = plain(cluster.address(0)).await;
    create_topic(&mut client, "news").await;
    create_publisher(&mut client, "p").await;
    create_subscriber(&mut client, "s").await;
    subscribe(&mut client, "news", "s").await;
    for sequence in 0..3 {
        publish_as(
            &mut client,
            "news",
            ("p", 9, sequence),
            &format!("m{sequence}"),
        )
        .await
        .unwrap();
    }
    for peer in 0..8 {
        let mut client = plain(cluster.address(peer)).await;
        let again = publish_as(&mut client, "news", ("p", 9, 1), "m1")
            .await
            .unwrap();
        assert!(again.is_duplicate);
        assert_eq!(again.first_offset, 1);
    }
    let gap = publish_as(&mut client, "news", ("p", 9, 7), "m7")
        .await
        .unwrap_err();
    assert_eq!(
        reason(&gap),
        (Code::FailedPrecondition, "SEQUENCE_GAP".to_owned())
    );
    let unknown = publish_as(&mut client, "news", ("p", 10, 1), "x")
        .await
        .unwrap_err();
    assert_eq!(
        reason(&unknown),
        (Code::FailedPrecondition, "SESSION_UNKNOWN".to_owned())
    );
    assert_eq!(pull(&mut client, "news", "s").await, ["m0", "m1", "m2"]);
    cluster.stop().await;
}

// REQ A3: creating twice is ALREADY_EXISTS, unless it is the same request again (AIP-155).
#[tokio::test(flavor = "multi_thread")]
async fn creating_twice_is_refused_and_repeating_is_not() {
    let mut cluster = TestCluster::start().await;
    let mut client = plain(cluster.address(0)).await;
    let request = |id: &str| CreateTopicRequest {
        topic: "news".to_owned(),
        request_id: id.to_owned(),
        ..Default::default()
    };
    let id = "6f2b1c1e-8f0a-4b5e-9d3c-2a7e5b9c0d11";
    let first = client.create_topic(request(id)).await.unwrap().into_inner();
    let mut other = plain(cluster.address(7)).await;
    let again = other.create_topic(request(id)).await.unwrap().into_inner();
    assert_eq!(first.topic, again.topic);
    let error = other.create_topic(request("")).await.unwrap_err();
    assert_eq!(
        reason(&error),
        (Code::AlreadyExists, "TOPIC_ALREADY_EXISTS".to_owned())
    );
    cluster.stop().await;
}

// G1, G6, REQ F4: one peer is gone; its topics go on after an election, and nothing acknowledged is lost or doubled.
#[tokio::test(flavor = "multi_thread")]
async fn topics_of_a_stopped_owner_go_on() {
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("owned", 4);
    let mut client = plain(cluster.address(3)).await;
    create_topic(&mut client, &topic).await;
    create_publisher(&mut client, "p").await;
    create_subscriber(&mut client, "s").await;
    subscribe(&mut client, &topic, "s").await;
    let mut expected = Vec::new();
    for sequence in 0..30 {
        if sequence == 10 {
            cluster.stop_peer(4).await;
        }
        if sequence == 20 {
            cluster.start_peer(4).await;
        }
        let text = format!("m{sequence}");
        publish_as(&mut client, &topic, ("p", 1, sequence), &text)
            .await
            .unwrap();
        expected.push(text);
    }
    assert_eq!(pull(&mut client, &topic, "s").await, expected);
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}
