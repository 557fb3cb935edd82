//! Every call through every peer, for topics of every owner.

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::{
    AckLevel, AcknowledgeRequest, CreateTopicRequest, DeletePublisherRequest,
    DeleteSubscriberRequest, DeleteTopicRequest, GetNodeStatusRequest, GetTopicRequest,
    ListPublishersRequest, ListSubscribersRequest, ListSubscriptionsRequest, ListTopicsRequest,
    LocateTopicRequest, PublishRequest, PullRequest, SeekRequest, StartPosition,
    UnsubscribeRequest, start_position,
};
use tonic::Code;

use crate::support::{
    self, Plain, bits, create_publisher, create_subscriber, create_topic, name_owned_by, plain,
    publish, publish_as, pull, reason, subscribe,
};

// REQ E1, T6, A1-A7, F19: each API through each of the eight peers, for a topic of each owner.
#[tokio::test(flavor = "multi_thread")]
async fn every_api_works_through_every_peer_for_topics_of_every_owner() {
    let mut cluster = TestCluster::start().await;
    for peer in 0..8 {
        let mut client = plain(cluster.address(peer)).await;
        let publisher = format!("publisher-{peer}");
        let subscriber = format!("subscriber-{peer}");
        create_publisher(&mut client, &publisher).await;
        create_subscriber(&mut client, &subscriber).await;
        for owner in 0..8 {
            let topic = name_owned_by(&format!("via-{peer}-"), owner);
            walk(&mut client, (&topic, owner), &publisher, &subscriber).await;
        }
        node_status(&mut client, peer).await;
        forget(&mut client, &publisher, &subscriber).await;
    }
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}

