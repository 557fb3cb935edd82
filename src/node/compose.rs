//! What each component is given: its options, made of the settings, and what it works with.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use super::directory::Directory;
use super::server;
use super::storage::{self, Storage};
use super::upkeep::Upkeep;
use crate::broker::{self, Broker};
use crate::cluster::{self, Cluster, Member};
use crate::config::Config;
use crate::env::clock::Clock;
use crate::link::{self, Peers};
use crate::replica::{self, Replica, Replicas};
use crate::types::{ByteCount, Incarnation, PeerId, Vertex};
use crate::{consensus, cube, rpc};

/// Dialling a neighbour on any network that a cluster should span takes less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A frozen peer is noticed by its connections within one and a half times this.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// A command has its batch and some hundred bytes around it.
const COMMAND_OVERHEAD_BYTES: u64 = 4096;

/// What the server keeps to.
pub(super) fn server_options(config: &Config) -> server::Options {
    server::Options {
        connections_max: config.limits.connections_max,
    }
}

/// Members as the settings list them: peer `i` is the home of vertex `i`.
pub(super) fn cluster_options(config: &Config) -> cluster::Options {
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

/// The other peers, and who this one is to them.
pub(super) fn link_options(
    config: &Config,
    (cluster, directory): (&Cluster, &Directory),
    clock: &dyn Clock,
) -> link::Options {
    let places = cluster.dimension().vertices();
    let others = config
        .peers
        .iter()
        .zip(0..)
        .map(|(address, peer)| (PeerId(peer), address.clone()));
    link::Options {
        identity: link::Identity {
            cluster: config.cluster.to_string(),
            peer: config.peer,
            directory: directory.id(),
            incarnation: directory.incarnation(),
        },
        addresses: others.filter(|(peer, _)| *peer != config.peer).collect(),
        vertices: places
            .map(|vertex| (cluster.home(vertex), vertex))
            .collect(),
        connect_timeout: CONNECT_TIMEOUT,
        keep_alive_interval: KEEP_ALIVE_INTERVAL,
        rhythm: link::Rhythm {
            interval: config.link_interval,
            silence: config.link_silence,
        },
        injection: if config.fault_injection {
            link::Injection::Allowed
        } else {
            link::Injection::Forbidden
        },
        sequence: clock.now().0 / 1_000_000,
    }
}

pub(super) fn log_neighbours(cluster: &Cluster) {
    if let Some(vertex) = cluster.vertex_of(cluster.this()) {
        let neighbours: Vec<String> = cube::neighbours(vertex)
            .map(|neighbour| neighbour.to_string())
            .collect();
        info!(%vertex, neighbours = %neighbours.join(", "), "took its place on the cube");
    }
}

/// The shards that this peer has a replica of.
pub(super) fn shards(cluster: &Cluster) -> Vec<Vertex> {
    let all = cluster.dimension().vertices();
    all.filter(|shard| cluster.replicas(*shard).contains(&cluster.this()))
        .collect()
}

/// The peer's replicas. They begin to live when it is known who the peer is.
pub(super) fn replicas(
    config: &Config,
    cluster: &Cluster,
    (storage, peers): (&Storage, &Peers),
    clock: &Arc<dyn Clock>,
) -> Replicas {
    let command_bytes_max = ByteCount(
        config
            .limits
            .request_bytes_max
            .saturating_add(COMMAND_OVERHEAD_BYTES),
    );
    let parts = replica::Parts {
        wal: Arc::clone(&storage.wal),
        store: Arc::clone(&storage.store),
        peers: peers.clone(),
        links: peers.links().clone(),
        disk: Arc::clone(&storage.disk),
        staging: storage.staging(),
        room: Arc::clone(&storage.room),
        ledger: Arc::<Directory>::clone(&storage.directory),
        clock: Arc::clone(clock),
    };
    let start = |shard| {
        let group = group_options(config, cluster, shard);
        let options = replica::Options { command_bytes_max };
        Replica::start(shard, group, &parts, options)
    };
    Replicas::new(shards(cluster).into_iter().map(start))
}

fn group_options(config: &Config, cluster: &Cluster, shard: Vertex) -> consensus::Options {
    let voters = cluster.voters(shard);
    let mut standbys = cluster.replicas(shard);
    standbys.retain(|peer| !voters.contains(peer));
    consensus::Options {
        cluster: config.cluster.to_string(),
        // Which life it is in is in the ledger.
        node: consensus::node_id(config.peer, Incarnation(0)),
        voters,
        standbys,
        heartbeat_interval: config.heartbeat_interval,
        election_timeout_min: config.election_timeout_min,
        election_timeout_max: config.election_timeout_max,
        standby_after: config.standby_after,
        return_after: config.return_after,
    }
}

/// What calls mean, with the peer's time.
pub(super) fn broker(clock: &Arc<dyn Clock>) -> Broker {
    let clock = Arc::clone(clock);
    let clock = Arc::new(move || clock.now());
    Broker::new(broker::Options { clock })
}

/// What keeps the peer in order.
pub(super) fn upkeep(
    config: &Config,
    storage: &Storage,
    (replicas, tasks): (&Replicas, &TaskTracker),
    clock: &Arc<dyn Clock>,
) -> Upkeep {
    Upkeep {
        store: Arc::clone(&storage.store),
        disk: Arc::clone(&storage.disk),
        room: Arc::clone(&storage.room),
        path: storage.directory.path.clone(),
        replicas: replicas.clone(),
        clock: Arc::clone(clock),
        flush_interval: config.store_flush_interval,
        retention_interval: config.retention_interval,
        keep: config.wal_keep_bytes,
        tasks: tasks.clone(),
    }
}

/// What the peer tells of itself when asked.
pub(super) fn facts(
    config: &Config,
    storage: &Storage,
    stop: CancellationToken,
    clock: &Arc<dyn Clock>,
) -> rpc::Facts {
    let started = clock.now();
    let (store, wal, room) = (
        Arc::clone(&storage.store),
        Arc::clone(&storage.wal),
        Arc::clone(&storage.room),
    );
    let (wal_failed, store_failed) = (wal.failed(), store.failed());
    let time = Arc::clone(clock);
    let (directory, clock) = (Arc::clone(&storage.directory), Arc::clone(clock));
    let now = move || {
        let (log, rows) = (wal.figures(), store.figures().unwrap_or_default());
        rpc::Now {
            at: clock.now(),
            incarnation: directory.incarnation().0,
            is_ready: !stop.is_cancelled(),
            is_draining: stop.is_cancelled(),
            wal_bytes: log.bytes.0,
            wal_segments: log.segments,
            wal_syncs: log.syncs,
            wal_is_waiting: log.is_waiting_for_room,
            store_bytes: rows.disk_bytes.0,
            store_journals: rows.journal_count,
            store_level0_tables: rows.l0_table_count,
            store_flushes: rows.flush_count,
            store_flushes_waiting: rows.engine_flush_count,
            store_blob_files: rows.blob_file_count,
            memtable_bytes: rows.memtable_bytes.0,
            has_failed: wal_failed.borrow().is_some() || store_failed.borrow().is_some(),
            disk_free_bytes: Some(room.free().0).filter(|free| *free != u64::MAX),
            disk_reserve_bytes: room.reserve().0,
            ..rpc::Now::default()
        }
    };
    rpc::Facts {
        cluster: config.cluster.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        started,
        has_fault_injection: config.fault_injection,
        trace_seed: storage::random_id(),
        clock: Arc::new(move || time.now()),
        now: Arc::new(now),
    }
}
