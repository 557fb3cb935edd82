//! PublishStream: order, typed refusals, the window, and what a kill of the leader does to a stream that runs.

use std::time::Duration;

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::publish_stream_response::Result as Outcome;
use cubecast_sdk::proto::v1::{
    ErrorReason, GetTopicRequest, Message, PublishSequence, PublishStreamRequest,
    PublishStreamResponse, ReplicaPullRequest, StreamError,
};
use cubecast_sdk::{Client, Fault};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::support::{
    Plain, create_publisher, create_topic, message, name_owned_by, plain, publish,
};
use crate::wire::{PATIENCE, Wire};

/// A stream with the sender of its requests.
pub struct Open {
    pub requests: mpsc::Sender<PublishStreamRequest>,
    pub answers: Streaming<PublishStreamResponse>,
}

impl Open {
    pub async fn at(client: &mut Plain) -> Self {
        let (requests, outgoing) = mpsc::channel(1_000);
        let answers = client.publish_stream(ReceiverStream::new(outgoing)).await;
        Self {
            requests,
            answers: answers.unwrap().into_inner(),
        }
    }

    async fn send(&self, request: PublishStreamRequest) {
        self.requests.send(request).await.unwrap();
    }

    /// The next answer: its number, and its first offset or what was wrong.
    async fn answer(&mut self) -> (u64, Result<u64, StreamError>) {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        let answer = answer.unwrap().unwrap().unwrap();
        let outcome = match answer.result.unwrap() {
            Outcome::Published(published) => Ok(published.first_offset),
            Outcome::Error(error) => Err(error),
        };
        (answer.request_number, outcome)
    }
}

fn request(topic: &str, number: u64) -> PublishStreamRequest {
    PublishStreamRequest {
        topic: topic.to_owned(),
        messages: vec![message(&format!("{number}"))],
        request_number: number,
        ..Default::default()
    }
}

fn sequenced(topic: &str, session: u64, number: u64) -> PublishStreamRequest {
    let sequence = Some(PublishSequence {
        session,
        sequence: number,
    });
    PublishStreamRequest {
        publisher: "agency".to_owned(),
        sequence,
        ..request(topic, number)
    }
}

/// All messages of a topic as the replica of its owner has them.
pub async fn stored(client: &mut Plain, topic: &str) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        let request = ReplicaPullRequest {
            topic: topic.to_owned(),
            first_offset: Some(messages.len() as u64),
            ..Default::default()
        };
        let part = client.replica_pull(request).await.unwrap().into_inner();
        if part.batches.is_empty() {
            return messages;
        }
        messages.extend(part.batches.into_iter().flat_map(|batch| batch.messages));
    }
}

async fn next_offset(client: &mut Plain, topic: &str) -> u64 {
    let request = GetTopicRequest {
        topic: topic.to_owned(),
        ..Default::default()
    };
    let topic = client.get_topic(request).await.unwrap().into_inner().topic;
    topic.unwrap().next_offset
}

#[tokio::test(flavor = "multi_thread")]
async fn every_peer_takes_a_stream_and_keeps_its_order() {
    const COUNT: u64 = 300;
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("stream", 4);
    let mut owner = plain(cluster.address(4)).await;
    create_topic(&mut owner, &topic).await;
    create_publisher(&mut owner, "agency").await;
    for peer in 0..8 {
        let mut client = plain(cluster.address(peer)).await;
        let mut stream = Open::at(&mut client).await;
        let first = next_offset(&mut owner, &topic).await;
        for number in 0..COUNT {
            stream.send(sequenced(&topic, peer as u64, number)).await;
        }
        for number in 0..COUNT {
            let answer = stream.answer().await;
            assert_eq!(answer, (number, Ok(first + number)), "peer {peer}");
        }
        drop(stream.requests);
        assert!(stream.answers.next().await.is_none());
    }
    let texts = stored(&mut owner, &topic).await;
    let expected = (0..8).flat_map(|_| (0..COUNT).map(|number| message(&format!("{number}"))));
    assert!(texts.into_iter().eq(expected));
    cluster.stop().await;
}