/// The life of one topic, from its creation to its deletion.
async fn walk(client: &mut Plain, (topic, owner): (&str, u16), publisher: &str, subscriber: &str) {
    let created = client
        .create_topic(CreateTopicRequest {
            topic: topic.to_owned(),
            publisher: publisher.to_owned(),
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(
        created
            .metadata()
            .get("cubecast-served-by")
            .unwrap()
            .to_str()
            .unwrap(),
        bits(owner)
    );
    let placement = created.into_inner().placement.unwrap();
    assert_eq!(placement.owner, bits(owner));
    let neighbours: Vec<String> = (0..3).map(|bit| bits(owner ^ (1 << bit))).collect();
    assert_eq!(placement.replicas, neighbours);

    subscribe(client, topic, subscriber).await;
    let first = publish(client, topic, &["a", "b"]).await.unwrap();
    assert_eq!((first.first_offset, first.message_count), (0, 2));
    assert!(first.stored_by.len() >= 2, "{:?}", first.stored_by);
    let second = publish_as(client, topic, (publisher, 1, 0), "c")
        .await
        .unwrap();
    assert_eq!(second.first_offset, 2);

    read(client, topic, subscriber).await;
    look(client, (topic, owner), publisher, subscriber).await;
    remove(client, topic, subscriber).await;
}

/// Cursor calls.
async fn read(client: &mut Plain, topic: &str, subscriber: &str) {
    let named = || PullRequest {
        topic: topic.to_owned(),
        subscriber: subscriber.to_owned(),
        ..Default::default()
    };
    let pulled = client
        .pull(PullRequest {
            max_messages: 2,
            ..named()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(support::texts(&pulled), ["a", "b"]);
    assert_eq!(
        (pulled.next_offset, pulled.cursor, pulled.head_offset),
        (2, 0, 3)
    );
    let again = client
        .pull(PullRequest {
            acknowledge_to: Some(2),
            ..named()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(support::texts(&again), ["c"]);
    assert_eq!(again.cursor, 2);
    let acknowledge = AcknowledgeRequest {
        topic: topic.to_owned(),
        subscriber: subscriber.to_owned(),
        next_offset: 3,
    };
    assert_eq!(
        client
            .acknowledge(acknowledge)
            .await
            .unwrap()
            .into_inner()
            .cursor,
        3
    );
    assert!(pull(client, topic, subscriber).await.is_empty());

    let earliest = StartPosition {
        position: Some(start_position::Position::Earliest(())),
    };
    let seek = SeekRequest {
        topic: topic.to_owned(),
        subscriber: subscriber.to_owned(),
        start: Some(earliest),
    };
    assert_eq!(client.seek(seek).await.unwrap().into_inner().cursor, 0);
    assert_eq!(pull(client, topic, subscriber).await, ["a", "b", "c"]);
    assert!(pull(client, topic, subscriber).await.is_empty());
}

/// Calls that only look.
async fn look(client: &mut Plain, (topic, owner): (&str, u16), publisher: &str, subscriber: &str) {
    let got = client
        .get_topic(GetTopicRequest {
            topic: topic.to_owned(),
            ..Default::default()
        })
        .await
        .unwrap();
    let got = got.into_inner().topic.unwrap();
    assert_eq!(
        (got.next_offset, got.creator.as_str(), got.owner),
        (3, publisher, bits(owner))
    );

    let by_creator = ListTopicsRequest {
        publisher: publisher.to_owned(),
        ..Default::default()
    };
    let listed = client.list_topics(by_creator).await.unwrap().into_inner();
    assert!(
        listed.topics.iter().any(|listed| listed.name == topic),
        "{listed:?}"
    );
    let of_subscriber = ListSubscriptionsRequest {
        subscriber: subscriber.to_owned(),
        ..Default::default()
    };
    let listed = client
        .list_subscriptions(of_subscriber)
        .await
        .unwrap()
        .into_inner();
    assert!(
        listed
            .subscriptions
            .iter()
            .any(|listed| listed.topic == topic && listed.next_offset == 3),
        "{listed:?}"
    );

    let located = client
        .locate_topic(LocateTopicRequest {
            topic: topic.to_owned(),
        })
        .await
        .unwrap()
        .into_inner();
    assert!(located.exists);
    assert_eq!(located.placement.unwrap().owner, bits(owner));
    assert_eq!(located.replicas.len(), 4);
}

async fn remove(client: &mut Plain, topic: &str, subscriber: &str) {
    let unsubscribe = UnsubscribeRequest {
        topic: topic.to_owned(),
        subscriber: subscriber.to_owned(),
    };
    client.unsubscribe(unsubscribe.clone()).await.unwrap();
    let error = client.unsubscribe(unsubscribe).await.unwrap_err();
    assert_eq!(
        reason(&error),
        (Code::NotFound, "SUBSCRIPTION_NOT_FOUND".to_owned())
    );
    client
        .delete_topic(DeleteTopicRequest {
            topic: topic.to_owned(),
        })
        .await
        .unwrap();
    let error = client
        .get_topic(GetTopicRequest {
            topic: topic.to_owned(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(
        reason(&error),
        (Code::NotFound, "TOPIC_NOT_FOUND".to_owned())
    );
}

async fn node_status(client: &mut Plain, peer: usize) {
    let status = client
        .get_node_status(GetNodeStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.peer, u32::try_from(peer).unwrap());
    assert_eq!(status.vertex, bits(u16::try_from(peer).unwrap()));
    assert_eq!(status.shards.len(), 4);
}

async fn forget(client: &mut Plain, publisher: &str, subscriber: &str) {
    let listed = client
        .list_publishers(ListPublishersRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(
        listed
            .publishers
            .iter()
            .any(|listed| listed.publisher == publisher),
        "{listed:?}"
    );
    let listed = client
        .list_subscribers(ListSubscribersRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(
        listed
            .subscribers
            .iter()
            .any(|listed| listed.subscriber == subscriber),
        "{listed:?}"
    );
    client
        .delete_publisher(DeletePublisherRequest {
            publisher: publisher.to_owned(),
        })
        .await
        .unwrap();
    client
        .delete_subscriber(DeleteSubscriberRequest {
            subscriber: subscriber.to_owned(),
        })
        .await
        .unwrap();
}

// REQ T4, T6: a list through any peer gathers all shards, page by page, in a stable order.
#[tokio::test(flavor = "multi_thread")]
async fn lists_page_through_all_shards() {
    let mut cluster = TestCluster::start().await;
    let mut client = plain(cluster.address(5)).await;
    let mut expected = Vec::new();
    for owner in 0..8 {
        for prefix in ["x", "y", "z"] {
            let topic = name_owned_by(prefix, owner);
            create_topic(&mut client, &topic).await;
            expected.push(topic);
        }
    }
    for page_size in [1, 5, 24, 100] {
        let mut listed = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListTopicsRequest {
                page_size,
                page_token,
                ..Default::default()
            };
            let page = client.list_topics(request).await.unwrap().into_inner();
            assert!(page.topics.len() <= usize::try_from(page_size).unwrap());
            listed.extend(page.topics.into_iter().map(|topic| topic.name));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, expected, "page size {page_size}");
    }
    cluster.stop().await;
}

// REQ A6: a pull that finds nothing waits, and is woken by a publish through another peer.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_woken_by_a_publish_through_another_peer() {
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("poll", 4);
    let mut near = plain(cluster.address(4)).await;
    create_topic(&mut near, &topic).await;
    create_subscriber(&mut near, "s").await;
    subscribe(&mut near, &topic, "s").await;
    let waiting = {
        let mut far = plain(cluster.address(3)).await;
        let topic = topic.clone();
        tokio::spawn(async move {
            let wait = Some(prost_types::Duration {
                seconds: 30,
                nanos: 0,
            });
            let request = PullRequest {
                topic,
                subscriber: "s".to_owned(),
                wait,
                ..Default::default()
            };
            far.pull(request).await.unwrap().into_inner()
        })
    };
    publish(&mut near, &topic, &["now"]).await.unwrap();
    let pulled = tokio::time::timeout(std::time::Duration::from_secs(20), waiting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(support::texts(&pulled), ["now"]);
    cluster.stop().await;
}

// REQ W6, W10, G1: an answer names an offset, which is certain with a majority only; so it is never given for less, and never says less.
#[tokio::test(flavor = "multi_thread")]
async fn publish_is_never_answered_for_less_than_a_majority() {
    let mut cluster = TestCluster::start().await;
    let mut client = plain(cluster.address(3)).await;
    let topic = name_owned_by("level", 4);
    create_topic(&mut client, &topic).await;
    for (asked, reached) in [
        (AckLevel::Unspecified, AckLevel::Quorum),
        (AckLevel::Owner, AckLevel::Quorum),
        (AckLevel::Quorum, AckLevel::Quorum),
        (AckLevel::All, AckLevel::All),
    ] {
        let request = PublishRequest {
            topic: topic.clone(),
            messages: vec![support::message("m")],
            acks: asked.into(),
            ..PublishRequest::default()
        };
        let published = client.publish(request).await.unwrap().into_inner();
        assert_eq!(published.reached(), reached, "{asked:?}");
        let least = if reached == AckLevel::All { 4 } else { 2 };
        assert!(published.stored_by.len() >= least, "{published:?}");
    }
    cluster.stop().await;
}
