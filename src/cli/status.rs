//! `status`: every peer that can be found, and every shard, put together from what each peer says of itself.
//!
//! Peers are found by their neighbours, so one address is enough while the cube is connected. A peer that is named and does not answer is
//! shown as unreachable. JSON: an object of kind `peer` for each, then one of kind `shard` for each. Begin with [`run`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use cubecast_sdk::proto::v1::StorageStatus;
use cubecast_sdk::{Client, NodeStatus, ReplicaState, Shard};
use futures::future::join_all;
use serde::Serialize;

use super::output::{Format, Output, Row};
use super::record::{self, Replica};
use super::session::Session;
use super::text;

/// A peer that needs longer is told to be unreachable.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);

/// Tell about all peers and shards: who is there, who leads, who lags
#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) async fn run(_: Arguments, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    let patience = session
        .global()
        .timeout_or(PEER_TIMEOUT)
        .min(session.global().timeout());
    let survey = session
        .call("GetNodeStatus", async {
            Ok(Survey::new(&client, patience).await)
        })
        .await?;
    print(&survey, session.output)
}

/// What was heard.
#[derive(Debug, Default)]
struct Survey {
    /// By the number of the peer.
    heard: BTreeMap<u32, NodeStatus>,
    /// Peers that another one named: vertex and address, by number.
    named: BTreeMap<u32, (String, String)>,
}

impl Survey {
    async fn new(client: &Client, patience: Duration) -> Self {
        let mut survey = Self::default();
        let mut asked = BTreeSet::new();
        loop {
            let named = survey
                .named
                .iter()
                .filter(|(peer, _)| !survey.heard.contains_key(peer));
            let named = named.map(|(_, (_, address))| address.clone());
            let new: Vec<String> = client
                .addresses()
                .into_iter()
                .chain(named)
                .filter(|address| asked.insert(address.clone()))
                .collect();
            if new.is_empty() {
                return survey;
            }
            let answers = new
                .iter()
                .map(|address| tokio::time::timeout(patience, client.node_status(address)));
            for status in join_all(answers).await.into_iter().flatten().flatten() {
                survey.hear(status);
            }
        }
    }

    fn hear(&mut self, status: NodeStatus) {
        for neighbour in &status.neighbours {
            if !neighbour.address.is_empty() {
                let place = (neighbour.vertex.clone(), neighbour.address.clone());
                self.named.entry(neighbour.peer).or_insert(place);
            }
        }
        self.heard.insert(status.peer, status);
    }

    /// All peers, by number.
    fn peers(&self) -> Vec<Peer> {
        let missing = self
            .named
            .iter()
            .filter(|(peer, _)| !self.heard.contains_key(peer));
        let missing =
            missing.map(|(peer, (vertex, address))| Peer::unreachable(*peer, vertex, address));
        let mut peers: Vec<Peer> = self.heard.values().map(Peer::new).chain(missing).collect();
        peers.sort_by_key(|peer| peer.peer);
        peers
    }

    /// All shards, by vertex.
    fn shards(&self) -> Vec<ShardRow> {
        let mut reports: BTreeMap<&str, Vec<(u32, &Shard)>> = BTreeMap::new();
        for status in self.heard.values() {
            for shard in &status.shards {
                reports
                    .entry(&shard.shard)
                    .or_default()
                    .push((status.peer, shard));
            }
        }
        reports
            .values()
            .filter_map(|reports| self.shard(reports))
            .collect()
    }

    /// One shard, as its leader tells it, or else the peer with the greatest term.
    fn shard(&self, reports: &[(u32, &Shard)]) -> Option<ShardRow> {
        let (_, best) = reports
            .iter()
            .max_by_key(|(_, shard)| (shard.state == ReplicaState::Leader, shard.term))?;
        let replicas = best.replicas.iter().map(|replica| {
            let own = reports.iter().find(|(peer, _)| *peer == replica.peer);
            let mut row = Replica::from(replica.clone());
            row.state = match own {
                Some((_, own)) => record::state(own.state),
                None if self.heard.contains_key(&replica.peer) => row.state,
                None => "unreachable",
            };
            row
        });
        Some(ShardRow {
            kind: "shard",
            shard: best.shard.clone(),
            leader: best.leader.clone(),
            term: best.term,
            committed_index: best.committed_index,
            topic_count: best.topic_count,
            replicas: replicas.collect(),
        })
    }
}

