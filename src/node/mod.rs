//! The composition root: one peer, built from its settings, until it is stopped.
//!
//! Here, and nowhere else, is decided who works with whom: the disk under the log and the store, those under the replicas, the replicas under
//! the calls, the calls behind the listener. It does no work of its own. Begin with [`Node::start`].

mod directory;
mod server;
mod storage;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::broker::{self, Broker};
use crate::cluster::{self, Cluster, Member};
use crate::config::Config;
use crate::consensus;
use crate::env::clock::{Clock, SystemClock};
use crate::env::net::{self, Listener};
use crate::link::{self, Peers};
use crate::replica::{self, Replica, Replicas};
use crate::store::{self, TopicStore};
use crate::types::{ByteCount, Incarnation, PeerId, Vertex};
use crate::wal;
use crate::{cube, rpc};

pub use directory::Error as DirectoryError;

/// Dialling a neighbour on any network that a cluster should span takes less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A frozen peer is noticed by its connections within one and a half times this.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// A command has its batch and some hundred bytes around it.
const COMMAND_OVERHEAD_BYTES: u64 = 4096;
/// What belonged to deleted topics is removed in steps of this many rows, so that nothing else waits for long.
const SWEEP_ROWS: usize = 1000;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Ports that are tried after a busy one.
const NEXT_PORTS_MAX: u16 = 100;

/// A running peer.
pub struct Node {
    config: Config,
    address: SocketAddr,
    replicas: Replicas,
    /// Kept until the end: while it lives, no other process can take the directory.
    storage: storage::Storage,
    stop: server::Stop,
    tasks: TaskTracker,
    api: rpc::Api,
    health: rpc::HealthSwitch,
}

impl Node {
    /// Starts a peer: opens its disk, joins its shards and serves. It listens on what `listener` is, or on what the settings say.
    ///
    /// # Errors
    /// [`Error`] says in one sentence what to mend: the port, the directory, damage.
    pub async fn start(config: Config, listener: Option<Listener>) -> Result<Self, Error> {
        let listener = match listener {
            Some(listener) => listener,
            None => listen(&config)?,
        };
        let address = listener.address();
        let opened = {
            let config = config.clone();
            tokio::task::spawn_blocking(move || storage::Storage::open(&config)).await
        };
        let storage = opened.map_err(|_| Error::Interrupted)??;
        let cluster = Cluster::new(cluster_options(&config))?;
        log_neighbours(&cluster);
        let peers = Peers::new(
            &link_options(&config, storage.directory.id),
            Arc::clone(&storage.acquaintances),
        )?;
        let parts = replica::Parts {
            wal: Arc::clone(&storage.wal),
            store: Arc::clone(&storage.store),
            peers: peers.clone(),
        };
        let incarnation = storage.directory.incarnation;
        let replicas = start_replicas(&config, &cluster, incarnation, &parts).await?;

        let stop = server::Stop::default();
        let api = rpc::Api::new(rpc::Parts {
            cluster,
            replicas: replicas.clone(),
            peers: peers.clone(),
            broker: Broker::new(broker::Options { clock: clock() }),
            limits: config.limits,
            facts: facts(&config, (&storage, replicas.clone()), stop.drain.clone()),
        });
        let health = rpc::Health::new().await;
        let switch = health.switch();
        let raft = rpc::raft::service(replicas.clone(), peers);
        let routes = rpc::routes(&api, health, |routes| routes.add_service(raft))?;
        let options = server::Options {
            connections_max: config.limits.connections_max,
        };
        let tasks = TaskTracker::new();
        tasks.spawn(server::Server::new(listener, routes, options).run(stop.clone()));
        tasks.spawn(sweep(Arc::clone(&storage.store), stop.drain.clone()));
        switch.serve().await;
        tasks.spawn(tend_health(
            replicas.clone(),
            switch.clone(),
            stop.drain.clone(),
        ));
        info!(peer = %config.peer, %address, "serving");
        Ok(Self {
            config,
            address,
            replicas,
            storage,
            stop,
            tasks,
            api,
            health: switch,
        })
    }

    /// The peer's number.
    pub fn peer(&self) -> PeerId {
        self.config.peer
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its replicas.
    pub fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    /// Waits until every shard of this peer has a leader; false when the deadline came first.
    pub async fn ready(&self, deadline: Instant) -> bool {
        for replica in self.replicas.all() {
            let mut leader = replica.leader();
            let led = leader.wait_for(|now| now.leader.is_some());
            if !matches!(tokio::time::timeout_at(deadline, led).await, Ok(Ok(_))) {
                return false;
            }
        }
        true
    }

    /// Turns to why the peer cannot go on: its log could not be written. What it had acknowledged is on disk; it must be stopped.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<wal::Error>>> {
        self.storage.wal.failed()
    }

