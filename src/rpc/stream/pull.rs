//! StreamPull: opened where the topic is led, and carried to the peer that the client called.
//!
//! The first request is read before anything is answered, so that what is wrong with it, and who leads, is known by then. After that the stream stays
//! where it is: when the leader moves, it ends, and the client opens another. Begin with [`Api::stream_pull`].

use std::pin::Pin;
use std::time::Duration;

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::stream_pull_request::Command;
use futures::stream::unfold;
use futures::{FutureExt, Stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::proxy::Proxy;
use super::shared::{self, Shared};
use super::{Call, broken, out_of_time, stopping};
use crate::broker::{self, Delivered, Delivery, OpenDelivery, Opened};
use crate::replica::Replica;
use crate::router::Aim;
use crate::rpc::answer;
use crate::rpc::api::{Api, Hearing, Names};
use crate::rpc::convert::{self, LEASE, within};
use crate::rpc::forward::{self, Ask, Attempt, Failure, Fate};
use crate::rpc::layers::Place;
use crate::rpc::operation::Here;
use crate::rpc::status::Fault;
use crate::rpc::wire::{self, StreamPullEvent};
use crate::shard::Refusal;
use crate::types::{ByteCount, Name, Offset, PeerId, SubscriberId, TopicName, Vertex};

/// How often an idle stream speaks, when the reader does not say.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(5);
/// More often costs a look at the topic each time; more rarely no reader would wait.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(600));
/// How long what is rejected may be held back.
pub(super) const DELAY: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(12 * 3600));

/// What a reader is sent.
pub type Deliveries =
    Pin<Box<dyn Stream<Item = Result<wire::StreamPullResponse, Status>> + Send + 'static>>;

impl Api {
    /// Delivers what the reader gives credit for, until one of the two ends it.
    pub(in crate::rpc) async fn stream_pull(
        &self,
        request: Request<Streaming<proto::StreamPullRequest>>,
    ) -> Result<Response<Deliveries>, Status> {
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        let call = Call::read(self, &request).map_err(refuse)?;
        let seat = call.seat(&self.streams).map_err(refuse)?;
        let place = request.extensions().get::<Place>().cloned();
        let mut requests = request.into_inner();
        let first = call.first(self, place.as_ref(), &mut requests).await;
        let first = first.map_err(|status| self.refuse(status))?;
        let Some(Command::Open(open)) = first.and_then(|first| first.command) else {
            let text = "the first request of a StreamPull opens it";
            return Err(refuse(convert::invalid("open", text)));
        };
        let wanted = parse(&open).map_err(refuse)?;
        let opening = Opening {
            hearing: self.hear_leaders(self.cluster().place(&wanted.topic.0)),
            wanted,
            open,
            api: self,
            call: Call {
                context: call.step(),
                ..call.clone()
            },
        };
        let vertex = opening.vertex();
        let ask = Ask {
            vertex,
            aim: Aim::Leader,
            fate: Fate::Read,
            deadline: opening.call.context.deadline,
            forwarded_by: call.context.forwarded_by,
        };
        let opened = forward::run(&self.router, self.places(vertex), &ask, &opening).await;
        let opened = opened.map_err(|failed| self.fail(failed))?;
        let pulling = Pulling {
            api: self.clone(),
            call,
            requests: Some(requests),
            feed: opened.answer,
            vertex,
            is_over: false,
            _seat: seat,
        };
        let next = |pulling: Pulling| pulling.next_event().boxed();
        let deliveries: Deliveries = Box::pin(unfold(pulling, next));
        let mut response = Response::new(deliveries);
        self.tag(response.metadata_mut(), opened.peer);
        Ok(response)
    }
}

fn parse(open: &proto::StreamPullOpen) -> Result<OpenDelivery, Fault> {
    Ok(OpenDelivery {
        topic: TopicName(convert::name(&open.topic, "topic")?),
        subscriber: SubscriberId(convert::name(&open.subscriber, "subscriber")?),
        lease: within(open.lease.as_ref(), "lease", LEASE)?,
        heartbeat: within(open.heartbeat.as_ref(), "heartbeat", HEARTBEAT)?
            .unwrap_or(HEARTBEAT_DEFAULT),
    })
}

/// Where deliveries come from.
enum Feed {
    /// This peer's replica, with what is told first.
    Here(Box<Local>),
    /// The same, of a shared subscription.
    Shared(Box<Shared>),
    /// Another peer.
    There(Box<Proxy>),
}

struct Local {
    first: Option<proto::StreamPullOpened>,
    delivery: Delivery<Replica>,
    replica: Replica,
}

/// A stream on its way to the leader.
struct Opening<'a> {
    api: &'a Api,
    open: proto::StreamPullOpen,
    wanted: OpenDelivery,
    call: Call,
    hearing: Hearing,
}

impl Opening<'_> {
    fn vertex(&self) -> Vertex {
        let name: &Name = &self.wanted.topic.0;
        self.api.cluster().place(name)
    }
}

