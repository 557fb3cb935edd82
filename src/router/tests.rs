use std::sync::Arc;

use super::{Aim, Leader, Router, Step};
use crate::cluster::{Cluster, Member, Options};
use crate::types::{Dimension, PeerId, Term, Vertex};

fn router(this: u16) -> Router {
    router_without(this, &[])
}

fn router_without(this: u16, gone: &'static [u16]) -> Router {
    let dimension = Dimension::new(3).unwrap();
    let members = dimension
        .vertices()
        .map(|vertex| Member {
            peer: PeerId(vertex.index()),
            vertex,
            address: String::new(),
        })
        .collect();
    let options = Options {
        this: PeerId(this),
        members,
        dimension,
        replication_factor: 4,
    };
    let gone = Arc::new(|peer: PeerId| gone.contains(&peer.0));
    // What peers say of themselves.
    let told = Arc::new(|vertex: Vertex| (vertex.index() == 7).then_some(leader(3, 5)));
    Router::new(Cluster::new(options).unwrap(), gone, told)
}

fn vertex(bits: &str) -> Vertex {
    bits.parse().unwrap()
}

fn leader(peer: u16, term: u64) -> Leader {
    Leader {
        peer: PeerId(peer),
        term: Term(term),
    }
}

fn peer(number: u16) -> Step {
    Step::Peer(PeerId(number))
}

#[test]
fn owner_is_asked_first_then_neighbours_then_again() {
    let router = router(3);
    let mut search = router.search(vertex("100"), Aim::Leader);
    let steps: Vec<Step> = (0..6).map(|_| search.step()).collect();
    assert_eq!(
        steps,
        [peer(4), peer(5), peer(6), peer(0), Step::Wait, peer(4)]
    );
}

#[test]
fn own_replica_answers_when_it_is_its_turn() {
    let router = router(6);
    let mut search = router.search(vertex("100"), Aim::Leader);
    assert_eq!(
        [search.step(), search.step(), search.step()],
        [peer(4), peer(5), Step::Here]
    );
}

#[test]
fn any_replica_means_the_own_one_first() {
    let own = router(6);
    assert_eq!(own.search(vertex("100"), Aim::Replica).step(), Step::Here);
    let none = router(3);
    assert_eq!(none.search(vertex("100"), Aim::Replica).step(), peer(4));
}

#[test]
fn known_leader_comes_before_the_owner_and_each_once() {
    let router = router(3);
    router.learn(vertex("100"), leader(6, 2));
    let mut search = router.search(vertex("100"), Aim::Leader);
    let steps: Vec<Step> = (0..5).map(|_| search.step()).collect();
    assert_eq!(steps, [peer(6), peer(4), peer(5), peer(0), Step::Wait]);
}

#[test]
fn leader_learned_on_the_way_is_next() {
    let router = router(3);
    let mut search = router.search(vertex("100"), Aim::Leader);
    assert_eq!(search.step(), peer(4));
    router.learn(vertex("100"), leader(0, 2));
    assert_eq!(search.step(), peer(0));
}

#[test]
fn older_term_and_strangers_teach_nothing() {
    let router = router(3);
    router.learn(vertex("100"), leader(6, 5));
    router.learn(vertex("100"), leader(5, 4));
    assert_eq!(router.leader(vertex("100")), Some(leader(6, 5)));
    router.learn(vertex("100"), leader(99, 9));
    assert_eq!(router.leader(vertex("100")), Some(leader(6, 5)));
}

#[test]
fn only_the_one_that_failed_is_forgotten() {
    let router = router(3);
    router.learn(vertex("100"), leader(6, 5));
    router.forget(vertex("100"), PeerId(5));
    assert_eq!(router.leader(vertex("100")), Some(leader(6, 5)));
    router.forget(vertex("100"), PeerId(6));
    assert_eq!(router.leader(vertex("100")), None);
}

#[test]
fn peer_that_answered_is_asked_first_the_next_time() {
    let router = router(3);
    router.learn(vertex("100"), leader(6, 5));
    router.confirm(vertex("100"), PeerId(6));
    assert_eq!(router.leader(vertex("100")), Some(leader(6, 5)));
    router.confirm(vertex("100"), PeerId(0));
    assert_eq!(router.search(vertex("100"), Aim::Leader).step(), peer(0));
}

#[test]
fn peers_that_are_gone_are_asked_last() {
    // REQ D7
    let router = router_without(5, &[4, 5, 6]);
    let mut search = router.search(vertex("100"), Aim::Leader);
    let steps: Vec<Step> = (0..5).map(|_| search.step()).collect();
    // What is said of the peer itself does not count.
    assert_eq!(steps, [Step::Here, peer(0), peer(4), peer(6), Step::Wait]);
    router.learn(vertex("100"), leader(6, 2));
    assert_eq!(router.search(vertex("100"), Aim::Leader).step(), Step::Here);
}

#[test]
fn word_of_the_leader_itself_counts_until_a_newer_one_is_heard_of() {
    let router = router(0);
    let shard = vertex("111");
    assert_eq!(router.leader(shard), Some(leader(3, 5)));
    assert_eq!(router.search(shard, Aim::Leader).step(), peer(3));
    // It answered, in a term that is not known.
    router.confirm(shard, PeerId(6));
    assert_eq!(router.leader(shard), Some(leader(3, 5)));
    router.learn(shard, leader(5, 6));
    assert_eq!(router.leader(shard), Some(leader(5, 6)));
    router.forget(shard, PeerId(5));
    assert_eq!(router.leader(shard), Some(leader(3, 5)));
}
