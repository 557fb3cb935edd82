//! Bounds the time in which a request comes in whole.
//!
//! A method with one request is not reached before its last byte, so nobody else looks at its deadline until then; and nothing has happened by then, so
//! that the caller may be told so. A method that takes a stream of requests is reached at once, and bounds itself. Begin with [`watch`].

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use cubecast_sdk::proto::v1::ErrorReason;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::rpc::status::Fault;

/// How long a request may be on its way at least, if its deadline allows it.
const UPLOAD_TIME_MIN: Duration = Duration::from_secs(20);
/// The slowest line, in bytes per second, on which the largest request arrives in time: 2 Mbit/s.
const UPLOAD_RATE_MIN: u64 = 250_000;
/// Methods whose requests are streams, as long as their callers want.
const STREAMS: [&str; 2] = [
    "/cubecast.v1.PeerService/PublishStream",
    "/cubecast.v1.PeerService/StreamPull",
];

/// A request on its way in.
#[derive(Debug)]
pub struct Upload<B> {
    inner: B,
    /// Dropped with the body, which is read to its end before the method is reached.
    _end: DropGuard,
}

/// How long one request of at most so many bytes may be on its way, whatever its deadline.
pub(super) fn time_max(request_bytes_max: u64) -> Duration {
    Duration::from_secs(request_bytes_max / UPLOAD_RATE_MIN).max(UPLOAD_TIME_MIN)
}

/// The request, and what waits until it is late: a caller gets no more time for it than it gives its call.
pub(super) fn watch<B>(
    request: Request<B>,
    at: Instant,
    timeout: Option<Duration>,
    time_max: Duration,
) -> (Request<Upload<B>>, Lateness) {
    let end = CancellationToken::new();
    let time = timeout.map_or(time_max, |timeout| timeout.min(time_max));
    let is_stream = STREAMS.contains(&request.uri().path());
    let lateness = Lateness {
        end: (!is_stream).then(|| end.clone()),
        deadline: at + time,
        time,
    };
    let upload = |inner| Upload {
        inner,
        _end: end.drop_guard(),
    };
    (request.map(upload), lateness)
}

/// Watches over a request that comes in.
#[derive(Debug)]
pub(super) struct Lateness {
    /// `None`: it may take any time.
    end: Option<CancellationToken>,
    deadline: Instant,
    time: Duration,
}

impl Lateness {
    /// Waits until the request is late, for ever when it is not.
    pub(super) async fn come(self) -> Status {
        if let Some(end) = &self.end {
            let came = tokio::time::timeout_at(self.deadline, end.cancelled()).await;
            if came.is_err() {
                let text = format!("the request was not there after {:?}", self.time);
                return Fault::new(ErrorReason::DeadlineExceeded, text).into_status();
            }
        }
        std::future::pending().await
    }
}

impl<B: Body + Unpin> Body for Upload<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
