//! What happens to every call before and after its method: the deadline is read, too many calls are refused, a span is opened, and errors of
//! the transport get a reason.
//!
//! One service does it all, so that a call costs one allocation here. Begin with [`Edge`].

mod deadline;
mod delivery;
mod refine;
mod relay;
mod shed;
mod trace;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument;

pub use delivery::Delivery;
pub use relay::{RELAY_FACT, Relay};

use super::context::Arrival;
use crate::types::{Limits, PeerId};
use shed::Gate;
use trace::Traces;

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
}

impl Edge {
    /// The layer of a peer with these limits; `seed` makes the ids of its traces differ from those of others.
    pub fn new(peer: PeerId, limits: &Limits, seed: u128) -> Self {
        let gate = Gate::new(limits.calls_max);
        let shared = Shared {
            peer,
            gate,
            traces: Traces::new(seed),
            request_bytes_max: limits.request_bytes_max,
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
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
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
        let is_public = uri.path().starts_with(PUBLIC_PATH);
        let permit = if is_public {
            shared.gate.enter().map(Some)
        } else {
            Ok(None)
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(status) => return refuse(status),
        };
        shared.traces.ensure(request.headers_mut());
        let span = trace::span(shared.peer, &request);
        request.extensions_mut().insert(Arrival { at, timeout });
        let answer = self.inner.call(request);
        let work = async move {
            let response = answer.await?;
            drop(permit);
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
