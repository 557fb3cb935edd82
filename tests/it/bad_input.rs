//! Requests that cannot be served: each is told why by code, reason and facts, and the peer serves on.

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::start_position::Position;
use cubecast_sdk::proto::v1::{
    AcknowledgeRequest, CreatePublisherRequest, CreateSubscriberRequest, CreateTopicRequest,
    DeletePublisherRequest, DeleteSubscriberRequest, DeleteTopicRequest, GetTopicRequest,
    ListPublishersRequest, ListSubscriptionsRequest, ListTopicsRequest, LocateTopicRequest,
    PublishRequest, PullRequest, ReadConsistency, SeekRequest, StartPosition, SubscribeRequest,
    UnsubscribeRequest,
};
use tonic::{Code, Request, Status};

use crate::support::{
    Plain, create_publisher, create_subscriber, create_topic, message, name_owned_by, plain,
};
use crate::wire::{Told, Wire, assert_healthy, errors, expected, field, told};

// REQ A1-A7, F20: a name that is none is refused by every call, through every peer, and the field is named.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_checked_in_every_field_of_every_call() {
    let mut cluster = TestCluster::start().await;
    let long = "n".repeat(250);
    for peer in [0, 5] {
        let mut client = plain(cluster.address(peer)).await;
        for bad in [
            "",
            &long,
            "white space",
            "umläut",
            "a/b",
            "new\nline",
            "nul\0",
        ] {
            for (name, status) in misnamed(&mut client, bad).await {
                assert_eq!(told(&status), name_invalid(name), "{bad:?}");
                assert_eq!(field(&status), name);
            }
        }
        for bad in [long.as_str(), "white space"] {
            for (name, status) in misnamed_options(&mut client, bad).await {
                assert_eq!(told(&status), name_invalid(name), "{bad:?}");
                assert_eq!(field(&status), name);
            }
        }
        // The longest name is one.
        assert_healthy(&mut client, &format!("{peer}{}", "n".repeat(248))).await;
    }
    cluster.stop().await;
}

fn name_invalid(field: &str) -> Told {
    let metadata = [("field", field), ("limit", "249")];
    expected(Code::InvalidArgument, "NAME_INVALID", &metadata)
}

/// Calls with a field that must be a name, which this is not.
async fn misnamed(client: &mut Plain, bad: &str) -> Vec<(&'static str, Status)> {
    let topics = topic_errors(client, bad, "s").await;
    let located = LocateTopicRequest { topic: bad.into() };
    let created = CreateTopicRequest {
        topic: bad.into(),
        ..Default::default()
    };
    let more = errors![client.locate_topic(located), client.create_topic(created)];
    let publisher = || bad.to_owned();
    let publishers = errors![
        client.create_publisher(CreatePublisherRequest {
            publisher: publisher(),
            ..Default::default()
        }),
        client.delete_publisher(DeletePublisherRequest {
            publisher: publisher()
        }),
    ];
    let mut subscribers = cursor_errors(client, "t", bad).await;
    subscribers.extend(errors![
        client.create_subscriber(CreateSubscriberRequest {
            subscriber: bad.into(),
            ..Default::default()
        }),
        client.delete_subscriber(DeleteSubscriberRequest {
            subscriber: bad.into()
        }),
        client.subscribe(SubscribeRequest {
            topic: "t".into(),
            subscriber: bad.into(),
            start: None,
            shared: None
        }),
    ]);
    let named = |field: &'static str, errors: Vec<Status>| {
        errors.into_iter().map(move |error| (field, error))
    };
    named("topic", topics)
        .chain(named("topic", more))
        .chain(named("publisher", publishers))
        .chain(named("subscriber", subscribers))
        .collect()
}

/// The errors of all calls about a topic that must exist.
async fn topic_errors(client: &mut Plain, topic: &str, subscriber: &str) -> Vec<Status> {
    let name = || topic.to_owned();
    let messages = vec![message("x")];
    let mut errors = errors![
        client.get_topic(GetTopicRequest {
            topic: name(),
            ..Default::default()
        }),
        client.delete_topic(DeleteTopicRequest { topic: name() }),
        client.publish(PublishRequest {
            topic: name(),
            messages,
            ..Default::default()
        }),
        client.subscribe(SubscribeRequest {
            topic: name(),
            subscriber: subscriber.into(),
            start: None,
            shared: None
        }),
    ];
    errors.extend(cursor_errors(client, topic, subscriber).await);
    errors
}