    /// Stops: takes no new connections, lets the calls that run finish for the grace time, leaves the shards, closes the log.
    pub async fn stop(self) {
        let Self {
            config,
            replicas,
            storage,
            stop,
            tasks,
            api,
            health,
            ..
        } = self;
        health.stop().await;
        stop.drain.cancel();
        for replica in replicas.all() {
            replica.drain();
        }
        if tokio::time::timeout(config.shutdown_grace, api.drained())
            .await
            .is_err()
        {
            warn!(grace = ?config.shutdown_grace, "calls were still open after the grace time");
        }
        for replica in replicas.all() {
            replica.stop().await;
        }
        stop.cut.cancel();
        tasks.close();
        tasks.wait().await;
        if let Err(error) = tokio::task::spawn_blocking(move || storage.close()).await {
            warn!(%error, "closing the disk did not end well");
        }
        info!(peer = %config.peer, "stopped");
    }
}

/// Opens the listener that the settings name, or the next free port when they allow it.
///
/// # Errors
/// [`Error::PortBusy`] or [`Error::Listen`].
pub fn listen(config: &Config) -> Result<Listener, Error> {
    let mut address = config.listen;
    loop {
        match net::listen(address) {
            Err(net::Error::InUse { .. })
                if config.next_free_port
                    && address.port() < config.listen.port().saturating_add(NEXT_PORTS_MAX) =>
            {
                address.set_port(address.port() + 1);
            }
            Err(net::Error::InUse { .. }) => return Err(Error::PortBusy { address }),
            listener => return Ok(listener?),
        }
    }
}

/// Members as the settings list them: peer `i` is the home of vertex `i`.
fn cluster_options(config: &Config) -> cluster::Options {
    let mut members = Vec::with_capacity(config.peers.len());
    for (vertex, address) in config.dimension.vertices().zip(&config.peers) {
        members.push(Member {
            peer: PeerId(vertex.index()),
            vertex,
            address: address.clone(),
        });
    }
    cluster::Options {
        this: config.peer,
        members,
        dimension: config.dimension,
        replication_factor: config.replication_factor.copies(),
    }
}

fn link_options(config: &Config, directory: u128) -> link::Options {
    let others = config
        .peers
        .iter()
        .zip(0..)
        .map(|(address, peer)| (PeerId(peer), address.clone()));
    link::Options {
        identity: link::Identity {
            cluster: config.cluster.to_string(),
            peer: config.peer,
            directory,
        },
        addresses: others.filter(|(peer, _)| *peer != config.peer).collect(),
        connect_timeout: CONNECT_TIMEOUT,
        keep_alive_interval: KEEP_ALIVE_INTERVAL,
    }
}

async fn start_replicas(
    config: &Config,
    cluster: &Cluster,
    incarnation: Incarnation,
    parts: &replica::Parts,
) -> Result<Replicas, Error> {
    let command_bytes_max = ByteCount(
        config
            .limits
            .request_bytes_max
            .saturating_add(COMMAND_OVERHEAD_BYTES),
    );
    let mine = config
        .dimension
        .vertices()
        .filter(|shard| cluster.replicas(*shard).contains(&config.peer));
    let mut replicas: Vec<Replica> = Vec::new();
    for shard in mine {
        let group = group_options(config, cluster, shard, incarnation);
        let options = replica::Options { command_bytes_max };
        match Replica::start(shard, group, parts, options).await {
            Ok(replica) => replicas.push(replica),
            Err(error) => {
                for replica in replicas {
                    replica.stop().await;
                }
                return Err(error.into());
            }
        }
    }
    Ok(Replicas::new(replicas))
}

fn group_options(
    config: &Config,
    cluster: &Cluster,
    shard: Vertex,
    incarnation: Incarnation,
) -> consensus::Options {
    // All peers begin in their first incarnation; only this one knows that it may be in a later one.
    let node = |peer: PeerId| {
        let incarnation = if peer == config.peer {
            incarnation
        } else {
            Incarnation(1)
        };
        consensus::node_id(peer, incarnation)
    };
    let set = cluster.replica_vertices(shard);
    consensus::Options {
        cluster: config.cluster.to_string(),
        node: node(config.peer),
        voters: set
            .voters()
            .map(|vertex| node(cluster.home(vertex)))
            .collect(),
        standbys: set
            .standbys()
            .map(|vertex| node(cluster.home(vertex)))
            .collect(),
        heartbeat_interval: config.heartbeat_interval,
        election_timeout_min: config.election_timeout_min,
        election_timeout_max: config.election_timeout_max,
    }
}

