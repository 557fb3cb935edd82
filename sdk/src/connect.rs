//! The peers that a client knows, one lazy channel each, and who leads which topic as far as was heard.
//!
//! It never retries a call. What it knows may be wrong at any time: a wrong guess costs one hop, because every peer takes every call.
//! Begin with [`Peers::choose`].

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};

use crate::error::Error;

/// Topics whose leader is remembered; the one learned first is forgotten. About 1 MiB.
const LEADERS_MAX: usize = 10_000;
/// Peers that are remembered: the largest cube has 4,096 vertices.
const PEERS_MAX: usize = 4_096;
/// How long a peer that could not be reached is asked last. About the time of an election.
const DOWN_TIME: Duration = Duration::from_millis(500);

/// Where a peer listens: `http://127.0.0.1:8000`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address(Arc<str>);

impl Address {
    /// Reads an address; `host:port` alone is taken for plain HTTP.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim().trim_end_matches('/');
        let whole = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let wrong = |problem: String| Error::Address {
            address: text.to_owned(),
            problem,
        };
        let uri: http::Uri = whole
            .parse()
            .map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
        if uri.host().is_none_or(str::is_empty) {
            return Err(wrong("it has no host".to_owned()));
        }
        if uri.port_u16().is_none() {
            return Err(wrong("it has no port".to_owned()));
        }
        Ok(Self(whole.into()))
    }

    /// In place of an address, where nobody knows it.
    pub(crate) fn unknown() -> Self {
        Self("".into())
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How channels are made.
#[derive(Debug, Clone)]
pub(crate) struct ChannelOptions {
    /// For the handshake of TCP.
    pub(crate) connect_timeout: Duration,
    /// How often a connection is asked for a sign of life, idle or not.
    pub(crate) keep_alive_interval: Duration,
    /// How long the sign may take before the connection is cut.
    pub(crate) keep_alive_timeout: Duration,
}

impl ChannelOptions {
    fn open(&self, address: &Address) -> Result<Channel, Error> {
        let endpoint = Endpoint::from_shared(address.as_str().to_owned())
            .and_then(|endpoint| {
                endpoint.user_agent(concat!("cubecast-sdk/", env!("CARGO_PKG_VERSION")))
            })
            .map_err(|error| Error::Address {
                address: address.to_string(),
                problem: error.to_string(),
            })?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(self.keep_alive_interval)
            .keep_alive_timeout(self.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            // Room for one full answer per call and several at once: the 64 KiB of HTTP/2 would stop a large pull at every window.
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .connect_lazy())
    }
}

/// Names a peer of [`Peers`]; never invalid, because no peer is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PeerKey(usize);

/// A peer to send an attempt to.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) key: PeerKey,
    pub(crate) address: Address,
    pub(crate) channel: Channel,
}

/// All peers that are known.
#[derive(Debug)]
pub(crate) struct Peers {
    options: ChannelOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    peers: Vec<Peer>,
    by_address: HashMap<Address, PeerKey>,
    by_vertex: HashMap<String, PeerKey>,
    leaders: HashMap<String, PeerKey>,
    /// The topics of `leaders` in the order in which they were learned.
    leader_order: VecDeque<String>,
    /// Where the turn of those without a known leader is.
    turn: usize,
}

#[derive(Debug)]
struct Peer {
    address: Address,
    channel: Channel,
    /// It could not be reached; ask it last until then.
    down_until: Option<Instant>,
}

impl Peers {
    /// Knows these peers.
    ///
    /// # Errors
    /// [`Error::Address`] when there is none, or one is not an address.
    pub(crate) fn new(options: ChannelOptions, addresses: &[Address]) -> Result<Self, Error> {
        let peers = Self {
            options,
            state: Mutex::default(),
        };
        for address in addresses {
            peers.add(address)?;
        }
        if peers.lock().peers.is_empty() {
            return Err(Error::Address {
                address: String::new(),
                problem: "at least one is needed".to_owned(),
            });
        }
        Ok(peers)
    }

