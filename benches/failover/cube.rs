//! Eight processes of the real binary, and the SDK.
//!
//! It never retries: the SDK does, as it does for every application. Begin with [`Cube::start`].

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cubecast_sdk::{
    AckLevel, Client, Consistency, NodeStatus, Publisher, PullOptions, ReplicaState, Start,
    VerifyOptions,
};
use tokio::time::Instant;

use crate::shared::process::Processes;
use crate::system::{self, DEADLINE, Harm, Level, System, TOPICS};

/// Peers, one at home at each vertex.
const PEERS: usize = 8;
/// How long a peer may take to tell about itself.
const STATUS_MAX: Duration = Duration::from_millis(500);
/// How long a shard may be without a leader that all know.
const LEADER_MAX: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// The cluster. Killed when dropped.
pub struct Cube {
    name: String,
    processes: Processes,
    /// Asks peers about themselves.
    operator: Client,
    /// Topic `i` is owned by vertex `i`.
    topics: Vec<String>,
}

/// Publishes and reads through the SDK.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    publishers: Vec<Publisher>,
    topics: Vec<String>,
}

impl Cube {
    /// Starts the peers, with their data in this folder.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let processes = Processes::start(folder).await;
        let operator = client(&processes, STATUS_MAX).await?;
        let topics = create_topics(&client(&processes, DEADLINE).await?).await?;
        Ok(Self {
            name: format!("cubecast {}, {PEERS} peers", env!("CARGO_PKG_VERSION")),
            processes,
            operator,
            topics,
        })
    }

    async fn status(&self, peer: usize) -> anyhow::Result<NodeStatus> {
        let address = self.processes.address(peer);
        let asked = tokio::time::timeout(STATUS_MAX, self.operator.node_status(&address));
        Ok(asked.await??)
    }
}

async fn client(processes: &Processes, deadline: Duration) -> anyhow::Result<Client> {
    let builder = (0..PEERS).fold(Client::builder(), |builder, peer| {
        builder.peer(processes.address(peer))
    });
    Ok(builder.deadline(deadline).connect().await?)
}

/// Names are tried until each vertex owns one.
async fn create_topics(client: &Client) -> anyhow::Result<Vec<String>> {
    let mut topics = std::collections::BTreeMap::new();
    for number in 0_u32.. {
        let topic = format!("failover-{number}");
        let owner = client.locate_topic(&topic).await?.placement.owner;
        if let std::collections::btree_map::Entry::Vacant(place) = topics.entry(owner) {
            client.create_topic(&topic).await?;
            place.insert(topic);
        }
        if topics.len() == TOPICS {
            break;
        }
    }
    for number in 0..TOPICS {
        client.create_publisher(&publisher(number)).await?;
    }
    Ok(topics.into_values().collect())
}

fn publisher(topic: usize) -> String {
    format!("publisher-{topic}")
}

impl system::Client for Caller {
    async fn publish(&self, topic: usize, number: u64) -> anyhow::Result<u64> {
        let publisher = self.publishers.get(topic).context("a topic of ours")?;
        let topic = self.topics.get(topic).context("a topic of ours")?;
        let published = publisher.publish(topic, [system::payload(number)]).await?;
        ensure!(published.reached >= AckLevel::Quorum, "{published:?}");
        Ok(published.first_offset)
    }

    async fn read(&self, topic: usize, level: Level) -> anyhow::Result<u64> {
        let topic = self.topics.get(topic).context("a topic of ours")?;
        let consistency = match level {
            Level::Eventual => Consistency::Eventual,
            Level::Linearizable => Consistency::Linearizable,
        };
        Ok(self
            .client
            .topic(topic, consistency)
            .await?
            .item
            .next_offset)
    }
}

impl System for Cube {
    type Client = Caller;

    fn name(&self) -> &str {
        &self.name
    }

