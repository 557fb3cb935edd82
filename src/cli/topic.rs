//! `topic`: create, change, delete, find and list topics. It reads no message. Begin with [`run`].

use anyhow::Result;
use clap::{ArgGroup, Subcommand};
use cubecast_sdk::{self as sdk, NewTopic, Publisher, TopicFilter};
use tokio::io::BufReader;
use tokio::time::Instant;

use super::argument::Reading;
use super::batch::Batches;
use super::exit::Failure;
use super::output::{Format, Row};
use super::record::{Deleted, Location, Placed, Replica, Topic};
use super::retention::{Bounds, Retention};
use super::session::Session;
use super::text;

/// Names that are read before they are sent: some calls of a thousand, so that all shards are busy.
const NAMES_AT_ONCE: usize = 8_000;

/// Create, change, delete, find and list topics
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a topic, or many
    Create {
        /// Names: 1 to 249 of A-Z a-z 0-9 . _ - each; a single - reads them from standard input, one on each line
        #[arg(required = true, value_name = "TOPIC")]
        topics: Vec<String>,
        /// The publisher in whose name they are created; it must exist
        #[arg(long, value_name = "ID")]
        publisher: Option<String>,
        #[command(flatten)]
        bounds: Bounds,
    },
    /// Change how long a topic keeps its messages; what is not said does not count any more
    #[command(group = ArgGroup::new("bounds").required(true).multiple(true)
        .args(["retention_age", "retention_bytes", "retention_messages", "keep_all"]))]
    Update {
        /// Its name
        topic: String,
        #[command(flatten)]
        bounds: Bounds,
        /// Keep all messages
        #[arg(long, conflicts_with_all = ["retention_age", "retention_bytes", "retention_messages"])]
        keep_all: bool,
    },
    /// Delete a topic with its messages and subscriptions
    Delete {
        /// Its name
        topic: String,
    },
    /// List topics, ordered by owner, then name
    List {
        /// Only those that this publisher created
        #[arg(long, value_name = "ID")]
        publisher: Option<String>,
        /// Only those whose name begins so
        #[arg(long)]
        prefix: Option<String>,
    },
    /// Tell about one topic
    Get {
        /// Its name
        topic: String,
        /// What the answer is sure to see
        #[arg(long, value_enum, default_value_t = Reading::Leader)]
        consistency: Reading,
    },
    /// Tell where a topic lives, or would live
    Locate {
        /// Its name
        topic: String,
    },
}

pub(super) async fn run(command: Command, session: &mut Session<'_>) -> Result<()> {
    match command {
        Command::Create {
            topics,
            publisher,
            bounds,
        } => {
            let publisher = publisher.map(|publisher| session.client().publisher(publisher));
            let create = Create { publisher, bounds };
            match topics.as_slice() {
                [name] if name == "-" => create.read(session).await,
                [name] => create.one(name, session).await,
                _ => create.some(topics, session).await,
            }
        }
        Command::Update { topic, bounds, .. } => update(&topic, bounds, session).await,
        Command::Delete { topic } => delete(&topic, session).await,
        Command::List { publisher, prefix } => {
            let topics = session.client().topics(TopicFilter { publisher, prefix });
            session.list::<_, Topic>("topics", topics).await
        }
        Command::Get { topic, consistency } => get(&topic, consistency, session).await,
        Command::Locate { topic } => locate(&topic, session).await,
    }
}

/// The creation of topics.
struct Create {
    publisher: Option<Publisher>,
    bounds: Bounds,
}

impl Create {
    fn topic(&self, name: &str) -> NewTopic {
        NewTopic::new(name).with_retention(self.bounds.into())
    }

    async fn one(&self, name: &str, session: &mut Session<'_>) -> Result<()> {
        let (client, topic) = (session.client(), self.topic(name));
        let created = match &self.publisher {
            Some(publisher) => {
                let call = publisher.create_topic(topic);
                session.call("CreateTopic", call).await?
            }
            None => {
                let call = client.create_topic(topic);
                session.call("CreateTopic", call).await?
            }
        };
        session.tell_leader(&created.placement)?;
        print(created, session)
    }

    async fn some(&self, names: Vec<String>, session: &mut Session<'_>) -> Result<()> {
        let count = names.len();
        let failed = self.batch(&names, session).await?;
        verdict(failed, count)
    }

