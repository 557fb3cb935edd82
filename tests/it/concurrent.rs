//! Many clients at once.

use std::collections::BTreeSet;

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::LocateTopicRequest;

use crate::support::{
    bits, create_publisher, create_subscriber, create_topic, name_owned_by, plain, publish_as,
    pull, subscribe,
};

// REQ E2, F7, F8, D10: eight publishers and eight subscribers on one topic, each at another peer.
#[tokio::test(flavor = "multi_thread")]
async fn eight_peers_publish_and_pull_one_topic_at_once() {
    const EACH: u64 = 25;
    let mut cluster = TestCluster::start().await;
    let mut first = plain(cluster.address(0)).await;
    create_topic(&mut first, "news").await;
    let mut publishers = Vec::new();
    let mut subscribers = Vec::new();
    for peer in 0..8 {
        let mut client = plain(cluster.address(peer)).await;
        let (publisher, subscriber) = (format!("p{peer}"), format!("s{peer}"));
        create_publisher(&mut client, &publisher).await;
        create_subscriber(&mut client, &subscriber).await;
        subscribe(&mut client, "news", &subscriber).await;
        let mut writer = client.clone();
        publishers.push(tokio::spawn(async move {
            for sequence in 0..EACH {
                let text = format!("{publisher}-{sequence}");
                publish_as(&mut writer, "news", (&publisher, 1, sequence), &text)
                    .await
                    .unwrap();
            }
        }));
        subscribers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < usize::try_from(8 * EACH).unwrap() {
                seen.extend(pull(&mut client, "news", &subscriber).await);
            }
            seen
        }));
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let mut seen = Vec::new();
    for subscriber in subscribers {
        seen.push(subscriber.await.unwrap());
    }
    assert!(
        seen.windows(2).all(|pair| pair[0] == pair[1]),
        "all subscribers see one order"
    );
    let distinct: BTreeSet<&String> = seen[0].iter().collect();
    assert_eq!(distinct.len(), seen[0].len(), "nothing twice");
    for peer in 0..8 {
        let of_peer: Vec<_> = seen[0]
            .iter()
            .filter(|text| text.starts_with(&format!("p{peer}-")))
            .cloned()
            .collect();
        let expected: Vec<_> = (0..EACH)
            .map(|sequence| format!("p{peer}-{sequence}"))
            .collect();
        assert_eq!(
            of_peer, expected,
            "each publisher's messages are in its order"
        );
    }
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}

// REQ E3, T3, T4: topics land on the peers that the placement law says, and only there.
#[tokio::test(flavor = "multi_thread")]
async fn topics_land_on_the_right_peers() {
    let mut cluster = TestCluster::start().await;
    let mut client = plain(cluster.address(1)).await;
    let golden = [
        ("news", "100", ["101", "110", "000"]),
        ("cricket", "111", ["110", "101", "011"]),
        ("topic2", "110", ["111", "100", "010"]),
        ("topic4", "101", ["100", "111", "001"]),
        ("topic16", "010", ["011", "000", "110"]),
    ];
    for (topic, owner, replicas) in golden {
        create_topic(&mut client, topic).await;
        let located = client
            .locate_topic(LocateTopicRequest {
                topic: topic.to_owned(),
            })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(located.placement.as_ref().unwrap().owner, owner, "{topic}");
        let holders: Vec<&str> = located
            .replicas
            .iter()
            .map(|replica| replica.vertex.as_str())
            .collect();
        assert_eq!(holders[0], owner, "{topic}");
        assert_eq!(holders[1..], replicas, "{topic}");
    }
    // What the peers really hold, not what they say.
    cluster.assert_replicas_equal().await;
    for peer in 0..8_u16 {
        let node = cluster.node(usize::from(peer));
        for (topic, owner, replicas) in golden {
            let held = node.replicas().all().into_iter().any(|replica| {
                let name = cubecast::types::TopicName::new(topic).unwrap();
                replica.view().topic(&name).unwrap().is_some()
            });
            let should = owner == bits(peer) || replicas.contains(&bits(peer).as_str());
            assert_eq!(held, should, "{topic} at {}", bits(peer));
        }
    }
    assert_eq!(name_owned_by("news", 4).get(..4), Some("news"));
    cluster.stop().await;
}