impl Attempt for Opening<'_> {
    type Answer = Feed;

    async fn here(&self) -> Result<Feed, Failure> {
        let api = self.api;
        let Some(replica) = api.parts.replicas.get(self.vertex()) else {
            return Err(Failure::NotLeader(None));
        };
        let context = &self.call.context;
        let directory = Names { api, context };
        let here = Here {
            replica: &replica,
            directory: &directory,
            deadline: context.deadline,
        };
        let first = |opened: &Opened| proto::StreamPullOpened {
            subscription: Some(answer::subscription(
                &opened.subscription,
                opened.head_offset,
            )),
            source: Some(answer::source(api.cluster(), &here, opened.freshness)),
            topic_id: opened.topic_id.to_bits(),
        };
        let opened = api.broker().open_delivery(&here, self.wanted.clone());
        match opened.await {
            Ok((opened, delivery)) => Ok(Feed::Here(Box::new(Local {
                first: Some(first(&opened)),
                delivery,
                replica: replica.clone(),
            }))),
            Err(broker::Error::Refused(Refusal::SubscriptionShared { .. })) => {
                let opened = api.broker().open_share(&here, &self.wanted, api).await;
                let opened = opened.map_err(|error| api.judge(&replica, error));
                opened.map(|(opened, consumer)| {
                    let first = Some(first(&opened));
                    Feed::Shared(Box::new(Shared::new(first, consumer, replica.clone())))
                })
            }
            Err(error) => Err(api.judge(&replica, error)),
        }
    }

    async fn there(&self, peer: PeerId) -> Result<Feed, Failure> {
        let opened = Proxy::open(self.api, peer, &self.open, &self.call.context);
        Ok(Feed::There(Box::new(opened.await?)))
    }

    async fn pause(&self, delay: Duration) {
        self.api.pause(&self.hearing, delay).await;
    }
}

/// A stream, at the peer that the client called or at the one that it was forwarded to.
struct Pulling {
    api: Api,
    call: Call,
    /// `None`: the reader has nothing more to say.
    requests: Option<Streaming<proto::StreamPullRequest>>,
    feed: Feed,
    vertex: Vertex,
    is_over: bool,
    _seat: Option<OwnedSemaphorePermit>,
}

/// What happens next in a stream.
pub(super) enum Next {
    /// There is something to tell.
    Tell(StreamPullEvent),
    /// The reader said something.
    Said(Command),
    /// Nothing to tell: what the reader says next may be heard.
    Again,
    /// The stream ends, with this if there is something to say.
    End(Option<Status>),
}

impl Pulling {
    /// The next event; `None` at the end.
    async fn next_event(mut self) -> Option<(Result<wire::StreamPullResponse, Status>, Self)> {
        while !self.is_over {
            match self.wait().await {
                Next::Tell(event) => {
                    let event = Some(event);
                    return Some((Ok(wire::StreamPullResponse { event }), self));
                }
                Next::Said(command) => {
                    if let Err(fault) = self.obey(command).await {
                        self.is_over = true;
                        return Some((Err(self.api.refuse(fault.into_status())), self));
                    }
                }
                Next::Again => {}
                Next::End(status) => {
                    self.is_over = true;
                    return Some((Err(self.api.refuse(status?)), self));
                }
            }
        }
        None
    }

    /// Each way out is cancel-safe: nothing is taken by one that does not win.
    async fn wait(&mut self) -> Next {
        let drain = &self.api.parts.drain;
        let (api, vertex) = (&self.api, self.vertex);
        let may_say = match &self.feed {
            Feed::Here(_) | Feed::Shared(_) => true,
            Feed::There(proxy) => proxy.is_free(),
        };
        tokio::select! {
            () = drain.cancelled() => Next::End(Some(stopping(api))),
            () = self.call.ended() => Next::End(Some(out_of_time())),
            said = said(&mut self.requests), if may_say => match said {
                Ok(Some(command)) => Next::Said(command),
                Ok(None) => {
                    self.requests = None;
                    self.feed.last(api, vertex).await
                }
                Err(status) => Next::End(broken(api, &status)),
            },
            next = self.feed.next(api, vertex) => next,
        }
    }

    /// Does what the reader says.
    async fn obey(&mut self, command: Command) -> Result<(), Fault> {
        match &command {
            Command::Open(_) => {
                let text = "a StreamPull is opened once, by its first request";
                return Err(convert::invalid("open", text));
            }
            Command::Reject(reject) => drop(within(reject.delay.as_ref(), "delay", DELAY)?),
            Command::Extend(extend) => {
                let text = "extend says no lease";
                within(extend.lease.as_ref(), "lease", LEASE)?
                    .ok_or_else(|| convert::invalid("lease", text))?;
            }
            Command::AcknowledgeRanges(done) => drop(shared::some(&done.ranges)?),
            Command::RejectRanges(reject) => {
                shared::which(&reject.ranges)?;
                within(reject.delay.as_ref(), "delay", DELAY)?;
            }
            Command::ExtendRanges(extend) => {
                shared::some(&extend.ranges)?;
                let text = "extend_ranges says no lease";
                within(extend.lease.as_ref(), "lease", LEASE)?
                    .ok_or_else(|| convert::invalid("lease", text))?;
            }
            Command::Credit(_) | Command::Acknowledge(_) => {}
        }
        match &mut self.feed {
            Feed::There(proxy) => proxy.say(command),
            Feed::Here(local) => tell(&mut local.delivery, &command)?,
            Feed::Shared(shared) => shared.obey(&command).await?,
        }
        Ok(())
    }
}

