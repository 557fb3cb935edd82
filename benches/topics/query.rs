//! Looks topics up with several clients at once, as the experiment of a million topics asks.

use anyhow::ensure;
use cubecast_sdk::Consistency;
use rand::Rng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::shared::process::Processes;
use crate::shared::{connect, histogram, micros};
use crate::work;

/// Of each client, one after another.
pub const QUERIES: u32 = 1000;

/// What the queries took.
pub struct Times {
    pub mean_us: f64,
    pub p99_us: f64,
    /// Of all clients together.
    pub rate: f64,
}

/// So many clients of their own, each with its own connections.
pub async fn drive(processes: &Processes, clients: usize, topics: u64) -> anyhow::Result<Times> {
    let mut tasks = JoinSet::new();
    let mut all = Vec::new();
    for _ in 0..clients {
        let client = connect(processes).await?;
        // Dialled beforehand.
        for number in 0..64.min(topics) {
            client
                .topic(&work::name(number), Consistency::Leader)
                .await?;
        }
        all.push(client);
    }
    let begun = Instant::now();
    for client in all {
        tasks.spawn(async move {
            let mut times = histogram()?;
            for _ in 0..QUERIES {
                let number = rand::rng().random_range(0..topics);
                let begun = Instant::now();
                let topic = client
                    .topic(&work::name(number), Consistency::Leader)
                    .await?;
                times.saturating_record(u64::try_from(begun.elapsed().as_nanos())?);
                ensure!(
                    topic.item.next_offset == 1,
                    "topic {number} lost its message"
                );
            }
            anyhow::Ok(times)
        });
    }
    let mut times = histogram()?;
    while let Some(part) = tasks.join_next().await {
        times.add(part??)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Times {
        mean_us: times.mean() / 1000.0,
        p99_us: micros(&times, 0.99),
        rate: times.len() as f64 / seconds,
    })
}
