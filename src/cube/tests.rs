//! Exhaustive up to dimension 6, by chance up to 12.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::types::{Dimension, Name};

fn cubes() -> impl Iterator<Item = Dimension> {
    (1..=6).map(|bits| Dimension::new(bits).unwrap())
}

fn vertex(bits: &str) -> Vertex {
    bits.parse().unwrap()
}

fn pairs(cube: Dimension) -> impl Iterator<Item = (Vertex, Vertex)> {
    cube.vertices()
        .flat_map(move |from| cube.vertices().map(move |to| (from, to)))
}

/// The law in other words: SHA-256 as 256 bits of text, cut at the end.
fn owner_by_text(name: &str, cube: Dimension) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(name.as_bytes());
    let bits: String = digest.iter().map(|byte| format!("{byte:08b}")).collect();
    bits[bits.len() - usize::from(cube.bits())..].to_owned()
}

fn assert_is_walk(walk: &[Vertex], from: Vertex, to: Vertex) {
    assert_eq!(walk.first(), Some(&from));
    assert_eq!(walk.last(), Some(&to));
    for step in walk.windows(2) {
        assert_eq!(distance(step[0], step[1]), 1, "{walk:?}");
    }
}

fn assert_disjoint(from: Vertex, to: Vertex) {
    let paths = disjoint_paths(from, to);
    assert_eq!(paths.len(), usize::from(from.dimension().bits()));
    let mut seen = BTreeSet::new();
    for walk in &paths {
        assert_is_walk(walk, from, to);
        for inner in &walk[1..walk.len() - 1] {
            assert!(*inner != from && *inner != to, "{walk:?} meets an end");
            assert!(seen.insert(*inner), "{inner} is on two of {paths:?}");
        }
    }
    assert!(paths.is_sorted_by_key(Vec::len), "the shortest first");
    assert_eq!(paths[0], path(from, to));
}

// REQ T4
#[test]
fn owner_is_the_golden_vertex() {
    let golden = [
        ("news", "100"),
        ("cricket", "111"),
        ("topic2", "110"),
        ("topic4", "101"),
        ("topic6", "110"),
        ("topic8", "111"),
        ("topic16", "010"),
        ("topic19", "010"),
    ];
    let cube = Dimension::new(3).unwrap();
    for (name, bits) in golden {
        assert_eq!(owner(&Name::new(name).unwrap(), cube), vertex(bits));
    }
}

#[test]
fn owners_are_spread_over_the_whole_cube() {
    let cube = Dimension::new(6).unwrap();
    let mut counts = [0_u32; 64];
    for number in 0..6400 {
        let name = Name::new(&format!("topic{number}")).unwrap();
        counts[usize::from(owner(&name, cube).index())] += 1;
    }
    // 100 expected; five standard deviations either way.
    assert!(counts.iter().all(|count| (50..=150).contains(count)));
}

