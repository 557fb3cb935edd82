//! Streams of messages: many publishes over one call, and deliveries as they come.
//!
//! A stream lives in its call and ends with it: a client that reads slowly is served slowly and costs no more than its window. Deliveries are made when
//! the transport asks for the next one; publishes go on without it, so that what they take of the room of all streams never waits for a client. Never decides what a publish or a delivery means: that is `broker`. Begin with [`Streams`], then [`publish`] and [`pull`].

mod answers;
mod attempt;
mod held;
mod proxy;
mod publish;
mod pull;
mod shared;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use cubecast_sdk::proto::v1::ErrorReason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::{Code, Request, Status, Streaming};

use super::api::Api;
use super::context::{Arrival, Context, TIMEOUT_DEFAULT};
use super::layers::Place;
use super::refusal;
use super::status::{self, Fault};

pub use answers::Answers as PublishAnswers;
pub use pull::Deliveries;

/// Streams that clients may have open at one peer. Each costs a few KiB while it is idle.
pub const STREAMS_MAX: u32 = 4096;
/// What the requests of all streams of clients may take while they are not decided, in KiB: 256 MiB. Full: streams read on when there is room. Beside it
/// each stream has at most one request that is read and waits for room.
const ROOM_KIB: usize = 256 << 10;

/// What all streams of a peer share.
#[derive(Debug, Clone)]
pub struct Streams {
    seats: Arc<Semaphore>,
    room: Arc<Semaphore>,
}

impl Streams {
    /// Nothing is open yet.
    pub fn new() -> Self {
        let seats = usize::try_from(STREAMS_MAX).unwrap_or(0);
        Self {
            seats: Arc::new(Semaphore::new(seats)),
            room: Arc::new(Semaphore::new(ROOM_KIB)),
        }
    }

    /// A place among the streams of clients, free again when it is dropped.
    fn enter(&self) -> Result<OwnedSemaphorePermit, Fault> {
        Arc::clone(&self.seats).try_acquire_owned().map_err(|_| {
            let text = format!("{STREAMS_MAX} streams are open at this peer already");
            Fault::new(ErrorReason::Overloaded, text).with("limit", STREAMS_MAX)
        })
    }

    /// Waits for room for so many bytes. At most all of it is asked for, so that one large request is never stuck.
    async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = (bytes >> 10).saturating_add(1).min(ROOM_KIB);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        // Fails only when the semaphore is closed, which it never is.
        Arc::clone(&self.room).acquire_many_owned(kib).await.ok()
    }
}

/// What the call of a stream brought with it.
#[derive(Debug, Clone)]
struct Call {
    context: Context,
    /// When the caller wants it to end. `None`: never by itself.
    ends: Option<Instant>,
    /// It comes from a peer, which has a seat and room for it.
    is_of_peer: bool,
}

impl Call {
    /// Reads it from the head of the call.
    fn read<T>(api: &Api, request: &Request<T>) -> Result<Self, Fault> {
        let context = Context::read(request, Duration::ZERO)?;
        let arrival = request.extensions().get::<Arrival>().copied();
        let has_end = arrival.is_some_and(|arrival| arrival.timeout.is_some());
        let ends = has_end.then_some(context.deadline);
        let is_of_peer =
            context.forwarded_by.is_some() && api.parts.peers.glimpse(request.metadata()).is_ok();
        Ok(Self {
            context,
            ends,
            is_of_peer,
        })
    }

    /// The context of one step of the stream, which may take as long as a call of its own.
    fn step(&self) -> Context {
        let usual = Instant::now() + TIMEOUT_DEFAULT;
        Context {
            deadline: self.ends.map_or(usual, |ends| ends.min(usual)),
            ..self.context.clone()
        }
    }

    /// The first request of the stream. The call has its seat and no place among those that are worked on until it is there.
    async fn first<T>(
        &self,
        api: &Api,
        place: Option<&Place>,
        requests: &mut Streaming<T>,
    ) -> Result<Option<T>, Status> {
        if let Some(place) = place {
            place.leave();
        }
        let came = tokio::select! {
            () = api.parts.drain.cancelled() => return Err(stopping(api)),
            came = tokio::time::timeout_at(self.step().deadline, requests.message()) => came,
        };
        if let Some(place) = place {
            place.enter()?;
        }
        match came {
            Ok(Ok(first)) => Ok(first),
            Ok(Err(status)) => Err(broken(api, &status).unwrap_or(status)),
            Err(_) => Err(out_of_time()),
        }
    }

    /// Waits for the end that the caller wants.
    async fn ended(&self) {
        match self.ends {
            Some(ends) => tokio::time::sleep_until(ends).await,
            None => std::future::pending().await,
        }
    }

    /// A seat for it, unless it has one where it comes from.
    fn seat(&self, streams: &Streams) -> Result<Option<OwnedSemaphorePermit>, Fault> {
        match self.is_of_peer {
            true => Ok(None),
            false => streams.enter().map(Some),
        }
    }

    fn is_forwarded(&self) -> bool {
        self.context.forwarded_by.is_some()
    }
}

/// The caller's deadline for the stream as a whole has come.
fn out_of_time() -> Status {
    let text = "the deadline of the stream has passed";
    Fault::new(ErrorReason::DeadlineExceeded, text).into_status()
}

/// This peer stops.
fn stopping(api: &Api) -> Status {
    refusal::stopping(api.cluster().this())
}

/// What a broken stream of requests is told as. `None`: the caller is gone, and nobody is told.
fn broken(api: &Api, status: &Status) -> Option<Status> {
    if status::reason(status).is_some() {
        return Some(status.clone());
    }
    let limit = api.parts.limits.request_bytes_max;
    let fault = match status.code() {
        Code::OutOfRange => {
            let text = format!("a request has at most {limit} bytes: {}", status.message());
            Fault::new(ErrorReason::RequestTooLarge, text).with("limit", limit)
        }
        Code::Internal => {
            let text = format!("this is no request of the method: {}", status.message());
            Fault::new(ErrorReason::RequestMalformed, text)
        }
        _ => return None,
    };
    Some(fault.into_status())
}
