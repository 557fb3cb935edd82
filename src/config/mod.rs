//! The settings of a peer: defaults, under a file, under the environment, under flags, checked once and then trusted.
//!
//! One stem names a setting everywhere: `wal.segment_bytes_max` in the file, `CUBECAST_WAL_SEGMENT_BYTES_MAX` in the environment,
//! `--wal-segment-bytes-max` as a flag. The table [`SETTINGS`] is the only list of them: the flags of the CLI, the example file and the
//! answer of `config show` come from it. No other component sees a [`Config`]; `node` gives each its own options.
//! Begin with [`Config::load`] and [`SETTINGS`].

mod check;
mod error;
mod example;
mod raw;
mod setting;
mod source;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use error::Error;
pub use example::example;
pub use setting::{Kind, SETTINGS, Setting};
pub use source::{Origin, Row, Sources};

use crate::cube::ReplicationFactor;
use crate::telemetry;
use crate::types::{ByteCount, Dimension, Limits, Name, PeerId};

/// All settings of one peer, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Which cluster this is. A data directory belongs to one cluster.
    pub cluster: Name,
    /// The dimension of the cube.
    pub dimension: Dimension,
    /// Which peer this is; less than the number of peers.
    pub peer: PeerId,
    /// Where the peer listens.
    pub listen: SocketAddr,
    /// Whether a busy port is answered with the next free one, instead of an error.
    pub next_free_port: bool,
    /// The address of this peer as others are told it, such as `http://127.0.0.1:8000`.
    pub advertise: String,
    /// The address of each peer as its number counts. As many as the cube has vertices.
    pub peers: Vec<String>,
    /// Where all peers of this machine keep their data; see [`Config::peer_dir`].
    pub data_dir: PathBuf,
    /// How many copies a shard has.
    pub replication_factor: ReplicationFactor,
    /// How often a leader tells its followers that it lives.
    pub heartbeat_interval: Duration,
    /// The shortest silence after which a follower calls an election. More than two heartbeats.
    pub election_timeout_min: Duration,
    /// The longest such silence. Longer than the shortest.
    pub election_timeout_max: Duration,
    /// How often each end of a link sends a heartbeat.
    pub link_interval: Duration,
    /// How long a link may be without one. More than two intervals.
    pub link_silence: Duration,
    /// How long a call may take when its caller named no deadline.
    pub call_timeout: Duration,
    /// How long a stopping peer lets calls finish.
    pub shutdown_grace: Duration,
    /// Whether a caller may stop the peer and disturb its links.
    pub fault_injection: bool,
    /// What a caller may ask for.
    pub limits: Limits,
    /// The write-ahead log's files are this long.
    pub wal_segment_bytes_max: ByteCount,
    /// What of the write-ahead log is kept for replicas that are behind.
    pub wal_keep_bytes: ByteCount,
    /// Memory for blocks of the topic store that were read.
    pub store_cache_bytes: ByteCount,
    /// Memory that gathers what is applied until it is flushed.
    pub store_memtable_bytes: ByteCount,
    /// How often what is applied is flushed at least.
    pub store_flush_interval: Duration,
    /// Free bytes of the disk below which nothing more is published. 0: no limit.
    pub disk_reserve_bytes: ByteCount,
    /// How often topics are looked at for what is too old or too much.
    pub retention_interval: Duration,
    /// A voter whose peer is gone for so long is replaced by the standby.
    pub standby_after: Duration,
    /// The owner of a shard leads it again when the link to it has been up for so long.
    pub return_after: Duration,
    /// What is logged, and how.
    pub log: telemetry::Options,
    /// Every setting with its value and where that came from, in the order of [`SETTINGS`].
    pub rows: Vec<Row>,
}

impl Config {
    /// Reads the sources and checks every value.
    ///
    /// # Errors
    /// [`Error`] names the key, where its value came from, and what is wrong with it.
    pub fn load(sources: &Sources) -> Result<Self, Error> {
        let layers = source::Layers::of(sources)?;
        let raw = layers.raw()?.derived(&layers)?;
        check::config(&raw, &layers)
    }

    /// The directory of this peer alone, within the data directory.
    pub fn peer_dir(&self) -> PathBuf {
        self.data_dir.join(format!("peer-{:03}", self.peer.0))
    }

    /// The address at which a program on this machine reaches the peer, such as `http://127.0.0.1:8000`.
    pub fn local_address(&self) -> String {
        raw::address(self.listen)
    }

    /// The settings as the peer `peer` of the same machine would have them: another number, port, address and directory.
    ///
    /// # Errors
    /// When there is no such peer.
    pub fn of_peer(sources: &Sources, peer: PeerId) -> Result<Self, Error> {
        Self::load(&sources.clone().peer(peer))
    }
}

#[cfg(test)]
mod tests;