// Without a sequence a request whose fate is unknown is not repeated, but none ever passes another.
#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_sequence_keep_their_order_too() {
    const COUNT: u64 = 1_000;
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("bare", 4);
    let mut owner = plain(cluster.address(4)).await;
    create_topic(&mut owner, &topic).await;
    let mut client = plain(cluster.address(3)).await;
    let mut stream = Open::at(&mut client).await;
    let mut published = 0;
    for number in 0..COUNT {
        stream.send(request(&topic, number)).await;
    }
    for number in 0..COUNT {
        let (answered, outcome) = stream.answer().await;
        assert_eq!(answered, number);
        match outcome {
            Ok(offset) => {
                assert!(offset >= published);
                published = offset + 1;
            }
            // A busy machine: the link between the two was silent for a while.
            Err(error) => assert_eq!(error.reason(), ErrorReason::OutcomeUnknown, "{error:?}"),
        }
    }
    let texts = stored(&mut owner, &topic).await;
    let number = |message: &Message| {
        let text = String::from_utf8(message.payload.to_vec()).unwrap();
        text.parse::<u64>().unwrap()
    };
    let numbers: Vec<u64> = texts.iter().map(number).collect();
    assert!(
        numbers.is_sorted_by(|before, after| before < after),
        "{numbers:?}"
    );
    assert!(numbers.len() as u64 >= published);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_request_does_not_end_the_stream() {
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("refusals", 4);
    let missing = name_owned_by("missing", 5);
    let mut client = plain(cluster.address(2)).await;
    create_topic(&mut client, &topic).await;
    create_publisher(&mut client, "agency").await;
    let mut stream = Open::at(&mut client).await;
    let wrong = [
        (
            PublishStreamRequest {
                topic: "no name".to_owned(),
                ..request(&topic, 0)
            },
            ErrorReason::NameInvalid,
            ("field", "topic"),
        ),
        (
            request(&missing, 0),
            ErrorReason::TopicNotFound,
            ("topic", missing.as_str()),
        ),
        (
            PublishStreamRequest {
                messages: vec![message("a"), Message::default()],
                ..request(&topic, 0)
            },
            ErrorReason::MessageEmpty,
            ("index", "1"),
        ),
        (
            PublishStreamRequest {
                publisher: "nobody".to_owned(),
                ..request(&topic, 0)
            },
            ErrorReason::PublisherNotFound,
            ("publisher", "nobody"),
        ),
        (
            sequenced(&topic, 1, 7),
            ErrorReason::SessionUnknown,
            ("sequence", "7"),
        ),
    ];
    for (offset, (wrong, reason, (key, value))) in wrong.into_iter().enumerate() {
        stream.send(wrong).await;
        stream.send(request(&topic, 100)).await;
        let refused = stream.answer().await.1.unwrap_err();
        assert_eq!(refused.reason(), reason, "{refused:?}");
        assert_eq!(refused.metadata[key], value, "{refused:?}");
        assert_ne!(refused.code, 0);
        assert_eq!(stream.answer().await, (100, Ok(offset as u64)));
    }
    cluster.stop().await;
}

// Answers that nobody reads keep no request waiting that is in the window, and no room of the streams of others.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_decided_whether_their_answers_are_read_or_not() {
    const COUNT: usize = 2_000;
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("unread", 4);
    let mut client = plain(cluster.address(4)).await;
    create_topic(&mut client, &topic).await;
    for peer in [4, 3] {
        // Less than one answer: the transport takes the first, and those that are ready with it, up to some 32 KiB, and then no more.
        let wire = Wire::with_window(cluster.address(peer), Some(1));
        let mut unread = wire.await.unwrap().client();
        let (requests, outgoing) = mpsc::channel(COUNT);
        let answers = unread.publish_stream(ReceiverStream::new(outgoing)).await;
        let answers = answers.unwrap().into_inner();
        let first = next_offset(&mut client, &topic).await;
        requests.send(request(&topic, 0)).await.unwrap();
        until_stored(&mut client, &topic, first + 1).await;
        for number in 1..COUNT {
            requests.send(request(&topic, number as u64)).await.unwrap();
        }
        until_stored(&mut client, &topic, first + 64).await;
        for _ in 0..20 {
            publish(&mut client, &topic, &["beside"]).await.unwrap();
        }
        let taken = next_offset(&mut client, &topic).await - first - 20;
        assert!(taken < COUNT as u64 / 2, "peer {peer} took {taken}");
        drop((requests, answers));
    }
    cluster.stop().await;
}

