//! A follower behind the beginning of the log.

use futures::stream;

use super::super::convert;
use super::*;
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::install_snapshot_request::Part;

// REQ F5
#[tokio::test(flavor = "multi_thread")]
async fn follower_behind_the_log_gets_the_state() {
    let mut cluster = Cluster::start().await;
    cluster.propose(create()).await;
    cluster.down(2).await;
    let before = cluster.publish(300).await;
    cluster.compact(0).await;
    cluster.up(2).await;
    let last = cluster.publish(3).await;
    cluster.applied(2, last).await;
    assert!(last.index > before.index);
    assert_eq!(cluster.digest(2), cluster.digest(0));
    let life = cluster.peer(2).life.as_ref().unwrap();
    let begins = life.wal.bounds(shard()).purged.unwrap().position.index;
    assert!(begins >= before.index, "it did not come by a snapshot");
    let staging = cluster.peer(2).folder.join("staging");
    assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0);
    // What it has got, it still has after a restart.
    cluster.down(2).await;
    cluster.up(2).await;
    let last = cluster.publish(1).await;
    cluster.applied(2, last).await;
    assert_eq!(cluster.digest(2), cluster.digest(0));
    cluster.stop().await;
}

/// A crash after the installation and before the log was purged up to it.
#[tokio::test(flavor = "multi_thread")]
async fn log_may_end_before_an_installed_snapshot() {
    let mut cluster = Cluster::start().await;
    cluster.propose(create()).await;
    cluster.down(2).await;
    let last = cluster.publish(100).await;
    cluster.compact(0).await;
    cluster.up(2).await;
    cluster.applied(2, last).await;
    cluster.down(2).await;
    std::fs::remove_dir_all(cluster.peer(2).folder.join("wal")).unwrap();
    cluster.up(2).await;
    let last = cluster.publish(3).await;
    cluster.applied(2, last).await;
    assert_eq!(cluster.digest(2), cluster.digest(0));
    // Entries of the log were applied since: now it must not end before them.
    cluster.down(2).await;
    std::fs::remove_dir_all(cluster.peer(2).folder.join("wal")).unwrap();
    let gap = cluster.try_up(2).await.unwrap_err();
    assert!(matches!(gap, Error::Gap { .. }), "{gap}");
    cluster.stop().await;
}

/// A snapshot of what the first peer has made durable, as the leader would send it.
fn parts(cluster: &Cluster) -> Vec<proto::InstallSnapshotRequest> {
    let source = cluster.group(0).parts.source.clone();
    let snapshot = source.freeze().unwrap().unwrap();
    let meta = snapshot.meta;
    let last = meta.last_log_id.unwrap();
    let header = proto::SnapshotHeader {
        shard: u32::from(shard().index()),
        // Of a later leader, so that the receiver would take it.
        leader: Some(proto::Vote {
            term: last.leader_id.term + 10,
            node: cluster.peer(1).node(),
            committed: true,
        }),
        last_log_id: Some(convert::log_id_to_proto(&last)),
        membership_id: None,
        membership: Some(convert::membership_to_proto(
            meta.last_membership.membership(),
        )),
    };
    let super::super::snapshot::Snapshot::Frozen(reader) = snapshot.snapshot else {
        panic!("it is not frozen");
    };
    let chunks = shard::export(View::new(shard(), reader));
    let chunks = chunks.map(|chunk| Part::Chunk(chunk.unwrap()));
    let all = std::iter::once(Part::Header(header)).chain(chunks);
    all.map(|part| proto::InstallSnapshotRequest { part: Some(part) })
        .collect()
}