    /// The names come from standard input.
    async fn read(&self, session: &mut Session<'_>) -> Result<()> {
        let mut lines = Batches::new(BufReader::new(tokio::io::stdin()));
        let (mut count, mut failed) = (0, 0);
        let mut names: Vec<String> = Vec::new();
        loop {
            let batch = lines.next().await?;
            let is_end = batch.is_none();
            for line in batch.into_iter().flatten() {
                let name = String::from_utf8_lossy(&line).trim().to_owned();
                names.extend(Some(name).filter(|name| !name.is_empty()));
            }
            if names.len() >= NAMES_AT_ONCE || is_end {
                count += names.len();
                failed += self.batch(&names, session).await?;
                names.clear();
            }
            if is_end {
                return verdict(failed, count);
            }
        }
    }

    /// Creates all of them, and says how many could not be.
    async fn batch(&self, names: &[String], session: &mut Session<'_>) -> Result<usize> {
        let topics = names.iter().map(|name| self.topic(name));
        let begun = Instant::now();
        let results = match &self.publisher {
            Some(publisher) => publisher.create_topics(topics).await,
            None => session.client().create_topics(topics).await,
        };
        session.tell_time("BatchCreateTopics", begun)?;
        let mut failed = 0;
        for (name, result) in names.iter().zip(results) {
            match result {
                Ok(created) => print(created, session)?,
                Err(error) => {
                    failed += 1;
                    session.output.word(format_args!("topic {name}: {error}"))?;
                }
            }
        }
        Ok(failed)
    }
}

/// Some of many failed: each was told.
fn verdict(failed: usize, count: usize) -> Result<()> {
    match failed {
        0 => Ok(()),
        _ => {
            let problem = format!("{failed} of {count} topics were not created");
            Err(Failure::Failed(problem).into())
        }
    }
}

fn print(created: sdk::Placed<sdk::Topic>, session: &mut Session<'_>) -> Result<()> {
    let place = text::placement(&created.placement.owner, &created.placement.replicas);
    let record = Placed::<Topic>::from(created);
    let words = format_args!("topic {} created: {place}", record.item.topic);
    Ok(session.output.line(words, &record)?)
}

async fn update(topic: &str, bounds: Bounds, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    let updated = session
        .call("UpdateTopic", client.update_topic(topic, bounds.into()))
        .await?;
    session.tell_leader(&updated.placement)?;
    let record = Placed::<Topic>::from(updated);
    Ok(session.output.line(described(&record), &record)?)
}

async fn delete(topic: &str, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    session
        .call("DeleteTopic", client.delete_topic(topic))
        .await?;
    let record = Deleted {
        topic: Some(topic),
        deleted: true,
        ..Deleted::default()
    };
    Ok(session
        .output
        .line(format_args!("topic {topic} deleted"), &record)?)
}

async fn get(topic: &str, consistency: Reading, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    let found = session
        .call("GetTopic", client.topic(topic, consistency.into()))
        .await?;
    session.tell_source(found.source.as_ref())?;
    let record = Placed::<Topic>::from(found);
    Ok(session.output.line(described(&record), &record)?)
}

/// A topic in one sentence.
fn described(topic: &Placed<Topic>) -> String {
    let Placed { item, replicas, .. } = topic;
    let place = text::placement(&item.owner, replicas);
    let count = item.message_count();
    let messages = match count {
        0 => format!("no message, the next gets offset {}", item.next_offset),
        _ => format!(
            "{} at {}",
            text::count(count, "message"),
            text::offsets(item.first_offset, count)
        ),
    };
    let creator = item
        .creator
        .as_ref()
        .map_or_else(String::new, |creator| format!(" by {creator}"));
    let (name, bytes, time) = (
        &item.topic,
        text::count(item.bytes, "byte"),
        &item.create_time,
    );
    let keeps = Retention::sentence(item.retention.as_ref());
    format!("topic {name}: {place}; {messages}, {bytes}; {keeps}; created {time}{creator}")
}

async fn locate(topic: &str, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    let location = session
        .call("LocateTopic", client.locate_topic(topic))
        .await?;
    session.tell_source(location.source.as_ref())?;
    let record = Location::from(location);
    session.output.line(record.sentence(), &record)?;
    if session.output.format() == Format::Text && !record.replica_status.is_empty() {
        session
            .output
            .table(Some(<Replica as Row>::HEADER), &record.replica_status)?;
    }
    Ok(())
}
