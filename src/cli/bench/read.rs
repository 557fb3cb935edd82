//! Load by reading: each subscriber reads each topic from its first message on, and checks that none is missing and all are in order.
//!
//! Topics of a load have no other messages than those of the load, so that offsets count them. Begin with [`drive`].

use anyhow::Result;
use cubecast_sdk::{Client, PullOptions, Start, StreamOptions, Subscription};
use futures::TryStreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Read;
use super::meter::{Meter, Meters};
use super::names::Names;
use super::payload;
use crate::cli::exit::Failure;

/// Messages that are counted together.
const CHUNK: usize = 256;

/// How messages are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// Pull, and acknowledge with the next pull.
    Pull,
    /// `StreamPull`.
    Stream,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Stream => "stream",
        }
    }
}

/// Reads everything that was stored.
pub(super) async fn drive(
    client: &Client,
    names: &Names,
    (way, read): (Way, &Read),
    meters: &Meters,
) -> Result<()> {
    let mut tasks = JoinSet::new();
    for subscription in subscribe(client, names).await? {
        let (meter, end, page) = (meters.add(), u64::from(read.messages), read.page);
        tasks.spawn(async move {
            let place = Place::new(subscription.topic());
            match way {
                Way::Pull => pull(&subscription, place, (end, page), &meter).await,
                Way::Stream => stream(&subscription, place, (end, page), &meter).await,
            }
        });
    }
    join(tasks).await
}

async fn join(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// All subscribers on all topics, topic by topic.
async fn subscribe(client: &Client, names: &Names) -> Result<Vec<Subscription>> {
    let mut subscriptions = Vec::new();
    for topic in &names.topics {
        for subscriber in &names.subscribers {
            let subscriber = client.subscriber(subscriber.as_str());
            subscriptions.push(subscriber.subscribe(topic, Start::Earliest).await?);
        }
    }
    Ok(subscriptions)
}

/// How far a topic is read.
struct Place {
    topic: String,
    next: u64,
}

impl Place {
    fn new(topic: &str) -> Self {
        let topic = topic.to_owned();
        Self { topic, next: 0 }
    }

    /// A message came. Nothing is to be missing before it.
    fn arrive(&mut self, offset: u64) -> Result<()> {
        let (topic, next) = (&self.topic, self.next);
        if offset != next {
            let problem = format!("topic {topic} gave offset {offset} where {next} was due");
            return Err(Failure::Failed(problem).into());
        }
        self.next += 1;
        Ok(())
    }
}

async fn pull(
    subscription: &Subscription,
    mut place: Place,
    (end, page): (u64, u32),
    meter: &Meter,
) -> Result<()> {
    while place.next < end {
        let begun = Instant::now();
        let options = PullOptions::new()
            .max_messages(page)
            .acknowledge_to(place.next);
        let pulled = subscription.pull(options).await?;
        let latency = begun.elapsed();
        let count = pulled.len() as u64;
        for message in pulled {
            place.arrive(message.offset)?;
        }
        meter.count(count, &[latency]);
    }
    subscription.acknowledge(place.next).await?;
    Ok(())
}

async fn stream(
    subscription: &Subscription,
    mut place: Place,
    (end, page): (u64, u32),
    meter: &Meter,
) -> Result<()> {
    let mut messages = subscription.stream(StreamOptions::new().max_messages(page));
    while place.next < end {
        let Some(message) = messages.try_next().await? else {
            let problem = format!("the stream of topic {} ended", place.topic);
            return Err(Failure::Failed(problem).into());
        };
        place.arrive(message.offset)?;
        if place.next.is_multiple_of(CHUNK as u64) {
            meter.count(CHUNK as u64, &[]);
        }
    }
    meter.count(end % CHUNK as u64, &[]);
    Ok(())
}

/// Readers of topics that are still being written.
#[derive(Debug)]
pub(super) struct Listening {
    tasks: JoinSet<Result<()>>,
    /// Of each topic: where its readers end, when that is known.
    ends: Vec<watch::Sender<Option<u64>>>,
}

impl Listening {
    /// Begins to read.
    pub(super) async fn begin(client: &Client, names: &Names, meters: &Meters) -> Result<Self> {
        let ends: Vec<_> = names
            .topics
            .iter()
            .map(|_| watch::Sender::new(None))
            .collect();
        let mut tasks = JoinSet::new();
        let subscriptions = subscribe(client, names).await?;
        let of_topic = subscriptions.chunks(names.subscribers.len().max(1));
        for (end, subscriptions) in ends.iter().zip(of_topic) {
            for subscription in subscriptions {
                let (subscription, meter) = (subscription.clone(), meters.add());
                let end = end.subscribe();
                tasks.spawn(async move { listen(&subscription, end, &meter).await });
            }
        }
        Ok(Self { tasks, ends })
    }

    /// Reads on until every topic is read to its end.
    pub(super) async fn until(self, ends: &[u64]) -> Result<()> {
        for (sender, end) in self.ends.iter().zip(ends) {
            sender.send_replace(Some(*end));
        }
        join(self.tasks).await
    }
}

async fn listen(
    subscription: &Subscription,
    mut end: watch::Receiver<Option<u64>>,
    meter: &Meter,
) -> Result<()> {
    let mut place = Place::new(subscription.topic());
    let mut messages = subscription.stream(StreamOptions::new());
    loop {
        let known = *end.borrow_and_update();
        if known.is_some_and(|end| place.next >= end) {
            return Ok(());
        }
        tokio::select! {
            message = messages.try_next() => {
                let Some(message) = message? else {
                    let problem = format!("the stream of topic {} ended", place.topic);
                    return Err(Failure::Failed(problem).into());
                };
                place.arrive(message.offset)?;
                let latency = payload::age(&message.payload);
                meter.count(1, latency.as_slice());
            }
            changed = end.changed(), if known.is_none() => {
                if changed.is_err() {
                    // The load ended before its time, and says why itself.
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_message_is_told() {
        let mut place = Place::new("news");
        place.arrive(0).unwrap();
        let told = place.arrive(2).unwrap_err().to_string();
        assert_eq!(told, "topic news gave offset 2 where 1 was due");
        assert!(place.arrive(0).is_err());
        place.arrive(1).unwrap();
    }
}
