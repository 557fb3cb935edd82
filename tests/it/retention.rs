//! Retention: what a topic need not keep goes, everywhere alike, and whoever had not read it is told.

use std::time::Duration;

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::start_position::Position;
use cubecast_sdk::proto::v1::{
    CreateTopicRequest, GetTopicRequest, ListSubscriptionsRequest, PullRequest, Retention,
    SeekRequest, StartPosition, Topic, UpdateTopicRequest,
};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    Plain, create_publisher, create_subscriber, create_topic, name_owned_by, plain, publish,
    publish_as, reason, subscribe, texts,
};

/// The leader looks every few seconds; the tests let it look more often.
const SETTINGS: [(&str, &str); 1] = [("retention.interval", "100ms")];
const PATIENCE: Duration = Duration::from_secs(30);

fn messages(count: u64) -> Option<Retention> {
    Some(Retention {
        messages: Some(count),
        ..Retention::default()
    })
}

async fn create(client: &mut Plain, topic: &str, retention: Option<Retention>) {
    let request = CreateTopicRequest {
        topic: topic.to_owned(),
        retention,
        ..Default::default()
    };
    let created = client.create_topic(request).await.unwrap().into_inner();
    assert_eq!(created.topic.unwrap().retention, retention);
}

async fn topic(client: &mut Plain, topic: &str) -> Topic {
    let request = GetTopicRequest {
        topic: topic.to_owned(),
        ..Default::default()
    };
    client
        .get_topic(request)
        .await
        .unwrap()
        .into_inner()
        .topic
        .unwrap()
}

/// Waits until the oldest message of a topic is this one.
async fn trimmed(client: &mut Plain, name: &str, first_offset: u64) -> Topic {
    let begun = Instant::now();
    loop {
        let topic = topic(client, name).await;
        if topic.first_offset == first_offset {
            return topic;
        }
        assert!(begun.elapsed() < PATIENCE, "{topic:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn pull_of(topic: &str) -> PullRequest {
    PullRequest {
        topic: topic.to_owned(),
        subscriber: "s".to_owned(),
        ..Default::default()
    }
}

async fn seek(client: &mut Plain, topic: &str, offset: u64) -> Result<u64, Status> {
    let request = SeekRequest {
        topic: topic.to_owned(),
        subscriber: "s".to_owned(),
        start: Some(StartPosition {
            position: Some(Position::Offset(offset)),
        }),
    };
    client
        .seek(request)
        .await
        .map(|answer| answer.into_inner().cursor)
}

// REQ D13: a topic keeps as many messages as it was told, whichever peer is asked, and the subscriber hears how many it missed.
#[tokio::test(flavor = "multi_thread")]
async fn removed_messages_are_told_to_the_subscriber_until_its_cursor_moves() {
    let mut cluster = TestCluster::with_settings(&SETTINGS).await;
    let name = name_owned_by("news", 4);
    let mut client = plain(cluster.address(3)).await;
    create(&mut client, &name, messages(2)).await;
    create_subscriber(&mut client, "s").await;
    subscribe(&mut client, &name, "s").await;
    for text in ["a", "b", "c", "d", "e"] {
        publish(&mut client, &name, &[text]).await.unwrap();
    }
    let left = trimmed(&mut client, &name, 3).await;
    assert_eq!((left.first_offset, left.next_offset), (3, 5));

    for peer in [0, 4, 7] {
        let mut client = plain(cluster.address(peer)).await;
        let pulled = client.pull(pull_of(&name)).await.unwrap().into_inner();
        assert_eq!(
            (pulled.missed, pulled.cursor, pulled.next_offset),
            (3, 3, 5)
        );
        assert_eq!(texts(&pulled), ["d", "e"]);
    }
    let request = ListSubscriptionsRequest {
        topic: name.clone(),
        ..Default::default()
    };
    let listed = client
        .list_subscriptions(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            listed.subscriptions[0].missed,
            listed.subscriptions[0].next_offset
        ),
        (3, 3)
    );
    let acknowledging = PullRequest {
        acknowledge_to: Some(4),
        ..pull_of(&name)
    };
    let pulled = client.pull(acknowledging).await.unwrap().into_inner();
    assert_eq!((pulled.missed, pulled.cursor), (0, 4));
    assert_eq!(texts(&pulled), ["e"]);
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}

// REQ F20: below the first offset there is nothing; the error names the first offset.
#[tokio::test(flavor = "multi_thread")]
async fn seek_below_the_first_offset_is_out_of_range_and_names_it() {
    let mut cluster = TestCluster::with_settings(&SETTINGS).await;
    let mut client = plain(cluster.address(1)).await;
    create(&mut client, "news", messages(1)).await;
    create_subscriber(&mut client, "s").await;
    subscribe(&mut client, "news", "s").await;
    for text in ["a", "b", "c"] {
        publish(&mut client, "news", &[text]).await.unwrap();
    }
    trimmed(&mut client, "news", 2).await;
    let status = seek(&mut client, "news", 1).await.unwrap_err();
    assert_eq!(
        reason(&status),
        (Code::OutOfRange, "OFFSET_OUT_OF_RANGE".to_owned())
    );
    let facts = status.get_details_error_info().unwrap().metadata;
    assert_eq!(
        (facts["offset"].as_str(), facts["first_offset"].as_str()),
        ("1", "2")
    );
    assert_eq!(seek(&mut client, "news", 2).await.unwrap(), 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_is_changed_later_and_as_a_whole() {
    let mut cluster = TestCluster::with_settings(&SETTINGS).await;
    let name = name_owned_by("news", 6);
    let mut client = plain(cluster.address(0)).await;
    create_topic(&mut client, &name).await;
    assert_eq!(topic(&mut client, &name).await.retention, None);
    for text in ["a", "b", "c"] {
        publish(&mut client, &name, &[text]).await.unwrap();
    }
    let update = |retention| UpdateTopicRequest {
        topic: name.clone(),
        retention,
    };
    let updated = client
        .update_topic(update(messages(2)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(updated.topic.unwrap().retention, messages(2));
    trimmed(&mut client, &name, 1).await;
    let bytes = Some(Retention {
        bytes: Some(1),
        ..Retention::default()
    });
    client.update_topic(update(bytes)).await.unwrap();
    assert_eq!(topic(&mut client, &name).await.retention, bytes);
    trimmed(&mut client, &name, 2).await;
    client
        .update_topic(update(Some(Retention::default())))
        .await
        .unwrap();
    assert_eq!(topic(&mut client, &name).await.retention, None);
    let nothing = client.update_topic(update(None)).await.unwrap_err();
    assert_eq!(
        reason(&nothing),
        (Code::InvalidArgument, "FIELD_INVALID".to_owned())
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_messages_go_and_a_repetition_of_their_publish_is_told_so() {
    let mut cluster = TestCluster::with_settings(&SETTINGS).await;
    let mut client = plain(cluster.address(2)).await;
    let second = Some(Retention {
        age: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..Retention::default()
    });
    create(&mut client, "news", second).await;
    create_publisher(&mut client, "p").await;
    publish_as(&mut client, "news", ("p", 1, 0), "a")
        .await
        .unwrap();
    trimmed(&mut client, "news", 1).await;
    // What a topic remembers of a session is dropped when it is used again.
    publish_as(&mut client, "news", ("p", 1, 1), "b")
        .await
        .unwrap();
    let status = publish_as(&mut client, "news", ("p", 1, 0), "a")
        .await
        .unwrap_err();
    assert_eq!(
        reason(&status),
        (Code::FailedPrecondition, "SEQUENCE_FORGOTTEN".to_owned())
    );
    cluster.stop().await;
}
