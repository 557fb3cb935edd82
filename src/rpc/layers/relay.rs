//! Passes calls on that are for another peer, and lets the faults of links work on answers to peers.
//!
//! It looks at the metadata alone: path, metadata and the bytes of both directions go on as they come, as streams, with the flow control of the
//! connections on both sides. It repeats nothing and stores nothing. Who may call what is checked by the peer that the call is for; here it only has to
//! come from a peer of the cluster, in whatever life. Begin with [`Relay`].

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use cubecast_sdk::proto::v1::ErrorReason;
use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::link::{self, LinkState, Peers, relay};
use crate::rpc::refusal;
use crate::rpc::status::Fault;
use crate::types::PeerId;

/// Names the peer at which the road of a call ended, in an error that says so.
pub const RELAY_FACT: &str = "relay";

/// Puts [`RelayService`] around all services of a peer.
#[derive(Debug, Clone)]
pub struct Relay {
    peers: Peers,
    /// Of the cube: roads are not much longer.
    dimension: u8,
}

impl Relay {
    /// Passes calls on between these peers.
    pub fn new(peers: Peers, dimension: u8) -> Self {
        Self { peers, dimension }
    }

    /// Who gets this call next. `None`: it is for this peer.
    fn next(&self, headers: &mut HeaderMap) -> Result<Option<PeerId>, Status> {
        if !headers.contains_key(relay::RELAY) {
            return Ok(None);
        }
        let caller = self
            .peers
            .glimpse(&MetadataMap::from_headers(headers.clone()));
        caller.map_err(|error| refusal::not_a_peer(&error))?;
        let this = self.peers.links().now().this();
        let invalid = |text: String| {
            Fault::new(ErrorReason::FieldInvalid, text)
                .in_field(relay::RELAY)
                .into_status()
        };
        let hop = relay::take(headers, this, self.dimension);
        let Some(relay::Hop { next }) = hop.map_err(|error| invalid(error.to_string()))? else {
            return Ok(None);
        };
        if self.peers.channel(next).is_none() {
            return Err(invalid(format!("there is no peer {next}")));
        }
        Ok(Some(next))
    }

    /// Passes a call on, and its answer back.
    async fn pass(self, next: PeerId, request: Request<Body>) -> Response<Body> {
        let map = self.peers.links().now();
        if matches!(map.state(next), LinkState::Silent | LinkState::Dead) {
            return unreached(map.this(), next, "its link is down");
        }
        match self.peers.send(next, request).await {
            Ok(answer) => answer,
            Err(error) if link::is_refused(&error) => {
                unreached(map.this(), next, &error.to_string())
            }
            // It may have arrived; without a reason it is taken for what it is, a broken connection.
            Err(error) => broken(&error),
        }
    }
}

fn unreached(this: PeerId, next: PeerId, why: &str) -> Response<Body> {
    let text = format!("peer {this} cannot pass the call on to peer {next}: {why}");
    let fault = Fault::new(ErrorReason::PeerUnreachable, text);
    fault
        .with("peer", next)
        .with(RELAY_FACT, this)
        .into_status()
        .into_http()
}

impl<S> Layer<S> for Relay {
    type Service = RelayService<S>;

    fn layer(&self, inner: S) -> RelayService<S> {
        RelayService {
            inner,
            relay: self.clone(),
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct RelayService<S> {
    inner: S,
    relay: Relay,
}

type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S, B, R> Service<Request<B>> for RelayService<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
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
        let peers = &self.relay.peers;
        let from = peers
            .faults()
            .is_allowed()
            .then(|| peers.sender(request.headers()));
        let next = self.relay.next(request.headers_mut());
        let answer: ResponseFuture = match next {
            Ok(Some(next)) => {
                let passed = self.relay.clone().pass(next, request.map(Body::new));
                Box::pin(async move { Ok(passed.await) })
            }
            Ok(None) => {
                let answer = self.inner.call(request);
                Box::pin(async move { Ok(answer.await?.map(Body::new)) })
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        };
        let Some(from) = from.flatten() else {
            return answer;
        };
        let peers = peers.clone();
        Box::pin(async move {
            let answer = answer.await?;
            Ok(match peers.pass_answer(from, answer).await {
                Ok(answer) => answer,
                Err(lost) => broken(&lost),
            })
        })
    }
}

/// An answer that breaks as a connection does.
fn broken(error: &dyn std::error::Error) -> Response<Body> {
    Status::new(Code::Unavailable, error.to_string()).into_http()
}
