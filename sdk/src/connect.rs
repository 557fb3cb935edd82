//! The peers that a client knows, one lazy channel each, whether they answer, and who leads which topic as far as was heard.
//!
//! It never calls anyone. What it knows may be wrong at any time: a wrong guess costs one hop, because every peer takes every call.
//! Begin with [`Peers::choose`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::address::Address;
use crate::circuit::{Circuit, Confirmed, Round};
use crate::error::Error;
use crate::event::{Event, Teller};

/// Topics whose leader is remembered; the one learned first is forgotten. About 1 MiB.
const LEADERS_MAX: usize = 10_000;
/// Peers that are remembered: the largest cube has 4,096 vertices.
const PEERS_MAX: usize = 4_096;

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
    /// Changes when it is certain that the peer cannot be reached: whoever waits for its answer need not wait any longer.
    pub(crate) lost: watch::Receiver<()>,
}

/// All peers that are known.
#[derive(Debug)]
pub(crate) struct Peers {
    options: ChannelOptions,
    state: Mutex<State>,
    teller: Teller,
}

#[derive(Debug, Default)]
struct State {
    peers: Vec<Peer>,
    by_address: HashMap<Address, PeerKey>,
    by_vertex: HashMap<String, PeerKey>,
    leaders: HashMap<String, Leader>,
    /// The topics of `leaders` in the order in which they were learned.
    leader_order: VecDeque<String>,
    /// Where the turn of those without a known leader is.
    turn: usize,
    /// By the vertex of an owner that cannot be reached: the vertex that was last told of as serving in its place.
    stand_ins: HashMap<String, String>,
}

/// Who leads a topic.
#[derive(Debug, Clone, Copy)]
struct Leader {
    key: PeerKey,
    /// A call has failed there since, so that others are as likely.
    is_doubtful: bool,
}

#[derive(Debug)]
struct Peer {
    address: Address,
    channel: Channel,
    /// One that it is home to, where known.
    vertex: Option<String>,
    circuit: Circuit,
    lost: watch::Sender<()>,
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
            teller: Teller::default(),
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
            vertex: None,
            circuit: Circuit::default(),
            lost: watch::Sender::default(),
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
        if let Some(peer) = state.peers.get_mut(key.0) {
            peer.vertex.get_or_insert_with(|| vertex.to_owned());
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
        let mut state = self.lock();
        if let Some(leader) = topic.and_then(|topic| state.leaders.get(topic).copied())
            && !leader.is_doubtful
            && !tried.contains(&leader.key)
            && state.is_up(leader.key)
        {
            return state.chosen(leader.key);
        }
        let count = state.peers.len();
        let turn: Vec<PeerKey> = (0..count)
            .map(|step| PeerKey((state.turn + step) % count))
            .collect();
        let fresh = |key: &&PeerKey| !tried.contains(key);
        let key = turn
            .iter()
            .filter(fresh)
            .find(|key| state.is_up(**key))
            .or_else(|| turn.iter().find(fresh))
            .or_else(|| turn.first())
            .copied()?;
        state.turn = key.0 + 1;
        state.chosen(key)
    }

    /// There is a peer that is not in `tried` and not down.
    pub(crate) fn has_other(&self, tried: &[PeerKey]) -> bool {
        let state = self.lock();
        (0..state.peers.len())
            .map(PeerKey)
            .any(|key| !tried.contains(&key) && state.is_up(key))
    }

    /// The peer answered the last probe, or needed none.
    pub(crate) fn is_up(&self, key: PeerKey) -> bool {
        self.lock().is_up(key)
    }

    /// A peer answered, so it is up.
    pub(crate) fn mark_up(&self, key: PeerKey) {
        let mut state = self.lock();
        let Some(peer) = state.peers.get_mut(key.0) else {
            return;
        };
        if peer.circuit.close() {
            let (address, vertex) = peer.name();
            drop(state);
            self.teller.tell(Event::PeerUp { address, vertex });
        }
    }

    /// A peer failed a call. Gives the round to probe it in, unless that is being done.
    pub(crate) fn trip(&self, key: PeerKey) -> Option<Round> {
        self.lock().peers.get_mut(key.0)?.circuit.trip()
    }

    /// How long to wait before the next probe of this round; `None`: it has ended.
    pub(crate) fn pause(&self, key: PeerKey, round: Round) -> Option<Duration> {
        self.lock().peers.get(key.0)?.circuit.pause(round)
    }

