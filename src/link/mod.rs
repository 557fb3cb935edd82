//! Peer to peer: one channel to each other peer, and who calls whom.
//!
//! All traffic between two peers, replication and forwarded calls alike, shares one HTTP/2 connection, which dials when it is first needed
//! and again after it broke. Never decides where a call goes; that is `router`. Begin with [`Peers`].

mod acquaintance;
mod identity;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use crate::types::{Incarnation, PeerId};

pub use acquaintance::{Acquaintance, Acquaintances, Error as AcquaintanceError};
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
/// Sixteen proposals of 64 KiB for each of the shards that two peers share fit in; larger windows measured no better.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// The other peers: a cheap handle, cloned by whoever calls them.
#[derive(Debug, Clone)]
pub struct Peers {
    identity: Arc<Identity>,
    /// The incarnation that the others are told now.
    incarnation: Arc<AtomicU32>,
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
            incarnation: Arc::new(AtomicU32::new(options.identity.incarnation.0)),
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
        self.introduce(request.metadata_mut());
        request
    }

    /// Says in a call, or in the answer to one, who sends it.
    pub fn introduce(&self, metadata: &mut MetadataMap) {
        self.identity().write(metadata);
    }

    /// Checks that a call, or the answer to one, comes from a peer of this cluster that still has the data directory it had before.
    ///
    /// # Errors
    /// [`Error::Identity`] when it does not say who it is, [`Error::Stranger`] when the configuration knows no such other peer,
    /// [`Error::Acquaintance`] when it is not let in.
    pub fn recognise(&self, metadata: &MetadataMap) -> Result<Caller, Error> {
        let caller = self.glimpse(metadata)?;
        self.acquaintances
            .meet(caller.peer, caller.directory, caller.incarnation)?;
        Ok(caller)
    }

    /// Checks only that a call comes from another peer of this cluster, in whatever life. Good for telling it who it was, for nothing else.
    ///
    /// # Errors
    /// [`Error::Identity`] when it does not say who it is, [`Error::Stranger`] when the configuration knows no such other peer.
    pub fn glimpse(&self, metadata: &MetadataMap) -> Result<Caller, Error> {
        let caller = self.identity.read(metadata)?;
        if !self.channels.contains_key(&caller.peer) {
            return Err(Error::Stranger { peer: caller.peer });
        }
        Ok(caller)
    }

    /// How a peer was when it was last let in; `None` when it never was.
    pub fn acquaintance(&self, peer: PeerId) -> Option<Acquaintance> {
        self.acquaintances.known(peer)
    }

    /// Checks that an answer comes from the peer that was asked. Were another one behind its address, one disk would be counted as two.
    ///
    /// # Errors
    /// [`Error::Mistaken`] when another peer answered; else as [`Self::recognise`].
    pub fn recognise_answer(&self, asked: PeerId, metadata: &MetadataMap) -> Result<(), Error> {
        let found = self.identity.read(metadata)?.peer;
        if found != asked {
            return Err(Error::Mistaken { asked, found });
        }
        self.recognise(metadata).map(|_| ())
    }

    /// The other peers of the configuration.
    pub fn others(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.channels.keys().copied()
    }

    /// Who this peer is to the others.
    pub fn identity(&self) -> Identity {
        let incarnation = Incarnation(self.incarnation.load(Ordering::Relaxed));
        Identity {
            incarnation,
            ..Identity::clone(&self.identity)
        }
    }

    /// From now on the others are told this incarnation. It must be on this peer's disk already, and never goes back.
    pub fn begin_anew(&self, incarnation: Incarnation) {
        self.incarnation.fetch_max(incarnation.0, Ordering::Relaxed);
    }
}

