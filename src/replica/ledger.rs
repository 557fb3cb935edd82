//! What is written down about the lives of this peer's replicas.
//!
//! A replica that drops what it holds must never speak under its old Raft id again: it has forgotten its votes. So its next incarnation is on
//! disk before anything is dropped, together with the duty to drop it, and a peer that is killed in between goes on where it was.

use tokio::sync::watch;

use crate::env::disk;
use crate::types::{Incarnation, Vertex};

/// Which life a replica is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Part of its Raft id.
    pub incarnation: Incarnation,
    /// What it held in its earlier life is still to be dropped.
    pub is_reset_due: bool,
}

/// Keeps the standing of each replica on disk.
pub trait Ledger: Send + Sync {
    /// Turns to true when it is known in which incarnation this peer is; before that no replica may start.
    fn settled(&self) -> watch::Receiver<bool>;

    /// The standing of a shard's replica.
    fn standing(&self, shard: Vertex) -> Standing;

    /// Begins a new life of a shard's replica, with the reset due. Durable on return.
    ///
    /// # Errors
    /// [`disk::Error`] when it cannot be written; the old life then goes on.
    fn renew(&self, shard: Vertex, incarnation: Incarnation) -> Result<(), disk::Error>;

    /// The reset is done. Durable on return.
    ///
    /// # Errors
    /// [`disk::Error`] when it cannot be written.
    fn reset_done(&self, shard: Vertex) -> Result<(), disk::Error>;

    /// The store cannot be mended while the peer runs, and must be made anew at the next start: the peer is to be stopped.
    fn lose_store(&self, why: String);
}
