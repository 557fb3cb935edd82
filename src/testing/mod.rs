//! For tests and benchmarks: a whole cluster in one process, on loopback, in a temporary folder.
//!
//! Real peers, real TCP, real disks; only the ports are the system's choice. Begin with [`TestCluster::start`].

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a broken test cluster fails its test at once"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{Config, Setting, Sources};
use crate::consensus::Role;
use crate::env::disk::{Disk, SystemDisk};
use crate::env::net::{self, Listener};
use crate::node::{Error, Node, Switch};
use crate::replica::{Phase, Replica};
use crate::types::{PeerId, Vertex};

/// How long a cluster in one process may take to elect its leaders, with a debug build on a busy machine.
const READY_MAX: Duration = Duration::from_secs(30);

/// A cluster with one peer for each vertex.
pub struct TestCluster {
    settings: Vec<(&'static str, String)>,
    addresses: Vec<String>,
    /// Index: peer. `None` while it is stopped.
    peers: Vec<Option<Switch>>,
    folder: Folder,
}

/// Where the cluster keeps its data.
enum Folder {
    /// Removed with the cluster.
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl TestCluster {
    /// Eight peers, ready to serve.
    pub async fn start() -> Self {
        Self::with_settings(&[]).await
    }

    /// As [`Self::start`], with some settings changed: pairs of key and value as in a file.
    pub async fn with_settings(settings: &[(&'static str, &str)]) -> Self {
        let folder =
            Folder::Temporary(tempfile::tempdir().expect("a temporary folder can be made"));
        Self::in_folder(folder, settings).await
    }

    /// As [`Self::with_settings`], with the data of an earlier cluster, which is kept.
    pub async fn reopen(folder: &Path, settings: &[(&'static str, &str)]) -> Self {
        Self::in_folder(Folder::Kept(folder.to_owned()), settings).await
    }

    async fn in_folder(folder: Folder, settings: &[(&'static str, &str)]) -> Self {
        let settings: Vec<_> = settings
            .iter()
            .map(|(key, value)| (*key, (*value).to_owned()))
            .collect();
        let dimension: u32 = settings
            .iter()
            .find(|(key, _)| *key == "dimension")
            .map_or(3, |(_, d)| d.parse().expect("a number"));
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..1 << dimension {
            let listener =
                net::listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port is free");
            addresses.push(format!("http://{}", listener.address()));
            listeners.push(listener);
        }
        let peers = listeners.iter().map(|_| None).collect();
        let mut cluster = Self {
            settings,
            addresses,
            peers,
            folder,
        };
        for (peer, listener) in listeners.into_iter().enumerate() {
            cluster.launch(peer, Some(listener)).await;
        }
        cluster.ready().await;
        cluster
    }

    async fn launch(&mut self, peer: usize, listener: Option<Listener>) {
        let started = self.try_launch(peer, listener).await;
        started.unwrap_or_else(|error| panic!("peer {peer} does not start: {error}"));
    }

    async fn try_launch(&mut self, peer: usize, listener: Option<Listener>) -> Result<(), Error> {
        let switch = Box::pin(Switch::start(self.config(peer), listener)).await?;
        self.peers[peer] = Some(switch);
        Ok(())
    }

    /// The settings of one peer of the cluster.
    pub fn config(&self, peer: usize) -> Config {
        let port = self.addresses[peer]
            .rsplit(':')
            .next()
            .expect("an address has a port")
            .to_owned();
        let mut sources = Sources::default();
        let own = [
            ("peer", peer.to_string()),
            ("port", port),
            ("peers", self.addresses.join(",")),
            ("data_dir", self.folder().display().to_string()),
        ];
        for (key, value) in own.iter().chain(&self.settings) {
            let setting = Setting::with_key(key).unwrap_or_else(|| panic!("{key} is a setting"));
            sources = sources.flag(setting, value);
        }
        Config::load(&sources).unwrap_or_else(|error| panic!("the settings are right: {error}"))
    }

    /// Where the data is.
    pub fn folder(&self) -> &Path {
        match &self.folder {
            Folder::Temporary(folder) => folder.path(),
            Folder::Kept(path) => path,
        }
    }

    /// Waits until every running peer knows a leader of each of its shards.
    ///
    /// # Panics
    /// When that takes longer than half a minute.
    pub async fn ready(&self) {
        let deadline = Instant::now() + READY_MAX;
        for node in self.nodes() {
            assert!(
                node.ready(deadline).await,
                "peer {} has a shard without a leader: {:?}",
                node.peer(),
                node.replicas()
                    .all()
                    .iter()
                    .map(|replica| (replica.shard(), replica.status()))
                    .filter(|(_, status)| status.leader.is_none())
                    .collect::<Vec<_>>()
            );
        }
    }

    /// The address of a peer: `http://127.0.0.1:40001`.
    pub fn address(&self, peer: usize) -> &str {
        &self.addresses[peer]
    }

    /// All addresses, in the order of the peers.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// A running peer. Not to be kept: it holds the peer's disk.
    ///
    /// # Panics
    /// When it is stopped, or down for a while.
    pub fn node(&self, peer: usize) -> Arc<Node> {
        let node = self.peers[peer].as_ref().and_then(Switch::node);
        node.unwrap_or_else(|| panic!("peer {peer} is running"))
    }

    /// The running peers.
    fn nodes(&self) -> impl Iterator<Item = Arc<Node>> {
        self.peers.iter().flatten().filter_map(Switch::node)
    }

    /// A peer over all its lives.
    ///
    /// # Panics
    /// When it is stopped.
    pub fn switch(&self, peer: usize) -> &Switch {
        self.peers[peer]
            .as_ref()
            .unwrap_or_else(|| panic!("peer {peer} is not stopped"))
    }

    /// Stops a peer; its data stays.
    pub async fn stop_peer(&mut self, peer: usize) {
        if let Some(switch) = self.peers[peer].take() {
            switch.stop().await;
        }
    }

    /// Ends a peer as a kill does: its connections are cut, nobody is told, its data stays. [`Self::start_peer`] brings it back.
    pub async fn fail_peer(&mut self, peer: usize) {
        if let Some(switch) = self.peers[peer].take() {
            switch.fail().await;
        }
    }

    /// Starts a stopped peer at its old address.
    pub async fn start_peer(&mut self, peer: usize) {
        self.launch(peer, None).await;
    }

    /// As [`Self::start_peer`], for a peer that may refuse.
    ///
    /// # Errors
    /// Why it refuses.
    pub async fn try_start_peer(&mut self, peer: usize) -> Result<(), Error> {
        self.try_launch(peer, None).await
    }

    /// Starts those peers again whose disk failed under them, as a supervisor would, and says which.
    pub async fn restart_failed(&mut self) -> Vec<usize> {
        let mut failed = Vec::new();
        for peer in 0..self.peers.len() {
            let node = self.peers[peer].as_ref().and_then(Switch::node);
            if node.is_some_and(|node| node.failed().borrow().is_some()) {
                self.stop_peer(peer).await;
                self.start_peer(peer).await;
                failed.push(peer);
            }
        }
        failed
    }

    /// The folder of a peer's data.
    pub fn peer_dir(&self, peer: usize) -> PathBuf {
        self.config(peer).peer_dir()
    }

    /// Empties the folder of a stopped peer: what it looks like when its disk was replaced.
    ///
    /// # Panics
    /// When the peer runs.
    pub fn wipe_peer(&self, peer: usize) {
        assert!(self.peers[peer].is_none(), "peer {peer} is stopped");
        SystemDisk
            .remove_directory(&self.peer_dir(peer))
            .expect("the folder of a stopped peer can be removed");
    }

    /// Stops all peers.
    pub async fn stop(&mut self) {
        for peer in 0..self.peers.len() {
            self.stop_peer(peer).await;
        }
    }

    /// The running peers that hold a replica of a shard.
    pub fn holders(&self, shard: Vertex) -> Vec<PeerId> {
        self.nodes()
            .filter(|node| node.replicas().get(shard).is_some())
            .map(|node| node.peer())
            .collect()
    }

    /// Waits until all running replicas of all shards hold the same, and says whether they are equal to the last byte.
    ///
    /// # Panics
    /// When replicas differ although they have applied the same log, or do not catch up within half a minute.
    pub async fn assert_replicas_equal(&self) {
        let deadline = Instant::now() + READY_MAX;
        let shards: std::collections::BTreeSet<Vertex> = self
            .nodes()
            .flat_map(|node| node.replicas().all())
            .map(|replica| replica.shard())
            .collect();
        for shard in shards {
            self.wait_until_applied(shard, deadline).await;
            let replicas = self
                .nodes()
                .filter_map(|node| Some((node.peer(), node.replicas().get(shard)?)));
            let digests: Vec<_> = replicas
                .map(|(peer, replica)| {
                    (
                        peer,
                        replica.view().digest().expect("the store can be read"),
                    )
                })
                .collect();
            for pair in digests.windows(2) {
                assert_eq!(
                    pair[0].1, pair[1].1,
                    "shard {shard}: peers {} and {} differ",
                    pair[0].0, pair[1].0
                );
            }
        }
    }

    /// What keeps the running replicas from being whole: one does not serve, is not in its place in the group, is behind, cannot be read, or
    /// differs from another. `None`: they all hold the same, to the last byte. Nobody must write meanwhile.
    pub async fn replicas_differ(&self) -> Option<String> {
        let nodes = || self.nodes();
        let shards: std::collections::BTreeSet<Vertex> = nodes()
            .flat_map(|node| node.replicas().all())
            .map(|replica| replica.shard())
            .collect();
        for shard in shards {
            let replicas: Vec<(PeerId, Replica)> = nodes()
                .filter_map(|node| Some((node.peer(), node.replicas().get(shard)?)))
                .collect();
            if let Some(problem) = self.out_of_place(&replicas) {
                return Some(format!("shard {shard}: {problem}"));
            }
            let mut digests = Vec::new();
            for (peer, replica) in replicas {
                let digest = tokio::task::spawn_blocking(move || replica.view().digest()).await;
                match digest.expect("a digest does not panic") {
                    Ok(digest) => digests.push((peer, digest)),
                    Err(error) => return Some(format!("shard {shard} on peer {peer}: {error}")),
                }
            }
            if digests.windows(2).any(|pair| pair[0].1 != pair[1].1) {
                return Some(format!("shard {shard} differs: {digests:?}"));
            }
        }
        None
    }

    fn out_of_place(&self, replicas: &[(PeerId, Replica)]) -> Option<String> {
        let statuses: Vec<_> = replicas
            .iter()
            .map(|(peer, replica)| (*peer, replica.phase(), replica.status()))
            .collect();
        for (peer, phase, _) in &statuses {
            if *phase != Phase::Serving {
                return Some(format!("peer {peer} is {phase:?}"));
            }
        }
        let last = statuses.iter().filter_map(|(_, _, now)| now.last).max();
        let leader = statuses
            .iter()
            .find(|(_, _, now)| now.role == Role::Leader)
            .map(|(_, _, now)| now);
        let Some(leader) = leader else {
            return Some("nobody leads".to_owned());
        };
        if statuses.iter().any(|(_, _, now)| now.applied != last) {
            return Some(format!("some are behind {last:?}: {statuses:?}"));
        }
        let voters = leader.replicas.iter().filter(|member| member.is_voter);
        let is_settled = voters.count() % 2 == 1
            && replicas.len() <= leader.replicas.len()
            && leader.replicas.len() <= self.addresses.len()
            && leader
                .replicas
                .windows(2)
                .all(|pair| pair[0].peer != pair[1].peer);
        (!is_settled).then(|| format!("the members are {:?}", leader.replicas))
    }

    async fn wait_until_applied(&self, shard: Vertex, deadline: Instant) {
        loop {
            let replicas = self.nodes().filter_map(|node| node.replicas().get(shard));
            let statuses: Vec<_> = replicas.map(|replica| replica.status()).collect();
            let last = statuses.iter().filter_map(|status| status.last).max();
            if statuses.iter().all(|status| status.applied == last) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "shard {shard} does not settle: {statuses:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
