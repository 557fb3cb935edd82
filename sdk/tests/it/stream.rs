//! A stream of deliveries whose peer is played by the test: what is remembered over a break, and what is told of messages that are none.

use cubecast_sdk::proto::v1;
use cubecast_sdk::proto::v1::stream_pull_request::Command;
use cubecast_sdk::proto::v1::stream_pull_response::Event;
use cubecast_sdk::{Client, Error, MessageStream, StreamOptions};
use futures::StreamExt;
use prost::Message as _;

use crate::script::{Scene, Stage};

async fn client(stage: &Stage) -> Client {
    let builder = Client::builder().peer(stage.address.as_str());
    builder.connect().await.unwrap()
}

fn messages(client: &Client, options: StreamOptions) -> MessageStream {
    let subscription = client.subscriber("reader").subscription("news");
    subscription.stream(options)
}

fn event(event: Event) -> v1::StreamPullResponse {
    v1::StreamPullResponse { event: Some(event) }
}

/// The stream is open in this life of the topic, with the cursor here.
async fn opened(scene: &Scene, topic_id: u64, cursor: u64) {
    let subscription = v1::Subscription {
        next_offset: cursor,
        ..Default::default()
    };
    let opened = v1::StreamPullOpened {
        subscription: Some(subscription),
        source: None,
        topic_id,
    };
    scene.say(&event(Event::Opened(opened))).await;
}

fn batch(offsets: std::ops::Range<u64>) -> v1::MessageBatch {
    let message = |offset: u64| v1::Message {
        payload: offset.to_string().into(),
        ..Default::default()
    };
    v1::MessageBatch {
        base_offset: offsets.start,
        message_count: u32::try_from(offsets.end - offsets.start).unwrap(),
        messages: offsets.map(message).collect(),
        ..Default::default()
    }
}

async fn deliver(scene: &Scene, batch: v1::MessageBatch, attempt: u32, missed: u64) {
    let delivery = v1::StreamPullDelivery {
        batch: Some(batch),
        attempt,
        missed,
    };
    scene.say(&event(Event::Delivery(delivery))).await;
}

async fn beat(scene: &Scene, cursor: u64) {
    let heartbeat = v1::StreamPullHeartbeat {
        cursor,
        head_offset: 100,
    };
    scene.say(&event(Event::Heartbeat(heartbeat))).await;
}

/// What is acknowledged next, whatever else is said.
async fn acknowledged(scene: &mut Scene) -> u64 {
    loop {
        let request: v1::StreamPullRequest = scene.hear().await.unwrap();
        if let Some(Command::Acknowledge(done)) = request.command {
            return done.next_offset;
        }
    }
}

async fn offsets(messages: &mut MessageStream, count: usize) -> Vec<u64> {
    let next = messages.by_ref().take(count);
    next.map(|message| message.unwrap().offset).collect().await
}

/// A reader that has read and acknowledged ten messages, which is confirmed.
async fn reader_at_10(stage: &mut Stage) -> (MessageStream, Scene) {
    let client = client(stage).await;
    let mut messages = messages(&client, StreamOptions::new());
    let playing = async {
        let mut scene = stage.next().await;
        opened(&scene, 7, 0).await;
        deliver(&scene, batch(0..10), 1, 0).await;
        assert_eq!(acknowledged(&mut scene).await, 10);
        beat(&scene, 10).await;
        deliver(&scene, batch(10..11), 1, 0).await;
        scene
    };
    let (read, scene) = tokio::join!(offsets(&mut messages, 11), playing);
    assert_eq!(read, (0..11).collect::<Vec<_>>());
    assert_eq!(messages.control().cursor(), 10);
    (messages, scene)
}

// REQ G5
#[tokio::test]
async fn seek_back_while_the_stream_is_broken_is_followed_and_not_undone() {
    let mut stage = Stage::start().await;
    let (mut messages, scene) = reader_at_10(&mut stage).await;
    drop(scene);
    let playing = async {
        let mut scene = stage.next().await;
        opened(&scene, 7, 4).await;
        deliver(&scene, batch(4..11), 1, 0).await;
        assert_eq!(
            acknowledged(&mut scene).await,
            11,
            "not before it is read again"
        );
        deliver(&scene, batch(11..12), 1, 0).await;
        scene
    };
    let (read, _scene) = tokio::join!(offsets(&mut messages, 8), playing);
    assert_eq!(read, (4..12).collect::<Vec<_>>());
}

// REQ G5
#[tokio::test]
async fn seek_back_while_the_stream_is_open_is_followed_and_not_undone() {
    let mut stage = Stage::start().await;
    let (mut messages, mut scene) = reader_at_10(&mut stage).await;
    let playing = async {
        assert_eq!(acknowledged(&mut scene).await, 11);
        beat(&scene, 4).await;
        deliver(&scene, batch(4..6), 2, 0).await;
        assert_eq!(acknowledged(&mut scene).await, 6);
        deliver(&scene, batch(6..7), 2, 0).await;
    };
    let (read, ()) = tokio::join!(offsets(&mut messages, 3), playing);
    assert_eq!(read, [4, 5, 6]);
}

