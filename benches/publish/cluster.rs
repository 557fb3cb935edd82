//! The eight peers, and what the callers need to be ready.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use cubecast_sdk::proto::v1::peer_service_client::PeerServiceClient;
use cubecast_sdk::{Client, Publisher};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::MANY;
use crate::shared::process::Processes;
use crate::shared::{PEERS, connect, names_of_all_owners};

/// Eight processes of the real binary with topics and publishers. Killed when dropped.
pub struct Cluster {
    processes: Processes,
    client: Client,
    /// One for each owner; the first is the one of the cases with a single topic.
    topics: Vec<String>,
    publishers: Vec<Publisher>,
    distant: PeerServiceClient<Channel>,
    /// From the first process on until all serve.
    pub started_in: Duration,
}

impl Cluster {
    /// Starts the peers and makes everybody known to everybody.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let processes = Processes::start(folder).await;
        let started_in = begun.elapsed();
        let client = connect(&processes).await?;
        let topics = create_topics(&client).await?;
        let first = topics.first().context("there are topics")?;
        let publishers = create_publishers(&client, first).await?;
        let distant = processes.client(distant_peer(&client, first).await?).await;
        Ok(Self {
            processes,
            client,
            topics,
            publishers,
            distant,
            started_in,
        })
    }

    /// The client of the SDK, which knows all peers.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Topics of all owners.
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// The topic of the cases with one.
    pub fn topic(&self) -> &str {
        self.topics.first().map_or("", String::as_str)
    }

    /// So many of the publishers.
    pub fn publishers(&self, count: usize) -> impl Iterator<Item = &Publisher> {
        self.publishers.iter().take(count)
    }

    /// A client of a peer that has no replica of [`Self::topic`], so it forwards.
    pub fn distant(&self) -> PeerServiceClient<Channel> {
        self.distant.clone()
    }

    /// The processes of the peers.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.pids()
    }
}

/// Each has a message.
async fn create_topics(client: &Client) -> anyhow::Result<Vec<String>> {
    let topics = names_of_all_owners(client, "bench").await?;
    for topic in &topics {
        client.create_topic(topic).await?;
        client.publish(topic, ["first"]).await?;
    }
    Ok(topics)
}

/// Each has published once, so that its session is known.
async fn create_publishers(client: &Client, topic: &str) -> anyhow::Result<Vec<Publisher>> {
    let mut publishers = Vec::new();
    for number in 0..MANY {
        let id = format!("publisher-{number}");
        client.create_publisher(&id).await?;
        let publisher = client.publisher(id);
        publisher.publish(topic, ["first"]).await?;
        publishers.push(publisher);
    }
    Ok(publishers)
}

/// A peer that neither leads nor follows the topic's shard.
async fn distant_peer(client: &Client, topic: &str) -> anyhow::Result<usize> {
    let placement = client.locate_topic(topic).await?.placement;
    let near = placement.replicas.iter().chain([&placement.owner]);
    let near: Vec<usize> = near
        .map(|bits| usize::from_str_radix(bits, 2))
        .collect::<Result<_, _>>()?;
    // In this cluster, peer i is the home of vertex i.
    (0..PEERS)
        .find(|peer| !near.contains(peer))
        .context("every peer has a replica")
}
