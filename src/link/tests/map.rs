//! Ways through the cube with dead links and dead peers: exhaustive for dimensions 3 and 4, by chance for 6.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::cube;
use crate::link::{LinkMap, LinkState};
use crate::types::{Dimension, PeerId, Vertex};

fn cube_of(bits: u8) -> Vec<Vertex> {
    Dimension::new(bits).unwrap().vertices().collect()
}

fn peer(vertex: Vertex) -> PeerId {
    PeerId(vertex.index())
}

fn members(bits: u8) -> impl Iterator<Item = (PeerId, Vertex)> {
    cube_of(bits)
        .into_iter()
        .map(|vertex| (peer(vertex), vertex))
}

/// The edges of the cube, each once.
fn edges(bits: u8) -> Vec<(PeerId, PeerId)> {
    let from = cube_of(bits).into_iter();
    let both = from.flat_map(|from| cube::neighbours(from).map(move |to| (peer(from), peer(to))));
    both.filter(|(from, to)| from < to).collect()
}

/// What one peer knows when the edges of the cube work, and nothing else.
fn edges_only(bits: u8, this: PeerId) -> LinkMap {
    let map = LinkMap::new(this, members(bits));
    edges(bits)
        .into_iter()
        .fold(map, |map, (a, b)| map.with(a, b, LinkState::Up))
}

#[derive(Debug, Clone, Copy)]
enum Dead {
    Link(PeerId, PeerId),
    Peer(PeerId),
}

fn without(map: &LinkMap, dead: &[Dead]) -> LinkMap {
    dead.iter().fold(map.clone(), |map, dead| match dead {
        Dead::Link(a, b) => map.with(*a, *b, LinkState::Silent),
        Dead::Peer(peer) => map.with_peer(*peer, LinkState::Dead),
    })
}

/// From the peer of the map there is a short way to every other peer that lives, and none to one that does not.
fn assert_ways(bits: u8, whole: &LinkMap, dead: &[Dead]) {
    let map = without(whole, dead);
    let is_dead = |peer| {
        dead.iter()
            .any(|dead| matches!(dead, Dead::Peer(p) if *p == peer))
    };
    for (to, _) in members(bits).filter(|(to, _)| *to != map.this()) {
        let Some(route) = map.route(to) else {
            assert!(is_dead(to), "no way from {} to {to}: {dead:?}", map.this());
            assert!(map.is_gone(to) && !map.is_reachable(to));
            continue;
        };
        assert!(!is_dead(to), "a way to {to}, which is dead");
        assert!(map.is_reachable(to) && !map.is_gone(to));
        assert_eq!(route.last(), Some(&to));
        assert!(route.len() <= usize::from(bits) + dead.len(), "{route:?}");
        let all: Vec<PeerId> = std::iter::once(map.this()).chain(route).collect();
        let once: BTreeSet<&PeerId> = all.iter().collect();
        assert_eq!(once.len(), all.len(), "{all:?} passes a peer twice");
        for step in all.windows(2) {
            assert!(map.is_up(step[0], step[1]), "{all:?} over a dead link");
        }
    }
}

/// All sets of up to `most` things.
fn sets(things: &[Dead], most: usize) -> Vec<Vec<Dead>> {
    let mut all: Vec<Vec<Dead>> = vec![Vec::new()];
    let mut last: Vec<(usize, Vec<Dead>)> = vec![(0, Vec::new())];
    for _ in 0..most {
        let mut next = Vec::new();
        for (from, set) in last {
            for (index, thing) in things.iter().enumerate().skip(from) {
                let set: Vec<Dead> = set.iter().chain([thing]).copied().collect();
                next.push((index + 1, set.clone()));
                all.push(set);
            }
        }
        last = next;
    }
    all
}

fn links_of(bits: u8) -> Vec<Dead> {
    let links = edges(bits).into_iter();
    links.map(|(a, b)| Dead::Link(a, b)).collect()
}

fn peers_but(bits: u8, this: PeerId) -> Vec<Dead> {
    let others = members(bits).filter(|(peer, _)| *peer != this);
    others.map(|(peer, _)| Dead::Peer(peer)).collect()
}

