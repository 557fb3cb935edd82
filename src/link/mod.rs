//! Peer to peer: one channel to each other peer, which links work, who calls whom.
//!
//! All traffic between two peers, replication and forwarded calls alike, shares one HTTP/2 connection, which dials when it is first needed
//! and again after it broke. Heartbeats tell which links work; calls to a peer whose link does not go through others. Never decides to whom a
//! call goes; that is `router`. Begin with [`Peers`], then [`LinkMap`].

mod acquaintance;
mod channel;
mod fault;
mod heartbeat;
mod held;
mod identity;
mod links;
mod map;
mod pulse;
pub mod relay;
mod state;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::transport::{self, Endpoint};

use crate::env::clock::{Clock, SystemClock};
use crate::env::entropy::SystemEntropy;
use crate::types::{Dimension, Incarnation, PeerId, Vertex};
use state::State;

pub use acquaintance::{Acquaintance, Acquaintances, Error as AcquaintanceError};
pub use channel::{CallError, Channel};
pub use fault::{Fault, FaultId, Faults, Injection, Lost, Passage};
pub use identity::{Caller, Identity, IdentityError};
pub use links::Links;
pub use map::{LinkMap, LinkState};
pub use state::Rhythm;

/// How links behave.
#[derive(Debug, Clone)]
pub struct Options {
    /// This peer and its cluster, told to the others with every call.
    pub identity: Identity,
    /// Where the other peers listen: `http://host:port`.
    pub addresses: BTreeMap<PeerId, String>,
    /// The vertex of every peer, this one too.
    pub vertices: BTreeMap<PeerId, Vertex>,
    /// How long dialling may take.
    pub connect_timeout: Duration,
    /// A connection without any sign of life for this long (and half as long again for the answer to a ping) is broken.
    pub keep_alive_interval: Duration,
    /// How often heartbeats go out, and how long none may come.
    pub rhythm: Rhythm,
    /// Whether links may be made to fail on purpose.
    pub injection: Injection,
    /// Greater than any number that this peer gave to its tables of links in an earlier life.
    pub sequence: u64,
}

impl Options {
    /// The defaults: peer `i` at vertex `i`, and no faults.
    pub fn new(identity: Identity, addresses: BTreeMap<PeerId, String>) -> Self {
        let peers = || addresses.keys().chain([&identity.peer]);
        let last = peers().max().map_or(0, |last| last.0);
        let mut dimensions = (1..=Dimension::MAX).filter_map(|bits| Dimension::new(bits).ok());
        let dimension = dimensions.find(|dimension| last < dimension.vertex_count());
        let place = |peer: &PeerId| Some((*peer, Vertex::new(peer.0, dimension?).ok()?));
        Self {
            vertices: peers().filter_map(place).collect(),
            identity,
            addresses,
            connect_timeout: Duration::from_secs(2),
            keep_alive_interval: Duration::from_secs(2),
            rhythm: Rhythm::default(),
            injection: Injection::default(),
            sequence: SystemClock::default().now().0 / 1_000_000,
        }
    }
}

/// Streams that one connection carries at once are limited by the window, not by count; both ends allow this many bytes in flight.
/// Sixteen proposals of 64 KiB for each of the shards that two peers share fit in; larger windows measured no better.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// The other peers: a cheap handle, cloned by whoever calls them.
#[derive(Debug, Clone)]
pub struct Peers {
    core: Arc<Core>,
    links: Links,
}

/// What all handles share.
#[derive(Debug)]
struct Core {
    identity: Identity,
    /// The incarnation that the others are told now.
    incarnation: AtomicU32,
    acquaintances: Arc<Acquaintances>,
    /// The connection to each other peer.
    direct: BTreeMap<PeerId, transport::Channel>,
    /// Where each listens, as a dialler needs it: `host:port`.
    addresses: BTreeMap<PeerId, String>,
    rhythm: Rhythm,
    faults: Faults,
}