/// The errors of all calls about a cursor.
async fn cursor_errors(client: &mut Plain, topic: &str, subscriber: &str) -> Vec<Status> {
    let (topic, subscriber) = (|| topic.to_owned(), || subscriber.to_owned());
    let start = Some(StartPosition {
        position: Some(Position::Earliest(())),
    });
    errors![
        client.unsubscribe(UnsubscribeRequest {
            topic: topic(),
            subscriber: subscriber()
        }),
        client.pull(PullRequest {
            topic: topic(),
            subscriber: subscriber(),
            ..Default::default()
        }),
        client.acknowledge(AcknowledgeRequest {
            topic: topic(),
            subscriber: subscriber(),
            next_offset: 0
        }),
        client.seek(SeekRequest {
            topic: topic(),
            subscriber: subscriber(),
            start
        }),
    ]
}

/// Calls with a field that may be empty, but is not, and is no name.
async fn misnamed_options(client: &mut Plain, bad: &str) -> Vec<(&'static str, Status)> {
    let text = || bad.to_owned();
    let published = PublishRequest {
        topic: "t".into(),
        publisher: text(),
        messages: vec![message("x")],
        ..Default::default()
    };
    let created = CreateTopicRequest {
        topic: "t".into(),
        publisher: text(),
        ..Default::default()
    };
    let publishers = errors![
        client.publish(published),
        client.create_topic(created),
        client.list_topics(ListTopicsRequest {
            publisher: text(),
            ..Default::default()
        }),
    ];
    let prefixes = errors![
        client.list_topics(ListTopicsRequest {
            prefix: text(),
            ..Default::default()
        }),
        client.list_publishers(ListPublishersRequest {
            prefix: text(),
            ..Default::default()
        }),
    ];
    let topics = errors![client.list_subscriptions(ListSubscriptionsRequest {
        topic: text(),
        ..Default::default()
    })];
    let subscribers = errors![client.list_subscriptions(ListSubscriptionsRequest {
        subscriber: text(),
        ..Default::default()
    })];
    let named = |field: &'static str, errors: Vec<Status>| {
        errors.into_iter().map(move |error| (field, error))
    };
    named("publisher", publishers)
        .chain(named("prefix", prefixes))
        .chain(named("topic", topics))
        .chain(named("subscriber", subscribers))
        .collect()
}

// REQ F20: what does not exist, and what exists already.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_duplicate_names_are_told_apart() {
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("known", 4);
    let mut owner = plain(cluster.address(4)).await;
    create_topic(&mut owner, &topic).await;
    create_publisher(&mut owner, "p").await;
    create_subscriber(&mut owner, "s").await;
    let missing = name_owned_by("unknown", 4);
    for peer in [4, 3] {
        let mut client = plain(cluster.address(peer)).await;
        for status in topic_errors(&mut client, &missing, "s").await {
            assert_eq!(
                told(&status),
                expected(Code::NotFound, "TOPIC_NOT_FOUND", &[("topic", &missing)])
            );
        }
        for status in cursor_errors(&mut client, &topic, "s").await {
            let metadata = [("topic", topic.as_str()), ("subscriber", "s")];
            assert_eq!(
                told(&status),
                expected(Code::NotFound, "SUBSCRIPTION_NOT_FOUND", &metadata)
            );
        }
        for status in unknown_ids(&mut client, &topic).await {
            assert_eq!(status.code(), Code::NotFound);
            let (what, name) = if told(&status).1 == "PUBLISHER_NOT_FOUND" {
                ("publisher", "P")
            } else {
                ("subscriber", "S")
            };
            let reason = format!("{}_NOT_FOUND", what.to_uppercase());
            assert_eq!(
                told(&status),
                expected(Code::NotFound, &reason, &[(what, name)])
            );
        }
        let request = CreateTopicRequest {
            topic: topic.clone(),
            ..Default::default()
        };
        let topics = client.create_topic(request).await.unwrap_err();
        let request = CreatePublisherRequest {
            publisher: "p".into(),
            ..Default::default()
        };
        let publishers = client.create_publisher(request).await.unwrap_err();
        let request = CreateSubscriberRequest {
            subscriber: "s".into(),
            ..Default::default()
        };
        let subscribers = client.create_subscriber(request).await.unwrap_err();
        let exists = |reason, what, name| expected(Code::AlreadyExists, reason, &[(what, name)]);
        assert_eq!(
            told(&topics),
            exists("TOPIC_ALREADY_EXISTS", "topic", &topic)
        );
        assert_eq!(
            told(&publishers),
            exists("PUBLISHER_ALREADY_EXISTS", "publisher", "p")
        );
        assert_eq!(
            told(&subscribers),
            exists("SUBSCRIBER_ALREADY_EXISTS", "subscriber", "s")
        );
        assert_healthy(&mut client, &format!("after-unknown-{peer}")).await;
    }
    cluster.stop().await;
}

