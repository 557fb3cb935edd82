//! All eight peers are restarted one after another while applications work through the SDK, which must not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cubecast::testing::TestCluster;
use cubecast_sdk::{Client, Consistency, PullOptions, Start, Subscription};
use futures::StreamExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::name_owned_by;
use crate::wire::PATIENCE;

/// Publishes to each topic while a peer is away, and again when it is back.
const ENOUGH: u64 = 10;
/// Between two publishes to a topic, so that eight peers in one process have time for elections.
const PAUSE: Duration = Duration::from_millis(5);
/// The last message of each topic.
const END: &str = "end";

/// What one application has done with one topic so far.
#[derive(Default)]
struct Progress {
    published: AtomicU64,
    is_over: AtomicBool,
}

/// Publishes 0, 1, 2 and so on, and looks at each that no read misses it.
async fn publish(client: Client, topic: String, progress: Arc<Progress>) {
    let publisher = client.publisher(format!("p-{topic}"));
    let mut number = 0;
    while !progress.is_over.load(Ordering::Relaxed) {
        let published = publisher.publish(&topic, [number.to_string()]).await;
        let published =
            published.unwrap_or_else(|error| panic!("publish {number} to {topic}: {error}"));
        assert_eq!(published.first_offset, number, "{topic}");
        number += 1;
        let seen = client.topic(&topic, Consistency::Linearizable).await;
        let seen = seen.unwrap_or_else(|error| panic!("read of {topic}: {error}"));
        assert_eq!(seen.item.next_offset, number, "{topic}");
        progress.published.store(number, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    publisher.publish(&topic, [END]).await.unwrap();
}

/// Follows the stream of a subscription to its end: every message once, in order. Gives how many there were before the last.
async fn follow(subscription: Subscription) -> u64 {
    let options = PullOptions::new().wait(Duration::from_secs(1));
    let mut messages = subscription.messages(options);
    for expected in 0.. {
        let message = messages.next().await.unwrap();
        let message = message.unwrap_or_else(|error| panic!("{}: {error}", subscription.topic()));
        assert_eq!(message.offset, expected, "{}", subscription.topic());
        if message.payload == END {
            return expected;
        }
        assert_eq!(
            message.payload,
            expected.to_string(),
            "{}",
            subscription.topic()
        );
    }
    unreachable!("the loop has no end")
}

/// Waits until every topic has gone on, so that none was served only before or after.
async fn all_go_on(all: &[Arc<Progress>], when: &str) {
    let before: Vec<u64> = all
        .iter()
        .map(|progress| progress.published.load(Ordering::Relaxed))
        .collect();
    let deadline = Instant::now() + PATIENCE;
    for (vertex, (progress, before)) in all.iter().zip(before).enumerate() {
        while progress.published.load(Ordering::Relaxed) < before + ENOUGH {
            assert!(
                Instant::now() < deadline,
                "topic of {vertex} stands still {when}"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}

// REQ F14, F16
#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_loses_doubles_and_refuses_nothing() {
    let mut cluster = TestCluster::start().await;
    let client = Client::connect(cluster.addresses().iter().cloned())
        .await
        .unwrap();
    client.create_subscriber("reader").await.unwrap();
    let (mut publishers, mut readers) = (JoinSet::new(), JoinSet::new());
    let mut all = Vec::new();
    for vertex in 0..8 {
        let topic = name_owned_by("rolling", vertex);
        client.create_topic(&topic).await.unwrap();
        client
            .create_publisher(&format!("p-{topic}"))
            .await
            .unwrap();
        let subscriber = client.subscriber("reader");
        let subscription = subscriber.subscribe(&topic, Start::Earliest).await.unwrap();
        let progress = Arc::<Progress>::default();
        publishers.spawn(publish(client.clone(), topic, Arc::clone(&progress)));
        readers.spawn(follow(subscription));
        all.push(progress);
    }
    all_go_on(&all, "before anything happens").await;
    for peer in 0..8 {
        cluster.stop_peer(peer).await;
        all_go_on(&all, &format!("while {peer} is away")).await;
        cluster.start_peer(peer).await;
        cluster.ready().await;
        all_go_on(&all, &format!("when {peer} is back")).await;
    }
    for progress in &all {
        progress.is_over.store(true, Ordering::Relaxed);
    }
    while let Some(ended) = publishers.join_next().await {
        ended.unwrap();
    }
    let mut received = 0;
    while let Some(ended) = readers.join_next().await {
        received += ended.unwrap();
    }
    let published = all
        .iter()
        .map(|progress| progress.published.load(Ordering::Relaxed));
    assert_eq!(received, published.sum::<u64>());
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}