/// One peer.
#[derive(Debug, Serialize)]
struct Peer {
    /// `peer`.
    kind: &'static str,
    vertex: String,
    peer: u32,
    address: String,
    /// `ready`, `starting`, `draining`, `full` (its disk), `failed` (its storage) or `unreachable`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_ms: Option<u64>,
    /// The shards that it leads.
    leads: Vec<String>,
    /// All shards of which it has a replica, those that it leads included.
    shards: Vec<String>,
    /// Its neighbours whose direct link does not work.
    broken_links: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<Storage>,
    /// Its replicas that are made again from the others: shard and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    repairs: BTreeMap<String, String>,
}

/// What is on a peer's disk.
#[derive(Debug, Serialize)]
struct Storage {
    wal_bytes: u64,
    wal_segments: u32,
    store_bytes: u64,
    memtable_bytes: u64,
    store_journals: u64,
    store_level0_tables: u64,
    store_flushes: u64,
    store_flushes_waiting: u64,
    store_blob_files: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_free_bytes: Option<u64>,
    disk_reserve_bytes: u64,
    /// No messages are taken: the log waits for room, or less is free than is to stay free.
    is_full: bool,
}

impl Storage {
    fn new(storage: &StorageStatus) -> Self {
        let is_low = storage
            .disk_free_bytes
            .is_some_and(|free| free < storage.disk_reserve_bytes);
        Self {
            wal_bytes: storage.wal_bytes,
            wal_segments: storage.wal_segments,
            store_bytes: storage.store_bytes,
            memtable_bytes: storage.memtable_bytes,
            store_journals: storage.store_journals,
            store_level0_tables: storage.store_level0_tables,
            store_flushes: storage.store_flushes,
            store_flushes_waiting: storage.store_flushes_waiting,
            store_blob_files: storage.store_blob_files,
            disk_free_bytes: storage.disk_free_bytes,
            disk_reserve_bytes: storage.disk_reserve_bytes,
            is_full: storage.wal_is_waiting || is_low,
        }
    }

    /// `log 64MiB, store 1.5GiB, 20GiB free`.
    fn words(&self) -> String {
        let free = self
            .disk_free_bytes
            .map_or_else(String::new, |free| format!(", {} free", text::bytes(free)));
        let (log, store) = (text::bytes(self.wal_bytes), text::bytes(self.store_bytes));
        format!("log {log}, store {store}{free}")
    }
}

impl Peer {
    fn new(status: &NodeStatus) -> Self {
        let storage = Storage::new(&status.storage);
        let state = match status {
            NodeStatus { storage, .. } if storage.has_failed => "failed",
            NodeStatus {
                is_draining: true, ..
            } => "draining",
            NodeStatus { is_ready: true, .. } if storage.is_full => "full",
            NodeStatus { is_ready: true, .. } => "ready",
            _ => "starting",
        };
        let leads = status
            .shards
            .iter()
            .filter(|shard| shard.state == ReplicaState::Leader);
        let broken = status
            .neighbours
            .iter()
            .filter(|neighbour| neighbour.is_reachable == Some(false));
        Self {
            kind: "peer",
            vertex: status.vertices.join(","),
            peer: status.peer,
            address: status.address.clone(),
            state,
            version: Some(status.version.clone()),
            uptime_ms: u64::try_from(status.uptime.as_millis()).ok(),
            leads: leads.map(|shard| shard.shard.clone()).collect(),
            shards: status
                .shards
                .iter()
                .map(|shard| shard.shard.clone())
                .collect(),
            broken_links: broken.map(|neighbour| neighbour.vertex.clone()).collect(),
            storage: Some(storage),
            repairs: status.shards.iter().filter_map(repair).collect(),
        }
    }