/// The publisher `P` and the subscriber `S` do not exist.
async fn unknown_ids(client: &mut Plain, topic: &str) -> Vec<Status> {
    let published = PublishRequest {
        topic: topic.into(),
        publisher: "P".into(),
        messages: vec![message("x")],
        ..Default::default()
    };
    let created = CreateTopicRequest {
        topic: "by-nobody".into(),
        publisher: "P".into(),
        ..Default::default()
    };
    let errors = errors![
        client.publish(published),
        client.create_topic(created),
        client.delete_publisher(DeletePublisherRequest {
            publisher: "P".into()
        }),
        client.subscribe(SubscribeRequest {
            topic: topic.into(),
            subscriber: "S".into(),
            start: None,
            shared: None
        }),
        client.delete_subscriber(DeleteSubscriberRequest {
            subscriber: "S".into()
        }),
    ];
    let reasons: Vec<String> = errors.iter().map(|status| told(status).1).collect();
    assert_eq!(reasons[..3], ["PUBLISHER_NOT_FOUND"; 3].map(String::from));
    assert_eq!(reasons[3..], ["SUBSCRIBER_NOT_FOUND"; 2].map(String::from));
    errors
}

// G8, REQ A4: a deadline that has passed is told at once, and nothing is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_already_past_does_nothing() {
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("late", 4);
    create_topic(&mut plain(cluster.address(4)).await, &topic).await;
    for peer in [4, 3] {
        // A client of tonic would give up by itself.
        let mut client = Wire::connect(cluster.address(peer)).await.unwrap().client();
        for timeout in ["0n", "1n", "0m", "0H"] {
            let messages = vec![message("late")];
            let mut request = Request::new(PublishRequest {
                topic: topic.clone(),
                messages,
                ..Default::default()
            });
            request
                .metadata_mut()
                .insert("grpc-timeout", timeout.parse().unwrap());
            let began = tokio::time::Instant::now();
            let status = client.publish(request).await.unwrap_err();
            assert_eq!(
                told(&status),
                expected(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", &[]),
                "{timeout}"
            );
            assert!(
                began.elapsed() < std::time::Duration::from_secs(5),
                "{timeout}"
            );
            let mut list = Request::new(ListTopicsRequest::default());
            list.metadata_mut()
                .insert("grpc-timeout", timeout.parse().unwrap());
            let status = client.list_topics(list).await.unwrap_err();
            assert_eq!(told(&status).1, "DEADLINE_EXCEEDED", "{timeout}");
        }
    }
    cluster.assert_replicas_equal().await;
    let mut client = plain(cluster.address(4)).await;
    let request = GetTopicRequest {
        topic,
        consistency: ReadConsistency::Linearizable.into(),
    };
    let found = client.get_topic(request).await.unwrap().into_inner();
    assert_eq!(found.topic.unwrap().next_offset, 0);
    assert_healthy(&mut client, "after-deadline").await;
    cluster.stop().await;
}
