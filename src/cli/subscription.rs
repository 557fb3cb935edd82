//! `subscribe`, `unsubscribe` and `subscription list`. Cursors are moved elsewhere: `acknowledge`, `seek`. Begin with [`subscribe`].

use anyhow::Result;
use clap::{Args, Subcommand};
use cubecast_sdk::{Start, SubscriptionFilter};

use super::argument;
use super::record::Deleted;
use super::session::Session;
use super::sharing::{Subscription, Terms};

/// List subscriptions
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List subscriptions, ordered by the topics' owner, then topic, then subscriber
    List {
        /// Only those on this topic
        #[arg(long)]
        topic: Option<String>,
        /// Only those of this subscriber
        #[arg(long, value_name = "ID")]
        subscriber: Option<String>,
    },
}

/// Make a durable cursor of a subscriber on a topic
#[derive(Debug, Args)]
pub(super) struct Subscribe {
    /// The topic
    topic: String,
    /// The subscriber; it must exist
    #[arg(long, value_name = "ID")]
    subscriber: String,
    /// Where a new cursor begins: earliest, latest, an offset, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "PLACE", default_value = "earliest", value_parser = argument::start)]
    from: Start,
    #[command(flatten)]
    terms: Terms,
}

/// Remove a subscription with its cursor
#[derive(Debug, Args)]
pub(super) struct Unsubscribe {
    /// The topic
    topic: String,
    /// The subscriber
    #[arg(long, value_name = "ID")]
    subscriber: String,
}

pub(super) async fn run(command: Command, session: &mut Session<'_>) -> Result<()> {
    let Command::List { topic, subscriber } = command;
    let subscriptions = session
        .client()
        .subscriptions(SubscriptionFilter { topic, subscriber });
    session
        .list::<_, Subscription>("subscriptions", subscriptions)
        .await
}

pub(super) async fn subscribe(arguments: Subscribe, session: &mut Session<'_>) -> Result<()> {
    let Subscribe {
        topic,
        subscriber,
        from,
        terms,
    } = arguments;
    let reader = session.client().subscriber(subscriber.as_str());
    let subscription = match terms.sharing() {
        Some(sharing) => {
            let subscribing = reader.subscribe_shared(&topic, from, sharing);
            session.call("Subscribe", subscribing).await?
        }
        None => {
            let subscribing = reader.subscribe(&topic, from);
            session.call("Subscribe", subscribing).await?
        }
    };
    let Some(made) = subscription.made().cloned() else {
        return Ok(());
    };
    let record = Subscription {
        is_existing: Some(made.is_existing),
        ..made.info.into()
    };
    let was = if made.is_existing { " already" } else { "" };
    let offset = record.next_offset;
    let shared = record.shared.as_ref();
    let read_by = shared.map_or_else(String::new, |shared| {
        format!(", read by {}", shared.words())
    });
    let words = format!(
        "subscriber {subscriber} is{was} subscribed to {topic}, next offset {offset}{read_by}"
    );
    Ok(session.output.line(words, &record)?)
}

pub(super) async fn unsubscribe(arguments: Unsubscribe, session: &mut Session<'_>) -> Result<()> {
    let Unsubscribe { topic, subscriber } = &arguments;
    let subscription = session
        .client()
        .subscriber(subscriber.as_str())
        .subscription(topic);
    session
        .call("Unsubscribe", subscription.unsubscribe())
        .await?;
    let record = Deleted {
        topic: Some(topic),
        subscriber: Some(subscriber),
        deleted: true,
        ..Deleted::default()
    };
    Ok(session.output.line(
        format_args!("subscriber {subscriber} is no longer subscribed to {topic}"),
        &record,
    )?)
}
