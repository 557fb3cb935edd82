//! What happens to every call before and after its method: the deadline is read, too many calls are refused, a request that never ends is given up,
//! a span is opened, and errors of the transport get a reason.
//!
//! One service does it all, so that a call costs few allocations here. Begin with [`Edge`].

mod deadline;
mod delivery;
mod refine;
mod relay;
mod shed;
mod trace;
mod upload;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument;

pub use delivery::Delivery;
pub use relay::{RELAY_FACT, Relay};
pub use shed::Place;

use super::context::Arrival;
use crate::types::{Limits, PeerId};
use shed::Gate;
use trace::Traces;
use upload::Upload;

/// Every method of the public API begins so; peers and probes are not refused when there are many calls.
const PUBLIC_PATH: &str = "/cubecast.v1.";

/// Puts [`EdgeService`] around the services.
#[derive(Debug, Clone)]
pub struct Edge {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    peer: PeerId,
    gate: Gate,
    traces: Traces,
    request_bytes_max: u64,
    upload_time_max: Duration,
}

impl Edge {
    /// The layer of a peer with these limits, which takes no more calls once the drain begins; `seed` makes the ids of its traces differ from those of
    /// others.
    pub fn new(peer: PeerId, limits: &Limits, seed: u128, drain: CancellationToken) -> Self {
        let gate = Gate::new(peer, limits.calls_max, drain);
        let shared = Shared {
            peer,
            gate,
            traces: Traces::new(seed),
            request_bytes_max: limits.request_bytes_max,
            upload_time_max: upload::time_max(limits.request_bytes_max),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// How many calls are worked on at the moment.
    pub fn calls(&self) -> u32 {
        self.shared.gate.calls()
    }

    /// Waits until no call is worked on.
    pub async fn drained(&self) {
        self.shared.gate.drained().await;
    }
}

impl<S> Layer<S> for Edge {
    type Service = EdgeService<S>;

    fn layer(&self, inner: S) -> EdgeService<S> {
        EdgeService {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct EdgeService<S> {
    inner: S,
    shared: Arc<Shared>,
}

type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S, B, R> Service<Request<B>> for EdgeService<S>
where
    S: Service<Request<Upload<B>>, Response = Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> ResponseFuture {
        let shared = Arc::clone(&self.shared);
        let at = Instant::now();
        let timeout = deadline::timeout(request.headers());
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return refuse(deadline::already_past());
        }
        let uri = request.uri().clone();
        if uri.path().starts_with(PUBLIC_PATH) {
            match Place::take(&shared.gate) {
                Ok(place) => request.extensions_mut().insert(place),
                Err(status) => return refuse(status),
            };
        }
        shared.traces.ensure(request.headers_mut());
        let span = trace::span(shared.peer, &request);
        request.extensions_mut().insert(Arrival { at, timeout });
        let place = request.extensions().get::<Place>().cloned();
        let (request, lateness) = upload::watch(request, at, timeout, shared.upload_time_max);
        let answer = self.inner.call(request);
        let work = async move {
            let response = tokio::select! {
                biased;
                response = answer => response?,
                // The method was not reached.
                status = lateness.come() => return Ok(status.into_http()),
            };
            if let Some(place) = place {
                place.leave();
            }
            let response = refine::refine(
                response.map(Body::new),
                uri.path(),
                shared.request_bytes_max,
            );
            trace::answered(&response, at.elapsed());
            Ok(delivery::watch(response))
        };
        Box::pin(work.instrument(span))
    }
}

fn refuse(status: tonic::Status) -> ResponseFuture {
    Box::pin(std::future::ready(Ok(status.into_http())))
}

#[cfg(test)]
mod tests;