    /// Leaf data only, and never held across an await. A panic elsewhere leaves it whole: each change is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Knows a peer, or knows it already.
    pub(crate) fn add(&self, address: &Address) -> Result<PeerKey, Error> {
        let mut state = self.lock();
        if let Some(key) = state.by_address.get(address) {
            return Ok(*key);
        }
        if state.peers.len() >= PEERS_MAX {
            let problem = format!("{PEERS_MAX} peers are known already");
            return Err(Error::Address {
                address: address.to_string(),
                problem,
            });
        }
        let key = PeerKey(state.peers.len());
        let channel = self.options.open(address)?;
        state.peers.push(Peer {
            address: address.clone(),
            channel,
            down_until: None,
        });
        state.by_address.insert(address.clone(), key);
        Ok(key)
    }

    /// Knows who is at home at a vertex. An address given by the application wins over one that a peer tells, which may be good only inside
    /// the cluster's network; `is_certain` says that the peer at this address itself said so.
    pub(crate) fn settle(&self, vertex: &str, key: PeerKey, is_certain: bool) {
        let mut state = self.lock();
        if vertex.is_empty() || state.by_vertex.len() >= PEERS_MAX {
            return;
        }
        if is_certain {
            state.by_vertex.insert(vertex.to_owned(), key);
        } else {
            state.by_vertex.entry(vertex.to_owned()).or_insert(key);
        }
    }

    /// The addresses of all known peers, in the order in which they became known.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.lock()
            .peers
            .iter()
            .map(|peer| peer.address.clone())
            .collect()
    }

    /// The peer at home at this vertex, where known.
    pub(crate) fn at_vertex(&self, vertex: &str) -> Option<PeerKey> {
        self.lock().by_vertex.get(vertex).copied()
    }

    /// The peer of this key.
    pub(crate) fn get(&self, key: PeerKey) -> Option<Chosen> {
        self.lock().chosen(key)
    }

    /// Whom to ask about a topic, or about nothing in particular: the leader where known, otherwise each in turn; not one of `tried` or one
    /// that is down while there is another.
    pub(crate) fn choose(&self, topic: Option<&str>, tried: &[PeerKey]) -> Option<Chosen> {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(key) = topic.and_then(|topic| state.leaders.get(topic).copied())
            && !tried.contains(&key)
            && state.is_up(key, now)
        {
            return state.chosen(key);
        }
        let count = state.peers.len();
        let turn: Vec<PeerKey> = (0..count)
            .map(|step| PeerKey((state.turn + step) % count))
            .collect();
        let fresh = |key: &&PeerKey| !tried.contains(key);
        let key = turn
            .iter()
            .filter(fresh)
            .find(|key| state.is_up(**key, now))
            .or_else(|| turn.iter().find(fresh))
            .or_else(|| turn.first())
            .copied()?;
        state.turn = key.0 + 1;
        state.chosen(key)
    }

    /// There is a peer that is not in `tried` and not down.
    pub(crate) fn has_other(&self, tried: &[PeerKey]) -> bool {
        let now = Instant::now();
        let state = self.lock();
        (0..state.peers.len())
            .map(PeerKey)
            .any(|key| !tried.contains(&key) && state.is_up(key, now))
    }

    /// A peer answered, so it is up.
    pub(crate) fn mark_up(&self, key: PeerKey) {
        if let Some(peer) = self.lock().peers.get_mut(key.0) {
            peer.down_until = None;
        }
    }

    /// A peer could not be reached.
    pub(crate) fn mark_down(&self, key: PeerKey) {
        if let Some(peer) = self.lock().peers.get_mut(key.0) {
            peer.down_until = Some(Instant::now() + DOWN_TIME);
        }
    }

    /// The peer at this vertex answered for the topic. `false`: it is not known where that peer listens.
    pub(crate) fn learn(&self, topic: &str, vertex: &str) -> bool {
        let mut state = self.lock();
        let Some(key) = state.by_vertex.get(vertex).copied() else {
            return false;
        };
        state.remember(topic, key);
        true
    }

    /// Whoever was taken for the leader of the topic is not.
    pub(crate) fn forget(&self, topic: &str) {
        // Its place in `leader_order` stays; when its turn comes there is nothing to remove, or a younger entry goes early.
        self.lock().leaders.remove(topic);
    }
}

