//! Publishers and subscribers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use cubecast_sdk::{Client, PullOptions, Start, Subscription};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::shared::histogram;

/// One message a publish.
pub const PAYLOAD_BYTES: usize = 1024;
/// Publishes that run at the same time.
const PUBLISHERS: u32 = 64;
/// How long subscribers may take for what is left when the publishers have stopped.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How long a pull waits for something new.
const WAIT: Duration = Duration::from_millis(200);

/// Who publishes where.
pub struct Load {
    client: Client,
    topics: Vec<String>,
    subscriptions: Vec<Subscription>,
    /// Random, so that nothing on the way makes it shorter.
    payload: Bytes,
    published: Arc<AtomicU64>,
}

/// A load that goes on until it is stopped.
pub struct Running {
    publishers: JoinSet<anyhow::Result<()>>,
    subscribers: JoinSet<anyhow::Result<()>>,
    times: Arc<Mutex<Histogram<u64>>>,
    is_over: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    delivered: Arc<AtomicU64>,
}

impl Load {
    /// A subscriber on each topic.
    pub async fn new(client: Client, topics: Vec<String>) -> anyhow::Result<Self> {
        let mut subscriptions = Vec::new();
        for (number, topic) in topics.iter().enumerate() {
            let subscriber = format!("reader-{number}");
            client.create_subscriber(&subscriber).await?;
            let subscriber = client.subscriber(subscriber);
            subscriptions.push(subscriber.subscribe(topic, Start::Earliest).await?);
        }
        let mut payload = vec![0; PAYLOAD_BYTES];
        rand::fill(&mut payload[..]);
        Ok(Self {
            client,
            topics,
            subscriptions,
            payload: payload.into(),
            published: Arc::default(),
        })
    }

    /// Publishes a second when each publisher publishes again as soon as it may.
    pub async fn most(&self, measured: Duration) -> anyhow::Result<f64> {
        let (begun, before) = (Instant::now(), self.published.load(Ordering::Relaxed));
        let mut tasks = JoinSet::new();
        for topic in self.of_publishers() {
            let (client, payload) = (self.client.clone(), self.payload.clone());
            let published = Arc::clone(&self.published);
            tasks.spawn(async move {
                while begun.elapsed() < measured {
                    client.publish(&topic, [payload.clone()]).await?;
                    published.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let count = self.published.load(Ordering::Relaxed) - before;
        Ok(count as f64 / begun.elapsed().as_secs_f64())
    }

    fn of_publishers(&self) -> impl Iterator<Item = String> {
        self.topics
            .iter()
            .cycle()
            .take(PUBLISHERS as usize)
            .cloned()
    }

    /// Publishes so many a second in all, each at its time whether the one before was fast or slow; times count from when it was due.
    pub fn start(self, rate: f64) -> anyhow::Result<Running> {
        let interval = Duration::from_secs_f64(f64::from(PUBLISHERS) / rate);
        let times = Arc::new(Mutex::new(histogram()?));
        let is_over = Arc::<AtomicBool>::default();
        let (mut publishers, mut subscribers) = (JoinSet::new(), JoinSet::new());
        for (topic, number) in self.of_publishers().zip(0..) {
            let (client, payload) = (self.client.clone(), self.payload.clone());
            let (times, is_over) = (Arc::clone(&times), Arc::clone(&is_over));
            let published = Arc::clone(&self.published);
            let mut due = Instant::now() + interval * number / PUBLISHERS;
            publishers.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    tokio::time::sleep_until(due).await;
                    client.publish(&topic, [payload.clone()]).await?;
                    published.fetch_add(1, Ordering::Relaxed);
                    let nanos = u64::try_from(due.elapsed().as_nanos())?;
                    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                    times.saturating_record(nanos);
                    due += interval;
                }
                anyhow::Ok(())
            });
        }
        let delivered = Arc::<AtomicU64>::default();
        let published = Arc::clone(&self.published);
        for subscription in self.subscriptions {
            let (is_over, delivered) = (Arc::clone(&is_over), Arc::clone(&delivered));
            subscribers.spawn(follow(subscription, is_over, delivered));
        }
        Ok(Running {
            publishers,
            subscribers,
            times,
            is_over,
            published,
            delivered,
        })
    }
}

/// Takes everything, until the publishers have stopped and nothing is left.
async fn follow(
    subscription: Subscription,
    is_over: Arc<AtomicBool>,
    delivered: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut next = None;
    loop {
        let was_over = is_over.load(Ordering::Relaxed);
        let options = PullOptions::new().wait(WAIT);
        let options = match next {
            Some(next) => options.acknowledge_to(next),
            None => options,
        };
        let pulled = subscription.pull(options).await?;
        let count = pulled.len() as u64;
        let first = pulled.next_offset - count;
        // What retention had removed before anybody followed counts as delivered.
        let skipped = next.map_or(first, |next| first - next);
        let is_behind = next.is_some() && skipped > 0;
        ensure!(
            !is_behind,
            "a subscriber of {} fell behind",
            subscription.topic()
        );
        delivered.fetch_add(skipped + count, Ordering::Relaxed);
        next = Some(pulled.next_offset);
        if was_over && count == 0 {
            return Ok(());
        }
    }
}

impl Running {
    /// The times since the last call.
    pub fn take(&self) -> anyhow::Result<Histogram<u64>> {
        ensure!(!self.publishers.is_empty(), "nobody publishes");
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::replace(&mut times, histogram()?))
    }

    /// Messages published and delivered, from the first on.
    pub async fn stop(mut self) -> anyhow::Result<(u64, u64)> {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.publishers.join_next().await {
            ended??;
        }
        let drained = async {
            while let Some(ended) = self.subscribers.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(DRAIN_MAX, drained)
            .await
            .context("the subscribers do not come to an end")??;
        let (published, delivered) = (&self.published, &self.delivered);
        Ok((
            published.load(Ordering::Relaxed),
            delivered.load(Ordering::Relaxed),
        ))
    }
}