fn log_neighbours(cluster: &Cluster) {
    if let Some(vertex) = cluster.vertex_of(cluster.this()) {
        let neighbours: Vec<String> = cube::neighbours(vertex)
            .map(|neighbour| neighbour.to_string())
            .collect();
        info!(%vertex, neighbours = %neighbours.join(", "), "took its place on the cube");
    }
}

fn clock() -> broker::Clock {
    let clock = SystemClock::default();
    Arc::new(move || clock.now())
}

/// What the peer tells of itself when asked.
fn facts(
    config: &Config,
    (storage, replicas): (&storage::Storage, Replicas),
    stop: CancellationToken,
) -> rpc::Facts {
    let (store, wal) = (Arc::clone(&storage.store), Arc::clone(&storage.wal));
    let (failed, clock) = (wal.failed(), clock());
    let now = {
        let clock = Arc::clone(&clock);
        move || {
            let log = wal.figures();
            rpc::Now {
                at: clock(),
                is_ready: !stop.is_cancelled(),
                is_draining: stop.is_cancelled(),
                wal_bytes: log.bytes.0,
                wal_segments: log.segments,
                wal_syncs: log.syncs,
                store_bytes: store.figures().map_or(0, |figures| figures.disk_bytes.0),
                has_failed: failed.borrow().is_some() || has_stopped(&replicas),
                ..rpc::Now::default()
            }
        }
    };
    rpc::Facts {
        cluster: config.cluster.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        started: clock(),
        incarnation: storage.directory.incarnation,
        has_fault_injection: config.fault_injection,
        trace_seed: storage::random_id(),
        now: Arc::new(now),
    }
}

/// Whether a replica takes no part any more.
fn has_stopped(replicas: &Replicas) -> bool {
    let mut all = replicas.all().into_iter();
    all.any(|replica| replica.status().role == consensus::Role::Stopped)
}

/// Tells probes when a replica has failed: only a restart brings it back.
async fn tend_health(replicas: Replicas, health: rpc::HealthSwitch, stop: CancellationToken) {
    let all = replicas.all();
    let failures = all.iter().map(|replica| Box::pin(replica.failed()));
    tokio::select! {
        () = stop.cancelled() => {}
        _ = futures::future::select_all(failures) => health.stop().await,
    }
}

/// Removes what belonged to deleted topics, a little at a time.
async fn sweep(store: Arc<dyn TopicStore>, stop: CancellationToken) {
    loop {
        let swept = {
            let store = Arc::clone(&store);
            tokio::task::spawn_blocking(move || store.sweep(SWEEP_ROWS)).await
        };
        match swept {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(rows)) => debug!(rows, "swept what belonged to deleted topics"),
            Ok(Err(error)) => {
                warn!(%error, "could not sweep what belonged to deleted topics; trying again")
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_INTERVAL) => {}
        }
    }
}

/// Why a peer does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken.
    #[error("port {port} on {ip} is in use by another process; stop it, choose another port, or set next_free_port", port = address.port(), ip = address.ip())]
    PortBusy {
        /// Where it should listen.
        address: SocketAddr,
    },
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] net::Error),
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The write-ahead log cannot be opened.
    #[error(transparent)]
    Wal(#[from] wal::Error),
    /// The write-ahead log is gone, the rest of the directory is not.
    #[error(
        "the write-ahead log {path} is missing, but other peers know this one: it has lost its votes and what it had stored, so it may not \
         start under its old identity", path = path.display()
    )]
    LogMissing {
        /// Where it should be.
        path: std::path::PathBuf,
    },
    /// The topic store cannot be opened.
    #[error("the topic store of peer {peer} cannot be opened: {source}")]
    Store {
        /// The peer.
        peer: PeerId,
        /// Why.
        source: store::Error,
    },
    /// The list of peers is not right.
    #[error(transparent)]
    Link(#[from] link::Error),
    /// The file of known peers is not right.
    #[error(transparent)]
    Acquaintance(#[from] link::AcquaintanceError),
    /// The members make no cluster.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// A shard does not start.
    #[error(transparent)]
    Replica(#[from] replica::Error),
    /// The services cannot be set up.
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    /// The process ends while the peer starts.
    #[error("interrupted while the disk was opened")]
    Interrupted,
}
