//! Subscriptions that several consumers share: disjoint messages, leases, dead letters, and what a kill of the leader leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::stream_pull_request::Command;
use cubecast_sdk::proto::v1::stream_pull_response::Event;
use cubecast_sdk::proto::v1::{
    AcknowledgeRequest, OffsetRange, PullRequest, PullResponse, Sharing, StreamPullAcknowledge,
    StreamPullAcknowledgeRanges, StreamPullCredit, StreamPullOpen, StreamPullRejectRanges,
    StreamPullRequest, StreamPullResponse, SubscribeRequest,
};
use cubecast_sdk::{Client, ConsumeOptions, Consumer, Leased, Start};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::support::{
    Plain, create_subscriber, create_topic, name_owned_by, plain, publish, reason, subscribe,
};
use crate::wire::PATIENCE;

/// A cluster with a topic of vertex 4 that `workers` share; dead letters go to a topic of vertex 1.
struct World {
    cluster: TestCluster,
    topic: String,
    dead: String,
    client: Plain,
}

const WORKERS: &str = "workers";

fn span(millis: u64) -> prost_types::Duration {
    Duration::from_millis(millis).try_into().unwrap()
}

impl World {
    async fn new(max_deliveries: u32) -> Self {
        let cluster = TestCluster::start().await;
        let mut client = plain(cluster.address(3)).await;
        let (topic, dead) = (name_owned_by("jobs", 4), name_owned_by("dead", 1));
        create_topic(&mut client, &topic).await;
        create_topic(&mut client, &dead).await;
        create_subscriber(&mut client, WORKERS).await;
        let shared = Sharing {
            lease: Some(span(600_000)),
            max_deliveries,
            dead_letter_topic: if max_deliveries == 0 {
                String::new()
            } else {
                dead.clone()
            },
        };
        let mut world = Self {
            cluster,
            topic,
            dead,
            client,
        };
        world.subscribe(shared).await.unwrap();
        world
    }

    async fn subscribe(&mut self, shared: Sharing) -> Result<(), Status> {
        let request = SubscribeRequest {
            topic: self.topic.clone(),
            subscriber: WORKERS.to_owned(),
            start: None,
            shared: Some(shared.clone()),
        };
        let answer = self.client.subscribe(request).await?.into_inner();
        assert_eq!(answer.subscription.unwrap().shared, Some(shared));
        Ok(())
    }

    async fn publish(&mut self, texts: std::ops::Range<u64>) {
        let texts: Vec<String> = texts.map(|number| number.to_string()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        publish(&mut self.client, &self.topic, &texts)
            .await
            .unwrap();
    }

    fn open(&self) -> StreamPullOpen {
        StreamPullOpen {
            topic: self.topic.clone(),
            subscriber: WORKERS.to_owned(),
            ..Default::default()
        }
    }
}

/// A stream with the sender of its requests.
struct Stream {
    requests: mpsc::Sender<StreamPullRequest>,
    events: Streaming<StreamPullResponse>,
}

impl Stream {
    async fn at(address: &str, open: StreamPullOpen, credit: u32) -> Self {
        let mut client = plain(address).await;
        let (requests, outgoing) = mpsc::channel(64);
        let command = Some(Command::Open(open));
        requests.send(StreamPullRequest { command }).await.unwrap();
        let events = client.stream_pull(ReceiverStream::new(outgoing)).await;
        let mut stream = Self {
            requests,
            events: events.unwrap().into_inner(),
        };
        let Event::Opened(opened) = stream.event().await.unwrap() else {
            panic!("a stream begins with what it is");
        };
        assert!(opened.subscription.unwrap().shared.is_some());
        let messages = credit;
        stream
            .say(Command::Credit(StreamPullCredit { messages, bytes: 0 }))
            .await;
        stream
    }

    async fn say(&self, command: Command) {
        let command = Some(command);
        let request = StreamPullRequest { command };
        self.requests.send(request).await.unwrap();
    }

    async fn acknowledge(&self, first_offset: u64, next_offset: u64) {
        let ranges = vec![OffsetRange {
            first_offset,
            next_offset,
        }];
        let done = StreamPullAcknowledgeRanges { ranges };
        self.say(Command::AcknowledgeRanges(done)).await;
    }

    async fn reject(&self, delay: u64) {
        let reject = StreamPullRejectRanges {
            ranges: Vec::new(),
            delay: Some(span(delay)),
        };
        self.say(Command::RejectRanges(reject)).await;
    }

    async fn event(&mut self) -> Result<Event, Status> {
        let event = tokio::time::timeout(PATIENCE, self.events.message()).await;
        event.unwrap().map(|event| event.unwrap().event.unwrap())
    }

