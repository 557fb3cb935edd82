//! A producer whose peer is played by the test: what is sent again, and what is not.

use std::time::Duration;

use cubecast_sdk::proto::v1;
use cubecast_sdk::proto::v1::publish_stream_response::Result as Outcome;
use cubecast_sdk::{Client, Error, Producer, ProducerOptions};

use crate::script::{Scene, Stage};

async fn producer(stage: &Stage, attempt_timeout: Duration) -> Producer {
    let builder = Client::builder()
        .peer(stage.address.as_str())
        .attempt_timeout(attempt_timeout);
    let client = builder.connect().await.unwrap();
    let options = ProducerOptions::new()
        .bundle_bytes(1)
        .linger(Duration::ZERO);
    client.publisher("agency").producer("news", options)
}

async fn hear(scene: &mut Scene) -> v1::PublishStreamRequest {
    scene.hear().await.unwrap()
}

async fn answer(scene: &Scene, request_number: u64, outcome: Outcome) {
    let answer = v1::PublishStreamResponse {
        request_number,
        result: Some(outcome),
    };
    scene.say(&answer).await;
}

fn published(first_offset: u64) -> Outcome {
    Outcome::Published(v1::PublishResponse {
        first_offset,
        message_count: 1,
        ..Default::default()
    })
}

// REQ G3, G8
#[tokio::test]
async fn messages_of_unknown_fate_are_not_sent_again_in_a_new_session() {
    let mut stage = Stage::start().await;
    let producer = producer(&stage, Duration::from_secs(20)).await;
    let first = producer.send("a").await.unwrap();
    let second = producer.send("b").await.unwrap();
    let mut scene = stage.next().await;
    let session = hear(&mut scene).await.sequence.unwrap().session;
    hear(&mut scene).await;
    drop(scene);
    // Both may be in the log; a peer with other limits refuses the first.
    let mut scene = stage.next().await;
    assert_eq!(hear(&mut scene).await.sequence.unwrap().session, session);
    let refused = Outcome::Error(v1::StreamError {
        code: tonic::Code::InvalidArgument.into(),
        reason: v1::ErrorReason::MessageTooLarge.into(),
        ..Default::default()
    });
    answer(&scene, 0, refused).await;
    for receipt in [first, second] {
        let outcome = receipt.await;
        assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })));
    }
    let third = producer.send("c").await.unwrap();
    let mut scene = stage.next().await;
    let request = hear(&mut scene).await;
    assert_ne!(request.sequence.unwrap().session, session);
    assert_eq!(request.messages[0].payload, "c");
    answer(&scene, 0, published(7)).await;
    assert_eq!(third.await.unwrap().offset, 7);
}

#[tokio::test]
async fn peer_that_is_only_slow_is_not_sent_everything_again() {
    let mut stage = Stage::start().await;
    let producer = producer(&stage, Duration::from_millis(400)).await;
    let receipt = producer.send("a").await.unwrap();
    let mut scene = stage.next().await;
    hear(&mut scene).await;
    // Longer than an attempt may take; the peer answers probes meanwhile.
    tokio::time::sleep(Duration::from_millis(600)).await;
    answer(&scene, 0, published(3)).await;
    assert_eq!(receipt.await.unwrap().offset, 3);
    assert_eq!(stage.waiting(), 0, "no other stream was opened");
}

#[tokio::test]
async fn message_that_no_peer_takes_is_refused_before_it_is_sent() {
    let mut stage = Stage::start().await;
    let producer = producer(&stage, Duration::from_secs(20)).await;
    let empty = producer.send("").await.unwrap_err();
    assert!(matches!(empty, Error::MessageEmpty));
    let large = producer.send(vec![7; 2_000]).await.unwrap_err();
    match large {
        Error::MessageTooLarge { bytes, limit } => assert_eq!((bytes, limit), (2_003, 2_000)),
        other => panic!("{other:?}"),
    }
    let mut receipts = producer.send_all(["a", "", "b"]).await.into_iter();
    let mut scene = stage.next().await;
    for (number, payload) in [(0, "a"), (1, "b")] {
        let request = hear(&mut scene).await;
        assert_eq!(request.messages[0].payload, payload);
        answer(&scene, number, published(number)).await;
    }
    assert_eq!(receipts.next().unwrap().await.unwrap().offset, 0);
    let refused = receipts.next().unwrap().await;
    assert!(matches!(refused, Err(Error::MessageEmpty)));
    assert_eq!(receipts.next().unwrap().await.unwrap().offset, 1);
    assert!(receipts.next().is_none());
}