    /// A probe of the peer begins.
    pub(crate) fn probe(&self, key: PeerKey) {
        if let Some(peer) = self.lock().peers.get_mut(key.0) {
            peer.circuit.probe();
        }
    }

    /// A probe of the peer had no answer.
    pub(crate) fn confirm(&self, key: PeerKey) {
        let mut state = self.lock();
        let Some(peer) = state.peers.get_mut(key.0) else {
            return;
        };
        if peer.circuit.fail() == Confirmed::Now {
            let (address, vertex) = peer.name();
            peer.lost.send_replace(());
            drop(state);
            self.teller.tell(Event::PeerDown { address, vertex });
        }
    }

    /// Where events are told.
    pub(crate) fn teller(&self) -> &Teller {
        &self.teller
    }

    /// The peer at this vertex is known, and does not answer.
    pub(crate) fn is_down(&self, vertex: &str) -> bool {
        let state = self.lock();
        let key = state.by_vertex.get(vertex);
        key.is_some_and(|key| !state.is_up(*key))
    }

    /// A replica answered in place of the owner, which cannot be reached.
    pub(crate) fn stand_in(&self, owner: &str, served_by: &str) {
        let mut state = self.lock();
        if state.stand_ins.len() >= PEERS_MAX {
            state.stand_ins.clear();
        }
        let (owner, served_by) = (owner.to_owned(), served_by.to_owned());
        let before = state.stand_ins.insert(owner.clone(), served_by.clone());
        drop(state);
        if before.as_ref() != Some(&served_by) {
            self.teller
                .tell(Event::OwnerUnreachable { owner, served_by });
        }
    }

    /// The owner answered itself.
    pub(crate) fn stand_back(&self, owner: &str) {
        let mut state = self.lock();
        if !state.stand_ins.is_empty() {
            state.stand_ins.remove(owner);
        }
    }

    /// The peer at this vertex answered for the topic. `false`: it is not known where that peer listens.
    pub(crate) fn learn(&self, topic: &str, vertex: &str) -> bool {
        let mut state = self.lock();
        let Some(key) = state.by_vertex.get(vertex).copied() else {
            return false;
        };
        let before = state.remember(topic, key).filter(|before| *before != key);
        if let Some(before) = before {
            let from = state.peers.get(before.0);
            let from = from.and_then(|peer| peer.vertex.clone());
            drop(state);
            self.teller.tell(Event::LeaderMoved {
                topic: topic.to_owned(),
                from,
                to: vertex.to_owned(),
            });
        }
        true
    }

    /// Another peer than this one leads the topic, as far as was heard, and answers.
    pub(crate) fn leads_elsewhere(&self, topic: &str, key: PeerKey) -> bool {
        let state = self.lock();
        let leader = state.leaders.get(topic).copied();
        leader.is_some_and(|leader| {
            leader.key != key && !leader.is_doubtful && state.is_up(leader.key)
        })
    }

    /// Whoever was taken for the leader of the topic may not be.
    pub(crate) fn doubt(&self, topic: &str) {
        if let Some(leader) = self.lock().leaders.get_mut(topic) {
            leader.is_doubtful = true;
        }
    }
}

impl State {
    fn chosen(&self, key: PeerKey) -> Option<Chosen> {
        let peer = self.peers.get(key.0)?;
        Some(Chosen {
            key,
            address: peer.address.clone(),
            channel: peer.channel.clone(),
            lost: peer.lost.subscribe(),
        })
    }

    fn is_up(&self, key: PeerKey) -> bool {
        let peer = self.peers.get(key.0);
        peer.is_some_and(|peer| peer.circuit.is_closed())
    }

    /// Gives who led before, as far as was known.
    fn remember(&mut self, topic: &str, key: PeerKey) -> Option<PeerKey> {
        let leader = Leader {
            key,
            is_doubtful: false,
        };
        if let Some(known) = self.leaders.get_mut(topic) {
            return Some(std::mem::replace(known, leader).key);
        }
        while self.leader_order.len() >= LEADERS_MAX {
            if let Some(oldest) = self.leader_order.pop_front() {
                self.leaders.remove(&oldest);
            }
        }
        self.leaders.insert(topic.to_owned(), leader);
        self.leader_order.push_back(topic.to_owned());
        None
    }
}

impl Peer {
    /// Its address and its vertex, as events have them.
    fn name(&self) -> (String, Option<String>) {
        (self.address.to_string(), self.vertex.clone())
    }
}

#[cfg(test)]
mod tests;
