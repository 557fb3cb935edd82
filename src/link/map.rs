//! The live graph: which links work, and the ways along those that do.
//!
//! Pure: a snapshot of what one peer knows, which never changes but for the two figures that each heartbeat moves (when a peer was heard, how
//! long the way there and back takes). A link works when both ends say that they hear the other (as OSPF, RFC 2328 section 10.8, brings an
//! adjacency up), so the word of a dead peer counts for nothing. Begin with [`LinkMap::route`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pulse::Pulse;
use super::wire::Table;
use crate::cube;
use crate::types::{PeerId, Term, Vertex};

/// What a peer knows of its own link to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing heard since the start, or since a connection broke a moment ago.
    Unknown,
    /// Each of the two hears the other.
    Up,
    /// Nothing heard for the limit, or the other one hears nothing. A connection may be there.
    Silent,
    /// Dialled twice and refused twice: no process listens there.
    Dead,
}

/// One's own link to another peer.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) state: LinkState,
    pub(super) pulse: Arc<Pulse>,
}

/// What a peer knows of all links at one moment.
#[derive(Debug, Clone)]
pub struct LinkMap {
    this: PeerId,
    /// Every peer of the cluster, this one too.
    members: Arc<BTreeMap<PeerId, Vertex>>,
    /// Every other member.
    own: BTreeMap<PeerId, Own>,
    /// Whom each peer says it hears. Peers that never said anything are not in it.
    hears: BTreeMap<PeerId, Arc<BTreeSet<PeerId>>>,
    /// Those that are about to stop.
    leaving: BTreeSet<PeerId>,
    /// Who says that it leads a shard, by the number of its vertex: the one with the greatest term.
    leaders: Arc<BTreeMap<u16, (Term, PeerId)>>,
}

impl LinkMap {
    /// A map of which nothing is known but the members.
    pub fn new(this: PeerId, members: impl IntoIterator<Item = (PeerId, Vertex)>) -> Self {
        let members: BTreeMap<PeerId, Vertex> = members.into_iter().collect();
        let unknown = || Own {
            state: LinkState::Unknown,
            pulse: Arc::default(),
        };
        let others = members.keys().filter(|peer| **peer != this);
        Self {
            this,
            own: others.map(|peer| (*peer, unknown())).collect(),
            members: Arc::new(members),
            hears: BTreeMap::new(),
            leaving: BTreeSet::new(),
            leaders: Arc::default(),
        }
    }

