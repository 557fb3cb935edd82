//! PublishStream: requests are proposed in the order in which they come, without waiting for each other, and answered in that order.
//!
//! A request is first tried once, where its topic is likeliest led: here, or over a stream to that peer ([`super::upstream`]). Only one that came to
//! nothing there takes the way of a single call (`forward.rs`), when all before it are answered and all behind it have ended. A request with a sequence
//! may then be repeated, because the shard knows it again and takes none out of turn. One without is tried again only if nothing was done and no later one
//! of its topic was taken meanwhile. So the order on a topic is always that of the stream. Begin with [`Api::publish_stream`].

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::ErrorReason;
use cubecast_sdk::proto::v1::publish_stream_response::Result as Outcome;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, unfold};
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, Streaming};

use super::upstream::Upstream;
use super::{Call, broken, out_of_time, stopping};
use crate::cluster::Cluster;
use crate::router::{Aim, Step};
use crate::rpc::api::{Api, Names};
use crate::rpc::context::Context;
use crate::rpc::forward::{self, Failure};
use crate::rpc::operation::{Here, Operation, Publish};
use crate::rpc::status::{self, Fault};
use crate::rpc::wire;
use crate::types::{PeerId, Vertex};

/// Requests of one stream that wait for their answers. Full: no more are read. That of another peer has twice the window, which it never fills.
const WINDOW_COUNT: usize = 64;
/// What these may take. A request that passes it is still taken, alone.
const WINDOW_BYTES: usize = 8 << 20;

/// The answers of a stream.
pub type Answers =
    Pin<Box<dyn Stream<Item = Result<proto::PublishStreamResponse, Status>> + Send + 'static>>;

impl Api {
    /// Takes requests and answers them until the caller ends the stream.
    pub(in crate::rpc) fn publish_stream(
        &self,
        request: Request<Streaming<wire::PublishStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        let call = Call::read(self, &request).map_err(refuse)?;
        let seat = call.seat(&self.streams).map_err(refuse)?;
        let publishing = Publishing {
            api: self.clone(),
            call,
            requests: Some(request.into_inner()),
            next: None,
            window: FuturesOrdered::new(),
            settled: VecDeque::new(),
            count: 0,
            bytes: 0,
            upstreams: BTreeMap::new(),
            tasks: JoinSet::new(),
            end: None,
            _seat: seat,
        };
        let next = |publishing: Publishing| publishing.next_answer().boxed();
        let answers: Answers = Box::pin(unfold(publishing, next));
        Ok(self.tagged(answers))
    }
}

/// A request that has no answer yet.
struct Held {
    number: u64,
    request: wire::PublishRequest,
    /// What it asks for, or what is wrong with it.
    operation: Result<Publish, Status>,
    context: Context,
    #[expect(dead_code, reason = "it is given back with the request")]
    room: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn bytes(&self) -> usize {
        self.request.messages.len()
    }

    fn vertex(&self, cluster: &Cluster) -> Option<Vertex> {
        let operation = self.operation.as_ref().ok()?;
        Some(operation.vertex(cluster))
    }

    fn is_sequenced(&self) -> bool {
        self.request.head.sequence.is_some()
    }
}

/// What became of a request in the first attempt.
struct Tried {
    held: Box<Held>,
    peer: Option<PeerId>,
    result: Result<proto::PublishResponse, Failure>,
}

impl Tried {
    /// It may be in the log.
    fn may_be_done(&self) -> bool {
        matches!(self.result, Ok(_) | Err(Failure::Unknown))
    }
}

