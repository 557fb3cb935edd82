//! `status`: every peer that can be found, and every shard, put together from what each peer says of itself.
//!
//! Peers are found by their neighbours, so one address is enough while the cube is connected. A peer that is named and does not answer is
//! shown as unreachable. JSON: an object of kind `peer` for each, then one of kind `shard` for each. Begin with [`run`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
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
    /// `ready`, `starting`, `draining`, `failed` (its storage) or `unreachable`.
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
}

impl Peer {
    fn new(status: &NodeStatus) -> Self {
        let state = match status {
            NodeStatus { storage, .. } if storage.has_failed => "failed",
            NodeStatus {
                is_draining: true, ..
            } => "draining",
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
        }
    }
}

impl Row for Peer {
    const HEADER: &'static [&'static str] = &[
        "VERTEX",
        "ADDRESS",
        "STATE",
        "LEADS",
        "REPLICAS OF",
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
    output.table(Some(Peer::HEADER), &survey.peers())?;
    if output.format() == Format::Text {
        output.bytes(b"\n")?;
    }
    Ok(output.table(Some(ShardRow::HEADER), &survey.shards())?)
}

#[cfg(test)]
mod tests {
    use cubecast_sdk::proto::v1;
    use expect_test::expect;

    use super::*;

    fn replica(
        peer: u32,
        role: v1::ReplicaRole,
        state: v1::ReplicaState,
        lag_entries: Option<u64>,
    ) -> v1::Replica {
        v1::Replica {
            vertex: peer.to_string(),
            peer,
            role: role.into(),
            state: state.into(),
            lag_entries,
            ..v1::Replica::default()
        }
    }

    /// One of two peers of a cube of one dimension; the other does not answer.
    fn alone() -> Survey {
        let shard = v1::ShardStatus {
            shard: "0".to_owned(),
            role: v1::ReplicaRole::Voter.into(),
            state: v1::ReplicaState::Leader.into(),
            term: 2,
            leader: "0".to_owned(),
            committed_index: Some(7),
            topic_count: 1,
            replicas: vec![
                replica(0, v1::ReplicaRole::Voter, v1::ReplicaState::Leader, Some(0)),
                replica(
                    1,
                    v1::ReplicaRole::Standby,
                    v1::ReplicaState::Learner,
                    Some(3),
                ),
            ],
            ..v1::ShardStatus::default()
        };
        let neighbour = v1::Neighbour {
            vertex: "1".to_owned(),
            peer: 1,
            address: "http://b:1".to_owned(),
            is_reachable: Some(false),
            ..v1::Neighbour::default()
        };
        let status = v1::GetNodeStatusResponse {
            vertex: "0".to_owned(),
            address: "http://a:1".to_owned(),
            cluster: "test".to_owned(),
            dimension: 1,
            replication_factor: 2,
            version: "0.1.0".to_owned(),
            is_ready: true,
            neighbours: vec![neighbour],
            shards: vec![shard],
            ..v1::GetNodeStatusResponse::default()
        };
        let mut survey = Survey::default();
        survey.hear(status.into());
        survey
    }

    #[test]
    fn peer_that_is_only_named_is_unreachable() {
        let (mut output, written) = Output::captured(Format::Text);
        print(&alone(), &mut output).unwrap();
        expect![[r#"
            cluster test, a cube of dimension 1, 2 copies of each topic

            VERTEX  ADDRESS     STATE                LEADS  REPLICAS OF  UP  VERSION
            0       http://a:1  ready, no link to 1  0      -            0s  0.1.0
            1       http://b:1  unreachable          -      -            -   -

            SHARD  LEADER  TERM  TOPICS  COMMITTED  REPLICAS (STATE, ENTRIES BEHIND)
            0      0       2     1       7          0 leader, 1 unreachable 3
        "#]]
        .assert_eq(&written.data());
    }

    #[test]
    fn json_has_an_object_for_each_peer_and_shard() {
        let (mut output, written) = Output::captured(Format::Json);
        print(&alone(), &mut output).unwrap();
        expect![[r#"
            {"kind":"peer","vertex":"0","peer":0,"address":"http://a:1","state":"ready","version":"0.1.0","uptime_ms":0,"leads":["0"],"shards":["0"],"broken_links":["1"]}
            {"kind":"peer","vertex":"1","peer":1,"address":"http://b:1","state":"unreachable","leads":[],"shards":[],"broken_links":[]}
            {"kind":"shard","shard":"0","leader":"0","term":2,"committed_index":7,"topic_count":1,"replicas":[{"vertex":"0","peer":0,"role":"voter","state":"leader","lag_entries":0},{"vertex":"1","peer":1,"role":"standby","state":"unreachable","lag_entries":3}]}
        "#]].assert_eq(&written.data());
    }
}
