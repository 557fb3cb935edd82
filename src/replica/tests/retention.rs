//! Trims, at a replica that votes alone.

use super::disk::alone;
use super::*;
use crate::env::faulty::FaultyDisk;

#[tokio::test(flavor = "multi_thread")]
async fn shard_in_which_nothing_is_due_is_left_alone_until_it_changes() {
    let disk = FaultyDisk::new(7);
    let peer = alone(&disk).await;
    let replica = &peer.replica;
    let propose = async |command| {
        let proposed = replica.propose(command, deadline()).await.unwrap();
        proposed.outcome.unwrap();
    };
    let is_over = || {
        let applied = replica.status().applied;
        replica.shared.lull.is_over(applied, Timestamp(9))
    };
    propose(Command::CreateTopic {
        topic: topic("news"),
        creator: None,
        request_id: None,
        at: Timestamp(1),
        retention: Retention {
            messages: Some(1),
            ..Retention::FOR_EVER
        },
    })
    .await;
    for count in [2, 2, 1] {
        for _ in 0..count {
            propose(append("news")).await;
        }
        // What is applied is known a moment later.
        until("the change is seen", is_over).await;
        let end = deadline();
        let mut trims = 0;
        while is_over() {
            assert!(Instant::now() < end, "not in time");
            trims += replica.retain(Timestamp(9), deadline()).await.unwrap();
        }
        assert_eq!(trims, 1);
        assert_eq!(replica.retain(Timestamp(9), deadline()).await.unwrap(), 0);
    }
    let row = replica.view().topic(&topic("news")).unwrap().unwrap();
    assert_eq!((row.first_offset.0, row.next_offset.0), (4, 5));
    peer.replica.stop().await;
    peer.wal.shutdown();
}
