//! The topics, publishers and subscribers of a load: made before it, removed after it.
//!
//! What somebody else has made is never removed. Begin with [`Names::make`].

use anyhow::{Context, Result};
use cubecast_sdk::{Client, Error};
use futures::{StreamExt, TryStreamExt, stream};

/// Calls at the same time.
const CALLS: usize = 32;

/// What a load is about.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) topics: Vec<String>,
    /// Of each topic. Empty: nobody's name is used.
    pub(super) publishers: Vec<Vec<String>>,
    /// Each reads all topics.
    pub(super) subscribers: Vec<String>,
}

/// What was made, and is to be removed.
#[derive(Debug, Default)]
pub(super) struct Made {
    things: Vec<Thing>,
}

#[derive(Debug, Clone)]
enum Thing {
    Topic(String),
    Publisher(String),
    Subscriber(String),
}

impl Names {
    pub(super) fn new(name: &str, topics: u32, producers: u32, subscribers: u32) -> Self {
        let topics: Vec<_> = (0..topics).map(|topic| format!("{name}-{topic}")).collect();
        let publishers = topics
            .iter()
            .map(|topic| {
                (0..producers)
                    .map(|each| format!("{topic}-{each}"))
                    .collect()
            })
            .collect();
        let subscribers = (0..subscribers).map(|each| format!("{name}-{each}"));
        Self {
            publishers,
            subscribers: subscribers.collect(),
            topics,
        }
    }

    /// How many readers there are in all.
    pub(super) fn reader_count(&self) -> u64 {
        (self.topics.len() as u64).saturating_mul(self.subscribers.len() as u64)
    }

    /// Makes all, and says in `made` what it has.
    pub(super) async fn make(&self, client: &Client, made: &mut Made) -> Result<()> {
        let created = client.create_topics(&self.topics).await;
        let mut failed = None;
        for (topic, created) in self.topics.iter().zip(created) {
            match created {
                Ok(_) => made.things.push(Thing::Topic(topic.clone())),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error).context("topics of the load (another --name gives others)");
        }
        let publishers = self.publishers.iter().flatten().cloned();
        let subscribers = self.subscribers.iter().cloned().map(Thing::Subscriber);
        let things = publishers.map(Thing::Publisher).chain(subscribers);
        let mut calls = stream::iter(things)
            .map(|thing| make(client.clone(), thing))
            .buffer_unordered(CALLS);
        while let Some(thing) = calls.try_next().await? {
            made.things.push(thing);
        }
        Ok(())
    }
}

async fn make(client: Client, thing: Thing) -> Result<Thing, Error> {
    match &thing {
        Thing::Topic(topic) => client.create_topic(topic).await.map(drop)?,
        Thing::Publisher(publisher) => client.create_publisher(publisher).await.map(drop)?,
        Thing::Subscriber(subscriber) => client.create_subscriber(subscriber).await.map(drop)?,
    }
    Ok(thing)
}

impl Made {
    /// Removes everything; tells what could not be.
    pub(super) async fn remove(self, client: &Client) -> Vec<String> {
        stream::iter(self.things)
            .map(|thing| remove(client.clone(), thing))
            .buffer_unordered(CALLS)
            .filter_map(|left| async { left })
            .collect()
            .await
    }
}

async fn remove(client: Client, thing: Thing) -> Option<String> {
    let (removed, name) = match &thing {
        Thing::Topic(topic) => (client.delete_topic(topic).await, topic),
        Thing::Publisher(publisher) => (client.delete_publisher(publisher).await, publisher),
        Thing::Subscriber(subscriber) => (client.delete_subscriber(subscriber).await, subscriber),
    };
    let error = removed.err()?;
    Some(format!("{name} is left behind: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ() {
        let names = Names::new("b", 2, 2, 1);
        assert_eq!(names.topics, ["b-0", "b-1"]);
        assert_eq!(names.publishers, [["b-0-0", "b-0-1"], ["b-1-0", "b-1-1"]]);
        assert_eq!(names.subscribers, ["b-0"]);
        assert_eq!(names.reader_count(), 2);
    }
}
