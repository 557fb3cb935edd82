//! Accepts connections and serves them, each within a limit.
//!
//! Beyond `connections_max` a connection is still answered, with a typed error for every call, so that the client learns why; it is closed
//! after a short while. Beyond twice the limit nothing is accepted until one of those is gone: the kernel's queue holds the rest. Peers are
//! always let in and stay: clients must not be able to stop replication. A connection is a peer's from the first call on it that says rightly which peer
//! makes it; one on which nobody has said so is as short as a client's. A connection that does not begin to speak HTTP/2 soon is closed.
//!
//! What a connection sends and nobody has read yet takes memory here: at most `connections_max` times the window of a connection, 8 GiB with the
//! defaults, and as much for those that only hear why they are refused, which are gone after [`REFUSAL_LIFE`]. A machine with less has a lower limit.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower::Service;
use tracing::{debug, warn};

use crate::env::net::{self, Listener, Stream};
use crate::link::Peers;
use crate::rpc::{self, Sender};

/// How long a refused connection may stay to hear why.
const REFUSAL_LIFE: Duration = Duration::from_secs(5);
/// How long a connection may take to begin to speak HTTP/2.
const PREFACE_WAIT: Duration = Duration::from_secs(5);
/// How often a connection that has begun is looked at for the rest.
const PREFACE_INTERVAL: Duration = Duration::from_millis(20);
/// What a client of HTTP/2 says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After a failed accept (no file descriptor left, say) wait before the next.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Calls that one connection may have open: more than the calls that a peer works on (`limits.calls_max`), so that forwarded pulls that wait
/// never keep a heartbeat from being sent. Clients are held to that limit in any case.
const STREAMS_PER_CONNECTION_MAX: u32 = 65_536;
/// Calls given up by their caller before this peer has seen them. A peer that was frozen for a moment meets many, from others who are no
/// attackers; beyond the default of 20 the connection would be closed, and with it the Raft streams.
const RESETS_PENDING_MAX: usize = 4096;
/// What one call may have on its way. No more is needed to keep a link busy: what has arrived is read at once, by a PublishStream up to its own window of
/// 8 MiB and by a replica up to sixteen proposals of 64 KiB, so this much is sent for each round trip.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// What all calls of one connection may have on their way: four that nobody reads, which do not keep the others from being read. The same for clients and
/// peers, because it is granted before the first call tells which of them it is.
const CONNECTION_WINDOW_BYTES: u32 = 4 * STREAM_WINDOW_BYTES;
/// A client that is gone without a word is noticed within twice this time.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// What a server needs to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// Connections that are served.
    pub(super) connections_max: u32,
}

/// Serves one listener.
pub(super) struct Server {
    listener: Listener,
    routes: Routes,
    peers: Peers,
    options: Options,
    admitted: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    connections: TaskTracker,
}

impl Server {
    /// A server of these calls, for clients and for these peers.
    pub(super) fn new(listener: Listener, routes: Routes, peers: Peers, options: Options) -> Self {
        let permits = usize::try_from(options.connections_max)
            .unwrap_or(Semaphore::MAX_PERMITS)
            .min(Semaphore::MAX_PERMITS);
        Self {
            listener,
            routes,
            peers,
            options,
            admitted: Arc::new(Semaphore::new(permits)),
            refused: Arc::new(Semaphore::new(permits)),
            connections: TaskTracker::new(),
        }
    }