// REQ F6
#[test]
fn way_around_any_two_failures_in_three_dimensions() {
    for (this, _) in members(3) {
        let whole = edges_only(3, this);
        let mut things = links_of(3);
        things.extend(peers_but(3, this));
        for dead in sets(&things, 2) {
            assert_ways(3, &whole, &dead);
        }
    }
}

// From one vertex alone: the cube looks the same from each, and all sets of failures are tried.
#[test]
fn way_around_any_three_failures_in_four_dimensions() {
    let this = PeerId(0);
    let whole = edges_only(4, this);
    for things in [links_of(4), peers_but(4, this)] {
        for dead in sets(&things, 3) {
            assert_ways(4, &whole, &dead);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn way_around_any_five_failures_in_six_dimensions(
        this in 0_u16..64,
        picks in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..=5),
    ) {
        let this = PeerId(this);
        let (links, peers) = (links_of(6), peers_but(6, this));
        let dead: Vec<Dead> = picks
            .iter()
            .map(|(is_link, pick)| *pick.get(if *is_link { &links } else { &peers }))
            .collect();
        assert_ways(6, &edges_only(6, this), &dead);
    }
}

#[test]
fn own_link_is_taken_before_any_way_around() {
    let map = LinkMap::connected(PeerId(0), members(3));
    assert_eq!(map.route(PeerId(7)), Some(vec![PeerId(7)]));
    assert_eq!(map.route(PeerId(0)), Some(Vec::new()));
    assert_eq!(map.route(PeerId(8)), None, "a stranger");
    let cut = map.with(PeerId(0), PeerId(7), LinkState::Silent);
    // Those next to 7 are 3, 5 and 6.
    assert_eq!(cut.route(PeerId(7)), Some(vec![PeerId(3), PeerId(7)]));
    assert!(!cut.is_gone(PeerId(7)));
}

#[test]
fn peer_that_is_about_to_stop_is_passed_only_when_there_is_no_other_way() {
    let cut = |map: LinkMap, peer| map.with(PeerId(0), PeerId(peer), LinkState::Silent);
    let map = cut(LinkMap::connected(PeerId(0), members(3)), 7);
    let map = map.with_leaving(PeerId(3)).with_leaving(PeerId(5));
    assert_eq!(map.route(PeerId(7)), Some(vec![PeerId(6), PeerId(7)]));
    assert_eq!(
        map.route(PeerId(3)),
        Some(vec![PeerId(3)]),
        "it is the goal"
    );
    let last = [1, 2, 4, 5, 6].into_iter().fold(map, cut);
    assert_eq!(last.route(PeerId(7)), Some(vec![PeerId(3), PeerId(7)]));
    assert_eq!(
        last.route(PeerId(5)),
        Some(vec![PeerId(3), PeerId(5)]),
        "a way over one that leaves is a way"
    );
    assert!(last.is_reachable(PeerId(7)));
}

#[test]
fn link_works_only_when_both_ends_say_so() {
    let map = LinkMap::connected(PeerId(0), members(2));
    assert!(map.is_up(PeerId(1), PeerId(2)) && map.is_up(PeerId(2), PeerId(1)));
    let alone = map.with_peer(PeerId(3), LinkState::Dead);
    assert_eq!(alone.state(PeerId(3)), LinkState::Dead);
    assert!(alone.is_gone(PeerId(3)));
    let links: Vec<_> = alone.links().filter(|(.., is_up)| *is_up).collect();
    assert_eq!(links.len(), 6, "three peers, both ways: {links:?}");
}

#[test]
fn peer_of_which_nothing_is_known_is_not_gone() {
    let map = LinkMap::new(PeerId(0), members(2));
    assert_eq!(map.state(PeerId(1)), LinkState::Unknown);
    assert!(!map.is_gone(PeerId(1)) && !map.is_reachable(PeerId(1)));
    assert!(map.is_reachable(PeerId(0)) && !map.is_gone(PeerId(0)));
    assert_eq!(
        (map.heard(PeerId(1)), map.round_trip(PeerId(1))),
        (None, None)
    );
}
