//! `subscriber`: create, delete and list subscribers. Begin with [`run`].

use anyhow::Result;
use clap::Subcommand;

use super::record::{Deleted, Placed, Subscriber};
use super::session::Session;
use super::text;

/// Create, delete and list subscribers
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make the id of a subscriber known
    Create {
        /// Id: 1 to 249 of A-Z a-z 0-9 . _ -
        subscriber: String,
    },
    /// Remove a subscriber with all its subscriptions
    Delete {
        /// Its id
        subscriber: String,
    },
    /// List subscribers, ordered by owner, then id
    List {
        /// Only those whose id begins so
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
    },
}

pub(super) async fn run(command: Command, session: &mut Session<'_>) -> Result<()> {
    match command {
        Command::Create { subscriber } => create(&subscriber, session).await,
        Command::Delete { subscriber } => delete(&subscriber, session).await,
        Command::List { prefix } => {
            let subscribers = session.client().subscribers(&prefix);
            session
                .list::<_, Subscriber>("subscribers", subscribers)
                .await
        }
    }
}

async fn create(subscriber: &str, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    let created = session
        .call("CreateSubscriber", client.create_subscriber(subscriber))
        .await?;
    let place = text::placement(&created.placement.owner, &created.placement.replicas);
    let record = Placed::<Subscriber>::from(created);
    Ok(session.output.line(
        format_args!("subscriber {subscriber} created: {place}"),
        &record,
    )?)
}

async fn delete(subscriber: &str, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    session
        .call("DeleteSubscriber", client.delete_subscriber(subscriber))
        .await?;
    let record = Deleted {
        subscriber: Some(subscriber),
        deleted: true,
        ..Deleted::default()
    };
    Ok(session
        .output
        .line(format_args!("subscriber {subscriber} deleted"), &record)?)
}
