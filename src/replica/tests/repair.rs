//! Replicas that are not whole, and replicas that cannot go on.

use super::*;
use crate::store::{BoxError, Reader, Table, Writes};

/// Writes a row of a topic that nobody has created into the store of a replica: its checksum is right, and it makes no sense.
fn spoil(peer: &Peer, name: &'static str) {
    let key = (Table::Topic, Bytes::from_static(name.as_bytes()));
    let writes = Writes {
        rows: [(key, Some(Bytes::from_static(&[1])))].into(),
        ..Writes::default()
    };
    let mark = peer.store.mark(shard()).unwrap().unwrap();
    peer.store.commit(shard(), writes, mark).unwrap();
}

fn incarnation_of(peer: &Peer) -> Incarnation {
    let group = peer.replica.group();
    group.map_or(Incarnation(0), |group| {
        consensus::incarnation_of(group.node())
    })
}

async fn is_made_again(peer: &Peer) {
    let end = deadline();
    while incarnation_of(peer) <= Incarnation(1) || peer.replica.phase() != Phase::Serving {
        assert!(Instant::now() < end, "still {:?}", peer.replica.phase());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn group_led_by_the_first(folder: &std::path::Path) -> Vec<Peer> {
    let peers = group(folder).await;
    for peer in &peers {
        peer.led_by(0).await;
    }
    peers
}

/// The same, with a topic that this one of them has applied.
async fn group_with_news(folder: &std::path::Path, applied_by: usize) -> Vec<Peer> {
    let peers = group_led_by_the_first(folder).await;
    let leader = &peers[0].replica;
    let created = leader.propose(create("news"), deadline()).await.unwrap();
    until("it is applied", || {
        peers[applied_by].replica.status().applied >= Some(created.position.index)
    })
    .await;
    peers
}

// REQ G7: damage that only shows when rows are used. The replica would be begun again for ever, and fail at the same entry each time.
#[tokio::test(flavor = "multi_thread")]
async fn replica_whose_rows_make_no_sense_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let peers = group_with_news(folder.path(), 1).await;
    let (leader, follower) = (&peers[0].replica, &peers[1]);
    let news = leader.status().last.unwrap();
    let stored = |peer: &Peer| peer.replica.status().last >= Some(news);
    until("all have stored it", || peers.iter().all(stored)).await;
    spoil(follower, "sport");
    let created = leader.propose(create("sport"), deadline()).await.unwrap();
    created.outcome.unwrap();
    is_made_again(follower).await;
    until("it has what the others have", || {
        matches!(follower.replica.view().topic(&topic("sport")), Ok(Some(_)))
    })
    .await;
    for peer in peers {
        peer.stop().await;
    }
}

// REQ G7: the same, met by a reader.
#[tokio::test(flavor = "multi_thread")]
async fn replica_that_a_reader_finds_damaged_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let peers = group_with_news(folder.path(), 3).await;
    let standby = &peers[3];
    spoil(standby, "sport");
    let read = standby
        .replica
        .read(Consistency::Eventual, deadline())
        .await;
    let error = read.unwrap().view.topic(&topic("sport")).unwrap_err();
    assert!(error.is_damage(), "{error}");
    standby.replica.blame(&Arc::new(error));
    is_made_again(standby).await;
    let found = standby.replica.view().topic(&topic("sport"));
    assert_eq!(found.unwrap(), None);
    for peer in peers {
        peer.stop().await;
    }
}

// A full disk: the log waits for room, the others have committed, and the peer is told to stop.
#[tokio::test(flavor = "multi_thread")]
async fn stop_does_not_wait_for_a_disk_that_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut peers = group_led_by_the_first(folder.path()).await;
    let leader = peers.remove(0);
    leader.wal.hold();
    let replica = leader.replica.clone();
    let proposal = replica.propose(create("news"), deadline());
    let stopped = async {
        let follower = &peers[0].replica;
        until("the others have it", || {
            matches!(follower.view().topic(&topic("news")), Ok(Some(_)))
        })
        .await;
        leader.replica.stop().await;
    };
    let stopped = tokio::time::timeout_at(deadline(), async { tokio::join!(proposal, stopped) });
    let (proposal, ()) = stopped.await.expect("it stops in time");
    let unknown = proposal.unwrap_err();
    assert!(
        matches!(
            unknown,
            Error::Consensus(consensus::Error::OutcomeUnknown { .. })
        ),
        "{unknown}"
    );
    leader.wal.release();
    leader.server.abort();
    leader.wal.shutdown();
    for peer in peers {
        peer.stop().await;
    }
}

/// Leaves the store as an installation does that ends in its middle.
fn break_off(store: &Arc<MemoryStore>) {
    let store = Arc::clone(store);
    let broken = std::thread::spawn(move || {
        let part = || -> Option<Result<Writes, BoxError>> { panic!("broken off, as told") };
        let mut parts = std::iter::from_fn(part);
        store.replace(shard(), &mut parts, Bytes::new())
    });
    assert!(broken.join().is_err());
}

// What is left of a broken-off snapshot is dropped before the log is applied again, or both would be mixed.
#[tokio::test(flavor = "multi_thread")]
async fn replica_whose_snapshot_was_broken_off_begins_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let peers = group_with_news(folder.path(), 1).await;
    let (leader, follower) = (&peers[0].replica, &peers[1]);
    break_off(&follower.store);
    let read = follower
        .replica
        .read(Consistency::Eventual, deadline())
        .await;
    let error = read.unwrap().view.topic(&topic("news")).unwrap_err();
    assert!(error.is_replaced(), "{error}");
    let created = leader.propose(create("sport"), deadline()).await.unwrap();
    created.outcome.unwrap();
    until("it has both from the log", || {
        let view = follower.replica.view();
        ["news", "sport"].map(|name| matches!(view.topic(&topic(name)), Ok(Some(_)))) == [true; 2]
    })
    .await;
    // It has applied its log before its group is there.
    until("it serves", || follower.replica.phase() == Phase::Serving).await;
    assert_eq!(incarnation_of(follower), Incarnation(1));
    for peer in peers {
        peer.stop().await;
    }
}
