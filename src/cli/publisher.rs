//! `publisher`: create, delete and list publishers. Begin with [`run`].

use anyhow::Result;
use clap::Subcommand;

use super::record::{Deleted, Placed, Publisher};
use super::session::Session;
use super::text;

/// Create, delete and list publishers
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make the id of a publisher known
    Create {
        /// Id: 1 to 249 of A-Z a-z 0-9 . _ -
        publisher: String,
    },
    /// Forget a publisher; its topics and messages stay
    Delete {
        /// Its id
        publisher: String,
    },
    /// List publishers, ordered by owner, then id
    List {
        /// Only those whose id begins so
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
    },
}

pub(super) async fn run(command: Command, session: &mut Session<'_>) -> Result<()> {
    match command {
        Command::Create { publisher } => create(&publisher, session).await,
        Command::Delete { publisher } => delete(&publisher, session).await,
        Command::List { prefix } => {
            let publishers = session.client().publishers(&prefix);
            session.list::<_, Publisher>("publishers", publishers).await
        }
    }
}

async fn create(publisher: &str, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    let created = session
        .call("CreatePublisher", client.create_publisher(publisher))
        .await?;
    let place = text::placement(&created.placement.owner, &created.placement.replicas);
    let record = Placed::<Publisher>::from(created);
    Ok(session.output.line(
        format_args!("publisher {publisher} created: {place}"),
        &record,
    )?)
}

async fn delete(publisher: &str, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    session
        .call("DeletePublisher", client.delete_publisher(publisher))
        .await?;
    let record = Deleted {
        publisher: Some(publisher),
        deleted: true,
        ..Deleted::default()
    };
    Ok(session
        .output
        .line(format_args!("publisher {publisher} deleted"), &record)?)
}
