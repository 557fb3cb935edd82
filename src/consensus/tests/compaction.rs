//! The log goes, the shard stays.

use super::*;

fn segments(peer: &Peer) -> usize {
    let names = std::fs::read_dir(peer.folder.join("wal")).unwrap();
    let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".wal")).count()
}

// REQ F6
#[tokio::test(flavor = "multi_thread")]
async fn old_segments_go_and_a_restart_needs_them_not() {
    let mut cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let last = cluster.publish(500).await;
    for number in PEERS {
        cluster.applied(number, last).await;
    }
    let before = segments(cluster.peer(0));
    assert!(before >= 4, "{before} segments");
    for number in PEERS {
        cluster.compact(number).await;
    }
    cluster.publish(1).await;
    until("old segments are gone", || segments(cluster.peer(0)) <= 2).await;
    for number in PEERS {
        cluster.down(number).await;
    }
    for number in PEERS {
        cluster.up(number).await;
    }
    cluster.led_by(0).await;
    let last = cluster.publish(3).await;
    for number in PEERS {
        cluster.applied(number, last).await;
        assert_eq!(cluster.digest(number), cluster.digest(0));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_followers_do_not_keep_the_log() {
    let mut cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let first = cluster.publish(1).await;
    for number in PEERS {
        cluster.applied(number, first).await;
    }
    cluster.down(2).await;
    cluster.down(4).await;
    cluster.publish(300).await;
    cluster.compact(0).await;
    cluster.up(2).await;
    cluster.up(4).await;
    let last = cluster.publish(1).await;
    for number in [2, 4] {
        cluster.applied(number, last).await;
        assert_eq!(cluster.digest(number), cluster.digest(0));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_durable_stays_in_the_log() {
    let cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let kept = cluster.publish(3).await;
    cluster.peer(0).store.checkpoint().unwrap();
    let last = cluster.publish(3).await;
    cluster.group(0).compact(last.index).await;
    let wal = &cluster.peer(0).life.as_ref().unwrap().wal;
    let purged = || wal.bounds(shard()).purged.map(|at| at.position.index);
    until("the log is purged", || purged().is_some()).await;
    assert_eq!(purged(), Some(kept.index));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_entries_between_log_and_store_are_damage() {
    let mut cluster = Cluster::start().await;
    cluster.propose(create()).await;
    cluster.publish(3).await;
    cluster.compact(0).await;
    cluster.down(0).await;
    let peer = cluster.peers.get_mut(&0).unwrap();
    let whole = std::mem::replace(&mut peer.store, Arc::new(MemoryStore::new()));
    let gap = cluster.try_up(0).await.unwrap_err();
    assert!(matches!(gap, Error::Gap { .. }), "{gap}");
    cluster.peers.get_mut(&0).unwrap().store = whole;
    cluster.up(0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn barrier_freezes_every_replica_at_the_same_entry() {
    let cluster = Cluster::start().await;
    cluster.propose(create()).await;
    cluster.publish(2).await;
    let (first, barrier, _) = tokio::join!(
        cluster.propose(append()),
        cluster.propose(Command::Barrier { id: 7 }),
        cluster.propose(append()),
    );
    let last = cluster.publish(2).await;
    assert!(first.index < last.index);
    let mut digests = Vec::new();
    for number in PEERS {
        cluster.applied(number, last).await;
        let life = cluster.peer(number).life.as_ref().unwrap();
        let frozen = life.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let [(position, reader)] = &frozen[..] else {
            panic!("{} frozen", frozen.len());
        };
        assert_eq!(*position, barrier);
        let (at, _) = shard::mark_of(&**reader, shard()).unwrap().unwrap();
        assert_eq!(at, barrier);
        digests.push(View::new(shard(), Arc::clone(reader)).digest().unwrap());
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    assert_ne!(digests[0], cluster.digest(0));
    cluster.stop().await;
}

// A replica that gets a snapshot goes on from the log behind it; with that gone it would need the next snapshot, and the next.
#[tokio::test(flavor = "multi_thread")]
async fn log_behind_a_snapshot_on_its_way_stays() {
    let cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let sent = cluster.publish(50).await;
    let (group, node) = (cluster.group(0), cluster.peer(2).node());
    let deliveries = &group.parts.progress.deliveries;
    let delivery = deliveries.prepare(node, sent.index.0);
    delivery.begin()();
    let last = cluster.publish(50).await;
    for number in PEERS {
        cluster.applied(number, last).await;
    }
    cluster.peer(0).store.checkpoint().unwrap();
    let wal = &cluster.peer(0).life.as_ref().unwrap().wal;
    let purged = || {
        wal.bounds(shard())
            .purged
            .map(|purged| purged.position.index)
    };
    let end = deadline();
    while purged() < Some(sent.index) {
        assert!(Instant::now() < end, "the log was not purged in time");
        group.compact(last.index).await;
    }
    group.compact(last.index).await;
    assert_eq!(purged(), Some(sent.index));
    drop(delivery);
    cluster.compact(0).await;
    cluster.stop().await;
}
