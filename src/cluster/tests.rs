use super::{Cluster, Error, Member, Options};
use crate::types::{Dimension, Name, PeerId, Vertex};

/// A cube whose peer numbers are not its vertices: peer `10 + i` serves vertex `7 - i`.
fn options() -> Options {
    let dimension = Dimension::new(3).unwrap();
    let members = dimension
        .vertices()
        .map(|vertex| Member {
            peer: PeerId(17 - vertex.index()),
            vertex,
            address: format!("h{vertex}:1"),
        })
        .collect();
    Options {
        this: PeerId(10),
        members,
        dimension,
        replication_factor: 4,
    }
}

fn vertex(bits: &str) -> Vertex {
    bits.parse().unwrap()
}

#[test]
fn replicas_are_the_homes_of_owner_and_neighbours_in_bit_order() {
    let cluster = Cluster::new(options()).unwrap();
    let expected: Vec<PeerId> = ["100", "101", "110", "000"]
        .iter()
        .map(|bits| cluster.home(vertex(bits)))
        .collect();
    assert_eq!(cluster.replicas(vertex("100")), expected);
    assert_eq!(expected, [13, 12, 11, 17].map(PeerId));
    assert_eq!(cluster.vertex_of(PeerId(13)), Some(vertex("100")));
    assert_eq!(cluster.address(PeerId(13)), Some("h100:1"));
    assert_eq!(cluster.address(PeerId(1)), None);
}

#[test]
fn names_are_placed_by_the_law() {
    let cluster = Cluster::new(options()).unwrap();
    for (name, bits) in [("news", "100"), ("cricket", "111"), ("topic16", "010")] {
        assert_eq!(
            cluster.place(&Name::new(name).unwrap()),
            vertex(bits),
            "{name}"
        );
    }
}

#[test]
fn quorum_is_a_majority_of_an_odd_number_of_voters() {
    let quorums = [1, 2, 3, 4].map(|factor| {
        Cluster::new(Options {
            replication_factor: factor,
            ..options()
        })
        .unwrap()
        .quorum()
    });
    assert_eq!(quorums, [1, 1, 2, 2]);
}

#[test]
fn lists_that_are_no_cube_are_refused() {
    let mut missing = options();
    missing.members.remove(2);
    assert_eq!(
        Cluster::new(missing).unwrap_err(),
        Error::NoHome {
            vertex: vertex("010")
        }
    );

    let mut twice = options();
    twice.members[1].vertex = vertex("000");
    assert!(matches!(
        Cluster::new(twice),
        Err(Error::VertexTwice { .. })
    ));

    let mut peer_twice = options();
    peer_twice.members[1].peer = PeerId(17);
    assert_eq!(
        Cluster::new(peer_twice).unwrap_err(),
        Error::PeerTwice { peer: PeerId(17) }
    );

    let stranger = Options {
        this: PeerId(99),
        ..options()
    };
    assert_eq!(
        Cluster::new(stranger).unwrap_err(),
        Error::NotMember { peer: PeerId(99) }
    );

    let too_many = Options {
        replication_factor: 5,
        ..options()
    };
    assert!(matches!(
        Cluster::new(too_many),
        Err(Error::ReplicationFactor(_))
    ));
}
