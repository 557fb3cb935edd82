//! Who answers a call: this peer, another one, or nobody yet.
//!
//! A [`Search`] walks over the replicas of one vertex: the leader that is known, then the owner, then the others in bit order, each once in
//! a round, and those that are gone after all others. After a round the caller waits and asks again. What is learned on the way ([`Router::learn`], [`Router::forget`]) is kept for
//! the next call. Never sends anything and knows no protocol. Begin with [`Search::step`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cluster::Cluster;
use crate::types::{PeerId, Term, Vertex};

/// Tells whether nobody hears from a peer, neither this one nor any that could pass a call on.
pub type Gone = Arc<dyn Fn(PeerId) -> bool + Send + Sync>;

/// Tells who says of itself that it leads the shard of a vertex.
pub type Told = Arc<dyn Fn(Vertex) -> Option<Leader> + Send + Sync>;

/// Remembers who led each shard when it was last heard of.
pub struct Router {
    cluster: Cluster,
    gone: Gone,
    told: Told,
    /// At most one entry for each vertex of the cube.
    leaders: Mutex<BTreeMap<Vertex, Leader>>,
}

/// A leader that somebody named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// The peer.
    pub peer: PeerId,
    /// The term that it led in, as far as the one who named it knew.
    pub term: Term,
}

/// Which replica may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Only the leader.
    Leader,
    /// Any replica, this peer's own for preference.
    Replica,
}

/// Where a call goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This peer's own replica answers.
    Here,
    /// Another peer is asked.
    Peer(PeerId),
    /// Every replica was asked in vain: wait a little, then ask again.
    Wait,
}

impl Router {
    /// A router that remembers no leader yet.
    pub fn new(cluster: Cluster, gone: Gone, told: Told) -> Self {
        Self {
            cluster,
            gone,
            told,
            leaders: Mutex::new(BTreeMap::new()),
        }
    }

    /// The cluster that calls are routed in.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whether there is no way to a peer.
    pub fn is_gone(&self, peer: PeerId) -> bool {
        peer != self.cluster.this() && (self.gone)(peer)
    }

    /// Begins the search for who answers for a vertex.
    pub fn search(&self, vertex: Vertex, aim: Aim) -> Search<'_> {
        Search {
            router: self,
            vertex,
            aim,
            asked: Vec::new(),
        }
    }

    /// The leader of a vertex's shard, as far as this peer has heard: from calls, or from the leader itself, whichever is newer.
    pub fn leader(&self, vertex: Vertex) -> Option<Leader> {
        let remembered = self.leaders().get(&vertex).copied();
        let told = (self.told)(vertex);
        match (remembered, told) {
            (Some(remembered), Some(told)) if remembered.term > told.term => Some(remembered),
            (remembered, told) => told.or(remembered),
        }
    }

    /// Somebody named the leader of a shard, or it has just answered. An older term than the one known teaches nothing.
    pub fn learn(&self, vertex: Vertex, leader: Leader) {
        let mut leaders = self.leaders();
        let is_older = leaders
            .get(&vertex)
            .is_some_and(|known| known.term > leader.term);
        if !is_older && self.cluster.vertex_of(leader.peer).is_some() {
            leaders.insert(vertex, leader);
        }
    }

    /// A peer did not answer, or said that it does not lead: it is not taken for the leader any more.
    pub fn forget(&self, vertex: Vertex, peer: PeerId) {
        let mut leaders = self.leaders();
        if leaders.get(&vertex).is_some_and(|known| known.peer == peer) {
            leaders.remove(&vertex);
        }
    }

    /// A peer has just answered as the leader.
    pub fn confirm(&self, vertex: Vertex, peer: PeerId) {
        let mut leaders = self.leaders();
        // Its term is not known here: any name that comes with a term replaces it.
        if leaders.get(&vertex).is_none_or(|known| known.peer != peer) {
            leaders.insert(
                vertex,
                Leader {
                    peer,
                    term: Term(0),
                },
            );
        }
    }

    fn leaders(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vertex, Leader>> {
        // A panic cannot leave the map half changed: each change is one insert or remove.
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("leaders", &self.leaders)
            .finish_non_exhaustive()
    }
}

/// The way of one call over the replicas of a vertex.
#[derive(Debug)]
pub struct Search<'a> {
    router: &'a Router,
    vertex: Vertex,
    aim: Aim,
    /// Who was asked in this round.
    asked: Vec<PeerId>,
}

impl Search<'_> {
    /// Where the call goes next. After [`Step::Wait`] a new round begins.
    pub fn step(&mut self) -> Step {
        let candidate = self
            .candidates()
            .into_iter()
            .find(|peer| !self.asked.contains(peer));
        let Some(peer) = candidate else {
            self.asked.clear();
            return Step::Wait;
        };
        self.asked.push(peer);
        if peer == self.router.cluster.this() {
            Step::Here
        } else {
            Step::Peer(peer)
        }
    }

    /// Every replica, the likeliest first, those that are gone last.
    fn candidates(&self) -> Vec<PeerId> {
        let cluster = &self.router.cluster;
        let replicas = cluster.replicas(self.vertex);
        let preferred = match self.aim {
            Aim::Leader => self.router.leader(self.vertex).map(|leader| leader.peer),
            Aim::Replica => Some(cluster.this()).filter(|this| replicas.contains(this)),
        };
        let others = replicas.into_iter().filter(|peer| Some(*peer) != preferred);
        let mut candidates: Vec<PeerId> = preferred.into_iter().chain(others).collect();
        // Stable: otherwise the order stays. Who is gone may be back, so it is not left out.
        candidates.sort_by_cached_key(|peer| self.router.is_gone(*peer));
        candidates
    }
}

#[cfg(test)]
mod tests;
