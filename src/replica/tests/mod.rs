//! Three replicas and a standby of one shard, over TCP and with real logs.

mod disk;
mod failover;
mod ledger;
mod repair;
mod retention;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

use super::*;
use crate::env::clock::SystemClock;
use crate::env::disk::SystemDisk;
use crate::env::entropy::SystemEntropy;
use crate::link::{self, Acquaintances, Identity, LinkMap, LinkState};
use crate::proto::peer::v1::raft_service_server::RaftServiceServer;
use crate::rpc::raft::RaftApi;
use crate::shard::Response;
use crate::store::MemoryStore;
use crate::types::{Batch, Dimension, Incarnation, LogIndex, Retention, Timestamp};
use crate::wal::{self, Completion, Op, Wal};
use ledger::MemoryLedger;

/// A log that says nothing is on disk while it is held.
struct HeldLog {
    inner: Arc<dyn RaftLog>,
    held: Mutex<Option<Held>>,
    is_full: AtomicBool,
}

#[derive(Default)]
struct Held {
    durable: Option<LogPosition>,
    completions: Vec<Completion>,
}

impl HeldLog {
    fn hold(&self) {
        let durable = self.inner.durable(shard());
        let completions = Vec::new();
        *self.held.lock().unwrap() = Some(Held {
            durable,
            completions,
        });
    }

    /// Appends whose callers wait.
    fn waiting(&self) -> usize {
        let held = self.held.lock().unwrap();
        held.as_ref().map_or(0, |held| held.completions.len())
    }

    fn release(&self) {
        let held = self.held.lock().unwrap().take();
        for done in held.into_iter().flat_map(|held| held.completions) {
            done(Ok(()));
        }
    }
}

impl RaftLog for HeldLog {
    fn submit(&self, ops: Vec<Op>, done: Completion) -> Result<(), wal::Error> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(wal::Error::Closed);
        }
        match self.held.lock().unwrap().as_mut() {
            Some(held) if ops.iter().any(|op| matches!(op, Op::Append { .. })) => {
                held.completions.push(done);
                self.inner.submit(ops, Box::new(|_| ()))
            }
            _ => self.inner.submit(ops, done),
        }
    }

    fn is_crowded(&self) -> bool {
        self.inner.is_crowded()
    }

    fn entries(
        &self,
        shard: Vertex,
        range: Range<LogIndex>,
        bytes_max: ByteCount,
    ) -> Result<Vec<wal::Entry>, wal::Error> {
        self.inner.entries(shard, range, bytes_max)
    }

    fn bounds(&self, shard: Vertex) -> wal::Bounds {
        self.inner.bounds(shard)
    }

    fn durable(&self, shard: Vertex) -> Option<LogPosition> {
        match self.held.lock().unwrap().as_ref() {
            Some(held) => held.durable,
            None => self.inner.durable(shard),
        }
    }

    fn aged(&self, shard: Vertex, keep: ByteCount) -> Option<LogIndex> {
        self.inner.aged(shard, keep)
    }

    fn failed(&self) -> tokio::sync::watch::Receiver<Option<Arc<wal::Error>>> {
        self.inner.failed()
    }

    fn figures(&self) -> wal::Figures {
        self.inner.figures()
    }

    fn shutdown(&self) {
        self.inner.shutdown();
    }
}

struct Peer {
    replica: Replica,
    wal: Arc<HeldLog>,
    /// What it is told of links.
    links: tokio::sync::watch::Sender<Arc<LinkMap>>,
    store: Arc<MemoryStore>,
    server: JoinHandle<()>,
    address: SocketAddr,
}

