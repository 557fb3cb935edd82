//! Three peers over TCP on loopback: links that come up and break, and calls that go round them.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt;

use super::identity;
use crate::env::disk::SystemDisk;
use crate::link::relay::{RELAY, RELAYED_BY};
use crate::link::{
    Acquaintances, Fault, Injection, LinkMap, LinkState, Options, Passage, Peers, Rhythm,
};
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::raft_service_client::RaftServiceClient;
use crate::proto::peer::v1::raft_service_server::{RaftService, RaftServiceServer};
use crate::rpc;
use crate::types::PeerId;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Quick enough for a test, and slow enough for a busy machine.
const RHYTHM: Rhythm = Rhythm {
    interval: Duration::from_millis(100),
    silence: Duration::from_millis(500),
};

const PEERS: [PeerId; 3] = [PeerId(0), PeerId(1), PeerId(2)];

/// One peer. When it is dropped its listener and connections are gone, as when a process is killed.
struct Life {
    peers: Peers,
    stop: CancellationToken,
    connections: Arc<Mutex<Vec<std::net::TcpStream>>>,
    server: tokio::task::AbortHandle,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.stop.cancel();
        self.server.abort();
        let connections = self.connections.lock();
        for connection in connections.unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Life {
    #[expect(clippy::disallowed_methods, reason = "the test ends them")]
    fn begin(
        peer: PeerId,
        listener: TcpListener,
        addresses: &BTreeMap<PeerId, String>,
        folder: &std::path::Path,
    ) -> Self {
        let mut others = addresses.clone();
        others.remove(&peer);
        let options = Options {
            rhythm: RHYTHM,
            injection: Injection::Allowed,
            ..Options::new(identity(peer.0), others)
        };
        let folder = folder.join(peer.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let acquaintances = Acquaintances::open(Arc::new(SystemDisk), &folder).unwrap();
        let peers = Peers::new(&options, Arc::new(acquaintances)).unwrap();
        let connections: Arc<Mutex<Vec<std::net::TcpStream>>> = Arc::default();
        let seen = Arc::clone(&connections);
        let incoming = TcpListenerStream::new(listener).map(move |stream| {
            let stream = stream?.into_std()?;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(stream.try_clone()?);
            tokio::net::TcpStream::from_std(stream)
        });
        let server = tonic::transport::Server::builder()
            .layer(rpc::Relay::new(peers.clone(), 2))
            .add_service(rpc::link::service(peers.clone()))
            .add_service(RaftServiceServer::new(Echo));
        let server = tokio::spawn(server.serve_with_incoming(incoming)).abort_handle();
        let stop = CancellationToken::new();
        tokio::spawn(peers.links().clone().run(stop.clone()));
        Self {
            peers,
            stop,
            connections,
            server,
        }
    }

    /// Waits until the map is like this.
    async fn until(&self, what: &str, is_so: impl Fn(&LinkMap) -> bool) {
        let mut map = self.peers.links().watch();
        let is_so = map.wait_for(|map| is_so(map));
        if !matches!(tokio::time::timeout(PATIENCE, is_so).await, Ok(Ok(_))) {
            panic!("{what}: {:?}", self.peers.links().now());
        }
    }

    async fn until_route(&self, to: PeerId, route: &[PeerId]) {
        let what = format!("route to {to} is {route:?}");
        let is_so = |map: &LinkMap| map.route(to).as_deref() == Some(route);
        self.until(&what, is_so).await;
    }

    fn client(&self, to: PeerId) -> RaftServiceClient<crate::link::Channel> {
        RaftServiceClient::new(self.peers.channel(to).unwrap())
    }

    /// A call to a peer: the peers that passed it on.
    async fn call(&self, to: PeerId) -> Result<String, Status> {
        let vote = self.peers.request(proto::VoteRequest::default());
        let answer = self.client(to).vote(vote).await?;
        Ok(passed(answer.metadata()))
    }

    fn cut(&self, to: PeerId) -> crate::link::FaultId {
        self.peers.faults().inject(Fault {
            peers: vec![to],
            passage: Passage::Cut,
            ..Fault::default()
        })
    }
}

fn passed(metadata: &tonic::metadata::MetadataMap) -> String {
    let passed = metadata.get(RELAYED_BY);
    passed.map_or_else(String::new, |by| by.to_str().unwrap().to_owned())
}

async fn three(folder: &std::path::Path) -> [Life; 3] {
    three_with(folder, |_, _| ()).await
}

/// Three peers, after a change of the addresses that each knows.
async fn three_with(
    folder: &std::path::Path,
    change: impl Fn(PeerId, &mut BTreeMap<PeerId, String>),
) -> [Life; 3] {
    let mut listeners = Vec::new();
    let mut addresses = BTreeMap::new();
    for peer in PEERS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        addresses.insert(peer, address);
        listeners.push(listener);
    }
    let mut listeners = listeners.into_iter();
    let lives = PEERS.map(|peer| {
        let listener = listeners.next().unwrap();
        let mut addresses = addresses.clone();
        change(peer, &mut addresses);
        Life::begin(peer, listener, &addresses, folder)
    });
    for life in &lives {
        let is_whole = |map: &LinkMap| {
            let mut links = map.links();
            map.links().count() == 6 && links.all(|(.., is_up)| is_up)
        };
        life.until("all links are up", is_whole).await;
    }
    lives
}

/// Answers what it is asked, and says who passed it on.
struct Echo;

fn echo<T>(request: &Request<impl Sized>, message: T) -> Response<T> {
    let mut response = Response::new(message);
    if let Some(by) = request.metadata().get(RELAYED_BY) {
        response.metadata_mut().insert(RELAYED_BY, by.clone());
    }
    response
}

#[tonic::async_trait]
impl RaftService for Echo {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<proto::AppendResponse, Status>> + Send>>;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let head = echo(&request, ());
        let answers = request.into_inner().map(|request| {
            let higher_vote = request?.vote.unwrap_or_default();
            Ok(proto::AppendResponse {
                result: Some(proto::append_response::Result::HigherVote(higher_vote)),
            })
        });
        let (metadata, (), extensions) = head.into_parts();
        let answers = Box::pin(answers) as Self::AppendStream;
        Ok(Response::from_parts(metadata, answers, extensions))
    }

