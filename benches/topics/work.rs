//! What is done to all topics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::ensure;
use cubecast_sdk::{Client, TopicFilter};
use futures::TryStreamExt;
use tokio::task::JoinSet;

/// Names in one call; as many as a call takes.
const NAMES: u64 = 1000;
/// Calls at the same time.
const CREATORS: usize = 16;
const PUBLISHERS: usize = 1024;
const PAYLOAD: [u8; 128] = [0x5a; 128];

/// The name of a topic.
pub fn name(number: u64) -> String {
    format!("topic-{number:07}")
}

/// Hands out numbers below a limit, each once.
#[derive(Clone)]
struct Numbers {
    next: Arc<AtomicU64>,
    end: u64,
}

impl Numbers {
    fn below(end: u64) -> Self {
        let next = Arc::default();
        Self { next, end }
    }

    /// At most so many.
    fn take(&self, count: u64) -> Option<std::ops::Range<u64>> {
        let from = self.next.fetch_add(count, Ordering::Relaxed);
        (from < self.end).then(|| from..(from + count).min(self.end))
    }
}

/// Creates all.
pub async fn create(client: &Client, topics: u64) -> anyhow::Result<()> {
    let numbers = Numbers::below(topics);
    let mut tasks = JoinSet::new();
    for _ in 0..CREATORS {
        let (client, numbers) = (client.clone(), numbers.clone());
        tasks.spawn(async move {
            while let Some(range) = numbers.take(NAMES) {
                for created in client.create_topics(range.map(name)).await {
                    created?;
                }
            }
            anyhow::Ok(())
        });
    }
    join(tasks).await
}

/// One message to each.
pub async fn publish(client: &Client, topics: u64) -> anyhow::Result<()> {
    let numbers = Numbers::below(topics);
    let mut tasks = JoinSet::new();
    for _ in 0..PUBLISHERS {
        let (client, numbers) = (client.clone(), numbers.clone());
        tasks.spawn(async move {
            while let Some(range) = numbers.take(1) {
                let published = client.publish(&name(range.start), [&PAYLOAD[..]]).await?;
                ensure!(published.first_offset == 0, "{published:?}");
            }
            anyhow::Ok(())
        });
    }
    join(tasks).await
}

/// Counts them, page by page.
pub async fn list(client: &Client) -> anyhow::Result<u64> {
    let mut topics = client.topics(TopicFilter::default());
    let mut count = 0;
    while let Some(topic) = topics.try_next().await? {
        ensure!(topic.next_offset == 1, "{topic:?}");
        count += 1;
    }
    Ok(count)
}

async fn join(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