/// A stream, at the peer that the caller called or at the one that it was forwarded to.
struct Publishing {
    api: Api,
    call: Call,
    /// `None`: no more are read.
    requests: Option<Streaming<wire::PublishStreamRequest>>,
    /// Read, and waits for room.
    next: Option<Box<Held>>,
    /// Attempts under way, in the order of the stream. They are first polled in it, too.
    window: FuturesOrdered<BoxFuture<'static, Tried>>,
    /// Attempts that have ended, before those of the window.
    settled: VecDeque<Tried>,
    /// Requests in the window and settled, and what they take.
    count: usize,
    bytes: usize,
    /// The ways to other peers.
    upstreams: BTreeMap<PeerId, Upstream>,
    /// One for each way. They end with the stream.
    tasks: JoinSet<()>,
    /// What is told last.
    end: Option<Status>,
    _seat: Option<OwnedSemaphorePermit>,
}

/// What happens next in a stream.
enum Next {
    /// The attempt of the oldest request has ended.
    Tried(Tried),
    /// A request came; `None`: the last has come.
    Came(Result<Option<wire::PublishStreamRequest>, Status>),
    /// There is room for the request that waits.
    Room(Option<OwnedSemaphorePermit>),
    /// No more are read.
    Stop(Status),
}

impl Publishing {
    /// The next answer; `None` after the last.
    async fn next_answer(mut self) -> Option<(Result<proto::PublishStreamResponse, Status>, Self)> {
        loop {
            if let Some(tried) = self.settled.pop_front() {
                return Some((Ok(self.answer(tried).await), self));
            }
            if self.count == 0 && self.requests.is_none() && self.next.is_none() {
                // Everything that was taken is answered: what an error says of the rest is definite.
                let end = self.end.take()?;
                return Some((Err(self.api.refuse(end)), self));
            }
            match self.wait().await {
                Next::Tried(tried) => return Some((Ok(self.answer(tried).await), self)),
                Next::Came(Ok(Some(request))) => self.take(request).await,
                Next::Came(Ok(None)) => self.requests = None,
                Next::Came(Err(status)) => {
                    self.requests = None;
                    self.end = broken(&self.api, &status);
                }
                Next::Room(room) => {
                    if let Some(held) = self.next.take() {
                        self.admit(Box::new(Held { room, ..*held })).await;
                    }
                }
                Next::Stop(status) => {
                    self.requests = None;
                    self.next = None;
                    self.end = Some(status);
                }
            }
        }
    }

    /// Each way out is cancel-safe: nothing is taken by one that does not win.
    async fn wait(&mut self) -> Next {
        let (count_max, bytes_max) = match self.call.is_of_peer {
            true => (2 * WINDOW_COUNT, 2 * WINDOW_BYTES),
            false => (WINDOW_COUNT, WINDOW_BYTES),
        };
        let is_waiting = self.next.is_some();
        let is_open = self.requests.is_some() || is_waiting;
        let is_free = self.count < count_max && self.bytes < bytes_max && !is_waiting;
        let next_bytes = self.next.as_ref().map_or(0, |held| held.bytes());
        let (drain, streams) = (&self.api.parts.drain, &self.api.streams);
        tokio::select! {
            biased;
            Some(tried) = self.window.next(), if !self.window.is_empty() => Next::Tried(tried),
            () = drain.cancelled(), if is_open => Next::Stop(stopping(&self.api)),
            () = self.call.ended(), if is_open => Next::Stop(out_of_time()),
            room = streams.room(next_bytes), if is_waiting => Next::Room(room),
            came = read(&mut self.requests), if self.requests.is_some() && is_free => Next::Came(came),
            // There is always something to wait for: what is in hand is in the window, and else the stream is open.
            else => Next::Came(Ok(None)),
        }
    }

    /// Takes a request that has come.
    async fn take(&mut self, request: wire::PublishStreamRequest) {
        let (number, request) = request.into_publish();
        let operation = Publish::parse(&request, self.api.checks()).map_err(Fault::into_status);
        let held = Box::new(Held {
            number,
            request,
            operation,
            context: self.call.step(),
            room: None,
        });
        if self.call.is_of_peer {
            // It has its room at the peer that it comes from. What is not read here stands in the way of all that the two peers tell each other.
            self.admit(held).await;
        } else {
            self.next = Some(held);
        }
    }

