//! Eight processes, killed all at once while clients work (`REQ D5`).
//!
//! What was acknowledged is a promise: after the restart every acknowledged message is there once, at its offset, in order, on every replica, and
//! every cursor stands where it was acknowledged to. `SIGKILL` finds a peer that acknowledges before it has written; a missing `fdatasync`
//! is found by the power-cut tests of the log itself (`src/wal/tests`).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a test proves things with these"
)]

#[expect(
    dead_code,
    reason = "shared with the benchmarks, one of which harms single peers"
)]
mod process;
mod startup;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::peer_service_client::PeerServiceClient;
use cubecast_sdk::proto::v1::{
    AcknowledgeRequest, CreatePublisherRequest, CreateSubscriberRequest, CreateTopicRequest,
    ListSubscriptionsRequest, Message, PublishRequest, PublishSequence, PullRequest,
    SubscribeRequest,
};
use tonic::transport::Channel;

use process::Processes;

type Plain = PeerServiceClient<Channel>;

/// Acknowledged publishes before the kill, over all publishers.
const ACKNOWLEDGED_BEFORE_KILL: u64 = 600;
const TOPICS: [&str; 3] = ["news", "cricket", "topic16"];
const PUBLISHERS: usize = 8;

/// What one publisher was promised: text to offset, per topic; and the sequence that was never answered.
#[derive(Default)]
struct Promised {
    offsets: BTreeMap<(&'static str, String), u64>,
    /// The next sequence of each topic: its publish may or may not have happened.
    next: BTreeMap<&'static str, u64>,
}

fn text(publisher: usize, sequence: u64) -> String {
    format!("p{publisher}-{sequence}")
}

fn publish_request(publisher: usize, topic: &str, sequence: u64) -> PublishRequest {
    let message = Message {
        payload: text(publisher, sequence).into_bytes().into(),
        ..Message::default()
    };
    PublishRequest {
        topic: topic.to_owned(),
        publisher: format!("p{publisher}"),
        sequence: Some(PublishSequence {
            session: 1,
            sequence,
        }),
        messages: vec![message],
        ..PublishRequest::default()
    }
}

/// Publishes round the topics until the connection breaks.
async fn publish_until_killed(
    mut client: Plain,
    publisher: usize,
    acknowledged: Arc<AtomicU64>,
) -> Promised {
    let mut promised = Promised::default();
    loop {
        for topic in TOPICS {
            let sequence = *promised.next.entry(topic).or_insert(0);
            let Ok(response) = client
                .publish(publish_request(publisher, topic, sequence))
                .await
            else {
                return promised;
            };
            promised.offsets.insert(
                (topic, text(publisher, sequence)),
                response.into_inner().first_offset,
            );
            promised.next.insert(topic, sequence + 1);
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Pulls and acknowledges until the connection breaks. The answer: where the cursor is promised to be at least.
async fn consume_until_killed(
    mut client: Plain,
    subscriber: String,
    topic: &'static str,
) -> (String, &'static str, u64) {
    let mut cursor = 0;
    loop {
        let wait = Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        });
        let named = PullRequest {
            topic: topic.to_owned(),
            subscriber: subscriber.clone(),
            wait,
            max_messages: 10,
            ..PullRequest::default()
        };
        let Ok(pulled) = client.pull(named).await else {
            break;
        };
        let acknowledge = AcknowledgeRequest {
            topic: topic.to_owned(),
            subscriber: subscriber.clone(),
            next_offset: pulled.into_inner().next_offset,
        };
        let Ok(acknowledged) = client.acknowledge(acknowledge).await else {
            break;
        };
        cursor = acknowledged.into_inner().cursor;
    }
    (subscriber, topic, cursor)
}

async fn prepare(client: &mut Plain) {
    for topic in TOPICS {
        client
            .create_topic(CreateTopicRequest {
                topic: topic.to_owned(),
                ..Default::default()
            })
            .await
            .unwrap();
    }
    for number in 0..PUBLISHERS {
        let request = CreatePublisherRequest {
            publisher: format!("p{number}"),
            ..Default::default()
        };
        client.create_publisher(request).await.unwrap();
    }
    for topic in TOPICS {
        let subscriber = format!("reads-{topic}");
        let request = CreateSubscriberRequest {
            subscriber: subscriber.clone(),
            ..Default::default()
        };
        client.create_subscriber(request).await.unwrap();
        let request = SubscribeRequest {
            topic: topic.to_owned(),
            subscriber,
            start: None,
            shared: None,
        };
        client.subscribe(request).await.unwrap();
    }
}

/// All messages of a topic, by a new subscription, as text.
async fn read_all(client: &mut Plain, topic: &str) -> Vec<String> {
    let subscriber = format!("checks-{topic}");
    let request = CreateSubscriberRequest {
        subscriber: subscriber.clone(),
        ..Default::default()
    };
    client.create_subscriber(request).await.unwrap();
    let request = SubscribeRequest {
        topic: topic.to_owned(),
        subscriber: subscriber.clone(),
        start: None,
        shared: None,
    };
    client.subscribe(request).await.unwrap();
    let mut texts = Vec::new();
    loop {
        let request = PullRequest {
            topic: topic.to_owned(),
            subscriber: subscriber.clone(),
            auto_acknowledge: true,
            ..PullRequest::default()
        };
        let pulled = client.pull(request).await.unwrap().into_inner();
        if pulled.batches.is_empty() {
            return texts;
        }
        for batch in pulled.batches {
            assert_eq!(
                batch.base_offset,
                texts.len() as u64,
                "offsets of {topic} are dense"
            );
            texts.extend(
                batch
                    .messages
                    .into_iter()
                    .map(|message| String::from_utf8(message.payload.to_vec()).unwrap()),
            );
        }
    }
}

// REQ D5, D10, D11, G1, G2, G3, G5, W22.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_all_peers_are_killed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut peers = Processes::start(folder.path()).await;
    prepare(&mut peers.client(0).await).await;

    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        let client = peers.client(number).await;
        publishers.push(tokio::spawn(publish_until_killed(
            client,
            number,
            Arc::clone(&acknowledged),
        )));
    }
    let mut consumers = Vec::new();
    for (peer, topic) in TOPICS.into_iter().enumerate() {
        let client = peers.client(peer).await;
        consumers.push(tokio::spawn(consume_until_killed(
            client,
            format!("reads-{topic}"),
            topic,
        )));
    }
    wait_for(&acknowledged, &publishers).await;
    peers.kill_all();
    let mut promised = Vec::new();
    for publisher in publishers {
        promised.push(publisher.await.unwrap());
    }
    let mut cursors = Vec::new();
    for consumer in consumers {
        cursors.push(consumer.await.unwrap());
    }