    pub(super) fn from_parts<'a>(
        this: PeerId,
        members: Arc<BTreeMap<PeerId, Vertex>>,
        own: BTreeMap<PeerId, Own>,
        tables: impl Iterator<Item = &'a Table>,
    ) -> Self {
        let (mut hears, mut leaving) = (BTreeMap::new(), BTreeSet::new());
        let mut leaders: BTreeMap<u16, (Term, PeerId)> = BTreeMap::new();
        for table in tables {
            hears.insert(table.peer, Arc::clone(&table.hears));
            if table.is_leaving {
                leaving.insert(table.peer);
            }
            for (shard, term) in table.leads.iter() {
                let claim = (*term, table.peer);
                let greatest = leaders.entry(*shard).or_insert(claim);
                *greatest = claim.max(*greatest);
            }
        }
        Self {
            this,
            members,
            own,
            hears,
            leaving,
            leaders: Arc::new(leaders),
        }
    }

    /// The peer whose map this is.
    pub fn this(&self) -> PeerId {
        self.this
    }

    /// Every peer of the cluster with its vertex, in the order of the numbers.
    pub fn members(&self) -> impl Iterator<Item = (PeerId, Vertex)> + '_ {
        self.members.iter().map(|(peer, vertex)| (*peer, *vertex))
    }

    /// This peer's own link to another one. Itself it always reaches; of a stranger nothing is known.
    pub fn state(&self, peer: PeerId) -> LinkState {
        if peer == self.this {
            return LinkState::Up;
        }
        let own = self.own.get(&peer);
        own.map_or(LinkState::Unknown, |own| own.state)
    }

    /// Whether the link between two peers works, as both of them say.
    pub fn is_up(&self, a: PeerId, b: PeerId) -> bool {
        let hears = |at: PeerId, whom: PeerId| {
            let heard = self.hears.get(&at);
            heard.is_some_and(|heard| heard.contains(&whom))
        };
        a == b || hears(a, b) && hears(b, a)
    }

    /// Who leads a shard and in which term, as the leader itself says. One that is gone does not count, and neither do those that led before it.
    pub fn leader(&self, shard: Vertex) -> Option<(PeerId, Term)> {
        let (term, peer) = *self.leaders.get(&shard.index())?;
        (!self.is_gone(peer)).then_some((peer, term))
    }

    /// The peers to pass on the way to another one, that one last: it alone when the link works, nobody to this peer itself. The shortest way
    /// over links that work; of several the one that comes nearest to the goal on the cube. It passes a peer that is about to stop only when
    /// there is no other way, and no peer twice. `None`: there is no way.
    pub fn route(&self, to: PeerId) -> Option<Vec<PeerId>> {
        if to == self.this {
            return Some(Vec::new());
        }
        let goal = *self.members.get(&to)?;
        if self.is_up(self.this, to) {
            return Some(vec![to]);
        }
        let stays = |peer: PeerId| !self.leaving.contains(&peer);
        let around = self.search((to, goal), stays);
        if around.is_some() || self.leaving.is_empty() {
            return around;
        }
        self.search((to, goal), |_| true)
    }

    /// As [`route`](Self::route), but not over the link between this peer and that one.
    pub(super) fn detour(&self, to: PeerId) -> Option<Vec<PeerId>> {
        let mut rest = self.clone();
        if let Some(heard) = rest.hears.get_mut(&self.this) {
            Arc::make_mut(heard).remove(&to);
        }
        rest.route(to)
    }

    /// The shortest way that passes only peers that `may_pass` says.
    fn search(
        &self,
        (to, goal): (PeerId, Vertex),
        may_pass: impl Fn(PeerId) -> bool,
    ) -> Option<Vec<PeerId>> {
        let mut came_from = BTreeMap::from([(self.this, self.this)]);
        let mut open = VecDeque::from([self.this]);
        while let Some(at) = open.pop_front() {
            if at == to {
                return Some(self.trace(&came_from, to));
            }
            if at != self.this && !may_pass(at) {
                continue;
            }
            for next in self.neighbours_towards(at, goal) {
                came_from.entry(next).or_insert_with(|| {
                    open.push_back(next);
                    at
                });
            }
        }
        None
    }

    /// Those that a peer can speak with, the nearest to the goal first.
    fn neighbours_towards(&self, at: PeerId, goal: Vertex) -> Vec<PeerId> {
        let heard = self.hears.get(&at).map(|heard| heard.iter().copied());
        let up = heard.into_iter().flatten();
        let mut up: Vec<(u32, PeerId)> = up
            .filter(|next| self.is_up(at, *next))
            .filter_map(|next| Some((cube::distance(*self.members.get(&next)?, goal), next)))
            .collect();
        up.sort_unstable();
        up.into_iter().map(|(_, next)| next).collect()
    }

    fn trace(&self, came_from: &BTreeMap<PeerId, PeerId>, to: PeerId) -> Vec<PeerId> {
        let mut hops = vec![to];
        let mut at = to;
        while let Some(before) = came_from.get(&at).filter(|before| **before != self.this) {
            hops.push(*before);
            at = *before;
        }
        hops.reverse();
        hops
    }

    /// Whether this peer can speak with another one, directly or through others.
    pub fn is_reachable(&self, peer: PeerId) -> bool {
        peer == self.this || self.route(peer).is_some()
    }

    /// Whether a peer is lost to this one: its own link found it silent or dead, and there is no way to it through others. A peer of which
    /// nothing is known yet is not gone.
    pub fn is_gone(&self, peer: PeerId) -> bool {
        let is_lost = matches!(self.state(peer), LinkState::Silent | LinkState::Dead);
        is_lost && !self.is_reachable(peer)
    }

    /// Whether a peer cannot lead for this one any more: it refused two dials of this peer, or it is gone. Unlike [`is_gone`](Self::is_gone) the first
    /// depends on nobody else: what others still say of a peer that died a moment ago is old.
    pub fn is_lost(&self, peer: PeerId) -> bool {
        self.state(peer) == LinkState::Dead || self.is_gone(peer)
    }

    /// When this peer last heard from another one. It moves on while the map stays.
    pub fn heard(&self, peer: PeerId) -> Option<Instant> {
        self.own.get(&peer)?.pulse.heard()
    }

    /// How long the way to another peer and back takes, as its last heartbeat said. It moves on while the map stays.
    pub fn round_trip(&self, peer: PeerId) -> Option<Duration> {
        self.own.get(&peer)?.pulse.round_trip()
    }

    /// Each peer that is known to look at its links, with every other one, and whether the link between them works; in the order of the numbers.
    pub fn links(&self) -> impl Iterator<Item = (PeerId, PeerId, bool)> + '_ {
        self.hears.keys().flat_map(move |from| {
            let others = self.members.keys().filter(move |to| *to != from);
            others.map(move |to| (*from, *to, self.is_up(*from, *to)))
        })
    }
}

/// Maps as tests need them.
#[cfg(any(test, feature = "testing"))]
impl LinkMap {
    /// A map in which every link works.
    pub fn connected(this: PeerId, members: impl IntoIterator<Item = (PeerId, Vertex)>) -> Self {
        let mut map = Self::new(this, members);
        let all: Vec<PeerId> = map.members.keys().copied().collect();
        for a in &all {
            for b in all.iter().filter(|b| *b > a) {
                map = map.with(*a, *b, LinkState::Up);
            }
        }
        map
    }

    /// The same map with this link between two peers.
    #[must_use]
    pub fn with(mut self, a: PeerId, b: PeerId, state: LinkState) -> Self {
        for (from, to) in [(a, b), (b, a)] {
            let heard = Arc::make_mut(self.hears.entry(from).or_default());
            if state == LinkState::Up {
                heard.insert(to);
            } else {
                heard.remove(&to);
            }
            if from == self.this
                && let Some(own) = self.own.get_mut(&to)
            {
                own.state = state;
            }
        }
        self
    }

    /// The same map with a peer that is about to stop.
    #[must_use]
    pub fn with_leaving(mut self, peer: PeerId) -> Self {
        self.leaving.insert(peer);
        self
    }

    /// The same map with all links of one peer like this.
    #[must_use]
    pub fn with_peer(mut self, peer: PeerId, state: LinkState) -> Self {
        let others: Vec<PeerId> = self.members.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != peer) {
            self = self.with(peer, other, state);
        }
        self
    }
}