    /// Puts a request into the window.
    async fn admit(&mut self, held: Box<Held>) {
        self.count += 1;
        self.bytes += held.bytes();
        let attempt = self.attempt(held).await;
        self.window.push_back(attempt);
    }

    /// The one attempt that a request has while others are under way.
    async fn attempt(&mut self, held: Box<Held>) -> BoxFuture<'static, Tried> {
        let operation = match &held.operation {
            Ok(operation) => operation,
            Err(status) => {
                let failure = Failure::Final(status.clone());
                return ready(held, None, failure);
            }
        };
        let this = self.api.cluster().this();
        let vertex = operation.vertex(self.api.cluster());
        let peer = match self.api.router.search(vertex, Aim::Leader).step() {
            Step::Peer(peer) if !self.call.is_forwarded() => peer,
            Step::Peer(_) | Step::Here | Step::Wait => this,
        };
        if peer == this {
            return match find_publisher(&self.api, &held, operation).await {
                Ok(()) => append(self.api.clone(), held, vertex),
                Err(failure) => ready(held, Some(this), failure),
            };
        }
        let Some(answer) = self.submit(peer, &held) else {
            return ready(held, Some(peer), Failure::Unreached);
        };
        Box::pin(async move {
            let result = tokio::time::timeout_at(held.context.deadline, answer).await;
            // The way ended without a word, or the answer is late.
            let result = result.map_or(Err(Failure::Unknown), |result| {
                result.unwrap_or(Err(Failure::Unknown))
            });
            Tried {
                held,
                peer: Some(peer),
                result,
            }
        })
    }

    /// Sends a request on its way to another peer. `None`: it cannot be reached.
    fn submit(
        &mut self,
        peer: PeerId,
        held: &Held,
    ) -> Option<tokio::sync::oneshot::Receiver<Result<proto::PublishResponse, Failure>>> {
        if self.upstreams.get(&peer).is_none_or(Upstream::is_over) {
            while self.tasks.try_join_next().is_some() {}
            let context = self.call.step();
            let opened = Upstream::open(&self.api, peer, &context, &mut self.tasks)?;
            self.upstreams.insert(peer, opened);
        }
        let upstream = self.upstreams.get(&peer)?;
        upstream.submit(wire::PublishStreamRequest::of(held.number, &held.request))
    }

    /// The answer to a request whose attempt has ended.
    async fn answer(&mut self, tried: Tried) -> proto::PublishStreamResponse {
        let Tried { held, peer, result } = tried;
        let result = match result {
            Ok(published) => {
                if let (Some(vertex), Some(peer)) = (held.vertex(self.api.cluster()), peer) {
                    self.api.router.confirm(vertex, peer);
                }
                Ok(published)
            }
            Err(failure) => self.recover(&held, peer, failure).await,
        };
        self.count -= 1;
        self.bytes -= held.bytes();
        let outcome = match result {
            Ok(published) => Outcome::Published(published),
            Err(status) => Outcome::Error(status::part(&status)),
        };
        proto::PublishStreamResponse {
            request_number: held.number,
            result: Some(outcome),
        }
    }

    /// What becomes of a request whose first attempt failed.
    async fn recover(
        &mut self,
        held: &Held,
        peer: Option<PeerId>,
        failure: Failure,
    ) -> Result<proto::PublishResponse, Status> {
        let (Ok(operation), Some(vertex)) = (&held.operation, held.vertex(self.api.cluster()))
        else {
            // It was no request that could be tried.
            return Err(held
                .operation
                .as_ref()
                .err()
                .cloned()
                .unwrap_or_else(|| stopping(&self.api)));
        };
        let router = std::sync::Arc::clone(&self.api.router);
        if let Some(peer) = peer {
            forward::learn(&router, vertex, peer, &failure);
        }
        if self.call.is_forwarded() {
            return Err(forward::told_to_peer(&router, vertex, failure));
        }
        match &failure {
            Failure::Final(status) if !(held.is_sequenced() && is_out_of_turn(status)) => {
                return Err(status.clone());
            }
            _ => {}
        }
        self.settle().await;
        let is_unknown = matches!(failure, Failure::Unknown);
        if !held.is_sequenced() && (is_unknown || self.is_overtaken(operation)) {
            return Err(forward::told_to_caller(vertex, failure));
        }
        let run = Box::pin(self.api.run(operation, &held.request, &held.context));
        match run.await {
            Ok(answered) => Ok(answered.answer),
            // These attempts did nothing, but the first one may have.
            Err(_) if is_unknown => Err(forward::outcome_unknown(vertex)),
            Err(failed) => Err(failed.status),
        }
    }

    /// Waits until no attempt is under way.
    async fn settle(&mut self) {
        while let Some(tried) = self.window.next().await {
            self.settled.push_back(tried);
        }
    }

    /// Whether a later request of the same topic may be in the log.
    fn is_overtaken(&self, operation: &Publish) -> bool {
        let is_same = |tried: &&Tried| {
            let other = tried.held.operation.as_ref();
            other.is_ok_and(|other| other.topic() == operation.topic())
        };
        self.settled.iter().filter(is_same).any(Tried::may_be_done)
    }
}

