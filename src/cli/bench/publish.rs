//! Load by publishing: producers that gather messages, or calls with one message each.
//!
//! With a rate a message has a time when it is due, and its latency counts from there, so that a stall is not forgiven for the messages that it held up
//! (Gil Tene's coordinated omission). Begin with [`drive`].

use std::time::Duration;

use anyhow::{Result, anyhow};
use cubecast_sdk::{AckLevel, Client, Producer, ProducerOptions, Receipt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::meter::{Meter, Meters};
use super::names::Names;
use super::payload::Payloads;
use super::{Load, Publishing, Read};

/// Receipts that are handed on together.
const CHUNK: usize = 64;
/// Such chunks that may wait for the one that looks at them.
const CHUNKS: usize = 1024;
/// What is stored before it is read goes in requests of this size.
const FILL_BYTES: usize = 64 << 10;

/// When messages are due.
#[derive(Debug, Clone, Copy)]
struct Pace {
    begin: Instant,
    end: Instant,
    /// Between two messages of one task; `None`: as fast as it goes.
    interval: Option<Duration>,
}

impl Pace {
    /// That of one of so many tasks.
    fn of(options: &Publishing, index: u32, tasks: u32) -> Self {
        let now = Instant::now();
        let interval = options
            .rate
            .map(|rate| Duration::from_secs(1) * tasks / rate);
        Self {
            // Not all at the same time.
            begin: now + interval.map_or(Duration::ZERO, |all| all * index / tasks),
            end: now + options.warm_up + options.duration,
            interval,
        }
    }

    /// When the message with this number is due; `None`: never.
    fn due(&self, number: u32) -> Option<Instant> {
        let due = match self.interval {
            Some(interval) => self.begin.checked_add(interval.checked_mul(number)?)?,
            None => Instant::now(),
        };
        (due < self.end).then_some(due)
    }
}

/// Publishes on all topics as long as the options say. Gives how many messages each topic then has.
pub(super) async fn drive(
    client: &Client,
    names: &Names,
    load: &Load,
    options: &Publishing,
    meters: &Meters,
) -> Result<Vec<u64>> {
    let payloads = Payloads::new(load.size);
    let mut tasks = JoinSet::new();
    let each = match options.single {
        true => options.producers.saturating_mul(options.in_flight),
        false => options.producers,
    };
    let count = u32::try_from(names.topics.len())?.saturating_mul(each);
    let mut index = 0;
    for (number, topic) in names.topics.iter().enumerate() {
        for task in 0..each {
            let (meter, payloads) = (meters.add(), payloads.clone());
            let pace = Pace::of(options, index, count);
            index += 1;
            if options.single {
                let call = Single {
                    client: client.clone(),
                    topic: topic.clone(),
                    acks: options.acks.into(),
                };
                tasks.spawn(async move { (number, call.run(pace, &payloads, &meter).await) });
                continue;
            }
            let publisher = names
                .publishers
                .get(number)
                .and_then(|all| all.get(task as usize))
                .ok_or_else(|| anyhow!("a producer without a publisher"))?;
            let producer = client
                .publisher(publisher.as_str())
                .producer(topic, producer_options(options));
            tasks.spawn(async move { (number, produce(&producer, pace, &payloads, &meter).await) });
        }
    }
    let mut counts = vec![0_u64; names.topics.len()];
    while let Some(ended) = tasks.join_next().await {
        let (number, published) = ended?;
        if let Some(count) = counts.get_mut(number) {
            *count = count.saturating_add(published);
        }
    }
    Ok(counts)
}

fn producer_options(options: &Publishing) -> ProducerOptions {
    let bundle = options.bundle as usize;
    let in_flight = options.in_flight as usize;
    ProducerOptions::new()
        .bundle_bytes(bundle)
        .in_flight(in_flight)
        .linger(options.linger)
        .acks(options.acks.into())
        // What is under way, and as much that waits for it.
        .waiting_bytes(bundle.saturating_mul(in_flight).saturating_mul(2))
}

type Chunk = Vec<(Instant, Receipt)>;

/// One producer. Gives how many messages arrived.
async fn produce(producer: &Producer, pace: Pace, payloads: &Payloads, meter: &Meter) -> u64 {
    let (sent, receipts) = mpsc::channel(CHUNKS);
    let sending = send(producer, pace, payloads, (meter, sent));
    let ((), published) = tokio::join!(sending, collect(receipts, meter));
    published
}

async fn send(
    producer: &Producer,
    pace: Pace,
    payloads: &Payloads,
    (meter, sent): (&Meter, mpsc::Sender<Chunk>),
) {
    let mut chunk: Chunk = Vec::with_capacity(CHUNK);
    for number in 0.. {
        let Some(due) = pace.due(number) else { break };
        let has_time = pace.interval.is_some() && due > Instant::now();
        if (chunk.len() == CHUNK || has_time && !chunk.is_empty())
            && sent.send(std::mem::take(&mut chunk)).await.is_err()
        {
            return;
        }
        if has_time {
            tokio::time::sleep_until(due).await;
        }
        match producer.send(payloads.stamped(due)).await {
            Ok(receipt) => chunk.push((due, receipt)),
            Err(error) => meter.fail(&error),
        }
    }
    // Nobody waits for it only when nobody counts any more.
    let _gone = sent.send(chunk).await;
    producer.flush().await;
}

async fn collect(mut receipts: mpsc::Receiver<Chunk>, meter: &Meter) -> u64 {
    let mut published = 0_u64;
    let mut latencies = Vec::with_capacity(CHUNK);
    while let Some(chunk) = receipts.recv().await {
        for (due, receipt) in chunk {
            match receipt.await {
                Ok(_) => latencies.push(due.elapsed()),
                Err(error) => meter.fail(&error),
            }
        }
        let count = latencies.len() as u64;
        meter.count(count, &latencies);
        published = published.saturating_add(count);
        latencies.clear();
    }
    published
}

/// Calls with one message each, one after the other.
struct Single {
    client: Client,
    topic: String,
    acks: AckLevel,
}

impl Single {
    async fn run(self, pace: Pace, payloads: &Payloads, meter: &Meter) -> u64 {
        let mut published = 0_u64;
        for number in 0.. {
            let Some(due) = pace.due(number) else { break };
            // A sleep that is over already may still take a millisecond.
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            let payload = payloads.stamped(due);
            let answer = self
                .client
                .publish_at(self.acks, &self.topic, [payload])
                .await;
            match answer {
                Ok(_) => {
                    meter.count(1, &[due.elapsed()]);
                    published = published.saturating_add(1);
                }
                Err(error) => meter.fail(&error),
            }
        }
        published
    }
}

/// Stores the messages that are to be read.
pub(super) async fn fill(client: &Client, names: &Names, read: &Read) -> Result<()> {
    let payloads = Payloads::new(read.load.size);
    let mut tasks = JoinSet::new();
    for (topic, publishers) in names.topics.iter().zip(&names.publishers) {
        let Some(publisher) = publishers.first() else {
            continue;
        };
        let options = ProducerOptions::new().bundle_bytes(FILL_BYTES);
        let producer = client
            .publisher(publisher.as_str())
            .producer(topic, options);
        let (payloads, count) = (payloads.clone(), read.messages);
        tasks.spawn(async move {
            let mut last = None;
            for _ in 0..count {
                last = Some(producer.send(payloads.stamped(Instant::now())).await?);
            }
            producer.flush().await;
            // A message that is missing is found when all are read.
            if let Some(last) = last {
                last.await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pace_spreads_the_tasks_over_an_interval() {
        let options = Publishing {
            producers: 1,
            in_flight: 1,
            bundle: 1,
            linger: Duration::ZERO,
            single: false,
            acks: super::super::Acks::Quorum,
            rate: Some(100),
            duration: Duration::from_secs(1),
            warm_up: Duration::ZERO,
        };
        let now = Instant::now();
        let dues = [0, 1].map(|task| Pace::of(&options, task, 2));
        let millis = |due: Option<Instant>| due.map(|due| (due - now).as_millis());
        assert_eq!(millis(dues[0].due(0)), Some(0));
        assert_eq!(millis(dues[1].due(0)), Some(10));
        assert_eq!(millis(dues[0].due(1)), Some(20));
        assert_eq!(millis(dues[0].due(49)), Some(980));
        assert_eq!(millis(dues[0].due(50)), None);
    }
}
