//! Who is in the cluster and where its vertices live.
//!
//! The only place that knows how a vertex becomes a peer: nothing else may assume that peer `i` serves vertex `i`. Membership is what the
//! configuration said and does not change while the process lives. Never does I/O. Begin with [`Cluster`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cube::{self, ReplicationFactor};
use crate::types::{Dimension, Name, PeerId, Vertex};

/// The members of a cluster and its shape.
#[derive(Debug, Clone)]
pub struct Options {
    /// The peer that this process is. It is one of the members.
    pub this: PeerId,
    /// Every peer of the cluster, each vertex with exactly one.
    pub members: Vec<Member>,
    /// How many bits name a vertex.
    pub dimension: Dimension,
    /// How many peers hold each topic, the owner included: 1 to `dimension + 1`.
    pub replication_factor: u8,
}

/// One peer of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub peer: PeerId,
    /// The vertex that it is the home of.
    pub vertex: Vertex,
    /// Where other peers and clients reach it: `http://host:port`.
    pub address: String,
}

/// The map of the cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    this: PeerId,
    dimension: Dimension,
    factor: ReplicationFactor,
    members: BTreeMap<PeerId, Member>,
    /// The home of each vertex, by vertex index. As long as the cube has vertices.
    homes: Vec<PeerId>,
}

impl Cluster {
    /// Checks the members and builds the map.
    ///
    /// # Errors
    /// [`Error`] when a vertex has no home or two, a peer is named twice, this peer is missing, or the replication factor does not fit.
    pub fn new(options: Options) -> Result<Self, Error> {
        let Options {
            this,
            members,
            dimension,
            replication_factor,
        } = options;
        let factor = ReplicationFactor::new(replication_factor, dimension)?;
        let homes = homes(&members, dimension)?;
        let mut by_peer = BTreeMap::new();
        for member in members {
            let peer = member.peer;
            if by_peer.insert(peer, member).is_some() {
                return Err(Error::PeerTwice { peer });
            }
        }
        if !by_peer.contains_key(&this) {
            return Err(Error::NotMember { peer: this });
        }
        Ok(Self {
            inner: Arc::new(Inner {
                this,
                dimension,
                factor,
                members: by_peer,
                homes,
            }),
        })
    }

    /// The peer that this process is.
    pub fn this(&self) -> PeerId {
        self.inner.this
    }

    /// How many bits name a vertex.
    pub fn dimension(&self) -> Dimension {
        self.inner.dimension
    }

    /// How many peers hold each topic.
    pub fn replication_factor(&self) -> u8 {
        self.inner.factor.copies()
    }

    /// How many of a shard's voters make a majority.
    pub fn quorum(&self) -> usize {
        // The number of voters is the same for every vertex.
        let any = self.inner.dimension.vertices().next();
        any.map_or(1, |vertex| {
            cube::Replicas::of(vertex, self.inner.factor)
                .voters()
                .count()
                / 2
                + 1
        })
    }

    /// The vertex that owns what bears this name (placement law T4).
    pub fn place(&self, name: &Name) -> Vertex {
        cube::owner(name, self.inner.dimension)
    }

    /// The peer that is the home of a vertex: the preferred leader of its shard.
    ///
    /// # Panics
    /// When the vertex belongs to a cube of another dimension.
    pub fn home(&self, vertex: Vertex) -> PeerId {
        assert!(
            vertex.dimension() == self.inner.dimension,
            "a vertex is asked for in its own cube"
        );
        #[expect(
            clippy::expect_used,
            reason = "`homes` has an entry for every vertex, checked when it was built"
        )]
        self.inner
            .homes
            .get(usize::from(vertex.index()))
            .copied()
            .expect("each vertex has a home")
    }

    /// The vertex that a peer is the home of. `None`: no such member.
    pub fn vertex_of(&self, peer: PeerId) -> Option<Vertex> {
        self.inner.members.get(&peer).map(|member| member.vertex)
    }

    /// The vertices that hold a shard's replicas: the owner, then its neighbours in bit order, cut at the replication factor.
    pub fn replica_vertices(&self, vertex: Vertex) -> cube::Replicas {
        cube::Replicas::of(vertex, self.inner.factor)
    }

    /// The peers whose replicas of a shard vote, the owner's home first.
    pub fn voters(&self, vertex: Vertex) -> Vec<PeerId> {
        self.replica_vertices(vertex)
            .voters()
            .map(|replica| self.home(replica))
            .collect()
    }

    /// The peers that hold a shard's replicas, the owner's home first, each once.
    pub fn replicas(&self, vertex: Vertex) -> Vec<PeerId> {
        let mut peers = Vec::with_capacity(usize::from(self.inner.factor.copies()));
        for replica in self.replica_vertices(vertex).iter() {
            let peer = self.home(replica);
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        peers
    }

    /// Where a peer is reached: `http://host:port`. `None`: no such member.
    pub fn address(&self, peer: PeerId) -> Option<&str> {
        self.inner
            .members
            .get(&peer)
            .map(|member| member.address.as_str())
    }

    /// Every member, by number.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.inner.members.values()
    }
}

/// The home of each vertex, in the order of the vertices.
fn homes(members: &[Member], dimension: Dimension) -> Result<Vec<PeerId>, Error> {
    let mut by_vertex = BTreeMap::new();
    for Member { peer, vertex, .. } in members {
        if vertex.dimension() != dimension {
            return Err(Error::Dimension {
                peer: *peer,
                vertex: *vertex,
                dimension: dimension.bits(),
            });
        }
        if let Some(other) = by_vertex.insert(*vertex, *peer) {
            return Err(Error::VertexTwice {
                vertex: *vertex,
                first: other,
                second: *peer,
            });
        }
    }
    let vacant: BTreeSet<Vertex> = dimension
        .vertices()
        .filter(|vertex| !by_vertex.contains_key(vertex))
        .collect();
    match vacant.first() {
        Some(vertex) => Err(Error::NoHome { vertex: *vertex }),
        None => Ok(by_vertex.into_values().collect()),
    }
}

/// Why a list of members is not a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No member is the home of a vertex.
    #[error("vertex {vertex} has no peer: a cube needs one for each of its vertices")]
    NoHome {
        /// The first such vertex.
        vertex: Vertex,
    },
    /// Two members claim one vertex.
    #[error("vertex {vertex} has two peers, {first} and {second}")]
    VertexTwice {
        /// The vertex.
        vertex: Vertex,
        /// One of them.
        first: PeerId,
        /// The other.
        second: PeerId,
    },
    /// A peer is listed twice.
    #[error("peer {peer} is listed twice")]
    PeerTwice {
        /// The peer.
        peer: PeerId,
    },
    /// This process is not listed.
    #[error("peer {peer} is not in the list of members")]
    NotMember {
        /// The peer.
        peer: PeerId,
    },
    /// A member's vertex belongs to another cube.
    #[error("peer {peer} has vertex {vertex}, which is not of dimension {dimension}")]
    Dimension {
        /// The peer.
        peer: PeerId,
        /// Its vertex.
        vertex: Vertex,
        /// The cube's dimension.
        dimension: u8,
    },
    /// There cannot be so many or so few replicas.
    #[error(transparent)]
    ReplicationFactor(#[from] cube::Error),
}

#[cfg(test)]
mod tests;