fn shard() -> Vertex {
    Vertex::new(0, Dimension::new(3).unwrap()).unwrap()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn peer(
    number: u16,
    folder: &std::path::Path,
    listener: TcpListener,
    addresses: &BTreeMap<PeerId, String>,
) -> Peer {
    let identity = wal_identity(number);
    let folder = folder.join(number.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    let disk: Arc<dyn crate::env::disk::Disk> = Arc::new(SystemDisk);
    let options = crate::wal::Options::new(folder.join("wal"), identity);
    let wal = Wal::open(options, Arc::clone(&disk), Arc::new(SystemEntropy)).unwrap();
    let wal = Arc::new(HeldLog {
        inner: Arc::new(wal),
        held: Mutex::default(),
        is_full: AtomicBool::new(false),
    });
    let acquaintances = Arc::new(Acquaintances::open(Arc::clone(&disk), &folder).unwrap());
    let identity = Identity {
        cluster: "test".to_owned(),
        peer: PeerId(number),
        directory: u128::from(number),
        incarnation: Incarnation(1),
    };
    let others = addresses.iter().filter(|(peer, _)| peer.0 != number);
    let others = others.map(|(peer, at)| (*peer, at.clone())).collect();
    let link = link::Options::new(identity, others);
    let peers = Peers::new(&link, acquaintances).unwrap();
    let vertex = |peer: PeerId| Vertex::new(peer.0, shard().dimension()).unwrap();
    let members = addresses.keys().map(|peer| (*peer, vertex(*peer)));
    let (fixed, links) = Links::fixed(LinkMap::connected(PeerId(number), members));
    let store = Arc::new(MemoryStore::new());
    let parts = Parts {
        wal: Arc::<HeldLog>::clone(&wal),
        store: Arc::<MemoryStore>::clone(&store),
        peers: peers.clone(),
        links: fixed,
        disk,
        staging: folder.join("staging"),
        room: Arc::new(Room::new(ByteCount(0))),
        ledger: Arc::new(MemoryLedger::new(Incarnation(1))),
        clock: Arc::new(SystemClock::default()),
    };
    let group = group_options(number);
    let replica = Replica::start(
        shard(),
        group,
        &parts,
        Options {
            command_bytes_max: ByteCount(1 << 20),
        },
    );
    let api = RaftApi::new(Replicas::new([replica.clone()]), peers);
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(RaftServiceServer::new(api));
    #[expect(clippy::disallowed_methods, reason = "the test aborts it")]
    let server = tokio::spawn(async move {
        server
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    Peer {
        replica,
        wal,
        links,
        store,
        server,
        address,
    }
}

fn group_options(number: u16) -> consensus::Options {
    consensus::Options {
        cluster: "test".to_owned(),
        node: consensus::node_id(PeerId(number), Incarnation(1)),
        voters: [0, 1, 2].map(PeerId).to_vec(),
        standbys: vec![PeerId(4)],
        heartbeat_interval: Duration::from_millis(100),
        election_timeout_min: Duration::from_millis(400),
        election_timeout_max: Duration::from_millis(800),
        standby_after: Duration::from_secs(60),
        return_after: Duration::from_secs(60),
    }
}

fn wal_identity(number: u16) -> crate::wal::Identity {
    crate::wal::Identity {
        cluster: [1; 16],
        peer: PeerId(number),
        incarnation: Incarnation(1),
    }
}

async fn group(folder: &std::path::Path) -> Vec<Peer> {
    let mut listeners = Vec::new();
    let mut addresses = BTreeMap::new();
    for number in [0_u16, 1, 2, 4] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.insert(
            PeerId(number),
            format!("http://{}", listener.local_addr().unwrap()),
        );
        listeners.push((number, listener));
    }
    let mut peers = Vec::new();
    for (number, listener) in listeners {
        peers.push(peer(number, folder, listener, &addresses).await);
    }
    peers
}

impl Peer {
    async fn stop(self) {
        self.server.abort();
        self.replica.stop().await;
        self.wal.shutdown();
    }

    async fn led_by(&self, peer: u16) {
        let mut leader = self.replica.leader();
        let led = leader.wait_for(|now| now.leader == Some(PeerId(peer)));
        tokio::time::timeout_at(deadline(), led)
            .await
            .unwrap()
            .unwrap();
    }
}

fn create(name: &str) -> Command {
    Command::CreateTopic {
        topic: topic(name),
        creator: None,
        request_id: None,
        at: Timestamp(1),
        retention: Retention::FOR_EVER,
    }
}

fn append(name: &str) -> Command {
    let batch = Batch::new(Bytes::from_static(b"\x22\x02\x12\x00")).unwrap();
    Command::Append {
        topic: topic(name),
        origin: None,
        at: Timestamp(2),
        batch,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preferred_leader_leads_and_every_replica_applies() {
    let folder = tempfile::tempdir().unwrap();
    let peers = group(folder.path()).await;
    for peer in &peers {
        peer.led_by(0).await;
    }
    let leader = &peers[0].replica;
    leader
        .propose(create("news"), deadline())
        .await
        .unwrap()
        .outcome
        .unwrap();
    let appended = leader.propose(append("news"), deadline()).await.unwrap();
    assert!(matches!(appended.outcome, Ok(Response::Appended { .. })));
    assert!(
        appended.stored_by.len() >= 2,
        "a majority has stored it: {:?}",
        appended.stored_by
    );
    let everywhere = leader.stored_by_all(appended.position, deadline()).await;
    assert_eq!(everywhere.len(), 4, "{everywhere:?}");

    let follower = &peers[1].replica;
    let refusal = follower
        .propose(append("news"), deadline())
        .await
        .unwrap_err();
    assert_eq!(refusal.leader_hint().map(|(peer, _)| peer), Some(PeerId(0)));
    let refusal = follower
        .read(Consistency::Leader, deadline())
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(refusal.leader_hint().map(|(peer, _)| peer), Some(PeerId(0)));
    for consistency in [
        Consistency::Leader,
        Consistency::Linearizable,
        Consistency::Eventual,
    ] {
        let read = leader.read(consistency, deadline()).await.unwrap();
        assert!(read.is_leader);
        assert_eq!(
            read.view
                .topic(&topic("news"))
                .unwrap()
                .unwrap()
                .next_offset
                .0,
            1
        );
    }
    for peer in peers {
        peer.stop().await;
    }
}

/// A peer that takes connections and never answers: a frozen process, as its neighbours see it.
async fn freeze(peer: Peer, listener_of: SocketAddr) -> TcpListener {
    peer.stop().await;
    let end = deadline();
    loop {
        match TcpListener::bind(listener_of).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for a condition, which must come true before the deadline.
async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let end = deadline();
    while !is_true() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// REQ D6: replicas were written one after another. A frozen first follower holds up none of the others.
#[tokio::test(flavor = "multi_thread")]
async fn followers_are_written_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut peers = group(folder.path()).await;
    for peer in &peers {
        peer.led_by(0).await;
    }
    let first_follower = peers.remove(1);
    let address = first_follower.address;
    let _frozen = freeze(first_follower, address).await;
    let leader = &peers[0].replica;
    let appended = leader.propose(create("news"), deadline()).await.unwrap();
    let holders = async {
        loop {
            let holders = leader.group().unwrap().holders(appended.position);
            if holders.contains(&PeerId(2)) && holders.contains(&PeerId(4)) {
                return holders;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let holders = tokio::time::timeout_at(deadline(), holders).await.unwrap();
    assert!(!holders.contains(&PeerId(1)), "{holders:?}");
    for peer in peers {
        peer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_leads_when_the_leader_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut peers = group(folder.path()).await;
    for peer in &peers {
        peer.led_by(0).await;
    }
    peers[0]
        .replica
        .propose(create("news"), deadline())
        .await
        .unwrap()
        .outcome
        .unwrap();
    peers.remove(0).stop().await;
    let ready = || {
        let mut peers = peers.iter();
        peers.find(|peer| peer.replica.leader().borrow().is_ready)
    };
    until("another leader", || ready().is_some()).await;
    let new_leader = &ready().unwrap().replica;
    let appended = new_leader
        .propose(append("news"), deadline())
        .await
        .unwrap();
    assert!(matches!(appended.outcome, Ok(Response::Appended { .. })));
    for peer in peers {
        peer.stop().await;
    }
}

/// Else a killed peer could come back with a store that is ahead of its log, and not start.
#[tokio::test(flavor = "multi_thread")]
async fn entry_is_applied_only_when_it_is_on_the_own_disk() {
    let folder = tempfile::tempdir().unwrap();
    let peers = group(folder.path()).await;
    for peer in &peers {
        peer.led_by(0).await;
    }
    let (leader, slow) = (&peers[0].replica, &peers[1]);
    let first = leader.propose(create("news"), deadline()).await.unwrap();
    let holders = leader.stored_by_all(first.position, deadline()).await;
    assert_eq!(holders.len(), 4, "{holders:?}");
    slow.wal.hold();
    let second = leader.propose(create("sport"), deadline()).await.unwrap();
    assert!(
        !second.stored_by.contains(&PeerId(1)),
        "{:?}",
        second.stored_by
    );
    // Each commit that the slow replica learns of would let it apply what was committed before.
    let mut last = second.position;
    for round in 0..10 {
        until("the commit is known to the slow replica", || {
            slow.replica.status().committed >= Some(last.index)
        })
        .await;
        let next = create(&format!("round-{round}"));
        last = leader.propose(next, deadline()).await.unwrap().position;
    }
    let seen = || slow.replica.view().topic(&topic("sport")).unwrap();
    assert!(seen().is_none(), "it is committed, but not on this disk");
    slow.wal.release();
    until("the entry is applied", || seen().is_some()).await;
    for peer in peers {
        peer.stop().await;
    }
}

// A group that failed for a reason that is neither damage nor a failed sync begins again by itself.
#[tokio::test(flavor = "multi_thread")]
async fn replica_whose_log_refuses_an_entry_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    let peers = group(folder.path()).await;
    for peer in &peers {
        peer.led_by(0).await;
    }
    let (leader, full) = (&peers[0].replica, &peers[1]);
    full.wal.is_full.store(true, Ordering::Relaxed);
    leader.propose(create("news"), deadline()).await.unwrap();
    until("the group has failed", || full.replica.group().is_none()).await;
    let refused = full.replica.read(Consistency::Eventual, deadline()).await;
    let refused = refused.map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::Starting { .. }), "{refused}");
    assert_eq!(full.replica.leader().borrow().leader, None);
    full.wal.is_full.store(false, Ordering::Relaxed);
    full.led_by(0).await;
    let seen = || full.replica.view().topic(&topic("news")).unwrap();
    until("the entry is applied", || seen().is_some()).await;
    assert_eq!(full.replica.phase(), Phase::Serving);
    for peer in peers {
        peer.stop().await;
    }
}
