//! A replica that votes alone, on a disk that fails on command.

use std::path::Path;

use super::*;
use crate::env::disk::Disk;
use crate::env::entropy::SeededEntropy;
use crate::env::faulty::{FaultyDisk, Survival};
use crate::store::FullStore;

pub(super) struct Alone {
    pub(super) replica: Replica,
    pub(super) wal: Arc<HeldLog>,
    store: Arc<FullStore>,
}

impl Alone {
    async fn ready(&self) {
        let mut leader = self.replica.leader();
        let ready = leader.wait_for(|now| now.is_ready);
        tokio::time::timeout_at(deadline(), ready)
            .await
            .unwrap()
            .unwrap();
    }
}

/// A new process on the disk. Its store is empty: everything comes from the log.
pub(super) async fn alone(disk: &FaultyDisk) -> Alone {
    let parts = (Arc::new(MemoryLedger::new(Incarnation(1))), ByteCount(0));
    let peer = begin(disk, parts);
    peer.ready().await;
    peer
}

/// As [`alone`], before it leads.
fn begin(disk: &FaultyDisk, (ledger, reserve): (Arc<MemoryLedger>, ByteCount)) -> Alone {
    let disk: Arc<dyn Disk> = Arc::new(disk.for_process());
    let folder = Path::new("/peer");
    disk.create_directory(folder).unwrap();
    let options = crate::wal::Options {
        segment_bytes: ByteCount(64 << 10),
        ..crate::wal::Options::new(folder.join("wal"), wal_identity(0))
    };
    let entropy = Arc::new(SeededEntropy::new(1));
    let wal = Arc::new(HeldLog {
        inner: Arc::new(Wal::open(options, Arc::clone(&disk), entropy).unwrap()),
        held: Mutex::default(),
        is_full: AtomicBool::new(false),
    });
    let acquaintances = Arc::new(Acquaintances::open(Arc::clone(&disk), folder).unwrap());
    let identity = Identity {
        cluster: "test".to_owned(),
        peer: PeerId(0),
        directory: 0,
        incarnation: Incarnation(1),
    };
    let link = link::Options::new(identity, BTreeMap::new());
    let peers = Peers::new(&link, acquaintances).unwrap();
    let store = Arc::new(FullStore::default());
    let parts = Parts {
        wal: Arc::<HeldLog>::clone(&wal),
        store: Arc::<FullStore>::clone(&store),
        links: peers.links().clone(),
        peers,
        disk,
        staging: folder.join("staging"),
        room: Arc::new(Room::new(reserve)),
        ledger,
        clock: Arc::new(SystemClock::default()),
    };
    let node = consensus::node_id(PeerId(0), Incarnation(1));
    let group = consensus::Options {
        cluster: "test".to_owned(),
        node,
        voters: vec![PeerId(0)],
        standbys: Vec::new(),
        heartbeat_interval: Duration::from_millis(100),
        election_timeout_min: Duration::from_millis(400),
        election_timeout_max: Duration::from_millis(800),
        standby_after: Duration::from_secs(60),
        return_after: Duration::from_secs(60),
    };
    let options = Options {
        command_bytes_max: ByteCount(1 << 20),
    };
    let replica = Replica::start(shard(), group, &parts, options);
    Alone {
        replica,
        wal,
        store,
    }
}

fn messages(replica: &Replica) -> u64 {
    let topic = replica.view().topic(&topic("news")).unwrap();
    topic.map_or(0, |topic| topic.next_offset.0)
}

// G1: what was acknowledged survives a power cut that takes everything that was not synced.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_publishes_survive_a_power_cut() {
    let disk = FaultyDisk::new(7);
    let mut acknowledged = 0;
    for life in 0..4 {
        let peer = alone(&disk).await;
        assert_eq!(messages(&peer.replica), acknowledged, "life {life}");
        if life == 0 {
            let created = peer.replica.propose(create("news"), deadline()).await;
            created.unwrap().outcome.unwrap();
        }
        for _ in 0..25 {
            let appended = peer.replica.propose(append("news"), deadline()).await;
            appended.unwrap().outcome.unwrap();
            acknowledged += 1;
        }
        disk.reboot(Survival::Nothing);
        peer.replica.stop().await;
        peer.wal.shutdown();
    }
}

