//! `seek`: moves a cursor to any place, also back. Begin with [`run`].

use anyhow::Result;
use clap::Args;
use cubecast_sdk::Start;

use super::argument;
use super::record::Cursor;
use super::session::Session;

/// Move a cursor to any place, also back
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The topic
    topic: String,
    /// Where to: earliest, latest, an offset, or a time such as 2026-01-31T12:00:00Z
    #[arg(value_parser = argument::start)]
    place: Start,
    /// The subscriber
    #[arg(long, value_name = "ID")]
    subscriber: String,
}

pub(super) async fn run(arguments: Arguments, session: &mut Session<'_>) -> Result<()> {
    let Arguments {
        topic,
        place,
        subscriber,
    } = &arguments;
    let subscription = session
        .client()
        .subscriber(subscriber.as_str())
        .subscription(topic);
    let cursor = session.call("Seek", subscription.seek(*place)).await?;
    let record = Cursor {
        topic,
        subscriber,
        next_offset: cursor,
    };
    Ok(session.output.line(
        format_args!("{subscriber} goes on in {topic} at offset {cursor}"),
        &record,
    )?)
}
