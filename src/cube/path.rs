//! Ways along the edges of the cube.

use super::differing_bits;
use crate::types::Vertex;

/// The way in dimension order: the differing bits are flipped from the lowest to the highest. Both ends are in it; from a vertex to
/// itself it is that vertex alone.
///
/// # Panics
/// When the vertices are of different cubes.
pub fn path(from: Vertex, to: Vertex) -> Vec<Vertex> {
    walk(from, bits_of(differing_bits(from, to)))
}

/// As many ways as the cube has dimensions, no two with a vertex in common but the ends, the shortest first. So `d - 1` dead vertices never
/// part two live ones. None when both ends are the same vertex.
///
/// Saad and Schultz, "Topological properties of hypercubes", 1988, proposition 3.2: with `h` differing bits there are `h` ways of length
/// `h` (the bits in each rotated order) and `d - h` of length `h + 2` (an agreeing bit first and last).
///
/// # Panics
/// When the vertices are of different cubes.
pub fn disjoint_paths(from: Vertex, to: Vertex) -> Vec<Vec<Vertex>> {
    let mask = differing_bits(from, to);
    if mask == 0 {
        return Vec::new();
    }
    let differing: Vec<u8> = bits_of(mask).collect();
    let rotated = (0..differing.len()).map(|first| {
        let order = differing.iter().cycle().skip(first).take(differing.len());
        walk(from, order.copied())
    });
    let around = (0..from.dimension().bits())
        .filter(|bit| mask & (1 << bit) == 0)
        .map(|bit| {
            let between = differing.iter().copied();
            walk(from, std::iter::once(bit).chain(between).chain([bit]))
        });
    rotated.chain(around).collect()
}

/// The vertices met when these bits are flipped one after another.
fn walk(from: Vertex, bits: impl Iterator<Item = u8>) -> Vec<Vertex> {
    let steps = bits.scan(from, |at, bit| {
        *at = at.flip(bit);
        Some(*at)
    });
    std::iter::once(from).chain(steps).collect()
}

/// The positions of the bits that are set, ascending.
fn bits_of(mask: u16) -> impl Iterator<Item = u8> {
    (0..16).filter(move |bit| mask & (1 << bit) != 0)
}
