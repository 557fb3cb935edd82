use cubecast_sdk::proto::v1;
use expect_test::expect;

use super::super::output::Format;
use super::*;

fn member(peer: u32, state: v1::MemberState) -> Member {
    let member = v1::Member {
        peer,
        vertex: format!("{peer:03b}"),
        address: format!("http://127.0.0.1:800{peer}"),
        state: state.into(),
        ..v1::Member::default()
    };
    member.into()
}

fn vertex(leader: Option<u32>) -> VertexStatus {
    let vertex = v1::VertexStatus {
        vertex: "100".to_owned(),
        home: 4,
        replicas: vec![4, 5, 6, 0],
        leader,
        term: 3,
        voters: vec![5, 6, 0],
    };
    vertex.into()
}

fn link() -> Link {
    let link = v1::Link {
        from_peer: 4,
        to_peer: 9,
        is_up: false,
        round_trip: None,
    };
    link.into()
}

fn teller(links: Telling) -> Teller {
    let vertices = (0..8).map(|peer| (peer, format!("{peer:03b}")));
    Teller {
        links,
        vertices: vertices.collect(),
    }
}

#[test]
fn changes_are_sentences() {
    let teller = teller(Telling::Yes);
    let lines = [
        teller.member(&member(4, v1::MemberState::Down)),
        teller.member(&member(4, v1::MemberState::Suspect)),
        teller.vertex(&vertex(Some(5))),
        teller.vertex(&vertex(None)),
        teller.link(&link()),
    ];
    expect![[r#"
        100 (peer 4) is down
        100 (peer 4) is not heard any more
        shard 100 is led by 101 in term 3, voters 101, 110, 000
        shard 100 has no leader that is known here, voters 101, 110, 000
        link 100 to peer 9 is down"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn object_says_of_which_kind_it_is() {
    let (mut output, written) = Output::captured(Format::Json);
    for event in [
        ClusterEvent::Member(member(4, v1::MemberState::Down)),
        ClusterEvent::Vertex(vertex(Some(5))),
        ClusterEvent::MemberLeft(4),
        ClusterEvent::Link(link()),
    ] {
        let record = Record {
            time: "now",
            event: Event::from(&event),
        };
        output.line("", &record).unwrap();
    }
    expect![[r#"
        {"time":"now","kind":"member","peer":4,"vertices":["100"],"address":"http://127.0.0.1:8004","state":"down"}
        {"time":"now","kind":"vertex","vertex":"100","home":4,"replicas":[4,5,6,0],"voters":[5,6,0],"leader":5,"term":3}
        {"time":"now","kind":"member_left","peer":4}
        {"time":"now","kind":"link","from_peer":4,"to_peer":9,"is_up":false}
    "#]]
    .assert_eq(&written.data());
}