/// The next request. Pending when none are read any more.
async fn read(
    requests: &mut Option<Streaming<wire::PublishStreamRequest>>,
) -> Result<Option<wire::PublishStreamRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}

/// An attempt that has failed already.
fn ready(held: Box<Held>, peer: Option<PeerId>, failure: Failure) -> BoxFuture<'static, Tried> {
    let result = Err(failure);
    Box::pin(std::future::ready(Tried { held, peer, result }))
}

/// Makes sure that the publisher exists, as far as it is for this peer to ask. Other requests wait meanwhile, so that none overtakes this one.
async fn find_publisher(api: &Api, held: &Held, operation: &Publish) -> Result<(), Failure> {
    let vertex = operation.vertex(api.cluster());
    let (Some(publisher), Some(replica)) = (operation.publisher(), api.parts.replicas.get(vertex))
    else {
        return Ok(());
    };
    let leader = replica.leader().borrow().leader;
    if leader != Some(api.cluster().this()) {
        // The proposal will be refused.
        return Ok(());
    }
    let names = Names {
        api,
        context: &held.context,
    };
    let broker = api.broker();
    let found = broker.require_publisher(&names, publisher, held.context.deadline);
    found.await.map_err(|error| api.judge(&replica, error))
}

/// Has this peer's replica append a request. Proposed when it is first polled: what the runtime may do to spread work evenly, to let it yield before
/// that, would let a later one pass.
fn append(api: Api, held: Box<Held>, vertex: Vertex) -> BoxFuture<'static, Tried> {
    let attempt = async move {
        let result = append_here(&api, &held, vertex).await;
        let peer = Some(api.cluster().this());
        Tried { held, peer, result }
    };
    Box::pin(tokio::task::unconstrained(attempt))
}

async fn append_here(
    api: &Api,
    held: &Held,
    vertex: Vertex,
) -> Result<proto::PublishResponse, Failure> {
    let (Ok(operation), Some(replica)) = (&held.operation, api.parts.replicas.get(vertex)) else {
        return Err(Failure::NotLeader(None));
    };
    let directory = Names {
        api,
        context: &held.context,
    };
    let here = Here {
        replica: &replica,
        directory: &directory,
        deadline: held.context.deadline,
    };
    let result = operation.append(api, here).await;
    result.map_err(|error| api.judge(&replica, error))
}

/// Refused for want of a request before it, which may only be late.
fn is_out_of_turn(status: &Status) -> bool {
    matches!(
        status::reason(status),
        Some(ErrorReason::SequenceGap | ErrorReason::SessionUnknown)
    )
}