impl Peers {
    /// Prepares a channel to each peer. Nothing is dialled yet; must be called within the runtime that will drive the channels.
    ///
    /// # Errors
    /// [`Error::Address`] when an address is not a URI.
    pub fn new(options: &Options, acquaintances: Arc<Acquaintances>) -> Result<Self, Error> {
        let mut direct = BTreeMap::new();
        let mut addresses = BTreeMap::new();
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
            if let Some(authority) = endpoint.uri().authority() {
                addresses.insert(*peer, authority.to_string());
            }
            direct.insert(*peer, endpoint.connect_lazy());
        }
        let core = Arc::new(Core {
            incarnation: AtomicU32::new(options.identity.incarnation.0),
            identity: options.identity.clone(),
            acquaintances,
            direct,
            addresses,
            rhythm: options.rhythm,
            faults: Faults::new(options.injection, Arc::new(SystemEntropy)),
        });
        let vertices = options.vertices.iter();
        let state = State::new(
            core.identity.peer,
            vertices.map(|(peer, vertex)| (*peer, *vertex)),
            core.rhythm,
            options.sequence,
            Instant::now(),
        );
        let links = Links::new(state, core.rhythm, Some(Arc::clone(&core)));
        Ok(Self { core, links })
    }

    /// The road to a peer: over its own link, or through others when that does not work. `None` for an unknown peer.
    pub fn channel(&self, peer: PeerId) -> Option<Channel> {
        let is_known = self.core.direct.contains_key(&peer);
        is_known.then(|| Channel::new(peer, self.clone()))
    }

    /// What is known of links.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// The faults of this peer's links.
    pub fn faults(&self) -> &Faults {
        &self.core.faults
    }

    /// An answer to a call that came from this peer over the link, when and as the faults of that link let it pass.
    ///
    /// # Errors
    /// [`Lost`] when it is lost.
    pub async fn pass_answer(
        &self,
        to: PeerId,
        answer: http::Response<Body>,
    ) -> Result<http::Response<Body>, Lost> {
        let faults = &self.core.faults;
        faults.pass(to).await?;
        Ok(answer.map(|body| held::wrap(body, to, faults)))
    }

    /// The peer that a call came from over the link: the last one that passed it on, else its caller. `None`: it came from no peer.
    pub fn sender(&self, headers: &http::HeaderMap) -> Option<PeerId> {
        let caller = || identity::number(headers);
        let sender = relay::passed_on_by(headers).or_else(caller);
        sender.filter(|peer| self.core.direct.contains_key(peer))
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
        self.core
            .acquaintances
            .meet(caller.peer, caller.directory, caller.incarnation)?;
        Ok(caller)
    }

    /// Checks only that a call comes from another peer of this cluster, in whatever life. Good for telling it who it was, for nothing else.
    ///
    /// # Errors
    /// [`Error::Identity`] when it does not say who it is, [`Error::Stranger`] when the configuration knows no such other peer.
    pub fn glimpse(&self, metadata: &MetadataMap) -> Result<Caller, Error> {
        let caller = self.core.identity.read(metadata)?;
        if !self.core.direct.contains_key(&caller.peer) {
            return Err(Error::Stranger { peer: caller.peer });
        }
        Ok(caller)
    }

    /// Checks that a sign of life comes from the life of a peer that may take part, or may when this peer meets it. Unlike
    /// [`Self::recognise`] it remembers nothing: links work before a peer knows who it is, and who has met nobody has never voted.
    ///
    /// # Errors
    /// As [`Self::recognise`].
    pub fn vouch(&self, metadata: &MetadataMap) -> Result<Caller, Error> {
        let caller = self.glimpse(metadata)?;
        let (peer, found) = (caller.peer, caller.acquaintance());
        match self.acquaintance(peer) {
            Some(known) if known != found && found.incarnation <= known.incarnation => {
                Err(AcquaintanceError::Forgetful { peer, known, found }.into())
            }
            _ => Ok(caller),
        }
    }

    /// As [`Self::vouch`], of an answer of the peer that was asked.
    ///
    /// # Errors
    /// [`Error::Mistaken`] when another peer answered; else as [`Self::vouch`].
    pub fn vouch_answer(&self, asked: PeerId, metadata: &MetadataMap) -> Result<(), Error> {
        let found = self.vouch(metadata)?.peer;
        if found != asked {
            return Err(Error::Mistaken { asked, found });
        }
        Ok(())
    }

    /// How a peer was when it was last let in; `None` when it never was.
    pub fn acquaintance(&self, peer: PeerId) -> Option<Acquaintance> {
        self.core.acquaintances.known(peer)
    }

    /// Checks that an answer comes from the peer that was asked. Were another one behind its address, one disk would be counted as two.
    ///
    /// # Errors
    /// [`Error::Mistaken`] when another peer answered; else as [`Self::recognise`].
    pub fn recognise_answer(&self, asked: PeerId, metadata: &MetadataMap) -> Result<(), Error> {
        let found = self.core.identity.read(metadata)?.peer;
        if found != asked {
            return Err(Error::Mistaken { asked, found });
        }
        self.recognise(metadata).map(|_| ())
    }

    /// The other peers of the configuration.
    pub fn others(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.core.direct.keys().copied()
    }

    /// Who this peer is to the others.
    pub fn identity(&self) -> Identity {
        let incarnation = Incarnation(self.core.incarnation.load(Ordering::Relaxed));
        Identity {
            incarnation,
            ..self.core.identity.clone()
        }
    }

    /// From now on the others are told this incarnation. It must be on this peer's disk already, and never goes back.
    pub fn begin_anew(&self, incarnation: Incarnation) {
        let told = &self.core.incarnation;
        told.fetch_max(incarnation.0, Ordering::Relaxed);
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
mod tests;
