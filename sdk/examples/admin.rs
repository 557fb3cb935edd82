//! Makes a topic, a publisher and a subscriber, and shows where they live and who is in the cluster.
//!
//! `cargo run -p cubecast-sdk --example admin -- http://127.0.0.1:8000`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use cubecast_sdk::{Client, Code, Error, TopicFilter};
use futures::TryStreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());
    let client = Client::connect([address]).await?;

    allow_existing(client.create_topic("news").await.map(drop))?;
    allow_existing(client.create_publisher("agency").await.map(drop))?;
    allow_existing(client.create_subscriber("reader").await.map(drop))?;

    let mut topics = client.topics(TopicFilter::default());
    while let Some(topic) = topics.try_next().await? {
        let location = client.locate_topic(&topic.name).await?;
        println!(
            "{}: owner {}, replicas {}, leader {}",
            topic.name,
            location.placement.owner,
            location.placement.replicas.join(", "),
            location.placement.leader.as_deref().unwrap_or("none")
        );
    }
    for member in client.cluster().await?.members {
        println!(
            "peer {} at {} is {:?}",
            member.peer, member.address, member.state
        );
    }
    Ok(())
}

/// What exists already is as good as made.
fn allow_existing(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.code() == Code::AlreadyExists => Ok(()),
        other => other,
    }
}
