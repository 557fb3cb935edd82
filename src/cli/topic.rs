//! `topic`: create, delete, find and list topics. It reads no message. Begin with [`run`].

use anyhow::Result;
use clap::Subcommand;
use cubecast_sdk::TopicFilter;

use super::argument::Reading;
use super::output::{Format, Row};
use super::record::{Deleted, Location, Placed, Replica, Topic};
use super::session::Session;
use super::text;

/// Create, delete, find and list topics
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a topic
    Create {
        /// Name: 1 to 249 of A-Z a-z 0-9 . _ -
        topic: String,
        /// The publisher in whose name it is created; it must exist
        #[arg(long, value_name = "ID")]
        publisher: Option<String>,
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
        Command::Create { topic, publisher } => create(&topic, publisher, session).await,
        Command::Delete { topic } => delete(&topic, session).await,
        Command::List { publisher, prefix } => {
            let topics = session.client().topics(TopicFilter { publisher, prefix });
            session.list::<_, Topic>("topics", topics).await
        }
        Command::Get { topic, consistency } => get(&topic, consistency, session).await,
        Command::Locate { topic } => locate(&topic, session).await,
    }
}

async fn create(topic: &str, publisher: Option<String>, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    let created = match publisher {
        Some(publisher) => {
            let publisher = client.publisher(publisher);
            session
                .call("CreateTopic", publisher.create_topic(topic))
                .await?
        }
        None => {
            session
                .call("CreateTopic", client.create_topic(topic))
                .await?
        }
    };
    let place = text::placement(&created.placement.owner, &created.placement.replicas);
    session.tell_leader(&created.placement)?;
    let record = Placed::<Topic>::from(created);
    Ok(session
        .output
        .line(format_args!("topic {topic} created: {place}"), &record)?)
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
    session.tell_leader(&found.placement)?;
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
    format!("topic {name}: {place}; {messages}, {bytes}; created {time}{creator}")
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