// REQ T3
#[test]
fn neighbours_are_in_bit_order() {
    let of = |bits| {
        neighbours(vertex(bits))
            .map(|v| v.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("100"), ["101", "110", "000"]);
    assert_eq!(of("0"), ["1"]);
    for cube in cubes() {
        for vertex in cube.vertices() {
            for (bit, neighbour) in neighbours(vertex).enumerate() {
                assert_eq!(neighbour.index(), vertex.index() ^ (1 << bit));
                assert!(neighbours(neighbour).any(|back| back == vertex));
            }
            assert_eq!(neighbours(vertex).count(), usize::from(cube.bits()));
        }
    }
}

#[test]
fn distance_counts_the_edges_of_the_shortest_way() {
    for cube in cubes() {
        for from in cube.vertices() {
            let mut shell = BTreeSet::from([from]);
            let mut seen = shell.clone();
            for edges in 0.. {
                assert!(shell.iter().all(|to| distance(from, *to) == edges));
                shell = shell.into_iter().flat_map(neighbours).collect();
                shell.retain(|vertex| seen.insert(*vertex));
                if shell.is_empty() {
                    break;
                }
            }
            assert_eq!(seen.len(), usize::from(cube.vertex_count()));
        }
    }
}

#[test]
#[should_panic(expected = "of one cube")]
fn vertices_of_two_cubes_have_no_distance() {
    distance(vertex("10"), vertex("100"));
}

#[test]
fn path_flips_the_lowest_bit_first_and_is_shortest() {
    assert_eq!(
        path(vertex("000"), vertex("101")),
        [vertex("000"), vertex("001"), vertex("101")]
    );
    for cube in cubes() {
        for (from, to) in pairs(cube) {
            let walk = path(from, to);
            assert_is_walk(&walk, from, to);
            assert_eq!(walk.len(), distance(from, to) as usize + 1);
        }
    }
}

#[test]
fn as_many_disjoint_paths_as_dimensions_join_any_two_vertices() {
    for cube in cubes() {
        for (from, to) in pairs(cube) {
            if from == to {
                assert!(disjoint_paths(from, to).is_empty());
            } else {
                assert_disjoint(from, to);
            }
        }
    }
}

#[test]
fn replicas_are_the_owner_and_its_first_neighbours() {
    let bits = |vertices: &mut dyn Iterator<Item = Vertex>| {
        vertices.map(|v| v.to_string()).collect::<Vec<_>>()
    };
    let cube = Dimension::new(3).unwrap();
    let four = Replicas::of(vertex("100"), ReplicationFactor::full(cube));
    assert_eq!(bits(&mut four.iter()), ["100", "101", "110", "000"]);
    assert_eq!(bits(&mut four.voters()), ["100", "101", "110"]);
    assert_eq!(bits(&mut four.standbys()), ["000"]);
    let two = Replicas::of(vertex("100"), ReplicationFactor::new(2, cube).unwrap());
    assert_eq!(bits(&mut two.voters()), ["100"]);
    assert_eq!(bits(&mut two.standbys()), ["101"]);
}

#[test]
fn voters_are_the_largest_odd_number() {
    for cube in cubes() {
        for copies in 1..=cube.bits() + 1 {
            let factor = ReplicationFactor::new(copies, cube).unwrap();
            let voters = factor.voter_count();
            assert!(voters % 2 == 1 && (copies - 1..=copies).contains(&voters));
            for owner in cube.vertices() {
                let replicas = Replicas::of(owner, factor);
                assert_eq!(replicas.owner(), owner);
                assert_eq!(replicas.voters().next(), Some(owner));
                assert_eq!(replicas.voters().count(), usize::from(voters));
                let all: BTreeSet<Vertex> = replicas.iter().collect();
                assert_eq!(all.len(), usize::from(copies));
                assert!(all.iter().all(|vertex| distance(owner, *vertex) <= 1));
                let split = replicas.voters().chain(replicas.standbys());
                assert!(split.eq(replicas.iter()));
                assert!(
                    cube.vertices()
                        .all(|v| replicas.contains(v) == all.contains(&v))
                );
            }
        }
    }
}

#[test]
fn every_vertex_holds_as_many_shards_as_there_are_copies() {
    for cube in cubes() {
        for copies in 1..=cube.bits() + 1 {
            let factor = ReplicationFactor::new(copies, cube).unwrap();
            for holder in cube.vertices() {
                let shards = cube
                    .vertices()
                    .filter(|owner| Replicas::of(*owner, factor).contains(holder));
                assert_eq!(shards.count(), usize::from(copies));
            }
        }
    }
}

#[test]
fn replication_factor_beyond_the_neighbourhood_is_refused() {
    let cube = Dimension::new(3).unwrap();
    assert!(ReplicationFactor::new(0, cube).is_err());
    assert_eq!(
        ReplicationFactor::new(5, cube).unwrap_err().to_string(),
        "replication factor 5 is not within 1..=4: the owner and its 3 neighbours"
    );
    assert_eq!(
        ReplicationFactor::new(4, cube),
        Ok(ReplicationFactor::full(cube))
    );
}

fn any_pair() -> impl Strategy<Value = (Vertex, Vertex)> {
    (1..=Dimension::MAX).prop_flat_map(|bits| {
        let cube = Dimension::new(bits).unwrap();
        let index = 0..cube.vertex_count();
        let vertex = index.prop_map(move |index| Vertex::new(index, cube).unwrap());
        (vertex.clone(), vertex)
    })
}

proptest! {
    #[test]
    fn owner_follows_the_law_in_every_cube(name in "[A-Za-z0-9._-]{1,249}", bits in 1..=Dimension::MAX) {
        let cube = Dimension::new(bits).unwrap();
        prop_assert_eq!(owner(&Name::new(&name).unwrap(), cube).to_string(), owner_by_text(&name, cube));
    }

    #[test]
    fn paths_of_large_cubes_are_disjoint((from, to) in any_pair()) {
        assert_is_walk(&path(from, to), from, to);
        if from != to {
            assert_disjoint(from, to);
        }
    }

    #[test]
    fn distance_is_a_metric((from, to) in any_pair(), bits in prop::collection::vec(0..12_u8, 0..8)) {
        let third = bits.into_iter().fold(from, Vertex::flip);
        prop_assert_eq!(distance(from, to), distance(to, from));
        prop_assert_eq!(distance(from, to) == 0, from == to);
        prop_assert!(distance(from, to) <= distance(from, third) + distance(third, to));
    }
}
