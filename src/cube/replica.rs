//! Who holds the copies of a shard, and who of them votes.

use super::neighbours;
use crate::types::{Dimension, Vertex};

/// How many copies of a shard there are: 1 to `d + 1`, the owner's included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplicationFactor {
    /// At least 1, at most one more than the dimension.
    copies: u8,
    dimension: Dimension,
}

impl ReplicationFactor {
    /// Checks a number of copies.
    ///
    /// # Errors
    /// [`Error::ReplicationFactor`] unless it is 1 to `d + 1`.
    pub fn new(copies: u8, dimension: Dimension) -> Result<Self, Error> {
        if (1..=dimension.bits() + 1).contains(&copies) {
            Ok(Self { copies, dimension })
        } else {
            Err(Error::ReplicationFactor { copies, dimension })
        }
    }

    /// A copy at the owner and at each of its neighbours.
    pub fn full(dimension: Dimension) -> Self {
        Self {
            copies: dimension.bits() + 1,
            dimension,
        }
    }

    /// The number of copies.
    pub fn copies(self) -> u8 {
        self.copies
    }

    /// How many of the copies vote: the largest odd number that is not above them. One more voter than an odd number needs one more
    /// acknowledgement and survives no further failure (see `docs/adr/0002-consensus.md`).
    pub fn voter_count(self) -> u8 {
        self.copies - (1 - self.copies % 2)
    }
}

/// The vertices that hold a shard: the owner, then its neighbours in bit order, cut at the replication factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas {
    /// The owner is the first. No vertex occurs twice.
    vertices: Vec<Vertex>,
    /// Odd, and not above the number of vertices.
    voter_count: usize,
}

impl Replicas {
    /// The replicas of the shard of this vertex.
    ///
    /// # Panics
    /// When the factor is for a cube of another dimension.
    pub fn of(owner: Vertex, factor: ReplicationFactor) -> Self {
        assert!(
            owner.dimension() == factor.dimension,
            "the replication factor is for the cube of the vertex"
        );
        Self {
            vertices: std::iter::once(owner)
                .chain(neighbours(owner))
                .take(usize::from(factor.copies))
                .collect(),
            voter_count: usize::from(factor.voter_count()),
        }
    }

    /// The vertex that leads whenever it can.
    pub fn owner(&self) -> Vertex {
        let first = self.vertices.first();
        *first.unwrap_or_else(|| unreachable!("a shard has at least one replica"))
    }

    /// All of them, the owner first.
    pub fn iter(&self) -> impl Iterator<Item = Vertex> {
        self.vertices.iter().copied()
    }

    /// Those whose acknowledgement counts, the owner first: an odd number.
    pub fn voters(&self) -> impl Iterator<Item = Vertex> {
        self.iter().take(self.voter_count)
    }

    /// Those that hold everything and wait to take a voter's place.
    pub fn standbys(&self) -> impl Iterator<Item = Vertex> {
        self.iter().skip(self.voter_count)
    }

    /// Whether this vertex holds a copy.
    pub fn contains(&self, vertex: Vertex) -> bool {
        self.vertices.contains(&vertex)
    }
}

/// What cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There would be no copy, or more than the owner has neighbours.
    #[error(
        "replication factor {copies} is not within 1..={max}: the owner and its {bits} neighbours",
        max = dimension.bits() + 1,
        bits = dimension.bits()
    )]
    ReplicationFactor {
        /// What was asked for.
        copies: u8,
        /// The cube.
        dimension: Dimension,
    },
}
