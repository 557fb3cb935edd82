//! Fields that are no names, and places that a topic does not have.

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::start_position::Position;
use cubecast_sdk::proto::v1::{
    AcknowledgeRequest, CreateSubscriberRequest, CreateTopicRequest, GetTopicRequest,
    ListSubscriptionsRequest, ListTopicsRequest, PublishRequest, PublishSequence, PullRequest,
    ReadConsistency, SeekRequest, StartPosition, SubscribeRequest,
};
use tonic::{Code, Status};

use crate::support::{
    Plain, create_subscriber, create_topic, message, name_owned_by, plain, publish, pull, subscribe,
};
use crate::wire::{assert_healthy, errors, expected, field, told};

// REQ F20, A5, A6, G3: fields that are no names; places that a topic does not have.
#[tokio::test(flavor = "multi_thread")]
async fn fields_and_offsets_that_make_no_sense_are_named() {
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("fields", 4);
    let mut owner = plain(cluster.address(4)).await;
    create_topic(&mut owner, &topic).await;
    create_subscriber(&mut owner, "s").await;
    create_subscriber(&mut owner, "late").await;
    subscribe(&mut owner, &topic, "s").await;
    publish(&mut owner, &topic, &["a", "b", "c"]).await.unwrap();
    for peer in [4, 3] {
        let mut client = plain(cluster.address(peer)).await;
        for (name, status) in senseless(&mut client, &topic).await {
            assert_eq!(
                told(&status),
                expected(Code::InvalidArgument, "FIELD_INVALID", &[("field", name)])
            );
            assert_eq!(field(&status), name);
        }
        let list = |page_token: &str| ListTopicsRequest {
            page_token: page_token.into(),
            ..Default::default()
        };
        let first = ListTopicsRequest {
            page_size: 1,
            ..Default::default()
        };
        let token = client
            .list_topics(first)
            .await
            .unwrap()
            .into_inner()
            .next_page_token;
        let foreign = ListTopicsRequest {
            prefix: "other".into(),
            ..list(&token)
        };
        for status in errors![
            client.list_topics(list("nonsense")),
            client.list_topics(foreign)
        ] {
            assert_eq!(
                told(&status),
                expected(Code::InvalidArgument, "PAGE_TOKEN_INVALID", &[])
            );
            assert_eq!(field(&status), "page_token");
        }
        for status in beyond(&mut client, &topic).await {
            let metadata = [("offset", "4"), ("first_offset", "0"), ("next_offset", "3")];
            assert_eq!(
                told(&status),
                expected(Code::OutOfRange, "OFFSET_OUT_OF_RANGE", &metadata)
            );
        }
        assert_healthy(&mut client, &format!("after-fields-{peer}")).await;
    }
    // No refused call moved the cursor.
    assert_eq!(pull(&mut owner, &topic, "s").await, ["a", "b", "c"]);
    cluster.stop().await;
}

/// Calls with a field whose value makes no sense.
#[expect(clippy::too_many_lines, reason = "a table")]
async fn senseless(client: &mut Plain, topic: &str) -> Vec<(&'static str, Status)> {
    let publish = || PublishRequest {
        topic: topic.into(),
        messages: vec![message("x")],
        ..Default::default()
    };
    let sequence = Some(PublishSequence {
        session: 1,
        sequence: 0,
    });
    let pull = || PullRequest {
        topic: topic.into(),
        subscriber: "s".into(),
        ..Default::default()
    };
    let seek = |start| SeekRequest {
        topic: topic.into(),
        subscriber: "s".into(),
        start,
    };
    let moment = prost_types::Timestamp {
        seconds: 1,
        nanos: -1,
    };
    let time = Some(StartPosition {
        position: Some(Position::Time(moment)),
    });
    let wait = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    let eventual = ReadConsistency::Eventual.into();
    let fields = [
        "sequence",
        "acks",
        "request_id",
        "request_id",
        "start",
        "start",
        "start.time",
        "auto_acknowledge",
        "wait",
        "consistency",
        "consistency",
        "page_size",
        "page_size",
    ];
    let errors = errors![
        client.publish(PublishRequest {
            sequence,
            ..publish()
        }),
        client.publish(PublishRequest {
            acks: 99,
            ..publish()
        }),
        client.create_topic(CreateTopicRequest {
            topic: "t".into(),
            request_id: "7".into(),
            ..Default::default()
        }),
        client.create_subscriber(CreateSubscriberRequest {
            subscriber: "t".into(),
            request_id: "6f2b1c1e-8f0a-4b5e-9d3c-2a7e5b9c0d1x".into(),
        }),
        client.seek(seek(None)),
        client.seek(seek(Some(StartPosition { position: None }))),
        client.seek(seek(time)),
        client.pull(PullRequest {
            auto_acknowledge: true,
            consistency: eventual,
            ..pull()
        }),
        client.pull(PullRequest { wait, ..pull() }),
        client.pull(PullRequest {
            consistency: 99,
            ..pull()
        }),
        client.get_topic(GetTopicRequest {
            topic: topic.into(),
            consistency: -1
        }),
        client.list_topics(ListTopicsRequest {
            page_size: -1,
            ..Default::default()
        }),
        client.list_subscriptions(ListSubscriptionsRequest {
            page_size: i32::MIN,
            ..Default::default()
        }),
    ];
    assert_eq!(errors.len(), fields.len());
    fields.into_iter().zip(errors).collect()
}

/// Calls that name the offset 4 of a topic with three messages.
async fn beyond(client: &mut Plain, topic: &str) -> Vec<Status> {
    let start = Some(StartPosition {
        position: Some(Position::Offset(4)),
    });
    let (topic, subscriber) = (|| topic.to_owned(), || "s".to_owned());
    let pulled = PullRequest {
        topic: topic(),
        subscriber: subscriber(),
        acknowledge_to: Some(4),
        ..Default::default()
    };
    errors![
        client.seek(SeekRequest {
            topic: topic(),
            subscriber: subscriber(),
            start
        }),
        client.acknowledge(AcknowledgeRequest {
            topic: topic(),
            subscriber: subscriber(),
            next_offset: 4
        }),
        client.pull(pulled),
        client.subscribe(SubscribeRequest {
            topic: topic(),
            subscriber: "late".into(),
            start,
            shared: None
        }),
    ]
}
