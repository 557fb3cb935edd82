//! Three voters and a standby of one shard, over TCP and with real logs; their stores outlive them in memory.

mod admission;
mod compaction;
mod failover;
mod snapshot;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;

use super::*;
use crate::env::disk::SystemDisk;
use crate::env::entropy::SystemEntropy;
use crate::link::{self, Acquaintances, Identity, LinkMap, LinkState};
use crate::rpc::raft::{Groups, service};
use crate::shard::{Command, View};
use crate::store::{MemoryStore, Reader};
use crate::types::{
    Batch, ByteCount, Dimension, Incarnation, LogPosition, Retention, Timestamp, TopicName,
};
use crate::wal::{self, RaftLog, Wal};

const PEERS: [u16; 4] = [0, 1, 2, 4];

fn shard() -> Vertex {
    Vertex::new(0, Dimension::new(3).unwrap()).unwrap()
}

/// The peers and where they are on the cube.
fn members() -> impl Iterator<Item = (PeerId, Vertex)> {
    let vertex = |number| Vertex::new(number, shard().dimension()).unwrap();
    PEERS
        .into_iter()
        .map(move |number| (PeerId(number), vertex(number)))
}

fn topic() -> TopicName {
    TopicName::new("news").unwrap()
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Waits for a condition, which must come true before the deadline.
async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let end = deadline();
    while !is_true() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a replica froze, and where.
type Frozen = (LogPosition, Arc<dyn Reader>);

/// A peer while it is up.
struct Life {
    group: Group,
    wal: Arc<dyn RaftLog>,
    peers: Peers,
    /// What it is told of links.
    links: watch::Sender<Arc<LinkMap>>,
    server: Server,
    observed: Arc<Mutex<Vec<Frozen>>>,
}

/// A peer's disk and address.
struct Peer {
    number: u16,
    folder: PathBuf,
    store: Arc<MemoryStore>,
    /// The name of its directory, and how often it began anew.
    directory: u128,
    incarnation: Incarnation,
    room: Arc<Room>,
    pace: Pace,
    life: Option<Life>,
}

/// How soon the group does something by itself.
#[derive(Debug, Clone, Copy)]
struct Pace {
    election_timeout: Duration,
    standby_after: Duration,
    return_after: Duration,
}

impl Pace {
    /// By timers, and nothing else within the time of a test.
    const TIMERS: Self = Self {
        election_timeout: Duration::from_millis(400),
        standby_after: Duration::from_secs(60),
        return_after: Duration::from_secs(60),
    };
}

struct Cluster {
    addresses: BTreeMap<PeerId, String>,
    peers: BTreeMap<u16, Peer>,
    _folder: tempfile::TempDir,
}

/// The groups of one peer, of which there is one.
struct Alone(Group);

impl Groups for Alone {
    fn group(&self, index: u32) -> Option<Group> {
        (index == u32::from(shard().index())).then(|| self.0.clone())
    }

    fn groups(&self) -> Vec<Group> {
        vec![self.0.clone()]
    }
}

impl Cluster {
    /// All peers, led by the first.
    async fn start() -> Self {
        Self::start_with(Pace::TIMERS).await
    }

    async fn start_with(pace: Pace) -> Self {
        let mut cluster = Self::prepare(pace).await;
        for number in PEERS {
            cluster.up(number).await;
        }
        cluster.led_by(0).await;
        cluster
    }

    async fn prepare(pace: Pace) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = BTreeMap::new();
        let mut peers = BTreeMap::new();
        for number in PEERS {
            // Nothing listens there until the peer is up.
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            addresses.insert(PeerId(number), format!("http://{address}"));
            let peer = Peer {
                number,
                folder: folder.path().join(number.to_string()),
                store: Arc::new(MemoryStore::new()),
                directory: u128::from(number),
                incarnation: Incarnation(1),
                room: Arc::new(Room::new(ByteCount(1000))),
                pace,
                life: None,
            };
            peers.insert(number, peer);
        }
        Self {
            addresses,
            peers,
            _folder: folder,
        }
    }

    fn peer(&self, number: u16) -> &Peer {
        &self.peers[&number]
    }

    fn group(&self, number: u16) -> &Group {
        &self.peer(number).life.as_ref().unwrap().group
    }

    async fn try_up(&mut self, number: u16) -> Result<(), Error> {
        let addresses = self.addresses.clone();
        let peer = self.peers.get_mut(&number).unwrap();
        peer.life = Some(peer.up(&addresses).await?);
        Ok(())
    }

    async fn up(&mut self, number: u16) {
        self.try_up(number).await.unwrap();
    }

    async fn down(&mut self, number: u16) {
        let peer = self.peers.get_mut(&number).unwrap();
        let life = peer.life.take().unwrap();
        drop(life.server);
        life.group.stop().await;
        life.wal.shutdown();
    }

    /// Empties a stopped peer's disk; it is to come back in this incarnation.
    fn wipe(&mut self, number: u16, incarnation: Incarnation) {
        let peer = self.peers.get_mut(&number).unwrap();
        assert!(peer.life.is_none());
        std::fs::remove_dir_all(&peer.folder).unwrap();
        peer.store = Arc::new(MemoryStore::new());
        peer.directory += 1000;
        peer.incarnation = incarnation;
    }

    async fn led_by(&self, leader: u16) {
        for peer in self.peers.values() {
            let Some(life) = &peer.life else { continue };
            let mut leadership = life.group.leadership();
            let led = leadership.wait_for(|now| now.leader == Some(PeerId(leader)));
            let led = tokio::time::timeout_at(deadline(), led).await;
            let _ = led.expect("a leader in time").unwrap();
        }
        let mut leadership = self.group(leader).leadership();
        let ready = leadership.wait_for(|now| now.is_ready);
        let _ = tokio::time::timeout_at(deadline(), ready).await.unwrap();
    }

    async fn propose(&self, command: Command) -> LogPosition {
        let proposed = self.group(0).propose(command.encode());
        let proposed = tokio::time::timeout_at(deadline(), proposed).await;
        let (position, outcome) = proposed.expect("an answer in time").unwrap();
        outcome.unwrap().unwrap();
        position
    }

    /// Publishes this many batches, some at the same time.
    async fn publish(&self, count: usize) -> LogPosition {
        let proposals = futures::stream::iter(0..count).map(|_| self.propose(append()));
        let positions: Vec<LogPosition> = proposals.buffer_unordered(32).collect().await;
        positions.into_iter().max().unwrap()
    }

    async fn applied(&self, number: u16, position: LogPosition) {
        until(&format!("peer {number} has applied {position}"), || {
            self.group(number).status().applied >= Some(position.index)
        })
        .await;
    }

    fn digest(&self, number: u16) -> shard::Digest {
        let store: Arc<dyn Reader> = Arc::<MemoryStore>::clone(&self.peer(number).store);
        View::new(shard(), store).digest().unwrap()
    }

    /// Makes everything durable at a peer and lets its log go as far as that allows.
    async fn compact(&self, number: u16) {
        let peer = self.peer(number);
        peer.store.checkpoint().unwrap();
        let life = peer.life.as_ref().unwrap();
        let end = deadline();
        let applied = life.group.status().applied.unwrap();
        // Entries on their way to a follower are purged a moment later.
        while life.wal.bounds(shard()).purged.map(|at| at.position.index) < Some(applied) {
            assert!(Instant::now() < end, "the log was not purged in time");
            life.group.compact(applied).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(mut self) {
        let up: Vec<u16> = self
            .peers
            .values()
            .filter(|peer| peer.life.is_some())
            .map(|peer| peer.number)
            .collect();
        for number in up {
            self.down(number).await;
        }
    }
}

impl Peer {
    fn node(&self) -> u64 {
        node_id(PeerId(self.number), self.incarnation)
    }

    fn options(&self) -> Options {
        Options {
            cluster: "test".to_owned(),
            node: self.node(),
            voters: [0, 1, 2].map(PeerId).to_vec(),
            standbys: vec![PeerId(4)],
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: self.pace.election_timeout,
            election_timeout_max: 2 * self.pace.election_timeout,
            standby_after: self.pace.standby_after,
            return_after: self.pace.return_after,
        }
    }

    async fn up(&self, addresses: &BTreeMap<PeerId, String>) -> Result<Life, Error> {
        std::fs::create_dir_all(&self.folder).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        let wal = self.open_log(Arc::clone(&disk));
        let peers = self.open_link(Arc::clone(&disk), addresses);
        let map = LinkMap::connected(PeerId(self.number), members());
        let (fixed, links) = Links::fixed(map);
        let store: Arc<dyn TopicStore> = Arc::<MemoryStore>::clone(&self.store);
        let machine = shard::Machine::open(shard(), Arc::clone(&store)).unwrap();
        let observed = Arc::new(Mutex::new(Vec::new()));
        let frozen = Arc::clone(&observed);
        let parts = Parts {
            shard: shard(),
            wal: Arc::clone(&wal),
            peers: peers.clone(),
            links: fixed,
            mark: machine.mark().cloned(),
            machine,
            observer: Arc::new(move |happened| {
                if let Observed::Frozen { position, reader } = happened {
                    let mut frozen = frozen.lock().unwrap_or_else(PoisonError::into_inner);
                    frozen.push((position, reader));
                }
            }),
            store,
            disk,
            staging: self.folder.join("staging"),
            room: Arc::clone(&self.room),
        };
        let group = match Group::start(self.options(), parts).await {
            Ok(group) => group,
            Err(error) => {
                wal.shutdown();
                return Err(error);
            }
        };
        let address = addresses[&PeerId(self.number)].trim_start_matches("http://");
        let server = serve(address, service(Alone(group.clone()), peers.clone())).await;
        Ok(Life {
            group,
            wal,
            peers,
            links,
            server,
            observed,
        })
    }

    fn open_log(&self, disk: Arc<dyn Disk>) -> Arc<dyn RaftLog> {
        let identity = wal::Identity {
            cluster: [1; 16],
            peer: PeerId(self.number),
            incarnation: self.incarnation,
        };
        let options = wal::Options {
            segment_bytes: ByteCount(64 << 10),
            ..wal::Options::new(self.folder.join("wal"), identity)
        };
        Arc::new(Wal::open(options, disk, Arc::new(SystemEntropy)).unwrap())
    }

    fn open_link(&self, disk: Arc<dyn Disk>, addresses: &BTreeMap<PeerId, String>) -> Peers {
        let others = addresses.iter().filter(|(peer, _)| peer.0 != self.number);
        let identity = Identity {
            cluster: "test".to_owned(),
            peer: PeerId(self.number),
            directory: self.directory,
            incarnation: self.incarnation,
        };
        let others = others.map(|(peer, at)| (*peer, at.clone())).collect();
        let options = link::Options::new(identity, others);
        let acquaintances = Acquaintances::open(disk, Path::new(&self.folder)).unwrap();
        Peers::new(&options, Arc::new(acquaintances)).unwrap()
    }
}

type Service =
    crate::proto::peer::v1::raft_service_server::RaftServiceServer<crate::rpc::raft::RaftApi>;

/// What listens for a peer. When it is dropped all its connections break, as when a process is killed.
struct Server {
    task: JoinHandle<()>,
    connections: Arc<Mutex<Vec<std::net::TcpStream>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let connections = self.connections.lock();
        for connection in connections.unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

async fn serve(address: &str, service: Service) -> Server {
    let end = deadline();
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let connections: Arc<Mutex<Vec<std::net::TcpStream>>> = Arc::default();
    let seen = Arc::clone(&connections);
    let incoming = TcpListenerStream::new(listener).map(move |stream| {
        let stream = stream?.into_std()?;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(stream.try_clone()?);
        tokio::net::TcpStream::from_std(stream)
    });
    let server = tonic::transport::Server::builder().add_service(service);
    #[expect(clippy::disallowed_methods, reason = "the test aborts it")]
    let task = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
    Server { task, connections }
}

fn create() -> Command {
    Command::CreateTopic {
        topic: topic(),
        creator: None,
        request_id: None,
        at: Timestamp(1),
        retention: Retention::default(),
    }
}

fn append() -> Command {
    let payload = [&b"\x22\x82\x08\x12\xff\x07"[..], &[7; 1023]].concat();
    Command::Append {
        topic: topic(),
        origin: None,
        at: Timestamp(2),
        batch: Batch::new(Bytes::from(payload)).unwrap(),
    }
}
