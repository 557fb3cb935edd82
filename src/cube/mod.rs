//! Hypercube arithmetic and the placement law: who owns a name, who holds its copies, which ways lead from one vertex to another.
//!
//! Pure functions of their arguments: no I/O, no clock, no chance, no logging, no memory of the peers that happen to be up. Every peer, and
//! every version of the program, must compute the same answers, or they would look for a topic in different places.
//! Begin with [`owner`] and [`Replicas`].

mod path;
mod placement;
mod replica;

pub use path::{disjoint_paths, path};
pub use placement::owner;
pub use replica::{Error, Replicas, ReplicationFactor};

use crate::types::Vertex;

/// The neighbours of a vertex: one flipped bit each, in the order bit 0, bit 1, … So `100` has `101`, `110`, `000`.
pub fn neighbours(vertex: Vertex) -> impl Iterator<Item = Vertex> {
    (0..vertex.dimension().bits()).map(move |bit| vertex.flip(bit))
}

/// How many edges the shortest way between two vertices has: the bits in which they differ.
///
/// # Panics
/// When the vertices are of different cubes.
pub fn distance(from: Vertex, to: Vertex) -> u32 {
    differing_bits(from, to).count_ones()
}

/// The bits in which two vertices differ, as a mask.
fn differing_bits(from: Vertex, to: Vertex) -> u16 {
    assert!(
        from.dimension() == to.dimension(),
        "vertices of one cube have the same dimension, {from} and {to} do not"
    );
    from.index() ^ to.index()
}

#[cfg(test)]
mod tests;
