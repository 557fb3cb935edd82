//! The way of a PublishStream to another peer: a stream of the same kind, on which nothing is repeated.
//!
//! What is handed in goes out in that order and is answered in it. A way that breaks stays broken: its requests fail, each as far as is known, and the
//! next one opens another. Begin with [`Upstream::open`].

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::publish_stream_response::Result as Outcome;
use http::uri::PathAndQuery;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use crate::rpc::api::Api;
use crate::rpc::channel;
use crate::rpc::context::Context;
use crate::rpc::forward::Failure;
use crate::rpc::wire;
use crate::types::PeerId;

const PATH: &str = "/cubecast.v1.PeerService/PublishStream";
/// More than a stream has in flight, so that it is never full.
const WAITING_MAX: usize = 256;

/// What became of a request at the other peer.
type Fate = Result<proto::PublishResponse, Failure>;

/// Waits for what became of a request.
pub type Waiting = oneshot::Receiver<Fate>;

/// A way to another peer.
pub struct Upstream {
    requests: mpsc::Sender<wire::PublishStreamRequest>,
    answers: mpsc::Sender<oneshot::Sender<Fate>>,
}

impl Upstream {
    /// Opens a way in the background. `None`: the peer is gone.
    pub fn open(
        api: &Api,
        peer: PeerId,
        context: &Context,
        tasks: &mut JoinSet<()>,
    ) -> Option<Self> {
        let peers = &api.parts.peers;
        let client = Grpc::new(peers.channel(peer)?);
        if peers.links().now().is_gone(peer) {
            return None;
        }
        let (requests, outgoing) = mpsc::channel(WAITING_MAX);
        let (answers, waiting) = mpsc::channel(WAITING_MAX);
        let mut request = peers.request(ReceiverStream::new(outgoing));
        channel::forward(request.metadata_mut(), api.cluster().this(), context);
        let deadline = context.deadline;
        let opening = async move {
            let mut client = client;
            // Nothing is sent before it is ready.
            let ready = tokio::time::timeout_at(deadline, client.ready()).await;
            if !matches!(ready, Ok(Ok(()))) {
                return Err(Broken::Unreached);
            }
            let path = PathAndQuery::from_static(PATH);
            let codec: ProstCodec<_, proto::PublishStreamResponse> = ProstCodec::default();
            let opened = client.streaming(request, path, codec).await;
            opened
                .map(tonic::Response::into_inner)
                .map_err(Broken::Said)
        };
        tasks.spawn(drive(opening, waiting));
        Some(Self { requests, answers })
    }

    /// Nothing can be sent over it any more.
    pub fn is_over(&self) -> bool {
        self.requests.is_closed() || self.answers.is_closed()
    }

    /// Sends a request. `None`: the way is broken, and it was not sent.
    pub fn submit(&self, request: wire::PublishStreamRequest) -> Option<Waiting> {
        // Both or none, and the place of the answer first.
        let (way, place) = (self.requests.try_reserve(), self.answers.try_reserve());
        let (way, place) = (way.ok()?, place.ok()?);
        let (sender, receiver) = oneshot::channel();
        place.send(sender);
        way.send(request);
        Some(receiver)
    }
}

/// How a way ended.
enum Broken {
    /// It was never open.
    Unreached,
    /// With this.
    Said(Status),
    /// Without a word.
    Silent,
}

impl Broken {
    /// What this means for a request that has no answer.
    fn failure(&self) -> Failure {
        match self {
            Self::Unreached => Failure::Unreached,
            // An error with a reason is told when everything that was taken is answered: the rest was not taken.
            Self::Said(status) => channel::classify(status.clone()),
            Self::Silent => Failure::Unknown,
        }
    }
}

/// Gives each answer to the request that it belongs to, the oldest.
async fn drive(
    opening: impl Future<Output = Result<Streaming<proto::PublishStreamResponse>, Broken>>,
    mut waiting: mpsc::Receiver<oneshot::Sender<Fate>>,
) {
    let mut oldest = None;
    let broken = match opening.await {
        Ok(mut answers) => loop {
            tokio::select! {
                biased;
                sender = waiting.recv(), if oldest.is_none() => match sender {
                    Some(sender) => oldest = Some(sender),
                    // The stream that it belongs to is over.
                    None => return,
                },
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        let sender = oldest.take().or_else(|| waiting.try_recv().ok());
                        // One that belongs to no request: this is no peer that can be understood.
                        let Some(sender) = sender else { break Broken::Silent };
                        // Whoever waited may have given up.
                        let _ = sender.send(fate(answer));
                    }
                    Ok(None) => break Broken::Silent,
                    Err(status) => break Broken::Said(status),
                },
            }
        },
        Err(broken) => broken,
    };
    waiting.close();
    while let Some(sender) = match oldest.take() {
        Some(sender) => Some(sender),
        None => waiting.recv().await,
    } {
        let _ = sender.send(Err(broken.failure()));
    }
}

fn fate(answer: proto::PublishStreamResponse) -> Fate {
    match answer.result {
        Some(Outcome::Published(published)) => Ok(published),
        Some(Outcome::Error(error)) => Err(channel::classify_part(error)),
        None => Err(Failure::Unknown),
    }
}