impl State {
    fn chosen(&self, key: PeerKey) -> Option<Chosen> {
        let peer = self.peers.get(key.0)?;
        Some(Chosen {
            key,
            address: peer.address.clone(),
            channel: peer.channel.clone(),
        })
    }

    fn is_up(&self, key: PeerKey, now: Instant) -> bool {
        self.peers
            .get(key.0)
            .is_some_and(|peer| peer.down_until.is_none_or(|until| until <= now))
    }

    fn remember(&mut self, topic: &str, key: PeerKey) {
        if let Some(known) = self.leaders.get_mut(topic) {
            *known = key;
            return;
        }
        while self.leader_order.len() >= LEADERS_MAX {
            if let Some(oldest) = self.leader_order.pop_front() {
                self.leaders.remove(&oldest);
            }
        }
        self.leaders.insert(topic.to_owned(), key);
        self.leader_order.push_back(topic.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(count: u16) -> Peers {
        let options = ChannelOptions {
            connect_timeout: Duration::from_secs(1),
            keep_alive_interval: Duration::from_secs(1),
            keep_alive_timeout: Duration::from_secs(1),
        };
        let addresses: Vec<_> = (0..count)
            .map(|i| Address::parse(&format!("127.0.0.1:{}", 8000 + i)).unwrap())
            .collect();
        Peers::new(options, &addresses).unwrap()
    }

    #[test]
    fn address_gets_its_scheme_and_must_have_host_and_port() {
        assert_eq!(
            Address::parse("127.0.0.1:8000/").unwrap().as_str(),
            "http://127.0.0.1:8000"
        );
        assert_eq!(
            Address::parse("http://[::1]:8000").unwrap().as_str(),
            "http://[::1]:8000"
        );
        for wrong in ["", "http://", "http://host", ":8000", "a b:1"] {
            assert!(Address::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn peers_without_a_leader_take_turns() {
        let peers = peers(3);
        let turns: Vec<_> = (0..4)
            .map(|_| peers.choose(None, &[]).unwrap().key.0)
            .collect();
        assert_eq!(turns, [0, 1, 2, 0]);
    }

    #[tokio::test]
    async fn leader_is_asked_first_unless_tried_or_down() {
        let peers = peers(3);
        peers.settle("010", PeerKey(2), true);
        assert!(peers.learn("news", "010"));
        assert!(!peers.learn("news", "111"));
        assert_eq!(peers.choose(Some("news"), &[]).unwrap().key, PeerKey(2));
        assert_eq!(
            peers.choose(Some("news"), &[PeerKey(2)]).unwrap().key,
            PeerKey(0)
        );
        peers.mark_down(PeerKey(2));
        assert_eq!(peers.choose(Some("news"), &[]).unwrap().key, PeerKey(1));
        peers.mark_up(PeerKey(2));
        assert_eq!(peers.choose(Some("news"), &[]).unwrap().key, PeerKey(2));
        peers.forget("news");
        assert_ne!(
            peers.choose(Some("news"), &[PeerKey(2)]).unwrap().key,
            PeerKey(2)
        );
    }

    #[tokio::test]
    async fn when_all_were_tried_one_is_tried_again() {
        let peers = peers(2);
        assert!(peers.choose(None, &[PeerKey(0), PeerKey(1)]).is_some());
        assert!(!peers.has_other(&[PeerKey(0), PeerKey(1)]));
    }

    #[tokio::test]
    async fn certain_home_wins_over_hearsay() {
        let peers = peers(3);
        peers.settle("000", PeerKey(1), false);
        peers.settle("000", PeerKey(0), true);
        peers.settle("000", PeerKey(2), false);
        assert_eq!(peers.at_vertex("000"), Some(PeerKey(0)));
    }

    #[tokio::test]
    async fn remembered_leaders_are_bounded() {
        let peers = peers(1);
        peers.settle("0", PeerKey(0), true);
        for number in 0..LEADERS_MAX + 10 {
            peers.learn(&format!("topic{number}"), "0");
        }
        let state = peers.lock();
        assert_eq!(
            (state.leaders.len(), state.leader_order.len()),
            (LEADERS_MAX, LEADERS_MAX)
        );
        assert!(!state.leaders.contains_key("topic9") && state.leaders.contains_key("topic10"));
    }
}
