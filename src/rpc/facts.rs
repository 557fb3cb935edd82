//! What the process knows of itself and tells when asked: given by the one who builds it.

use std::sync::Arc;

use crate::types::Timestamp;

/// Facts that do not change while the peer runs, and a way to ask for those that do.
#[derive(Clone)]
pub struct Facts {
    /// The name of the cluster.
    pub cluster: String,
    /// The version of cubecast, as semver.
    pub version: &'static str,
    /// When the peer started.
    pub started: Timestamp,
    /// Fault injection is enabled.
    pub has_fault_injection: bool,
    /// Random, so that the ids of traces that begin here differ from those of other peers and lives.
    pub trace_seed: u128,
    /// Tells the time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Tells what changes. It looks at the disk's figures, so not for every call.
    pub now: Arc<dyn Fn() -> Now + Send + Sync>,
}

/// How the process is doing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// The time.
    pub at: Timestamp,
    /// Which life of its disk this is; 0 while it is not known.
    pub incarnation: u32,
    /// It takes calls.
    pub is_ready: bool,
    /// It is stopping.
    pub is_draining: bool,
    /// Connections from clients.
    pub connections: u32,
    /// Bytes of the write-ahead log.
    pub wal_bytes: u64,
    /// Segments of the write-ahead log.
    pub wal_segments: u32,
    /// Syncs of the write-ahead log since the start.
    pub wal_syncs: u64,
    /// Bytes of the topic store.
    pub store_bytes: u64,
    /// Bytes applied and not yet flushed.
    pub memtable_bytes: u64,
    /// The storage has failed.
    pub has_failed: bool,
    /// The write-ahead log waits for room on the disk.
    pub wal_is_waiting: bool,
    /// Files of the topic store's own log.
    pub store_journals: u64,
    /// Tables of the topic store that are not merged yet.
    pub store_level0_tables: u64,
    /// Flushes of the topic store since the start.
    pub store_flushes: u64,
    /// Flushes that the topic store has still to do.
    pub store_flushes_waiting: u64,
    /// Files of the topic store that hold large values apart.
    pub store_blob_files: u64,
    /// Bytes that are free on the disk. `None`: not known.
    pub disk_free_bytes: Option<u64>,
    /// Bytes that are to stay free.
    pub disk_reserve_bytes: u64,
}
