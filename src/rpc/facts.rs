//! What the process knows of itself and tells when asked: given by the one who builds it.

use std::sync::Arc;

use crate::types::{Incarnation, Timestamp};

/// Facts that do not change while the peer runs, and a way to ask for those that do.
#[derive(Clone)]
pub struct Facts {
    /// The name of the cluster.
    pub cluster: String,
    /// The version of cubecast, as semver.
    pub version: &'static str,
    /// When the peer started.
    pub started: Timestamp,
    /// Which life of its disk this is.
    pub incarnation: Incarnation,
    /// Fault injection is enabled.
    pub has_fault_injection: bool,
    /// Random, so that the ids of traces that begin here differ from those of other peers and lives.
    pub trace_seed: u128,
    /// Tells what changes.
    pub now: Arc<dyn Fn() -> Now + Send + Sync>,
}

/// How the process is doing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// The time.
    pub at: Timestamp,
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
}