/// Waits until a topic has so many messages.
async fn until_stored(client: &mut Plain, topic: &str, count: u64) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while next_offset(client, topic).await < count {
        assert!(tokio::time::Instant::now() < end, "{count} are not stored");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// A publisher that has to be looked up at a peer that is far away.
#[tokio::test(flavor = "multi_thread")]
async fn lookup_of_a_publisher_holds_up_its_topic_alone() {
    let mut cluster = TestCluster::with_settings(&[("fault_injection", "true")]).await;
    let (topic, other) = (name_owned_by("slow", 0), name_owned_by("quick", 0));
    let publisher = name_owned_by("agency", 7);
    let mut client = plain(cluster.address(0)).await;
    create_topic(&mut client, &topic).await;
    create_topic(&mut client, &other).await;
    create_publisher(&mut plain(cluster.address(7)).await, &publisher).await;
    let admin = Client::connect([cluster.address(0)]).await.unwrap();
    let far = Fault::new().with_delay(Duration::from_millis(120));
    let injected = admin.inject_fault(cluster.address(0), far.with_peer(7));
    injected.await.unwrap();
    let mut stream = Open::at(&mut client).await;
    let asking = PublishStreamRequest {
        publisher,
        ..request(&topic, 0)
    };
    stream.send(asking).await;
    stream.send(request(&other, 1)).await;
    stream.send(request(&topic, 2)).await;
    let mut times = Vec::new();
    for (number, offset) in [(0, 0), (1, 0), (2, 1)] {
        let answer = tokio::time::timeout(PATIENCE, stream.answers.message()).await;
        let answer = answer.unwrap().unwrap().unwrap();
        let Some(Outcome::Published(published)) = answer.result else {
            panic!("{answer:?}");
        };
        assert_eq!(
            (answer.request_number, published.first_offset),
            (number, offset)
        );
        let time = published.append_time.unwrap();
        times.push((time.seconds, time.nanos));
    }
    assert!(times[1] < times[0], "the other topic waited: {times:?}");
    assert!(times[0] <= times[2]);
    cluster.stop().await;
}

// REQ D5: the leader is killed under a stream that another peer took. The stream goes on, and each request is in the log once, in order.
#[tokio::test(flavor = "multi_thread")]
async fn stream_survives_a_kill_of_the_leader() {
    const COUNT: u64 = 2_000;
    let mut cluster = TestCluster::start().await;
    let topic = name_owned_by("killed", 4);
    let mut client = plain(cluster.address(3)).await;
    create_topic(&mut client, &topic).await;
    create_publisher(&mut client, &name_owned_by("agency", 1)).await;
    let publisher = name_owned_by("agency", 1);
    let mut stream = Open::at(&mut client).await;
    let requests = stream.requests.clone();
    let wanted = topic.clone();
    #[expect(clippy::disallowed_methods, reason = "it ends with the stream")]
    let sending = tokio::spawn(async move {
        for number in 0..COUNT {
            let request = PublishStreamRequest {
                publisher: publisher.clone(),
                ..sequenced(&wanted, 9, number)
            };
            requests.send(request).await.unwrap();
        }
    });
    for number in 0..COUNT {
        if number == COUNT / 3 {
            cluster.fail_peer(4).await;
        }
        let (answered, outcome) = stream.answer().await;
        assert_eq!((answered, outcome), (number, Ok(number)));
    }
    sending.await.unwrap();
    let mut replica = plain(cluster.address(5)).await;
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let texts = stored(&mut replica, &topic).await;
        if texts.len() as u64 == COUNT {
            let expected = (0..COUNT).map(|number| message(&format!("{number}")));
            assert!(texts.into_iter().eq(expected));
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{} stored", texts.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.start_peer(4).await;
    cluster.stop().await;
}