// A failed sync stops the replica: nothing is acknowledged any more, and the failure is told.
#[tokio::test(flavor = "multi_thread")]
async fn failed_sync_acknowledges_nothing_and_stops_the_replica() {
    let disk = FaultyDisk::new(7);
    let peer = alone(&disk).await;
    let created = peer.replica.propose(create("news"), deadline()).await;
    created.unwrap().outcome.unwrap();
    let mut failed = peer.wal.failed();
    assert!(failed.borrow().is_none());
    disk.fail_sync_at(disk.syncs());
    let refused = peer.replica.propose(append("news"), deadline()).await;
    assert!(
        matches!(
            refused,
            Err(Error::Consensus(consensus::Error::OutcomeUnknown { .. }))
        ),
        "{refused:?}"
    );
    tokio::time::timeout_at(deadline(), failed.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap();
    let refused = peer.replica.propose(append("news"), deadline()).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(messages(&peer.replica), 0);
    peer.replica.stop().await;
    peer.wal.shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_does_nothing_before_its_peer_knows_who_it_is() {
    let disk = FaultyDisk::new(7);
    let ledger = Arc::new(MemoryLedger::unsettled(Incarnation(1)));
    let peer = begin(&disk, (Arc::clone(&ledger), ByteCount(0)));
    let refused = peer.replica.propose(create("news"), deadline()).await;
    assert!(
        matches!(refused, Err(Error::Starting { .. })),
        "{refused:?}"
    );
    assert_eq!(peer.wal.bounds(shard()).hard_state, None);
    ledger.settle();
    peer.ready().await;
    peer.replica.stop().await;
    peer.wal.shutdown();
}

// This replica cannot be compared with the others then, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn barrier_does_no_harm_on_a_full_disk() {
    let disk = FaultyDisk::new(7);
    let peer = alone(&disk).await;
    let created = peer.replica.propose(create("news"), deadline()).await;
    created.unwrap().outcome.unwrap();
    let term = peer.replica.status().term;
    peer.store.fill();
    let barrier = Command::Barrier { id: 1 };
    let barrier = peer.replica.propose(barrier, deadline()).await;
    assert!(matches!(barrier.unwrap().outcome, Ok(Response::Barrier)));
    let appended = peer.replica.propose(append("news"), deadline()).await;
    appended.unwrap().outcome.unwrap();
    assert_eq!(messages(&peer.replica), 1);
    assert_eq!(peer.replica.status().term, term);
    peer.replica.stop().await;
    peer.wal.shutdown();
}

// G1: what a group finds in its log it takes for durable, and says so to its leader; an earlier group of the same process may have left it there a moment ago.
#[tokio::test(flavor = "multi_thread")]
async fn group_begins_when_its_log_is_on_disk() {
    let disk = FaultyDisk::new(7);
    let ledger = Arc::new(MemoryLedger::unsettled(Incarnation(1)));
    let peer = begin(&disk, (Arc::clone(&ledger), ByteCount(0)));
    peer.wal.hold();
    ledger.settle();
    until("it waits for the log", || peer.wal.waiting() == 1).await;
    assert!(peer.replica.group().is_none());
    peer.wal.release();
    peer.ready().await;
    peer.replica.stop().await;
    peer.wal.shutdown();
}

// What it held is dropped before anything else, when the process that should have done it was killed.
#[tokio::test(flavor = "multi_thread")]
async fn reset_that_is_due_is_done_at_the_start() {
    let disk = FaultyDisk::new(7);
    let peer = alone(&disk).await;
    let created = peer.replica.propose(create("news"), deadline()).await;
    created.unwrap().outcome.unwrap();
    peer.replica.stop().await;
    peer.wal.shutdown();
    let ledger = Arc::new(MemoryLedger::new(Incarnation(1)));
    ledger.renew(shard(), Incarnation(2)).unwrap();
    let peer = begin(&disk, (Arc::clone(&ledger), ByteCount(0)));
    until("the reset is done", || {
        !ledger.standing(shard()).is_reset_due
    })
    .await;
    until("the group runs", || peer.replica.group().is_some()).await;
    let new = consensus::node_id(PeerId(0), Incarnation(2));
    assert_eq!(peer.replica.group().unwrap().node(), new);
    assert_eq!(peer.wal.bounds(shard()).last, None);
    let refused = peer.replica.read(Consistency::Eventual, deadline()).await;
    let refused = refused.map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
    peer.replica.stop().await;
    peer.wal.shutdown();
}
