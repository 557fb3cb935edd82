//! Publishes at their limits and beyond: what is refused says why, what just fits goes all the way.

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::{Header, Message, PublishRequest, PullRequest};
use prost::Message as _;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{create_subscriber, create_topic, message, name_owned_by, plain, subscribe};
use crate::wire::{Told, assert_healthy, expected, field, told};

const MESSAGE_BYTES_MAX: usize = 1 << 20;
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// A message that is so large with all that belongs to it.
fn message_of(bytes: usize) -> Message {
    let around = Message {
        payload: vec![7; bytes].into(),
        ..Default::default()
    }
    .encoded_len()
        - bytes;
    let message = Message {
        payload: vec![7; bytes - around].into(),
        ..Default::default()
    };
    assert_eq!(message.encoded_len(), bytes);
    message
}

// REQ A4, F20: empty, too many and too large, each by itself and at its limit, through the owner and through another peer.
#[tokio::test(flavor = "multi_thread")]
async fn batches_are_checked_and_their_limits_can_be_reached() {
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("batch", 4);
    create_topic(&mut plain(cluster.address(4)).await, &topic).await;
    let mut stored = 0;
    for peer in [4, 3] {
        let mut client = plain(cluster.address(peer)).await;
        let request = |messages| PublishRequest {
            topic: topic.clone(),
            messages,
            ..Default::default()
        };
        for (messages, told_as, named) in refused_batches() {
            let status = client.publish(request(messages)).await.unwrap_err();
            assert_eq!(told(&status), told_as);
            assert_eq!(field(&status), named);
        }
        let whole = request(vec![message_of(MESSAGE_BYTES_MAX - 8); 5]);
        let status = client.publish(whole).await.unwrap_err();
        let limit = REQUEST_BYTES_MAX.to_string();
        let too_large = expected(
            Code::ResourceExhausted,
            "REQUEST_TOO_LARGE",
            &[("limit", &limit)],
        );
        assert_eq!(told(&status), too_large);
        assert!(status.get_details_retry_info().is_none(), "{status:?}");

        for (messages, count) in [
            (vec![message_of(MESSAGE_BYTES_MAX)], 1),
            (vec![message("m"); 10_000], 10_000),
        ] {
            let published = client
                .publish(request(messages))
                .await
                .unwrap()
                .into_inner();
            assert_eq!(
                (published.first_offset, published.message_count),
                (stored, count)
            );
            stored += u64::from(count);
        }
        assert_healthy(&mut client, &format!("after-batches-{peer}")).await;
    }
    cluster.stop().await;
}

/// Batches with why they are refused and the field at fault.
fn refused_batches() -> Vec<(Vec<Message>, Told, &'static str)> {
    let header = Header {
        name: "only".into(),
        value: "header".into(),
    };
    let without_content = Message {
        headers: vec![header],
        ..Default::default()
    };
    let invalid = |reason, metadata: &[_]| expected(Code::InvalidArgument, reason, metadata);
    let at = |index| [("index", index)];
    let large = |index| {
        [
            ("index", index),
            ("limit", "1048576"),
            ("actual", "1048577"),
        ]
    };
    vec![
        (vec![], invalid("BATCH_EMPTY", &[]), "messages"),
        (
            vec![Message::default()],
            invalid("MESSAGE_EMPTY", &at("0")),
            "messages[0]",
        ),
        (
            vec![message("a"), without_content],
            invalid("MESSAGE_EMPTY", &at("1")),
            "messages[1]",
        ),
        (
            vec![message_of(MESSAGE_BYTES_MAX + 1)],
            invalid("MESSAGE_TOO_LARGE", &large("0")),
            "messages[0]",
        ),
        (
            vec![
                message("a"),
                message("b"),
                message_of(MESSAGE_BYTES_MAX + 1),
            ],
            invalid("MESSAGE_TOO_LARGE", &large("2")),
            "messages[2]",
        ),
        (
            vec![message("m"); 10_001],
            invalid("BATCH_TOO_MANY", &[("limit", "10000"), ("actual", "10001")]),
            "messages",
        ),
    ]
}

// REQ A4, T6: the largest request passes through a peer that must forward it, is replicated, and is pulled in answers that a client can read.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_exactly_the_limit_is_forwarded_replicated_and_pulled() {
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("large", 4);
    let mut client = plain(cluster.address(3)).await;
    create_topic(&mut client, &topic).await;
    create_subscriber(&mut client, "s").await;
    subscribe(&mut client, &topic, "s").await;
    let request = |last: usize| {
        let mut messages = vec![message_of(MESSAGE_BYTES_MAX); 3];
        messages.push(message_of(last));
        PublishRequest {
            topic: topic.clone(),
            messages,
            ..Default::default()
        }
    };
    let around = request(MESSAGE_BYTES_MAX).encoded_len() - 4 * MESSAGE_BYTES_MAX;
    let fitting = request(MESSAGE_BYTES_MAX - around);
    assert_eq!(fitting.encoded_len(), REQUEST_BYTES_MAX);
    assert_eq!(
        client
            .publish(fitting.clone())
            .await
            .unwrap()
            .into_inner()
            .message_count,
        4
    );
    let mut pulled = Vec::new();
    while pulled.len() < 4 {
        let request = PullRequest {
            topic: topic.clone(),
            subscriber: "s".into(),
            auto_acknowledge: true,
            ..Default::default()
        };
        let batches = client.pull(request).await.unwrap().into_inner().batches;
        assert!(!batches.is_empty());
        pulled.extend(batches.into_iter().flat_map(|batch| batch.messages));
    }
    assert_eq!(pulled, fitting.messages);
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}
