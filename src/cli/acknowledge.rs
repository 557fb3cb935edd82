//! `acknowledge`: moves a cursor forward, never back. Begin with [`run`].

use anyhow::Result;
use clap::Args;

use super::record::Cursor;
use super::session::Session;

/// Say that all messages below an offset are done
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The topic
    topic: String,
    /// The offset after the last message that is done
    next_offset: u64,
    /// The subscriber
    #[arg(long, value_name = "ID")]
    subscriber: String,
}

pub(super) async fn run(arguments: Arguments, session: &mut Session<'_>) -> Result<()> {
    let Arguments {
        topic,
        next_offset,
        subscriber,
    } = &arguments;
    let subscription = session
        .client()
        .subscriber(subscriber.as_str())
        .subscription(topic);
    let cursor = session
        .call("Acknowledge", subscription.acknowledge(*next_offset))
        .await?;
    let record = Cursor {
        topic,
        subscriber,
        next_offset: cursor,
    };
    let words = format_args!("{subscriber} has acknowledged {topic} up to next offset {cursor}");
    Ok(session.output.line(words, &record)?)
}