/// The first part of a snapshot of the leader that was elected so many terms later.
fn header(parts: &[proto::InstallSnapshotRequest], later: u64) -> proto::InstallSnapshotRequest {
    let Some(Part::Header(mut header)) = parts[0].part.clone() else {
        panic!("the first part is no header");
    };
    header.leader.as_mut().unwrap().term += later;
    proto::InstallSnapshotRequest {
        part: Some(Part::Header(header)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn later_leader_does_not_wait_for_the_snapshot_of_an_earlier_one() {
    let mut cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let first = cluster.publish(5).await;
    cluster.applied(2, first).await;
    let digest = cluster.digest(2);
    cluster.down(2).await;
    cluster.publish(300).await;
    cluster.peer(0).store.checkpoint().unwrap();
    let mut whole = parts(&cluster);
    for number in [0, 1, 4] {
        cluster.down(number).await;
    }
    cluster.up(2).await;
    let group = cluster.group(2);
    // One stalls after it has begun.
    let begun = [header(&whole, 0), whole[1].clone()];
    let stalled = stream::iter(begun).chain(stream::pending());
    let mut stalled = Box::pin(group.install_snapshot(stalled));
    let staging = cluster.peer(2).folder.join("staging");
    let is_coming = || std::fs::read_dir(&staging).unwrap().count() == 1;
    tokio::select! {
        ended = &mut stalled => panic!("{ended:?}"),
        () = until("it comes in", is_coming) => {}
    }
    let same = group.install_snapshot(stream::iter(whole.clone())).await;
    assert!(matches!(same, Err(Error::Snapshot { .. })), "{same:?}");
    whole[0] = header(&whole, 1);
    let begun = Instant::now();
    let taken = group.install_snapshot(stream::iter(whole));
    let (given_up, taken) = tokio::join!(stalled, taken);
    assert!(
        matches!(given_up, Err(Error::Snapshot { .. })),
        "{given_up:?}"
    );
    assert!(taken.unwrap().vote.is_some());
    assert!(begun.elapsed() < super::super::receive::STALL_MAX / 2);
    assert_ne!(cluster.digest(2), digest);
    cluster.stop().await;
}

// REQ G7
#[tokio::test(flavor = "multi_thread")]
async fn snapshot_that_is_not_whole_changes_nothing() {
    let mut cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let first = cluster.publish(5).await;
    cluster.applied(2, first).await;
    let digest = cluster.digest(2);
    cluster.down(2).await;
    cluster.publish(300).await;
    cluster.peer(0).store.checkpoint().unwrap();
    let whole = parts(&cluster);
    assert!(whole.len() > 2, "{} parts", whole.len());
    // Alone, so that it does not catch up from the others.
    for number in [0, 1, 4] {
        cluster.down(number).await;
    }
    cluster.up(2).await;
    let group = cluster.group(2);
    let mut cut = whole.clone();
    cut.pop();
    let mut headless = whole.clone();
    headless.remove(0);
    let mut swapped = whole.clone();
    swapped.swap(1, 2);
    let mut broken = vec![cut, headless, swapped, Vec::new()];
    for at in 1..whole.len() {
        let mut bent = whole.clone();
        let Some(Part::Chunk(chunk)) = &mut bent[at].part else {
            panic!("part {at} is no chunk");
        };
        let mut bytes = chunk.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        *chunk = bytes.into();
        broken.push(bent);
    }
    for parts in broken {
        let error = group
            .install_snapshot(stream::iter(parts))
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Snapshot { .. } | Error::Malformed { .. }),
            "{error}"
        );
        assert_eq!(group.status().applied, Some(first.index));
    }
    assert_eq!(cluster.digest(2), digest);
    let answer = group.install_snapshot(stream::iter(whole)).await.unwrap();
    assert!(answer.vote.is_some());
    assert_ne!(cluster.digest(2), digest, "the whole one is taken");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_on_a_full_disk_takes_nothing() {
    let cluster = Cluster::start().await;
    cluster.propose(create()).await;
    let first = cluster.publish(1).await;
    cluster.applied(1, first).await;
    let full = crate::env::faulty::FaultyDisk::new(1);
    full.limit(0);
    let room = Arc::clone(&cluster.peer(1).room);
    room.measure(&full, Path::new("/")).unwrap();
    let second = cluster.publish(5).await;
    cluster.applied(2, second).await;
    let refused = cluster.group(1).install_snapshot(stream::empty()).await;
    assert!(refused.is_err());
    assert!(cluster.group(1).status().last < Some(second.index));
    room.measure(&SystemDisk, Path::new("/tmp")).unwrap();
    cluster.applied(1, second).await;
    cluster.stop().await;
}