    /// Accepts until the stop, then waits for the connections to end.
    pub(super) async fn run(self, stop: Stop) {
        loop {
            let accepted = tokio::select! {
                () = stop.drain.cancelled() => break,
                accepted = self.accept() => accepted,
            };
            match accepted {
                Ok((stream, seat)) => self.spawn(stream, seat, stop.clone()),
                Err(error) => {
                    warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
        drop(self.listener);
        self.connections.close();
        self.connections.wait().await;
    }

    /// The next connection with its seat. Cancel-safe: a connection is either in the kernel's queue or returned.
    async fn accept(&self) -> Result<(Stream, Seat), net::Error> {
        // Wait for room before accepting, so that a connection beyond all limits stays in the kernel's queue.
        let mut seat = match Arc::clone(&self.admitted).try_acquire_owned() {
            Ok(permit) => Seat {
                is_admitted: true,
                _permit: Some(permit),
            },
            Err(_) => Seat {
                is_admitted: false,
                _permit: Arc::clone(&self.refused).acquire_owned().await.ok(),
            },
        };
        let stream = self.listener.accept().await?;
        if !seat.is_admitted
            && let Ok(permit) = Arc::clone(&self.admitted).try_acquire_owned()
        {
            // A place became free while this one waited.
            seat = Seat {
                is_admitted: true,
                _permit: Some(permit),
            };
        }
        Ok((stream, seat))
    }

    fn spawn(&self, stream: Stream, seat: Seat, stop: Stop) {
        let service = Door {
            routes: self.routes.clone(),
            peers: self.peers.clone(),
            is_admitted: seat.is_admitted,
            is_peer: Arc::default(),
            connections_max: self.options.connections_max,
        };
        let is_peer = Arc::clone(&service.is_peer);
        let life = if seat.is_admitted {
            None
        } else {
            Some(REFUSAL_LIFE)
        };
        self.connections.spawn(async move {
            let begun = tokio::time::timeout(life.unwrap_or(PREFACE_WAIT), speaks_http2(&stream));
            tokio::select! {
                begun = begun => if !begun.unwrap_or(false) { return },
                () = stop.drain.cancelled() => return,
            }
            let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
            builder
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
                .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_INTERVAL);
            let connection =
                builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
            tokio::pin!(connection);
            let drained = end_of(life, is_peer, stop.drain);
            // The connection first: what it has been given when it is cut, it has sent.
            tokio::select! {
                biased;
                result = connection.as_mut() => return ended(result),
                () = stop.cut.cancelled() => return,
                () = drained => connection.as_mut().graceful_shutdown(),
            }
            tokio::select! {
                biased;
                result = connection => ended(result),
                () = stop.cut.cancelled() => {}
            }
            drop(seat);
        });
    }
}

fn ended(result: Result<(), impl std::fmt::Display>) {
    if let Err(error) = result {
        debug!(%error, "a connection broke");
    }
}

/// Waits for the first bytes and leaves them where they are. False: it is not HTTP/2, or the client is gone.
async fn speaks_http2(stream: &Stream) -> bool {
    let mut first = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut first).await {
            Ok(count) if count == first.len() => return first == *PREFACE,
            Ok(count) if count > 0 && first.get(..count) == PREFACE.get(..count) => {
                tokio::time::sleep(PREFACE_INTERVAL).await;
            }
            _ => return false,
        }
    }
}

/// Waits until a connection is to end: after its life, when it has one and is no peer's, or with the peer.
async fn end_of(life: Option<Duration>, is_peer: Arc<AtomicBool>, drain: CancellationToken) {
    if let Some(life) = life {
        let is_stopping = tokio::time::timeout(life, drain.cancelled()).await.is_ok();
        if is_stopping || !is_peer.load(Ordering::Relaxed) {
            return;
        }
    }
    drain.cancelled().await;
}

/// The two steps of a stop.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    /// No more connections, and no more calls on those there are.
    pub(super) drain: CancellationToken,
    /// The connections are dropped with what is still open on them.
    pub(super) cut: CancellationToken,
}

/// A place among the served connections, or among those that are told why not.
struct Seat {
    is_admitted: bool,
    _permit: Option<tokio::sync::OwnedSemaphorePermit>,
}

/// Lets calls of an admitted connection through, and those of peers.
#[derive(Clone)]
struct Door {
    routes: Routes,
    peers: Peers,
    is_admitted: bool,
    /// A peer has called through it, and said rightly which one it is.
    is_peer: Arc<AtomicBool>,
    connections_max: u32,
}

type Answer = http::Response<tonic::body::Body>;

impl Service<http::Request<hyper::body::Incoming>> for Door {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        <Routes as Service<http::Request<hyper::body::Incoming>>>::poll_ready(
            &mut self.routes,
            context,
        )
    }

    fn call(&mut self, mut request: http::Request<hyper::body::Incoming>) -> Self::Future {
        let connection = match self.is_peer.load(Ordering::Relaxed) {
            true => Sender::Peer,
            false => Sender::Client,
        };
        let sender = connection.of_call(&self.peers, &request);
        match sender {
            Sender::Peer => self.is_peer.store(true, Ordering::Relaxed),
            Sender::Newcomer => {}
            Sender::Client => rpc::disbelieve(&mut request),
        }
        if self.is_admitted || sender != Sender::Client {
            return Box::pin(self.routes.call(request));
        }
        let answer = rpc::connections_exhausted(self.connections_max);
        Box::pin(std::future::ready(Ok(answer)))
    }
}
