//! Why a peer does not start, and why it cannot go on.

use std::net::SocketAddr;
use std::sync::Arc;

use super::DirectoryError;
use crate::env::net;
use crate::types::PeerId;
use crate::{cluster, link, rpc, store, wal};

/// Why a running peer cannot go on. What it had acknowledged is on disk.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The log could not be written or synced.
    #[error("its log cannot be written: {0}")]
    Wal(Arc<wal::Error>),
    /// The store could not be written or synced, or met damage on its own.
    #[error("its topic store cannot be written: {}", super::storage::chain(&**.0))]
    Store(Arc<store::Error>),
    /// The store is so damaged that a shard of it cannot even be emptied.
    #[error(
        "its topic store cannot be mended while it runs and is made anew at the next start: {0}"
    )]
    LostStore(String),
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
    /// The topic store cannot be opened.
    #[error(
        "the topic store of peer {peer} cannot be opened: {}",
        super::storage::chain(source)
    )]
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
    #[error(
        "{0}; empty the data directory, and the peer comes back as a new one and is made again from the others"
    )]
    Acquaintance(#[from] link::AcquaintanceError),
    /// The members make no cluster.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// The services cannot be set up.
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    /// The process ends while the peer starts.
    #[error("interrupted while the disk was opened")]
    Interrupted,
}
