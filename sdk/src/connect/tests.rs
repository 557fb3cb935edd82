use super::*;

fn peers(count: u16) -> Peers {
    let options = ChannelOptions {
        connect_timeout: Duration::from_secs(1),
        keep_alive_interval: Duration::from_secs(1),
        keep_alive_timeout: Duration::from_secs(1),
    };
    let addresses: Vec<_> = (0..count)
        .map(|i| Address::parse(&format!("127.0.0.1:{}", 8000 + i)).unwrap())
        .collect();
    Peers::new(options, &addresses).unwrap()
}

#[tokio::test]
async fn peers_without_a_leader_take_turns() {
    let peers = peers(3);
    let turns: Vec<_> = (0..4)
        .map(|_| peers.choose(None, &[]).unwrap().key.0)
        .collect();
    assert_eq!(turns, [0, 1, 2, 0]);
}

#[tokio::test]
async fn leader_is_asked_first_unless_tried_or_down() {
    let peers = peers(3);
    peers.settle("010", PeerKey(2), true);
    assert!(peers.learn("news", "010"));
    assert!(!peers.learn("news", "111"));
    assert_eq!(peers.choose(Some("news"), &[]).unwrap().key, PeerKey(2));
    assert_eq!(
        peers.choose(Some("news"), &[PeerKey(2)]).unwrap().key,
        PeerKey(0)
    );
    peers.trip(PeerKey(2)).unwrap();
    assert_eq!(peers.choose(Some("news"), &[]).unwrap().key, PeerKey(1));
    peers.mark_up(PeerKey(2));
    assert_eq!(peers.choose(Some("news"), &[]).unwrap().key, PeerKey(2));
    peers.doubt("news");
    assert_ne!(
        peers.choose(Some("news"), &[PeerKey(2)]).unwrap().key,
        PeerKey(2)
    );
}

#[tokio::test]
async fn peer_that_is_confirmed_down_is_left_and_told_of() {
    let peers = peers(2);
    let mut events = peers.teller().listen();
    let waiting = peers.get(PeerKey(1)).unwrap();
    peers.settle("001", PeerKey(1), true);
    peers.trip(PeerKey(1)).unwrap();
    assert!(peers.is_down("001") && !waiting.lost.has_changed().unwrap());
    peers.confirm(PeerKey(1));
    assert!(waiting.lost.has_changed().unwrap());
    peers.mark_up(PeerKey(1));
    let (address, vertex) = (waiting.address.to_string(), Some("001".to_owned()));
    let down = Event::PeerDown {
        address: address.clone(),
        vertex: vertex.clone(),
    };
    assert_eq!(events.next().await, Some(down));
    assert_eq!(events.next().await, Some(Event::PeerUp { address, vertex }));
}

#[tokio::test]
async fn leader_that_moved_and_stand_ins_are_told_of_once() {
    let peers = peers(2);
    let mut events = peers.teller().listen();
    for (key, vertex) in ["000", "001"].into_iter().enumerate() {
        peers.settle(vertex, PeerKey(key), true);
    }
    for vertex in ["000", "000", "001"] {
        peers.learn("news", vertex);
        peers.doubt("news");
    }
    peers.stand_in("000", "001");
    peers.stand_in("000", "001");
    peers.stand_back("000");
    peers.stand_in("000", "001");
    let moved = Event::LeaderMoved {
        topic: "news".to_owned(),
        from: Some("000".to_owned()),
        to: "001".to_owned(),
    };
    assert_eq!(events.next().await, Some(moved));
    let in_place = Event::OwnerUnreachable {
        owner: "000".to_owned(),
        served_by: "001".to_owned(),
    };
    drop(peers);
    for expected in [Some(in_place.clone()), Some(in_place), None] {
        assert_eq!(events.next().await, expected);
    }
}

#[tokio::test]
async fn when_all_were_tried_one_is_tried_again() {
    let peers = peers(2);
    assert!(peers.choose(None, &[PeerKey(0), PeerKey(1)]).is_some());
    assert!(!peers.has_other(&[PeerKey(0), PeerKey(1)]));
}

#[tokio::test]
async fn certain_home_wins_over_hearsay() {
    let peers = peers(3);
    peers.settle("000", PeerKey(1), false);
    peers.settle("000", PeerKey(0), true);
    peers.settle("000", PeerKey(2), false);
    assert_eq!(peers.at_vertex("000"), Some(PeerKey(0)));
}

#[tokio::test]
async fn remembered_leaders_are_bounded() {
    let peers = peers(1);
    peers.settle("0", PeerKey(0), true);
    for number in 0..LEADERS_MAX + 10 {
        peers.learn(&format!("topic{number}"), "0");
    }
    let state = peers.lock();
    assert_eq!(
        (state.leaders.len(), state.leader_order.len()),
        (LEADERS_MAX, LEADERS_MAX)
    );
    assert!(!state.leaders.contains_key("topic9") && state.leaders.contains_key("topic10"));
}
