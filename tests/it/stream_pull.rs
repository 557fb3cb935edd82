//! StreamPull: what is delivered and when it comes again, who holds a subscription, how streams end, and what a kill of the leader does.

use std::time::Duration;

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::stream_pull_request::Command;
use cubecast_sdk::proto::v1::stream_pull_response::Event;
use cubecast_sdk::proto::v1::{
    AcknowledgeRequest, DeleteTopicRequest, SeekRequest, StartPosition, StreamPullAcknowledge,
    StreamPullCredit, StreamPullDelivery, StreamPullExtend, StreamPullHeartbeat, StreamPullOpen,
    StreamPullReject, StreamPullRequest, StreamPullResponse, UnsubscribeRequest, start_position,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::support::{
    Plain, create_publisher, create_subscriber, create_topic, name_owned_by, plain, publish_as,
    reason, subscribe,
};
use crate::wire::PATIENCE;

/// A stream with the sender of its requests.
struct Open {
    requests: mpsc::Sender<StreamPullRequest>,
    events: Streaming<StreamPullResponse>,
}

/// With a lease that no slow machine outlasts.
fn open(topic: &str, subscriber: &str) -> StreamPullOpen {
    StreamPullOpen {
        topic: topic.to_owned(),
        subscriber: subscriber.to_owned(),
        lease: Some(span(600_000)),
        ..Default::default()
    }
}

impl Open {
    async fn try_at(client: &mut Plain, open: StreamPullOpen) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(64);
        let command = Some(Command::Open(open));
        requests.send(StreamPullRequest { command }).await.unwrap();
        let events = client.stream_pull(ReceiverStream::new(outgoing)).await?;
        Ok(Self {
            requests,
            events: events.into_inner(),
        })
    }

    /// Opens a stream, and looks where it begins.
    async fn at(client: &mut Plain, open: StreamPullOpen, cursor: u64) -> Self {
        let mut stream = Self::try_at(client, open).await.unwrap();
        let Event::Opened(opened) = stream.event().await.unwrap() else {
            panic!("a stream begins with what it is");
        };
        assert_eq!(opened.subscription.unwrap().next_offset, cursor);
        stream
    }

    async fn say(&self, command: Command) {
        let command = Some(command);
        self.requests
            .send(StreamPullRequest { command })
            .await
            .unwrap();
    }

    async fn give(&self, messages: u32, bytes: u64) {
        let credit = StreamPullCredit { messages, bytes };
        self.say(Command::Credit(credit)).await;
    }

    async fn acknowledge(&self, next_offset: u64) {
        let done = StreamPullAcknowledge { next_offset };
        self.say(Command::Acknowledge(done)).await;
    }

    async fn event(&mut self) -> Result<Event, Status> {
        let event = tokio::time::timeout(PATIENCE, self.events.message()).await;
        event.unwrap().map(|event| event.unwrap().event.unwrap())
    }

    /// The next messages, whatever is heard before: their offset, how many, and which time they come.
    async fn delivery(&mut self) -> (u64, u32, u32) {
        loop {
            if let Event::Delivery(delivery) = self.event().await.unwrap() {
                let StreamPullDelivery { batch, attempt, .. } = delivery;
                let batch = batch.unwrap();
                assert_eq!(batch.messages.len(), batch.message_count as usize);
                return (batch.base_offset, batch.message_count, attempt);
            }
        }
    }

    /// So many messages from this offset on, for the n-th time.
    async fn deliveries(&mut self, first: u64, count: u64, attempt: u32) {
        let mut next = first;
        while next < first + count {
            let (offset, count, which) = self.delivery().await;
            assert_eq!((offset, which), (next, attempt));
            next += u64::from(count);
        }
        assert_eq!(next, first + count);
    }

    /// The next sign of life.
    async fn heartbeat(&mut self) -> StreamPullHeartbeat {
        match self.event().await.unwrap() {
            Event::Heartbeat(heartbeat) => heartbeat,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the cursor is here.
    async fn cursor(&mut self, cursor: u64) {
        while self.heartbeat().await.cursor != cursor {}
    }

    /// How the stream ends.
    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.event().await {
                return status;
            }
        }
    }
}