// REQ G5
#[tokio::test]
async fn acknowledgements_do_not_go_over_to_a_topic_that_was_made_anew() {
    let mut stage = Stage::start().await;
    let (mut messages, scene) = reader_at_10(&mut stage).await;
    drop(scene);
    let playing = async {
        let mut scene = stage.next().await;
        // As many as were read of the old one are there already, and 10 are acknowledged in the new one, too.
        opened(&scene, 8, 10).await;
        deliver(&scene, batch(10..12), 1, 0).await;
        assert_eq!(acknowledged(&mut scene).await, 12);
        deliver(&scene, batch(12..13), 1, 0).await;
        scene
    };
    let (read, _scene) = tokio::join!(offsets(&mut messages, 3), playing);
    assert_eq!(read, [10, 11, 12]);
}

#[tokio::test]
async fn stream_goes_on_behind_what_it_gave_and_acknowledges_what_was_not_confirmed() {
    let mut stage = Stage::start().await;
    let (mut messages, mut scene) = reader_at_10(&mut stage).await;
    let playing = async {
        assert_eq!(acknowledged(&mut scene).await, 11);
        drop(scene);
        let mut scene = stage.next().await;
        opened(&scene, 7, 10).await;
        assert_eq!(acknowledged(&mut scene).await, 11, "the first may be lost");
        deliver(&scene, batch(10..12), 1, 0).await;
        scene
    };
    let (read, _scene) = tokio::join!(offsets(&mut messages, 1), playing);
    assert_eq!(read, [11]);
}

#[tokio::test]
async fn what_retention_removed_is_told_once_though_the_stream_breaks() {
    let mut stage = Stage::start().await;
    let client = client(&stage).await;
    let mut messages = messages(&client, StreamOptions::new().manual());
    let playing = async {
        let scene = stage.next().await;
        opened(&scene, 7, 5).await;
        deliver(&scene, batch(5..7), 1, 5).await;
        scene
    };
    let (first, scene) = tokio::join!(messages.next(), playing);
    assert_eq!(first.unwrap().unwrap().missed, 5);
    drop(scene);
    let playing = async {
        let scene = stage.next().await;
        opened(&scene, 7, 5).await;
        deliver(&scene, batch(5..7), 1, 5).await;
        deliver(&scene, batch(9..10), 1, 2).await;
        scene
    };
    let rest = async {
        let mut rest = Vec::new();
        for _ in 0..2 {
            let message = messages.next().await.unwrap().unwrap();
            rest.push((message.offset, message.missed));
        }
        rest
    };
    let (rest, _scene) = tokio::join!(rest, playing);
    assert_eq!(rest, [(6, 0), (9, 2)]);
}

/// A delivery of three messages, of which the one in the middle is none: its payload is said to be longer than it is.
fn broken_delivery() -> Vec<u8> {
    let mut inside = v1::MessageBatch {
        messages: Vec::new(),
        ..batch(0..3)
    }
    .encode_to_vec();
    inside.extend([0x22, 3, 0x12, 1, b'a']);
    inside.extend([0x22, 3, 0x12, 9, b'b']);
    inside.extend([0x22, 3, 0x12, 1, b'c']);
    let framed =
        |tag, inside: &[u8]| [&[tag, u8::try_from(inside.len()).unwrap()], inside].concat();
    let delivery = [&framed(0x0a, &inside)[..], &[0x10, 1]].concat();
    framed(0x12, &delivery)
}

#[tokio::test]
async fn message_that_cannot_be_read_is_told_of_and_the_stream_goes_on_behind_it() {
    let mut stage = Stage::start().await;
    let client = client(&stage).await;
    let mut messages = messages(&client, StreamOptions::new());
    let playing = async {
        let mut scene = stage.next().await;
        opened(&scene, 7, 0).await;
        scene.say_raw(broken_delivery()).await;
        assert_eq!(acknowledged(&mut scene).await, 3);
        deliver(&scene, batch(3..4), 1, 0).await;
        scene
    };
    let read = async {
        assert_eq!(messages.next().await.unwrap().unwrap().payload, "a");
        match messages.next().await.unwrap() {
            Err(Error::Undecodable { topic, offset, .. }) => {
                assert_eq!((topic.as_str(), offset), ("news", 1));
            }
            other => panic!("{other:?}"),
        }
        offsets(&mut messages, 2).await
    };
    let (read, _scene) = tokio::join!(read, playing);
    assert_eq!(read, [2, 3]);
}