    /// The next so many messages: their offsets and attempts.
    async fn take(&mut self, count: usize) -> BTreeMap<u64, u32> {
        let mut taken = BTreeMap::new();
        while taken.len() < count {
            if let Event::Delivery(delivery) = self.event().await.unwrap() {
                let batch = delivery.batch.unwrap();
                let offsets = batch.base_offset..batch.base_offset + batch.messages.len() as u64;
                taken.extend(offsets.map(|offset| (offset, delivery.attempt)));
            }
        }
        assert_eq!(taken.len(), count);
        taken
    }

    /// Waits until these are told as stored.
    async fn settled(&mut self, first_offset: u64, next_offset: u64) {
        let mut open: Vec<u64> = (first_offset..next_offset).collect();
        while !open.is_empty() {
            if let Event::Settled(settled) = self.event().await.unwrap() {
                let is_in = |offset: &u64| {
                    let mut ranges = settled.ranges.iter();
                    ranges.any(|range| (range.first_offset..range.next_offset).contains(offset))
                };
                open.retain(|offset| !is_in(offset));
            }
        }
    }
}

fn attempts(offsets: impl IntoIterator<Item = u64>, attempt: u32) -> BTreeMap<u64, u32> {
    let offsets = offsets.into_iter();
    offsets.map(|offset| (offset, attempt)).collect()
}

// REQ: consumers at any peer have different messages; what one gives back or has for too long goes to another.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_have_different_messages_under_leases() {
    let mut world = World::new(0).await;
    world.publish(0..6).await;
    let (leader, far) = (world.cluster.address(4), world.cluster.address(3));
    let mut one = Stream::at(leader, world.open(), 3).await;
    assert_eq!(one.take(3).await, attempts(0..3, 1));
    let short = StreamPullOpen {
        lease: Some(span(300)),
        ..world.open()
    };
    let mut two = Stream::at(far, short, 3).await;
    assert_eq!(two.take(3).await, attempts(3..6, 1));
    two.acknowledge(4, 5).await;
    two.settled(4, 5).await;
    // The lease of the other two ends, and the first consumer gets them.
    one.say(Command::Credit(StreamPullCredit {
        messages: 2,
        bytes: 0,
    }))
    .await;
    assert_eq!(one.take(2).await, attempts([3, 5], 2));
    // What is given back comes after its delay; what a stream had that is gone, at once.
    let begun = tokio::time::Instant::now();
    one.reject(200).await;
    one.acknowledge(0, 2).await;
    one.settled(0, 2).await;
    let mut three = Stream::at(far, world.open(), 10).await;
    assert_eq!(
        three.take(3).await,
        BTreeMap::from([(2, 2), (3, 3), (5, 3)])
    );
    assert!(begun.elapsed() >= Duration::from_millis(200));
    drop(three);
    two.say(Command::Credit(StreamPullCredit {
        messages: 9,
        bytes: 0,
    }))
    .await;
    assert_eq!(two.take(3).await, BTreeMap::from([(2, 3), (3, 4), (5, 4)]));
    two.acknowledge(2, 6).await;
    // What is acknowledged is stored before the stream ends.
    drop(two.requests);
    while two.events.message().await.unwrap().is_some() {}
    let mut last = Stream::at(leader, world.open(), 9).await;
    world.publish(6..7).await;
    assert_eq!(last.take(1).await, attempts([6], 1));
    world.cluster.stop().await;
}

// What is for one reader is refused on a shared subscription, and the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn calls_for_one_reader_are_refused() {
    let mut world = World::new(3).await;
    world.publish(0..2).await;
    let (topic, subscriber) = (world.topic.clone(), WORKERS.to_owned());
    let pull = PullRequest {
        topic: topic.clone(),
        subscriber: subscriber.clone(),
        ..Default::default()
    };
    let acknowledge = AcknowledgeRequest {
        topic,
        subscriber,
        next_offset: 1,
    };
    let mut client = plain(world.cluster.address(4)).await;
    for refused in [
        client.pull(pull).await.map(drop),
        client.acknowledge(acknowledge).await.map(drop),
    ] {
        assert_eq!(reason(&refused.unwrap_err()).1, "SUBSCRIPTION_SHARED");
    }
    for peer in [4, 3] {
        let done = StreamPullAcknowledge { next_offset: 1 };
        let mut stream = Stream::at(world.cluster.address(peer), world.open(), 1).await;
        stream.take(1).await;
        stream.say(Command::Acknowledge(done)).await;
        assert_eq!(end(&mut stream).await, "FIELD_INVALID");
        let mut stream = Stream::at(world.cluster.address(peer), world.open(), 1).await;
        stream.acknowledge(0, 9).await;
        assert_eq!(end(&mut stream).await, "OFFSET_OUT_OF_RANGE");
    }
    let wrong = |max_deliveries, topic: &str| Sharing {
        lease: None,
        max_deliveries,
        dead_letter_topic: topic.to_owned(),
    };
    let same = wrong(3, &world.topic);
    for (shared, expected) in [
        (wrong(3, "missing"), "TOPIC_NOT_FOUND"),
        (wrong(3, ""), "FIELD_INVALID"),
        (wrong(0, "missing"), "FIELD_INVALID"),
        (same, "FIELD_INVALID"),
    ] {
        let refused = world.subscribe(shared).await.unwrap_err();
        assert_eq!(reason(&refused).1, expected);
    }
    world.cluster.stop().await;
}

