//! PublishStream: requests are proposed in the order in which they come, without waiting for each other, and answered in that order.
//!
//! A request is first tried once, where its topic is likeliest led: here, or over a stream to that peer ([`super::upstream`]). Only one that came to
//! nothing there takes the way of a single call (`forward.rs`), when all before it are answered and all behind it have ended. A request with a sequence
//! may then be repeated, because the shard knows it again and takes none out of turn. One without is tried again only if nothing was done and no later one
//! of its topic was taken meanwhile; and as long as one of a shard is under way at a peer, later ones go there too, wherever the shard is led by then. So
//! the order on a topic is always that of the stream, but for a request without a sequence that was answered with `OUTCOME_UNKNOWN`: it may yet come.
//!
//! It runs in a task of its own, whether the caller reads or not, and ends with the caller, with the peer, or at the deadline. Begin with
//! [`Api::publish_stream`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::publish_stream_response::Result as Outcome;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, Streaming};

use super::answers::{self, Answers, Outbox, Place};
use super::attempt::{self, Turns};
use super::held::{self, Goal, Held, Tried, Work};
use super::upstream::Upstream;
use super::{Call, broken, out_of_time, stopping};
use crate::router::{Aim, Step};
use crate::rpc::api::Api;
use crate::rpc::forward::{self, Failure};
use crate::rpc::operation::{Operation, Publish};
use crate::rpc::status::{self, Fault};
use crate::rpc::wire;
use crate::types::{PeerId, Vertex};

/// Requests of one stream whose answers its caller has not taken. Full: no more are read. That of another peer has twice the window, which it never
/// fills.
const WINDOW_COUNT: usize = 64;
/// What those take that are not answered yet. Full: no more are read.
const WINDOW_BYTES: usize = 8 << 20;

impl Api {
    /// Takes requests and answers them until the caller ends the stream.
    pub(in crate::rpc) fn publish_stream(
        &self,
        request: Request<Streaming<wire::PublishStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        let call = Call::read(self, &request).map_err(refuse)?;
        let seat = call.seat(&self.streams).map_err(refuse)?;
        let count_max = match call.is_of_peer {
            true => 2 * WINDOW_COUNT,
            false => WINDOW_COUNT,
        };
        let (outbox, inbox) = answers::queue(count_max);
        let publishing = Publishing {
            api: self.clone(),
            call,
            requests: Some(request.into_inner()),
            place: None,
            next: None,
            window: FuturesOrdered::new(),
            settled: VecDeque::new(),
            count: 0,
            bytes: 0,
            under_way: BTreeMap::new(),
            turns: Turns::default(),
            upstreams: BTreeMap::new(),
            tasks: JoinSet::new(),
            end: None,
        };
        Ok(self.tagged(inbox.stream(publishing.run(outbox), seat)))
    }
}

/// A stream, at the peer that the caller called or at the one that it was forwarded to.
struct Publishing {
    api: Api,
    call: Call,
    /// `None`: no more are read.
    requests: Option<Streaming<wire::PublishStreamRequest>>,
    /// For the answer to the request that is read next.
    place: Option<Place>,
    /// Read, and waits for room.
    next: Option<Box<Held>>,
    /// Attempts under way, in the order of the stream. They are first polled in it, too.
    window: FuturesOrdered<BoxFuture<'static, Tried>>,
    /// Attempts that have ended, before those of the window.
    settled: VecDeque<Tried>,
    /// Requests in the window and settled, and what they take or took.
    count: usize,
    bytes: usize,
    /// Where the requests of a shard are that are in the window, and how many.
    under_way: BTreeMap<Vertex, (PeerId, usize)>,
    turns: Turns,
    /// The ways to other peers.
    upstreams: BTreeMap<PeerId, Upstream>,
    /// One for each way. They end with the stream.
    tasks: JoinSet<()>,
    /// What is told last.
    end: Option<Status>,
}

/// What happens next in a stream.
enum Next {
    /// The attempt of the oldest request has ended.
    Tried(Tried),
    /// Another request may be read.
    Place(Place),
    /// A request came; `None`: the last has come.
    Came(Result<Option<wire::PublishStreamRequest>, Status>),
    /// There is room for the request that waits.
    Room(Option<OwnedSemaphorePermit>),
    /// No more are read.
    Stop(Status),
}