    async fn client(&self) -> anyhow::Result<Caller> {
        let client = client(&self.processes, DEADLINE).await?;
        let publishers = (0..TOPICS).map(|topic| client.publisher(publisher(topic)));
        Ok(Caller {
            publishers: publishers.collect(),
            topics: self.topics.clone(),
            client,
        })
    }

    async fn leader(&mut self, topic: usize) -> anyhow::Result<usize> {
        let begun = Instant::now();
        loop {
            let mut leading = None;
            for peer in 0..PEERS {
                let Ok(status) = self.status(peer).await else {
                    continue;
                };
                let shard = status
                    .shards
                    .iter()
                    .find(|shard| is_of(&shard.shard, topic));
                if let Some(shard) = shard.filter(|shard| shard.state == ReplicaState::Leader) {
                    leading = leading.max(Some((shard.term, peer)));
                }
            }
            if let Some((_, peer)) = leading {
                return Ok(peer);
            }
            if begun.elapsed() > LEADER_MAX {
                bail!("nobody leads topic {topic} for {LEADER_MAX:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn home(&self, process: usize) -> Option<usize> {
        Some(process)
    }

    fn harm(&mut self, process: usize, harm: Harm) -> anyhow::Result<()> {
        match harm {
            Harm::Kill => self.processes.kill(process),
            Harm::Pause => system::signal(self.processes.pid(process), "-STOP")?,
            Harm::Stop => system::signal(self.processes.pid(process), "-TERM")?,
        }
        Ok(())
    }

    fn has_ended(&mut self, process: usize) -> anyhow::Result<bool> {
        let Some(status) = self.processes.ended(process) else {
            return Ok(false);
        };
        ensure!(status.success(), "peer {process} ended with {status}");
        Ok(true)
    }

    fn heal(&mut self, process: usize) -> anyhow::Result<()> {
        if self.processes.is_running(process) {
            return system::signal(self.processes.pid(process), "-CONT");
        }
        self.processes.start_peer(process);
        Ok(())
    }

    async fn is_back(&mut self, process: usize) -> bool {
        let Ok(status) = self.status(process).await else {
            return false;
        };
        let has_leaders = status.shards.iter().all(|shard| shard.leader.is_some());
        let own = status
            .shards
            .iter()
            .find(|shard| is_of(&shard.shard, process));
        has_leaders && own.is_some_and(|shard| shard.state == ReplicaState::Leader)
    }

    async fn numbers(&mut self, topic: usize) -> anyhow::Result<Vec<u64>> {
        let client = client(&self.processes, DEADLINE).await?;
        let subscriber = format!("checks-{topic}");
        client.create_subscriber(&subscriber).await?;
        let name = self.topics.get(topic).context("a topic of ours")?;
        let subscriber = client.subscriber(subscriber);
        let subscription = subscriber.subscribe(name, Start::Earliest).await?;
        let mut numbers = Vec::new();
        let mut options = PullOptions::new().consistency(Consistency::Linearizable);
        loop {
            let pulled = subscription.pull(options).await?;
            options = PullOptions::new()
                .consistency(Consistency::Linearizable)
                .acknowledge_to(pulled.next_offset);
            if pulled.is_empty() {
                return Ok(numbers);
            }
            for message in pulled {
                ensure!(message.offset == numbers.len() as u64, "offsets are dense");
                numbers.push(system::number(&message.payload)?);
            }
        }
    }

    async fn disagreement(&mut self) -> anyhow::Result<Option<String>> {
        let client = client(&self.processes, DEADLINE).await?;
        let shards = client.verify_replicas(VerifyOptions::new()).await?;
        let wrong = shards.into_iter().find(|shard| !shard.is_consistent);
        Ok(wrong.map(|shard| format!("{shard:?}")))
    }
}

/// The shard of this vertex.
fn is_of(bits: &str, vertex: usize) -> bool {
    usize::from_str_radix(bits, 2) == Ok(vertex)
}