/// A cluster with a topic of vertex 4, whose names and readers live elsewhere.
struct World {
    cluster: TestCluster,
    topic: String,
    reader: String,
    publisher: String,
    published: u64,
    client: Plain,
}

impl World {
    async fn new(settings: &[(&'static str, &str)]) -> Self {
        let cluster = TestCluster::with_settings(settings).await;
        let mut client = plain(cluster.address(3)).await;
        let (topic, reader) = (name_owned_by("news", 4), name_owned_by("reader", 1));
        let publisher = name_owned_by("agency", 1);
        create_topic(&mut client, &topic).await;
        create_subscriber(&mut client, &reader).await;
        create_publisher(&mut client, &publisher).await;
        subscribe(&mut client, &topic, &reader).await;
        Self {
            cluster,
            topic,
            reader,
            publisher,
            published: 0,
            client,
        }
    }

    /// Publishes so many messages, one by one.
    async fn publish(&mut self, count: u64) {
        for _ in 0..count {
            let number = self.published;
            let sequence = (self.publisher.as_str(), 1, number);
            let text = format!("{number}");
            let published = publish_as(&mut self.client, &self.topic, sequence, &text).await;
            assert_eq!(published.unwrap().first_offset, number);
            self.published += 1;
        }
    }

    fn open(&self) -> StreamPullOpen {
        open(&self.topic, &self.reader)
    }
}

fn span(millis: u64) -> prost_types::Duration {
    Duration::from_millis(millis).try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_as_they_are_published_as_far_as_there_is_credit() {
    let mut world = World::new(&[]).await;
    for peer in [4, 3] {
        let begin = world.published;
        let mut client = plain(world.cluster.address(peer)).await;
        let mut stream = Open::at(&mut client, world.open(), begin).await;
        stream.give(5, 0).await;
        world.publish(3).await;
        stream.deliveries(begin, 3, 1).await;
        world.publish(3).await;
        stream.deliveries(begin + 3, 2, 1).await;
        // The credit is used up: an acknowledgement is heard of before the next message.
        stream.acknowledge(begin + 5).await;
        stream.cursor(begin + 5).await;
        // Bytes count when the first credit of a stream has some, and one message may pass them.
        let mut stream = Open::at(&mut client, world.open(), begin + 5).await;
        stream.give(2, 1).await;
        world.publish(2).await;
        stream.deliveries(begin + 5, 1, 1).await;
        stream.acknowledge(begin + 6).await;
        stream.cursor(begin + 6).await;
        stream.give(0, 1_000).await;
        stream.deliveries(begin + 6, 1, 1).await;
        stream.give(1, 0).await;
        stream.deliveries(begin + 7, 1, 1).await;
        stream.acknowledge(begin + 8).await;
        // What is acknowledged is done before the stream ends.
        drop(stream.requests);
        while stream.events.message().await.unwrap().is_some() {}
        assert_eq!(world.published, begin + 8);
    }
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_stream_says_where_cursor_and_head_are() {
    let mut world = World::new(&[]).await;
    for peer in [4, 3] {
        let mut client = plain(world.cluster.address(peer)).await;
        let open = StreamPullOpen {
            heartbeat: Some(span(100)),
            ..world.open()
        };
        let mut stream = Open::at(&mut client, open, 0).await;
        world.publish(2).await;
        while stream.heartbeat().await.head_offset != world.published {}
        assert_eq!(stream.heartbeat().await.cursor, 0);
    }
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_or_not_acknowledged_in_time_comes_again() {
    let mut world = World::new(&[]).await;
    world.publish(6).await;
    for peer in [4, 3] {
        let mut client = plain(world.cluster.address(peer)).await;
        let mut stream = Open::at(&mut client, world.open(), 0).await;
        stream.give(1_000, 0).await;
        stream.deliveries(0, 6, 1).await;
        let reject = |first_offset, delay| {
            Command::Reject(StreamPullReject {
                first_offset,
                delay,
            })
        };
        stream.say(reject(4, None)).await;
        stream.deliveries(4, 2, 2).await;
        let begun = tokio::time::Instant::now();
        stream.say(reject(2, Some(span(150)))).await;
        stream.deliveries(2, 4, 3).await;
        assert!(begun.elapsed() >= Duration::from_millis(150));
    }
    let open = StreamPullOpen {
        lease: Some(span(300)),
        ..world.open()
    };
    let mut client = plain(world.cluster.address(4)).await;
    let mut stream = Open::at(&mut client, open, 0).await;
    let begun = tokio::time::Instant::now();
    stream.give(1_000, 0).await;
    stream.deliveries(0, 6, 1).await;
    stream.acknowledge(2).await;
    stream.deliveries(2, 4, 2).await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let lease = Some(span(60_000));
    stream
        .say(Command::Extend(StreamPullExtend { lease }))
        .await;
    world.publish(1).await;
    stream.deliveries(6, 1, 1).await;
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cursor_that_others_move_is_followed() {
    let mut world = World::new(&[]).await;
    world.publish(6).await;
    let mut client = plain(world.cluster.address(2)).await;
    let mut stream = Open::at(&mut client, world.open(), 0).await;
    let acknowledge = AcknowledgeRequest {
        topic: world.topic.clone(),
        subscriber: world.reader.clone(),
        next_offset: 4,
    };
    client.acknowledge(acknowledge).await.unwrap();
    stream.cursor(4).await;
    stream.give(1_000, 0).await;
    stream.deliveries(4, 2, 1).await;
    let seek = SeekRequest {
        topic: world.topic.clone(),
        subscriber: world.reader.clone(),
        start: Some(StartPosition {
            position: Some(start_position::Position::Offset(1)),
        }),
    };
    client.seek(seek).await.unwrap();
    stream.deliveries(1, 5, 2).await;
    world.publish(1).await;
    stream.deliveries(6, 1, 1).await;
    world.cluster.stop().await;
}

// REQ: one stream at a time has a subscription; a newer one takes it, wherever it is opened.
#[tokio::test(flavor = "multi_thread")]
async fn newer_stream_takes_the_subscription() {
    let mut world = World::new(&[]).await;
    world.publish(2).await;
    let mut before: Option<Open> = None;
    for peer in [4, 3, 0, 4] {
        let mut client = plain(world.cluster.address(peer)).await;
        let mut stream = Open::at(&mut client, world.open(), 0).await;
        if let Some(mut before) = before.take() {
            let lost = (Code::Aborted, "LEASE_LOST".to_owned());
            assert_eq!(reason(&before.end().await), lost);
        }
        stream.give(10, 0).await;
        stream.deliveries(0, 2, 1).await;
        before = Some(stream);
    }
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_ends_with_a_reason() {
    let mut world = World::new(&[]).await;
    world.publish(2).await;
    for peer in [4, 3] {
        let mut client = plain(world.cluster.address(peer)).await;
        let missing = name_owned_by("missing", 4);
        let wrong = [
            (open("no name", &world.reader), "NAME_INVALID"),
            (open(&missing, &world.reader), "TOPIC_NOT_FOUND"),
            (open(&world.topic, "nobody"), "SUBSCRIPTION_NOT_FOUND"),
            (
                StreamPullOpen {
                    lease: Some(span(1)),
                    ..world.open()
                },
                "FIELD_INVALID",
            ),
        ];
        for (wrong, expected) in wrong {
            let refused = Open::try_at(&mut client, wrong).await.err().unwrap();
            assert_eq!(reason(&refused).1, expected, "{refused:?}");
        }
        let mut stream = Open::at(&mut client, world.open(), 0).await;
        stream.say(Command::Open(world.open())).await;
        assert_eq!(reason(&stream.end().await).1, "FIELD_INVALID");
        let mut stream = Open::at(&mut client, world.open(), 0).await;
        stream.acknowledge(3).await;
        assert_eq!(reason(&stream.end().await).1, "OFFSET_OUT_OF_RANGE");
    }
    let mut far = plain(world.cluster.address(3)).await;
    let mut stream = Open::at(&mut far, world.open(), 0).await;
    let unsubscribe = UnsubscribeRequest {
        topic: world.topic.clone(),
        subscriber: world.reader.clone(),
    };
    far.unsubscribe(unsubscribe).await.unwrap();
    assert_eq!(reason(&stream.end().await).1, "SUBSCRIPTION_NOT_FOUND");
    subscribe(&mut far, &world.topic, &world.reader).await;
    let mut stream = Open::at(&mut far, world.open(), 0).await;
    let topic = world.topic.clone();
    far.delete_topic(DeleteTopicRequest { topic })
        .await
        .unwrap();
    assert_eq!(
        reason(&stream.end().await),
        (Code::NotFound, "TOPIC_DELETED".to_owned())
    );
    world.cluster.stop().await;
}

// A reader that gave credit and does not read keeps nobody waiting, also when another peer carries its stream.
#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_keep_nobody_waiting() {
    let mut world = World::new(&[]).await;
    let mut client = plain(world.cluster.address(3)).await;
    let mut slow = Vec::new();
    for number in 0..8 {
        let reader = format!("slow-{number}");
        create_subscriber(&mut client, &reader).await;
        subscribe(&mut client, &world.topic, &reader).await;
        // Each has a connection of its own: what is not read of one stream stands in the way of the others on it.
        let mut own = plain(world.cluster.address(3)).await;
        let stream = Open::at(&mut own, open(&world.topic, &reader), 0).await;
        stream.give(u32::MAX, 0).await;
        slow.push(stream);
    }
    let mut fast = plain(world.cluster.address(3)).await;
    let mut stream = Open::at(&mut fast, world.open(), 0).await;
    stream.give(1_000, 0).await;
    let text = "x".repeat(500_000);
    for number in 0..40 {
        let sequence = (world.publisher.as_str(), 7, number);
        let published = publish_as(&mut world.client, &world.topic, sequence, &text).await;
        published.unwrap();
        stream.deliveries(number, 1, 1).await;
    }
    for mut stream in slow {
        stream.deliveries(0, 40, 1).await;
    }
    world.cluster.stop().await;
}

// REQ D5, G5: the leader is killed under a stream. Opened again at any peer it goes on behind what was acknowledged; nothing is left out.
#[tokio::test(flavor = "multi_thread")]
async fn stream_opened_again_after_a_kill_of_the_leader_leaves_nothing_out() {
    let mut world = World::new(&[]).await;
    world.publish(50).await;
    let mut client = plain(world.cluster.address(3)).await;
    let mut stream = Open::at(&mut client, world.open(), 0).await;
    stream.give(1_000, 0).await;
    stream.deliveries(0, 50, 1).await;
    stream.acknowledge(20).await;
    stream.cursor(20).await;
    world.cluster.fail_peer(4).await;
    stream.end().await;
    world.publish(50).await;
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut stream = loop {
        match Open::try_at(&mut client, world.open()).await {
            Ok(stream) => break stream,
            Err(status) => assert!(tokio::time::Instant::now() < end, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    stream.give(1_000, 0).await;
    stream.deliveries(20, 80, 1).await;
    stream.acknowledge(100).await;
    stream.cursor(100).await;
    world.cluster.start_peer(4).await;
    world.cluster.stop().await;
}