impl Publishing {
    /// Answers all that is read, and then says how the stream ends.
    async fn run(mut self, outbox: Outbox) {
        loop {
            if let Some(tried) = self.settled.pop_front() {
                self.answer(tried, &outbox).await;
                continue;
            }
            if self.count == 0 && self.requests.is_none() && self.next.is_none() {
                // Everything that was taken is answered: what an error says of the rest is definite.
                if let Some(end) = self.end.take() {
                    outbox.end(self.api.refuse(end));
                }
                return;
            }
            match self.wait(&outbox).await {
                Next::Tried(tried) => {
                    self.ended(&tried);
                    self.answer(tried, &outbox).await;
                }
                Next::Place(place) => self.place = Some(place),
                Next::Came(Ok(Some(request))) => self.take(request),
                Next::Came(Ok(None)) => self.requests = None,
                Next::Came(Err(status)) => {
                    self.requests = None;
                    self.end = broken(&self.api, &status);
                }
                Next::Room(room) => {
                    if let Some(mut held) = self.next.take() {
                        if let Some(work) = &mut held.work {
                            work.room = room;
                        }
                        self.admit(held);
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
    async fn wait(&mut self, outbox: &Outbox) -> Next {
        let bytes_max = match self.call.is_of_peer {
            true => 2 * WINDOW_BYTES,
            false => WINDOW_BYTES,
        };
        let is_waiting = self.next.is_some();
        let is_open = self.requests.is_some() || is_waiting;
        let is_free = self.requests.is_some() && self.bytes < bytes_max && !is_waiting;
        let next_bytes = self.next.as_ref().map_or(0, |held| held.bytes);
        let (drain, streams) = (&self.api.parts.drain, &self.api.streams);
        tokio::select! {
            biased;
            Some(tried) = self.window.next(), if !self.window.is_empty() => Next::Tried(tried),
            () = drain.cancelled(), if is_open => Next::Stop(stopping(&self.api)),
            () = self.call.ended(), if is_open => Next::Stop(out_of_time()),
            room = streams.room(next_bytes), if is_waiting => Next::Room(room),
            place = outbox.place(), if is_free && self.place.is_none() => Next::Place(place),
            came = read(&mut self.requests), if is_free && self.place.is_some() => Next::Came(came),
            // There is always something to wait for: what is in hand is in the window, and else the stream is open.
            else => Next::Came(Ok(None)),
        }
    }

    /// Takes a request that has come.
    fn take(&mut self, request: wire::PublishStreamRequest) {
        let Some(place) = self.place.take() else {
            return;
        };
        let (number, request) = request.into_publish();
        let bytes = held::bytes(&request);
        let parsed = Publish::parse(&request, self.api.checks()).map_err(Fault::into_status);
        let is_forwarded = self.call.is_forwarded();
        let held = |goal, work, bytes| {
            Box::new(Held {
                number,
                goal,
                work,
                bytes,
                place,
            })
        };
        let operation = match parsed {
            Ok(operation) => operation,
            Err(status) => {
                // Decided, and all that it took is given back.
                let result = Err(Failure::Final(status));
                return self.push(attempt::ready(held(None, None, 0), None, result), 0);
            }
        };
        let goal = Goal {
            topic: operation.topic().clone(),
            vertex: operation.vertex(self.api.cluster()),
            is_sequenced: request.head.sequence.is_some(),
            is_forwarded,
        };
        let work = Work {
            request,
            operation,
            context: self.call.step(),
            room: None,
        };
        let held = held(Some(goal), Some(Box::new(work)), bytes);
        if self.call.is_of_peer {
            // It has its room at the peer that it comes from. What is not read here stands in the way of all that the two peers tell each other.
            self.admit(held);
        } else {
            self.next = Some(held);
        }
    }

    /// Makes the one attempt that a request has while others are under way.
    fn admit(&mut self, held: Box<Held>) {
        let bytes = held.bytes;
        let attempt = self.attempt(held);
        self.push(attempt, bytes);
    }

    /// Puts an attempt into the window.
    fn push(&mut self, attempt: BoxFuture<'static, Tried>, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
        self.window.push_back(attempt);
    }

    fn attempt(&mut self, held: Box<Held>) -> BoxFuture<'static, Tried> {
        let Some(goal) = held.goal.clone() else {
            return attempt::ready(held, None, Err(Failure::Unreached));
        };
        let this = self.api.cluster().this();
        let peer = self.peer(goal.vertex);
        let (_, count) = self.under_way.entry(goal.vertex).or_insert((peer, 0));
        *count += 1;
        if peer == this {
            return self.turns.append(&self.api, held, &goal);
        }
        let deadline = held.work.as_ref().map(|work| work.context.deadline);
        let answer = self.submit(peer, &held);
        let (Some(answer), Some(deadline)) = (answer, deadline) else {
            return attempt::ready(held, Some(peer), Err(Failure::Unreached));
        };
        Box::pin(async move {
            let result = tokio::time::timeout_at(deadline, answer).await;
            // The way ended without a word, or the answer is late.
            let result = result.map_or(Err(Failure::Unknown), |result| {
                result.unwrap_or(Err(Failure::Unknown))
            });
            Tried::new(held, Some(peer), result)
        })
    }

    /// Who is asked first: whoever has requests of the shard before this one, or who likeliest leads it.
    fn peer(&self, vertex: Vertex) -> PeerId {
        let this = self.api.cluster().this();
        if self.call.is_forwarded() {
            return this;
        }
        if let Some((peer, _)) = self.under_way.get(&vertex) {
            return *peer;
        }
        match self.api.router.search(vertex, Aim::Leader).step() {
            Step::Peer(peer) => peer,
            Step::Here | Step::Wait => this,
        }
    }

    /// Sends a request on its way to another peer. `None`: it cannot be reached.
    fn submit(&mut self, peer: PeerId, held: &Held) -> Option<super::upstream::Waiting> {
        if self.upstreams.get(&peer).is_none_or(Upstream::is_over) {
            while self.tasks.try_join_next().is_some() {}
            let context = self.call.step();
            let opened = Upstream::open(&self.api, peer, &context, &mut self.tasks)?;
            self.upstreams.insert(peer, opened);
        }
        let (upstream, work) = (self.upstreams.get(&peer)?, held.work.as_ref()?);
        upstream.submit(wire::PublishStreamRequest::of(held.number, &work.request))
    }

    /// An attempt is not in the window any more.
    fn ended(&mut self, tried: &Tried) {
        let Some(goal) = &tried.held.goal else { return };
        if let Some((_, count)) = self.under_way.get_mut(&goal.vertex) {
            *count -= 1;
            if *count == 0 {
                self.under_way.remove(&goal.vertex);
            }
        }
    }

    /// Answers a request whose attempt has ended.
    async fn answer(&mut self, tried: Tried, outbox: &Outbox) {
        let Tried { held, peer, result } = tried;
        let result = match result {
            Ok(published) => {
                if let (Some(goal), Some(peer)) = (&held.goal, peer) {
                    self.api.router.confirm(goal.vertex, peer);
                }
                Ok(published)
            }
            Err(failure) => self.recover(&held, peer, failure).await,
        };
        self.count -= 1;
        self.bytes -= held.bytes;
        let outcome = match result {
            Ok(published) => Outcome::Published(published),
            Err(status) => Outcome::Error(status::part(&status)),
        };
        let answer = proto::PublishStreamResponse {
            request_number: held.number,
            result: Some(outcome),
        };
        outbox.put(answer, held.place);
    }

    /// What becomes of a request whose first attempt failed.
    async fn recover(
        &mut self,
        held: &Held,
        peer: Option<PeerId>,
        failure: Failure,
    ) -> Result<proto::PublishResponse, Status> {
        let Some(goal) = &held.goal else {
            // It was no request that could be tried.
            return Err(match failure {
                Failure::Final(status) => status,
                _ => stopping(&self.api),
            });
        };
        let (router, vertex) = (Arc::clone(&self.api.router), goal.vertex);
        if let Some(peer) = peer {
            forward::learn(&router, vertex, peer, &failure);
        }
        if goal.is_forwarded {
            return Err(forward::told_to_peer(&router, vertex, failure));
        }
        let Some(work) = held.work.as_ref().filter(|_| held.may_retry(&failure)) else {
            return Err(forward::told_to_caller(vertex, failure));
        };
        self.settle().await;
        if !goal.is_sequenced && self.is_overtaken(goal) {
            return Err(forward::told_to_caller(vertex, failure));
        }
        let run = Box::pin(self.api.run(&work.operation, &work.request, &work.context));
        match run.await {
            Ok(answered) => Ok(answered.answer),
            // These attempts did nothing, but the first one may have.
            Err(_) if matches!(failure, Failure::Unknown) => Err(forward::outcome_unknown(vertex)),
            Err(failed) => Err(failed.status),
        }
    }

    /// Waits until no attempt is under way.
    async fn settle(&mut self) {
        while let Some(tried) = self.window.next().await {
            self.ended(&tried);
            self.settled.push_back(tried);
        }
    }

    /// Whether a later request of the same topic may be in the log.
    fn is_overtaken(&self, goal: &Goal) -> bool {
        let mut later = self.settled.iter();
        later.any(|tried| tried.may_be_done(&goal.topic))
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
