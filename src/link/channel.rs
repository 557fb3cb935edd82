//! The one road to a peer: its own link when that works, else through others.
//!
//! A call takes its road when it is made and stays on it. When the first link of the road goes silent or dies, the call breaks, so that its
//! caller can make another, which takes another road. Never repeats a call. Begin with [`Channel`].

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tower::{Service, ServiceExt};

use super::fault::Lost;
use super::{Peers, held, is_refused, relay};
use crate::types::PeerId;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Calls one peer, by whichever way leads there. A cheap handle; tonic's generated clients take it.
#[derive(Clone)]
pub struct Channel {
    to: PeerId,
    way: Way,
    peers: Peers,
}

#[derive(Clone, Copy)]
enum Way {
    /// Any that leads there.
    Any,
    /// The link alone, also while it is silent: heartbeats.
    Link,
}

impl Channel {
    pub(super) fn new(to: PeerId, peers: Peers) -> Self {
        let way = Way::Any;
        Self { to, way, peers }
    }

    pub(super) fn on_link(to: PeerId, peers: Peers) -> Self {
        let way = Way::Link;
        Self { to, way, peers }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("to", &self.to).finish()
    }
}

type Answer = Result<Response<Body>, CallError>;

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (to, peers) = (self.to, self.peers.clone());
        if matches!(self.way, Way::Link) {
            return Box::pin(async move { peers.deliver(to, request).await });
        }
        let road = peers.links.take_road(to);
        let (hop, rest) = road.split_first().unwrap_or((&to, &[]));
        relay::write(request.headers_mut(), rest);
        let hop = *hop;
        Box::pin(async move { peers.send(hop, request).await })
    }
}

impl Peers {
    /// The peers that a call to another one would pass now, that one last.
    pub fn road(&self, to: PeerId) -> Vec<PeerId> {
        self.links.road(to)
    }

    /// Sends a request over the link to a peer, and no other way. The answer breaks when the link does.
    ///
    /// # Errors
    /// [`CallError`]; [`super::is_refused`] says whether it was certainly not sent.
    pub async fn send(&self, hop: PeerId, request: Request<Body>) -> Answer {
        let standing = self.links.standing(hop);
        let answer = tokio::select! {
            biased;
            answer = self.deliver(hop, request) => answer?,
            () = standing.cancelled() => return Err(CallError::Broken { peer: hop }),
        };
        Ok(answer.map(|body| on_link(body, hop, standing)))
    }

    /// As [`Self::send`], but the call outlives the link.
    async fn deliver(&self, hop: PeerId, request: Request<Body>) -> Answer {
        let Some(channel) = self.core.direct.get(&hop).cloned() else {
            return Err(CallError::Unknown { peer: hop });
        };
        let faults = &self.core.faults;
        faults.pass(hop).await?;
        let request = request.map(|body| held::wrap(body, hop, faults));
        let answer = channel.oneshot(request).await;
        match &answer {
            Ok(_) => self.links.connected(hop),
            Err(error) => {
                if is_refused(error) {
                    self.links.unconnected(hop);
                }
                self.links.suspect(hop);
            }
        }
        Ok(answer?)
    }
}

/// The body of an answer, which breaks when the link that it comes over does.
fn on_link(body: Body, peer: PeerId, standing: CancellationToken) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::new(OnLink {
        inner: body,
        peer,
        standing,
        broken: None,
    })
}

struct OnLink {
    inner: Body,
    peer: PeerId,
    standing: CancellationToken,
    /// Made when the body is first waited for.
    broken: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl http_body::Body for OnLink {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let standing = &this.standing;
        let broken = this
            .broken
            .get_or_insert_with(|| Box::pin(standing.clone().cancelled_owned()));
        let peer = this.peer;
        let error = || Some(Err(CallError::Broken { peer }.into()));
        broken.as_mut().poll(context).map(|()| error())
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Why a call to a peer gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection cannot be made, or broke.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    /// The link over which it went was found silent or dead before the answer came.
    #[error("the link to peer {peer} broke")]
    Broken {
        /// The other end.
        peer: PeerId,
    },
    /// The configuration knows no such peer.
    #[error("the configuration knows no peer {peer}")]
    Unknown {
        /// Who it is.
        peer: PeerId,
    },
    /// An injected fault.
    #[error(transparent)]
    Lost(#[from] Lost),
}