/// Whether a failed call was certainly never sent, because no connection could be made.
///
/// Walks the causes: the transport says so in the type of the error, not in its text. A timeout while dialling counts too; an error of a
/// connection that was there does not, whatever its kind.
pub fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if current.is::<tonic::ConnectError>() {
            return true;
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
    /// The sender is not in the list of peers. It must not be remembered: the list of those who are is bounded.
    #[error("peer {peer} is not one of the peers that this one is configured with")]
    Stranger {
        /// Who it says it is.
        peer: PeerId,
    },
    /// The address of one peer leads to another.
    #[error("peer {found} answers at the address of peer {asked}")]
    Mistaken {
        /// Whose address it is.
        asked: PeerId,
        /// Who answers.
        found: PeerId,
    },
    /// A call does not say who sends it.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The sender is not let in.
    #[error(transparent)]
    Acquaintance(#[from] AcquaintanceError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::disk::SystemDisk;
    use crate::proto::peer::v1::VoteRequest;
    use crate::proto::peer::v1::raft_service_client::RaftServiceClient;

    fn identity(peer: u16) -> Identity {
        Identity {
            cluster: "test".to_owned(),
            peer: PeerId(peer),
            directory: u128::from(peer),
            incarnation: Incarnation(1),
        }
    }

    fn peers(folder: &std::path::Path, address: &str) -> Peers {
        let options = Options {
            identity: identity(0),
            addresses: [1, 2].map(|peer| (PeerId(peer), address.to_owned())).into(),
            connect_timeout: Duration::from_secs(1),
            keep_alive_interval: Duration::from_secs(2),
        };
        Peers::new(
            &options,
            Arc::new(Acquaintances::open(Arc::new(SystemDisk), folder).unwrap()),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn answer_counts_only_from_the_peer_that_was_asked() {
        let folder = tempfile::tempdir().unwrap();
        let peers = peers(folder.path(), "http://127.0.0.1:1");
        let said_by = |peer| {
            let mut metadata = MetadataMap::new();
            identity(peer).write(&mut metadata);
            metadata
        };
        peers.recognise_answer(PeerId(1), &said_by(1)).unwrap();
        let mistaken = peers.recognise_answer(PeerId(1), &said_by(2)).unwrap_err();
        assert!(matches!(mistaken, Error::Mistaken { .. }), "{mistaken}");
        // Neither itself nor somebody unknown is remembered.
        for stranger in [0, 3] {
            let error = peers.recognise(&said_by(stranger)).unwrap_err();
            assert!(matches!(error, Error::Stranger { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn any_life_of_a_peer_may_ask_who_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let peers = peers(folder.path(), "http://127.0.0.1:1");
        let said_by = |identity: Identity| {
            let mut metadata = MetadataMap::new();
            identity.write(&mut metadata);
            metadata
        };
        peers.recognise(&said_by(identity(1))).unwrap();
        let wiped = Identity {
            directory: 99,
            ..identity(1)
        };
        peers.recognise(&said_by(wiped.clone())).unwrap_err();
        assert_eq!(peers.glimpse(&said_by(wiped)).unwrap().peer, PeerId(1));
        peers.glimpse(&said_by(identity(3))).unwrap_err();
        let known = peers.acquaintance(PeerId(1)).unwrap();
        assert_eq!(known.directory, 1, "a glimpse is not remembered");
        peers.begin_anew(Incarnation(5));
        peers.begin_anew(Incarnation(4));
        assert_eq!(peers.identity().incarnation, Incarnation(5));
    }

    #[tokio::test]
    async fn failed_dial_is_told_from_a_broken_connection() {
        let folder = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let peers = peers(folder.path(), &address);
        let mut client = RaftServiceClient::new(peers.channel(PeerId(1)).unwrap());
        let (broken, _) = tokio::join!(client.vote(VoteRequest::default()), async {
            drop(listener.accept().await.unwrap());
            drop(listener);
        });
        assert!(!is_refused(&broken.unwrap_err()));
        let refused = client.vote(VoteRequest::default()).await.unwrap_err();
        assert!(is_refused(&refused), "{refused:?}");
        let broken = std::io::Error::from(std::io::ErrorKind::HostUnreachable);
        assert!(!is_refused(&broken), "a connection that was there broke");
    }
}