async fn end(stream: &mut Stream) -> String {
    loop {
        if let Err(status) = stream.event().await {
            return reason(&status).1;
        }
    }
}

// REQ: a message that nobody acknowledges becomes one dead letter, in a topic that another peer leads, also when the leader dies meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn message_that_is_rejected_too_often_becomes_a_dead_letter() {
    let mut world = World::new(3).await;
    world.publish(0..2).await;
    create_subscriber(&mut world.client, "undertaker").await;
    let (dead, mut client) = (world.dead.clone(), world.client.clone());
    subscribe(&mut client, &dead, "undertaker").await;
    let mut stream = Stream::at(world.cluster.address(3), world.open(), 100).await;
    for attempt in 1..=3 {
        assert_eq!(stream.take(2).await, attempts(0..2, attempt));
        if attempt == 3 {
            stream.acknowledge(1, 2).await;
            stream.settled(1, 2).await;
        }
        stream.reject(0).await;
    }
    let letter = loop {
        let pull = PullRequest {
            topic: dead.clone(),
            subscriber: "undertaker".to_owned(),
            wait: Some(span(5_000)),
            ..Default::default()
        };
        let answer: PullResponse = client.pull(pull).await.unwrap().into_inner();
        if let Some(batch) = answer.batches.into_iter().next() {
            break batch.messages.into_iter().next().unwrap();
        }
    };
    assert_eq!(letter.payload, "0");
    let headers: BTreeMap<&str, &[u8]> = letter
        .headers
        .iter()
        .map(|header| (header.name.as_str(), header.value.as_ref()))
        .collect();
    let header = |name: &str| headers[format!("cubecast-dead-letter-{name}").as_str()];
    assert_eq!(header("topic"), world.topic.as_bytes());
    assert_eq!(header("subscriber"), WORKERS.as_bytes());
    assert_eq!(
        (header("offset"), header("deliveries")),
        (&b"0"[..], &b"3"[..])
    );
    world.publish(2..3).await;
    assert_eq!(stream.take(1).await, attempts([2], 1));
    world.cluster.stop().await;
}

/// Takes messages, and tells of each when it is known to be stored that it is done.
async fn work(mut consumer: Consumer, done: mpsc::Sender<u64>) {
    while let Some(job) = consumer.next().await {
        let job: Leased = match job {
            Ok(job) => job,
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                continue;
            }
        };
        let offset = job.message.offset;
        job.ack();
        consumer.flush().await;
        // Whoever counts may have seen enough.
        if done.send(offset).await.is_err() {
            return;
        }
    }
}

// REQ D5, G5: the leader is killed under consumers of the SDK. What was told as stored never comes again, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_stored_comes_again_and_nothing_is_lost_when_the_leader_is_killed() {
    const COUNT: u64 = 300;
    let mut world = World::new(0).await;
    world.publish(0..COUNT).await;
    let builder = Client::builder().deadline(Duration::from_secs(60));
    let addresses = world.cluster.addresses().iter();
    let builder = addresses.fold(builder, cubecast_sdk::Builder::peer);
    let client = builder.connect().await.unwrap();
    let workers = client.subscriber(WORKERS);
    let jobs = workers
        .subscribe(&world.topic, Start::Earliest)
        .await
        .unwrap();
    assert!(jobs.made().unwrap().info.sharing.is_some());
    let (sender, mut done) = mpsc::channel(1);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let consumer = jobs.consume(ConsumeOptions::new().max_messages(10));
        tasks.spawn(work(consumer, sender.clone()));
    }
    let mut times: BTreeMap<u64, u32> = BTreeMap::new();
    let mut before = BTreeMap::new();
    while times.len() < usize::try_from(COUNT).unwrap() {
        let offset = tokio::time::timeout(2 * PATIENCE, done.recv()).await;
        *times.entry(offset.unwrap().unwrap()).or_default() += 1;
        if times.len() == 100 && before.is_empty() {
            before = times.clone();
            world.cluster.fail_peer(4).await;
        }
    }
    // Each consumer waits for the word that one acknowledgement is stored. Such a one may have come again when the leader died before it was, and no other.
    assert!(before.keys().all(|offset| times[offset] == 1), "{times:?}");
    assert!(
        u64::from(times.values().sum::<u32>()) <= COUNT + 3,
        "{times:?}"
    );
    drop(done);
    tasks.shutdown().await;
    world.cluster.start_peer(4).await;
    world.cluster.stop().await;
}