    fn unreachable(peer: u32, vertex: &str, address: &str) -> Self {
        Self {
            kind: "peer",
            vertex: vertex.to_owned(),
            peer,
            address: address.to_owned(),
            state: "unreachable",
            version: None,
            uptime_ms: None,
            leads: Vec::new(),
            shards: Vec::new(),
            broken_links: Vec::new(),
            storage: None,
            repairs: BTreeMap::new(),
        }
    }
}

/// A replica that is made again, and why.
fn repair(shard: &Shard) -> Option<(String, String)> {
    Some((shard.shard.clone(), shard.problem.clone()?))
}

impl Row for Peer {
    const HEADER: &'static [&'static str] = &[
        "VERTEX",
        "ADDRESS",
        "STATE",
        "LEADS",
        "REPLICAS OF",
        "DISK",
        "UP",
        "VERSION",
    ];

    fn cells(&self) -> Vec<String> {
        let others: Vec<String> = self
            .shards
            .iter()
            .filter(|shard| !self.leads.contains(shard))
            .cloned()
            .collect();
        let state = if self.broken_links.is_empty() {
            self.state.to_owned()
        } else {
            format!("{}, no link to {}", self.state, self.broken_links.join(" "))
        };
        let uptime = self.uptime_ms.map(|uptime| {
            humantime::format_duration(Duration::from_secs(uptime / 1_000)).to_string()
        });
        vec![
            self.vertex.clone(),
            self.address.clone(),
            state,
            text::list(&self.leads),
            text::list(&others),
            self.storage
                .as_ref()
                .map_or_else(|| "-".to_owned(), Storage::words),
            uptime.unwrap_or_else(|| "-".to_owned()),
            self.version.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

/// One shard.
#[derive(Debug, Serialize)]
struct ShardRow {
    /// `shard`.
    kind: &'static str,
    shard: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<String>,
    term: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    committed_index: Option<u64>,
    topic_count: u64,
    /// The owner's first.
    replicas: Vec<Replica>,
}

impl Row for ShardRow {
    const HEADER: &'static [&'static str] = &[
        "SHARD",
        "LEADER",
        "TERM",
        "TOPICS",
        "COMMITTED",
        "REPLICAS (STATE, ENTRIES BEHIND)",
    ];

    fn cells(&self) -> Vec<String> {
        let replicas: Vec<String> = self.replicas.iter().map(in_words).collect();
        vec![
            self.shard.clone(),
            self.leader.clone().unwrap_or_else(|| "-".to_owned()),
            self.term.to_string(),
            self.topic_count.to_string(),
            self.committed_index
                .map_or_else(|| "-".to_owned(), |index| index.to_string()),
            replicas.join(", "),
        ]
    }
}

/// `101 follower 2`, `000 standby 0`.
fn in_words(replica: &Replica) -> String {
    let what = match (replica.role, replica.state) {
        ("standby", "learner" | "unknown") => "standby",
        (_, state) => state,
    };
    match replica.lag_entries {
        Some(lag) if what != "leader" => format!("{} {what} {lag}", replica.vertex),
        _ => format!("{} {what}", replica.vertex),
    }
}

fn print(survey: &Survey, output: &mut Output) -> Result<()> {
    if let Some(any) = survey.heard.values().next()
        && output.format() == Format::Text
    {
        let copies = if any.replication_factor == 1 {
            "copy"
        } else {
            "copies"
        };
        let (name, dimension, factor) = (&any.cluster, any.dimension, any.replication_factor);
        output.bytes(format!("cluster {name}, a cube of dimension {dimension}, {factor} {copies} of each topic\n\n").as_bytes())?;
    }
    let peers = survey.peers();
    output.table(Some(Peer::HEADER), &peers)?;
    if output.format() == Format::Text {
        for peer in &peers {
            for (shard, problem) in &peer.repairs {
                let line = format!(
                    "peer {} makes its replica of {shard} again: {problem}\n",
                    peer.peer
                );
                output.bytes(line.as_bytes())?;
            }
        }
        output.bytes(b"\n")?;
    }
    Ok(output.table(Some(ShardRow::HEADER), &survey.shards())?)
}

#[cfg(test)]
mod tests;