/// Tells a delivery what the reader says.
fn tell(delivery: &mut Delivery<Replica>, command: &Command) -> Result<(), Fault> {
    match command {
        Command::Open(_) => {}
        Command::Credit(credit) => delivery.give(credit.messages, ByteCount(credit.bytes)),
        Command::Acknowledge(done) => delivery.acknowledge(Offset(done.next_offset)),
        Command::Reject(reject) => {
            let delay = within(reject.delay.as_ref(), "delay", DELAY)?.unwrap_or_default();
            delivery.reject(Offset(reject.first_offset), delay);
        }
        Command::Extend(extend) => {
            if let Some(lease) = within(extend.lease.as_ref(), "lease", LEASE)? {
                delivery.extend(lease);
            }
        }
        Command::AcknowledgeRanges(_) | Command::RejectRanges(_) | Command::ExtendRanges(_) => {
            let text = "one reader has this subscription: ranges are for shared ones";
            return Err(convert::invalid("ranges", text));
        }
    }
    Ok(())
}

/// What the reader says next. Pending when it has nothing more to say.
async fn said(
    requests: &mut Option<Streaming<proto::StreamPullRequest>>,
) -> Result<Option<Command>, Status> {
    let Some(requests) = requests else {
        return std::future::pending().await;
    };
    match requests.message().await? {
        Some(request) => match request.command {
            Some(command) => Ok(Some(command)),
            None => {
                let text = "a request of a StreamPull says one thing, and this one nothing";
                Err(convert::invalid("command", text).into_status())
            }
        },
        None => Ok(None),
    }
}

impl Feed {
    async fn next(&mut self, api: &Api, vertex: Vertex) -> Next {
        match self {
            Self::Here(local) => local.next(api, vertex).await,
            Self::Shared(shared) => shared.next(api, vertex).await,
            Self::There(proxy) => proxy.next().await,
        }
    }

    /// The reader has nothing more to say: what it has acknowledged is done, and then the stream ends.
    async fn last(&mut self, api: &Api, vertex: Vertex) -> Next {
        match self {
            Self::Here(local) => {
                let deadline = Instant::now() + crate::rpc::context::TIMEOUT_DEFAULT;
                let done = tokio::time::timeout_at(deadline, local.delivery.finish()).await;
                match done {
                    Ok(Err(error)) => end(api, &local.replica, vertex, error),
                    Ok(Ok(())) => Next::End(None),
                    Err(_) => Next::End(Some(out_of_time())),
                }
            }
            Self::Shared(shared) => shared.last(api, vertex).await,
            Self::There(proxy) => {
                proxy.hang_up();
                match proxy.last().await {
                    Some(status) => Next::End(Some(status)),
                    None => Next::End(None),
                }
            }
        }
    }
}

impl Local {
    async fn next(&mut self, api: &Api, vertex: Vertex) -> Next {
        if let Some(first) = self.first.take() {
            return Next::Tell(StreamPullEvent::Opened(Box::new(first)));
        }
        match self.delivery.next().await {
            Ok(delivered) => Next::Tell(told(delivered)),
            Err(error) => end(api, &self.replica, vertex, error),
        }
    }
}

/// What is delivered, as a client is told it.
pub(super) fn told(delivered: Delivered) -> StreamPullEvent {
    match delivered {
        Delivered::Batch {
            batch,
            attempt,
            missed,
        } => StreamPullEvent::Delivery(wire::StreamPullDelivery {
            batches: vec![answer::batch(batch)],
            tail: wire::StreamPullTail { attempt, missed },
        }),
        Delivered::Heartbeat {
            cursor,
            head_offset,
        } => StreamPullEvent::Heartbeat(proto::StreamPullHeartbeat {
            cursor: cursor.0,
            head_offset: head_offset.0,
        }),
        Delivered::Settled { ranges } => StreamPullEvent::Settled(proto::StreamPullSettled {
            ranges: ranges.iter().map(shared::range).collect(),
        }),
    }
}

/// The end of a stream that this replica can serve no longer. Whoever called is told who leads, as far as that is known.
pub(super) fn end(api: &Api, replica: &Replica, vertex: Vertex, error: broker::Error) -> Next {
    let failure = api.judge(replica, error);
    Next::End(Some(forward::told_to_peer(&api.router, vertex, failure)))
}
