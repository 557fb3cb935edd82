//! What all services share: a request goes in, is checked, finds its replica, and its answer comes back with who gave it.
//!
//! Begin with [`Api::call`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::channel;
use super::context::{self, Context};
use super::facts::Facts;
use super::forward::{self, Answered, Ask, Attempt, Failed, Failure, Places};
use super::layers::Edge;
use super::operation::{Checks, Here, Operation, Resolve, ResolveTopic};
use super::outage::Order;
use super::refusal;
use super::stream::Streams;
use super::verify::DIGESTS_AT_ONCE;
use crate::broker::{self, Broker, Directory, Kind, Unresolved};
use crate::cluster::Cluster;
use crate::consensus::Leadership;
use crate::link::Peers;
use crate::proto::peer::v1 as peer_proto;
use crate::replica::{Replica, Replicas};
use crate::router::{Leader, Router};
use crate::types::{Limits, Name, PeerId, TopicName, Vertex};

/// What the API works with.
pub struct Parts {
    /// The members and their vertices.
    pub cluster: Cluster,
    /// The shards of this peer.
    pub replicas: Replicas,
    /// The other peers.
    pub peers: Peers,
    /// What calls mean.
    pub broker: Broker,
    /// What this peer accepts.
    pub limits: Limits,
    /// What the process knows of itself.
    pub facts: Facts,
    /// Takes the order to make this peer fail; who has built it obeys.
    pub outage: watch::Sender<Option<Order>>,
    /// Ends what has no end of its own: the peer takes no more calls.
    pub drain: CancellationToken,
}

/// Serves calls. A cheap handle.
#[derive(Clone)]
pub struct Api {
    pub(super) parts: Arc<Parts>,
    pub(super) router: Arc<Router>,
    pub(super) edge: Edge,
    /// Places of those who watch the cluster.
    pub(super) watchers: Arc<Semaphore>,
    /// Taken by whoever reads a whole replica.
    pub(super) digests: Arc<Semaphore>,
    /// What streams of messages take together.
    pub(super) streams: Streams,
}

impl Api {
    /// An API on these parts.
    pub fn new(parts: Parts) -> Self {
        let links = parts.peers.links().clone();
        let gone = Arc::new(move |peer| links.now().is_gone(peer));
        let links = parts.peers.links().clone();
        let told = Arc::new(move |vertex| {
            let (peer, term) = links.now().leader(vertex)?;
            Some(Leader { peer, term })
        });
        let router = Arc::new(Router::new(parts.cluster.clone(), gone, told));
        let (seed, drain) = (parts.facts.trace_seed, parts.drain.clone());
        let edge = Edge::new(parts.cluster.this(), &parts.limits, seed, drain);
        Self {
            parts: Arc::new(parts),
            router,
            edge,
            watchers: super::watch::seats(),
            digests: Arc::new(Semaphore::new(DIGESTS_AT_ONCE)),
            streams: Streams::new(),
        }
    }

    /// Waits until no call is worked on.
    pub async fn drained(&self) {
        self.edge.drained().await;
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.parts.cluster
    }

    pub(super) fn broker(&self) -> &Broker {
        &self.parts.broker
    }