    async fn vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        Ok(echo(&request, proto::VoteResponse::default()))
    }

    async fn heartbeat(
        &self,
        _: Request<proto::HeartbeatRequest>,
    ) -> Result<Response<proto::HeartbeatResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn transfer_leader(
        &self,
        _: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<proto::InstallSnapshotRequest>>,
    ) -> Result<Response<proto::InstallSnapshotResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn admit(
        &self,
        _: Request<proto::AdmitRequest>,
    ) -> Result<Response<proto::AdmitResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn standing(
        &self,
        _: Request<proto::StandingRequest>,
    ) -> Result<Response<proto::StandingResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn greet(
        &self,
        _: Request<proto::GreetRequest>,
    ) -> Result<Response<proto::GreetResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn append(term: u64) -> proto::AppendRequest {
    proto::AppendRequest {
        vote: Some(proto::Vote {
            term,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A stream of appends that is open: its sender, and the terms of its answers.
struct Open {
    sender: mpsc::Sender<proto::AppendRequest>,
    answers: Streaming<proto::AppendResponse>,
    passed: String,
}

impl Open {
    async fn new(life: &Life, to: PeerId) -> Self {
        let (sender, requests) = mpsc::channel(4);
        let requests = life.peers.request(ReceiverStream::new(requests));
        let answer = life.client(to).append(requests).await.unwrap();
        Self {
            sender,
            passed: passed(answer.metadata()),
            answers: answer.into_inner(),
        }
    }

    async fn echoes(&mut self, term: u64) {
        self.sender.send(append(term)).await.unwrap();
        let answer = self.answers.message().await.unwrap().unwrap();
        let Some(proto::append_response::Result::HigherVote(vote)) = answer.result else {
            panic!("{answer:?}")
        };
        assert_eq!(vote.term, term);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_peer_is_dead_to_all_and_up_again_when_it_returns() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, c] = three(folder.path()).await;
    for (life, other) in [(&a, PeerId(1)), (&b, PeerId(2)), (&c, PeerId(0))] {
        let map = life.peers.links().now();
        assert!(map.heard(other).is_some());
    }
    let address = |peer: u16, life: &Life| {
        let at = life.peers.core.addresses.get(&PeerId(peer)).unwrap();
        (PeerId(peer), format!("http://{at}"))
    };
    let addresses = BTreeMap::from([address(0, &b), address(1, &a), address(2, &a)]);
    drop(b);
    for life in [&a, &c] {
        let is_so =
            |map: &LinkMap| map.state(PeerId(1)) == LinkState::Dead && map.is_gone(PeerId(1));
        life.until("peer 1 is dead", is_so).await;
        let refused = life.call(PeerId(1)).await.unwrap_err();
        assert!(crate::link::is_refused(&refused), "{refused:?}");
    }
    let at = addresses[&PeerId(1)]
        .trim_start_matches("http://")
        .to_owned();
    let listener = TcpListener::bind(at).await.unwrap();
    let b = Life::begin(PeerId(1), listener, &addresses, folder.path());
    for life in [&a, &b, &c] {
        let is_so =
            |map: &LinkMap| map.is_up(PeerId(0), PeerId(1)) && map.is_up(PeerId(1), PeerId(2));
        life.until("peer 1 is back", is_so).await;
    }
}

// REQ F6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_streams_go_round_a_link_that_is_cut_one_way() {
    let folder = tempfile::tempdir().unwrap();
    let [a, _b, c] = three(folder.path()).await;
    assert_eq!(a.call(PeerId(2)).await.unwrap(), "");
    let mut direct = Open::new(&a, PeerId(2)).await;
    direct.echoes(1).await;
    let id = a.cut(PeerId(2));
    // Both ends know, although only one way is cut.
    a.until_route(PeerId(2), &[PeerId(1), PeerId(2)]).await;
    c.until_route(PeerId(0), &[PeerId(1), PeerId(0)]).await;
    assert_eq!(a.peers.links().now().state(PeerId(2)), LinkState::Silent);
    assert!(direct.answers.message().await.is_err(), "its road broke");
    assert_eq!(a.call(PeerId(2)).await.unwrap(), "1");
    assert_eq!(c.call(PeerId(0)).await.unwrap(), "1");
    let mut round = Open::new(&a, PeerId(2)).await;
    assert_eq!(round.passed, "1");
    for term in 2..20 {
        round.echoes(term).await;
    }
    // The end of the stream gets there and back: half-closed, then trailers.
    drop(round.sender);
    assert!(round.answers.message().await.unwrap().is_none());
    assert!(round.answers.trailers().await.unwrap().is_some());
    // Who has a long stream that goes round is told when it could go straight.
    let straightened = a.peers.links().straightened(PeerId(2));
    let healed = async {
        a.peers.faults().clear(&[id]);
        a.until_route(PeerId(2), &[PeerId(2)]).await;
    };
    let both = async { tokio::join!(straightened, healed) };
    tokio::time::timeout(PATIENCE, both).await.unwrap();
    assert_eq!(a.call(PeerId(2)).await.unwrap(), "");
    let never = a.peers.links().straightened(PeerId(2));
    assert!(futures::FutureExt::now_or_never(never).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_round_a_connection_that_cannot_be_made() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens where the last peer looks for the first, which looks at the right place, so that heartbeats come and go.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let [_a, _b, c] = three_with(folder.path(), |peer, addresses| {
        if peer == PeerId(2) {
            addresses.insert(PeerId(0), nowhere.clone());
        }
    })
    .await;
    assert_eq!(c.peers.links().now().state(PeerId(0)), LinkState::Up);
    // Two, unless heartbeats come so late on a busy machine that the link goes down and up meanwhile.
    let mut refusals = 0;
    let passed = loop {
        match c.call(PeerId(0)).await {
            Ok(passed) => break passed,
            Err(refused) => assert!(crate::link::is_refused(&refused), "{refused:?}"),
        }
        refusals += 1;
        assert!(refusals < 10, "calls still go straight");
    };
    assert_eq!(passed, "1");
    assert_eq!(c.call(PeerId(1)).await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_sends_nothing_is_gone_to_those_that_wait() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, c] = three(folder.path()).await;
    for to in [0, 2] {
        b.cut(PeerId(to));
    }
    for life in [&a, &c] {
        let is_so = |map: &LinkMap| map.is_gone(PeerId(1));
        life.until("peer 1 is gone", is_so).await;
        assert_eq!(life.peers.links().now().state(PeerId(1)), LinkState::Silent);
    }
    let is_alone = |map: &LinkMap| map.is_gone(PeerId(0)) && map.is_gone(PeerId(2));
    b.until("peer 1 knows that it is alone", is_alone).await;
    b.peers.faults().clear(&[]);
    a.until_route(PeerId(1), &[PeerId(1)]).await;
    c.until_route(PeerId(1), &[PeerId(1)]).await;
}

fn told(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map_or_else(|| format!("{status:?}"), |info| info.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn road_that_cannot_be_gone_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, c] = three(folder.path()).await;
    for (relay, reason) in [
        ("9", "FIELD_INVALID"),
        ("1", "FIELD_INVALID"),
        ("x", "FIELD_INVALID"),
    ] {
        let mut vote = a.peers.request(proto::VoteRequest::default());
        vote.metadata_mut().insert(RELAY, relay.parse().unwrap());
        let at = a.peers.core.direct[&PeerId(1)].clone();
        let refused = RaftServiceClient::new(at).vote(vote).await.unwrap_err();
        assert_eq!(told(&refused), reason, "{relay}");
    }
    let mut stranger = Request::new(proto::VoteRequest::default());
    stranger.metadata_mut().insert(RELAY, "2".parse().unwrap());
    let at = a.peers.core.direct[&PeerId(1)].clone();
    let refused = RaftServiceClient::new(at.clone()).vote(stranger).await;
    assert_eq!(told(&refused.unwrap_err()), "NOT_A_PEER");
    drop(c);
    let is_so = |map: &LinkMap| map.state(PeerId(2)) == LinkState::Dead;
    b.until("peer 2 is dead", is_so).await;
    let mut vote = a.peers.request(proto::VoteRequest::default());
    vote.metadata_mut().insert(RELAY, "2".parse().unwrap());
    let refused = RaftServiceClient::new(at).vote(vote).await.unwrap_err();
    assert_eq!(told(&refused), "PEER_UNREACHABLE");
}
