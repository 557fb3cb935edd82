//! Peer to peer: one channel to each other peer, and who calls whom.
//!
//! All traffic between two peers, replication and forwarded calls alike, shares one HTTP/2 connection, which dials when it is first needed
//! and again after it broke. Never decides where a call goes; that is `router`. Begin with [`Peers`].

mod acquaintance;
mod identity;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use crate::types::PeerId;

pub use acquaintance::{Acquaintances, Error as AcquaintanceError};
pub use identity::{Caller, Identity, IdentityError};

/// How channels behave.
#[derive(Debug, Clone)]
pub struct Options {
    /// This peer and its cluster, told to the others with every call.
    pub identity: Identity,
    /// Where the other peers listen: `http://host:port`.
    pub addresses: BTreeMap<PeerId, String>,
    /// How long dialling may take.
    pub connect_timeout: Duration,
    /// A connection without any sign of life for this long (and half as long again for the answer to a ping) is broken.
    pub keep_alive_interval: Duration,
}

/// Streams that one connection carries at once are limited by the window, not by count; both ends allow this many bytes in flight.
/// Sixteen proposals of 64 KiB for each of the shards that two peers share fit in (see `notes`: larger windows measured no better).
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// The other peers: a cheap handle, cloned by whoever calls them.
#[derive(Debug, Clone)]
pub struct Peers {
    identity: Arc<Identity>,
    acquaintances: Arc<Acquaintances>,
    channels: Arc<BTreeMap<PeerId, Channel>>,
}

impl Peers {
    /// Prepares a channel to each peer. Nothing is dialled yet; must be called within the runtime that will drive the channels.
    ///
    /// # Errors
    /// [`Error::Address`] when an address is not a URI.
    pub fn new(options: &Options, acquaintances: Arc<Acquaintances>) -> Result<Self, Error> {
        let mut channels = BTreeMap::new();
        for (peer, address) in &options.addresses {
            let endpoint = Endpoint::from_shared(address.clone())
                .map_err(|source| Error::Address {
                    peer: *peer,
                    address: address.clone(),
                    source,
                })?
                .connect_timeout(options.connect_timeout)
                .tcp_nodelay(true)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .http2_keep_alive_interval(options.keep_alive_interval)
                .keep_alive_timeout(options.keep_alive_interval / 2)
                .keep_alive_while_idle(true);
            channels.insert(*peer, endpoint.connect_lazy());
        }
        Ok(Self {
            identity: Arc::new(options.identity.clone()),
            acquaintances,
            channels: Arc::new(channels),
        })
    }

    /// The one channel to a peer. `None` for an unknown peer.
    pub fn channel(&self, peer: PeerId) -> Option<Channel> {
        self.channels.get(&peer).cloned()
    }

    /// A request that says who sends it.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        self.identity.write(request.metadata_mut());
        request
    }

    /// Checks that a call, or the answer to one, comes from a peer of this cluster that still has the data directory it had before.
    ///
    /// # Errors
    /// [`Error::Identity`] when it does not say who it is, [`Error::Acquaintance`] when it is not let in.
    pub fn recognise(&self, metadata: &MetadataMap) -> Result<Caller, Error> {
        let caller = self.identity.read(metadata)?;
        self.acquaintances.meet(caller.peer, caller.directory)?;
        Ok(caller)
    }

    /// Who this peer is to the others.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Whether a failed call was certainly never sent, because no connection could be made.
///
/// Walks the causes: the transport says so in the type of the error, not in its text.
pub fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind;
            return matches!(
                io.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::AddrNotAvailable
            );
        }
        cause = current.source();
    }
    false
}

/// What can be wrong with a peer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is not a URI.
    #[error("address {address:?} of peer {peer} is not a URI such as http://127.0.0.1:8000")]
    Address {
        /// Whose address.
        peer: PeerId,
        /// The text.
        address: String,
        /// What the parser says.
        source: tonic::transport::Error,
    },
    /// A call does not say who sends it.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The sender is not let in.
    #[error(transparent)]
    Acquaintance(#[from] AcquaintanceError),
}