    pub(super) fn checks(&self) -> Checks<'_> {
        Checks {
            limits: &self.parts.limits,
            cluster: &self.parts.cluster,
        }
    }

    /// Serves one call, here or at another peer.
    pub(super) async fn call<O: Operation>(
        &self,
        request: Request<O::Request>,
    ) -> Result<Response<O::Response>, Status> {
        let operation = O::parse(request.get_ref(), self.checks())
            .map_err(|fault| self.refuse(fault.into_status()))?;
        let context = Context::read(&request, operation.patience())
            .map_err(|fault| self.refuse(fault.into_status()))?;
        let request = request.into_inner();
        self.respond::<O>(
            Box::pin(self.run(&operation, &request, &context)).await,
            &operation,
        )
    }

    /// Answers a peer, from this peer's own replica or not at all.
    pub(super) async fn answer_peer<O: Operation>(
        &self,
        mut request: Request<O::Request>,
    ) -> Result<Response<O::Response>, Status> {
        self.recognise(&mut request)?;
        let mut response = self.call::<O>(request).await?;
        self.parts.peers.introduce(response.metadata_mut());
        Ok(response)
    }

    /// Makes sure that a peer of the cluster calls; the call will not be passed on.
    pub(super) fn recognise<T>(&self, request: &mut Request<T>) -> Result<(), Status> {
        let caller = self.parts.peers.recognise(request.metadata());
        let caller = caller.map_err(|error| self.refuse(refusal::not_a_peer(&error)))?;
        request
            .metadata_mut()
            .insert(context::FORWARDED_BY, caller.peer.0.into());
        Ok(())
    }

    /// Has an operation done by whichever peer can.
    pub(super) async fn run<O: Operation>(
        &self,
        operation: &O,
        request: &O::Request,
        context: &Context,
    ) -> Result<Answered<O::Response>, Failed> {
        let vertex = operation.vertex(self.cluster());
        let ask = Ask {
            vertex,
            aim: operation.aim(),
            fate: operation.fate(),
            deadline: context.deadline,
            forwarded_by: context.forwarded_by,
        };
        let places = self.places(vertex);
        let forwarding = Forwarding {
            api: self,
            operation,
            request,
            context,
            vertex,
            hearing: self.hear_leaders(vertex),
        };
        forward::run(&self.router, places, &ask, &forwarding).await
    }

    /// Where this peer is and where the vertex belongs.
    pub(super) fn places(&self, vertex: Vertex) -> Places {
        Places {
            this: self.cluster().this(),
            owner: self.cluster().home(vertex),
            quorum: self.cluster().quorum(),
            replicas: self.cluster().replicas(vertex).len(),
        }
    }

    /// Begins to hear of the leaders of the vertex's shard, for one call.
    pub(super) fn hear_leaders(&self, vertex: Vertex) -> Hearing {
        let replica = self.parts.replicas.get(vertex);
        Hearing {
            vertex,
            leader: tokio::sync::Mutex::new(replica.map(|replica| replica.leader())),
        }
    }

    /// Waits so long, or until this peer has heard of another leader than at the last pause.
    pub(super) async fn pause(&self, hearing: &Hearing, delay: Duration) {
        let mut leader = hearing.leader.lock().await;
        let Some(leader) = leader.as_mut() else {
            return tokio::time::sleep(delay).await;
        };
        let changed = async {
            if leader.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        // Either way the next round begins.
        let _ = tokio::time::timeout(delay, changed).await;
        let Leadership { leader, term, .. } = *leader.borrow_and_update();
        let is_there = |peer: &PeerId| !self.parts.peers.links().now().is_lost(*peer);
        if let Some(peer) = leader.filter(is_there) {
            self.router.learn(hearing.vertex, Leader { peer, term });
        }
    }

    /// What the error of a replica of this peer means. Rows that cannot be what was written are told on.
    pub(super) fn judge(&self, replica: &Replica, error: broker::Error) -> Failure {
        if let broker::Error::Rows { source, .. } = &error {
            replica.blame(source);
        }
        refusal::failure(error, self.cluster().this())
    }

    /// The answer with who gave it.
    pub(super) fn respond<O: Operation>(
        &self,
        result: Result<Answered<O::Response>, Failed>,
        operation: &O,
    ) -> Result<Response<O::Response>, Status> {
        match result {
            Ok(Answered {
                mut answer,
                peer,
                is_owner_unreached,
            }) => {
                if is_owner_unreached && let Some(served_by) = self.cluster().vertex_of(peer) {
                    let owner = operation.vertex(self.cluster());
                    O::note(
                        &mut answer,
                        format!("cannot reach owner {owner}; served by replica {served_by}"),
                    );
                }
                let mut response = Response::new(answer);
                self.tag(response.metadata_mut(), peer);
                Ok(response)
            }
            Err(failed) => Err(self.fail(failed)),
        }
    }

    /// Writes down who gave an answer, and by which way calls to it go now.
    pub(super) fn tag(&self, metadata: &mut MetadataMap, peer: PeerId) {
        let road = if peer == self.cluster().this() {
            Vec::new()
        } else {
            self.parts.peers.road(peer)
        };
        context::tag(metadata, self.cluster(), &road);
    }

    /// The status with who gave it.
    pub(super) fn fail(&self, failed: Failed) -> Status {
        let Failed { mut status, peer } = failed;
        if let Some(peer) = peer {
            self.tag(status.metadata_mut(), peer);
        }
        status
    }

    /// An error of this peer.
    pub(super) fn refuse(&self, status: Status) -> Status {
        self.fail(Failed {
            status,
            peer: Some(self.cluster().this()),
        })
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("this", &self.cluster().this())
            .finish_non_exhaustive()
    }
}