    peers.restart_all().await;
    let mut client = peers.client(5).await;
    check_cursors(&mut client, &cursors).await;
    repeat_the_unanswered(&mut client, &mut promised).await;
    for topic in TOPICS {
        check_messages(&read_all(&mut client, topic).await, topic, &promised);
    }
    peers.stop_all().await;
    let mut cluster = TestCluster::reopen(folder.path(), &[]).await;
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}

async fn wait_for(acknowledged: &AtomicU64, publishers: &[tokio::task::JoinHandle<Promised>]) {
    let stuck = AtomicBool::new(false);
    let enough = async {
        while acknowledged.load(Ordering::Relaxed) < ACKNOWLEDGED_BEFORE_KILL {
            assert!(
                publishers.iter().all(|publisher| !publisher.is_finished()),
                "a publisher stopped before the kill"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(120), enough)
        .await
        .is_err()
    {
        stuck.store(true, Ordering::Relaxed);
    }
    assert!(
        !stuck.load(Ordering::Relaxed),
        "only {} publishes were acknowledged",
        acknowledged.load(Ordering::Relaxed)
    );
}

/// A cursor stands at least where it was acknowledged to; the last acknowledgement may have arrived without being answered.
async fn check_cursors(client: &mut Plain, cursors: &[(String, &'static str, u64)]) {
    for (subscriber, topic, promised) in cursors {
        let request = ListSubscriptionsRequest {
            subscriber: subscriber.clone(),
            ..Default::default()
        };
        let listed = client
            .list_subscriptions(request)
            .await
            .unwrap()
            .into_inner()
            .subscriptions;
        let found = listed.iter().find(|listed| listed.topic == *topic).unwrap();
        assert!(
            found.next_offset >= *promised,
            "{subscriber}: at {}, promised {promised}",
            found.next_offset
        );
        assert!(
            found.next_offset <= promised + 10,
            "{subscriber}: at {}, one pull beyond {promised} at most",
            found.next_offset
        );
    }
}

/// The publish that was under way when the peers died is repeated: it must be stored once, whether it had been or not.
async fn repeat_the_unanswered(client: &mut Plain, promised: &mut [Promised]) {
    for (number, promised) in promised.iter_mut().enumerate() {
        for topic in TOPICS {
            let sequence = promised.next.get(topic).copied().unwrap_or(0);
            let response = client
                .publish(publish_request(number, topic, sequence))
                .await
                .unwrap()
                .into_inner();
            promised
                .offsets
                .insert((topic, text(number, sequence)), response.first_offset);
        }
    }
}

/// Every promise is kept, and nothing is there that nobody published.
fn check_messages(texts: &[String], topic: &'static str, promised: &[Promised]) {
    let mut expected = BTreeMap::new();
    for promised in promised {
        for ((_, text), offset) in promised.offsets.iter().filter(|((of, _), _)| *of == topic) {
            assert_eq!(
                texts.get(usize::try_from(*offset).unwrap()),
                Some(text),
                "{topic} at {offset}"
            );
            expected.insert(*offset, text.clone());
        }
    }
    // Offsets are distinct keys, so equal counts mean: each once, and nothing else.
    assert_eq!(
        expected.len(),
        texts.len(),
        "{topic} holds what was published, each once"
    );
    for number in 0..PUBLISHERS {
        let own: Vec<&String> = texts
            .iter()
            .filter(|text| text.starts_with(&format!("p{number}-")))
            .collect();
        let in_order: Vec<String> = (0..own.len() as u64)
            .map(|sequence| text(number, sequence))
            .collect();
        assert!(
            own.iter()
                .zip(&in_order)
                .all(|(own, expected)| *own == expected),
            "{topic}: {own:?}"
        );
    }
}
