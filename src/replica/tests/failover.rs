//! What a replica says and does when others are gone, and before its own peer goes.

use super::*;

/// Tells a peer that others are gone.
fn lose(peer: &Peer, others: &[u16]) {
    peer.links.send_modify(|map| {
        let mut now = LinkMap::clone(map);
        for other in others {
            now = now.with_peer(PeerId(*other), LinkState::Dead);
        }
        *map = Arc::new(now);
    });
}

fn no_quorum(error: &Error) -> Option<(usize, usize)> {
    match error {
        Error::Consensus(consensus::Error::NoQuorum {
            voters, reachable, ..
        }) => Some((*voters, *reachable)),
        _ => None,
    }
}

// G6: a lost majority is told at once, by the leader and by its followers; what is here can still be read.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_replicas_refuse_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let peers = group(folder.path()).await;
    for peer in &peers {
        peer.led_by(0).await;
    }
    let leader = &peers[0];
    let created = leader.replica.propose(create("news"), deadline()).await;
    created.unwrap().outcome.unwrap();
    lose(leader, &[1, 2]);
    until("it is noticed", || {
        !leader.replica.status().quorum.has_majority()
    })
    .await;
    let refused = leader.replica.propose(append("news"), deadline()).await;
    assert_eq!(no_quorum(&refused.unwrap_err()), Some((3, 1)));
    for consistency in [Consistency::Leader, Consistency::Linearizable] {
        let refused = leader.replica.read(consistency, deadline()).await;
        let refused = refused.map(|_| ()).unwrap_err();
        assert_eq!(no_quorum(&refused), Some((3, 1)), "{refused}");
    }
    let read = leader.replica.read(Consistency::Eventual, deadline()).await;
    assert!(read.unwrap().view.topic(&topic("news")).unwrap().is_some());
    // A follower for which the leader is gone has nobody to name.
    let follower = &peers[1];
    lose(follower, &[0, 2]);
    until("it is noticed", || {
        !follower.replica.status().quorum.has_majority()
    })
    .await;
    let refused = follower.replica.propose(append("news"), deadline()).await;
    assert_eq!(no_quorum(&refused.unwrap_err()), Some((3, 1)));
    for peer in peers {
        peer.stop().await;
    }
}

// F14: a peer that stops leaves no shard without a leader.
#[tokio::test(flavor = "multi_thread")]
async fn replica_that_hands_over_is_a_follower_when_it_returns() {
    let folder = tempfile::tempdir().unwrap();
    let peers = group(folder.path()).await;
    for peer in &peers {
        peer.led_by(0).await;
    }
    let (old, rest) = peers.split_first().unwrap();
    let created = old.replica.propose(create("news"), deadline()).await;
    created.unwrap().outcome.unwrap();
    old.replica.hand_over(deadline()).await;
    let leads = |peer: &&Peer| peer.replica.leader().borrow().is_ready;
    until("another one leads", || rest.iter().any(|peer| leads(&peer))).await;
    let leader = rest.iter().find(leads).unwrap();
    let appended = leader.replica.propose(append("news"), deadline()).await;
    appended.unwrap().outcome.unwrap();
    let refused = old.replica.propose(append("news"), deadline()).await;
    assert!(refused.unwrap_err().leader_hint().is_some());
    for peer in peers {
        peer.stop().await;
    }
}

/// What a replica that is gone would store it stores when it is back; nobody has to wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_replica_that_is_gone_to_store() {
    let folder = tempfile::tempdir().unwrap();
    let mut peers = group(folder.path()).await;
    for peer in &peers {
        peer.led_by(0).await;
    }
    let standby = peers.pop().unwrap();
    let leader = &peers[0].replica;
    let created = leader.propose(create("news"), deadline()).await.unwrap();
    let everywhere = leader.stored_by_all(created.position, deadline()).await;
    assert_eq!(everywhere.len(), 4, "{everywhere:?}");
    standby.stop().await;
    let appended = leader.propose(append("news"), deadline()).await.unwrap();
    // One call waits already when the replica is found gone, the other one comes later.
    let end = deadline();
    let waiting = leader.stored_by_all(appended.position, end);
    let (holders, ()) = tokio::join!(waiting, async {
        until("the others have it", || {
            leader.group().unwrap().holders(appended.position).len() == 3
        })
        .await;
        lose(&peers[0], &[4]);
    });
    assert_eq!(holders, [0, 1, 2].map(PeerId));
    let holders = leader.stored_by_all(appended.position, end).await;
    assert_eq!(holders, [0, 1, 2].map(PeerId));
    assert!(Instant::now() < end, "nobody waited for the deadline");
    for peer in peers {
        peer.stop().await;
    }
}