/// What this peer hears of a shard's leaders during one call, so that nothing between two pauses is missed. Nothing when it has no replica.
pub(super) struct Hearing {
    vertex: Vertex,
    leader: tokio::sync::Mutex<Option<watch::Receiver<Leadership>>>,
}

/// An operation on its way.
struct Forwarding<'a, O: Operation> {
    api: &'a Api,
    operation: &'a O,
    request: &'a O::Request,
    context: &'a Context,
    vertex: Vertex,
    hearing: Hearing,
}

impl<O: Operation> Attempt for Forwarding<'_, O> {
    type Answer = O::Response;

    async fn here(&self) -> Result<O::Response, Failure> {
        let Some(replica) = self.api.parts.replicas.get(self.vertex) else {
            return Err(Failure::NotLeader(None));
        };
        let directory = Names {
            api: self.api,
            context: self.context,
        };
        let here = Here {
            replica: &replica,
            directory: &directory,
            deadline: self.context.deadline,
        };
        let result = self.operation.serve(self.api, here).await;
        result.map_err(|error| self.api.judge(&replica, error))
    }

    async fn there(&self, peer: PeerId) -> Result<O::Response, Failure> {
        let who = (&self.api.parts.peers, self.api.cluster().this(), peer);
        channel::ask(who, O::PATH, self.request.clone(), self.context).await
    }

    async fn pause(&self, delay: Duration) {
        self.api.pause(&self.hearing, delay).await;
    }
}

/// Knows the publishers and subscribers by asking their shards, as a part of the call that wants to know.
#[derive(Debug)]
pub struct Names<'a> {
    pub(super) api: &'a Api,
    /// The call that wants to know.
    pub(super) context: &'a Context,
}

impl Directory for Names<'_> {
    async fn exists(&self, kind: Kind, name: &Name, deadline: Instant) -> Result<bool, Unresolved> {
        let operation = Resolve {
            kind,
            name: name.clone(),
        };
        let request = peer_proto::ResolveRequest {
            kind: match kind {
                Kind::Publisher => peer_proto::NameKind::Publisher.into(),
                Kind::Subscriber => peer_proto::NameKind::Subscriber.into(),
            },
            name: name.to_string(),
        };
        let context = self.context_of_own(deadline);
        match Box::pin(self.api.run(&operation, &request, &context)).await {
            Ok(answered) => Ok(answered.answer.exists),
            Err(failed) => Err(Unresolved {
                name: name.clone(),
                source: Arc::new(failed.status),
            }),
        }
    }

    async fn has_topic(&self, topic: &TopicName, deadline: Instant) -> Result<bool, Unresolved> {
        let operation = ResolveTopic {
            topic: topic.clone(),
        };
        let request = peer_proto::ResolveTopicRequest {
            topic: topic.to_string(),
        };
        let context = self.context_of_own(deadline);
        match Box::pin(self.api.run(&operation, &request, &context)).await {
            Ok(answered) => Ok(answered.answer.exists),
            Err(failed) => Err(Unresolved {
                name: topic.0.clone(),
                source: Arc::new(failed.status),
            }),
        }
    }
}

impl Names<'_> {
    /// It is a call of its own, so it may be forwarded even when the one that it belongs to was.
    fn context_of_own(&self, deadline: Instant) -> Context {
        Context {
            deadline,
            forwarded_by: None,
            ..self.context.clone()
        }
    }
}
