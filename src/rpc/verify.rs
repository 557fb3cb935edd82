//! Comparing replicas: every shard's leader puts a barrier into its log, and each replica gives the digest of what it holds right there.
//!
//! ```text
//! VerifyReplicas ─► any peer ─► VerifyShard ─► leader: barrier at index 41
//!                                                ├─► own replica, frozen at 41
//!                                                └─► Digest(41) ─► each other replica, frozen at 41
//! ```
//! Calls go on meanwhile: what is read is frozen. A replica that gives no digest is told of with its problem and is never taken for equal.
//! Begin with [`Api::verify_replicas`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cubecast_sdk::proto::v1 as public;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use super::api::Api;
use super::context::Context;
use super::forward::Failure;
use super::operation::{Operation, VerifyShard};
use super::status::Fault;
use super::{answer, channel, convert, refusal};
use crate::proto::peer::v1 as proto;
use crate::shard::{self, Digest, View};
use crate::types::{LogIndex, PeerId, TopicName, Vertex};

/// What a call without a deadline gets beyond the default: reading takes its time.
const PATIENCE: Duration = Duration::from_secs(110);
/// Shards that are compared at the same time. Each peer then reads about so many of its replicas at once, and keeps as many frozen.
const SHARDS_AT_ONCE: usize = 2;
/// Replicas of this peer that are read at the same time, whoever asks: that is work for the whole disk. Others wait.
pub const DIGESTS_AT_ONCE: usize = 4;
/// The path of the call that asks a replica.
const DIGEST_PATH: &str = "/cubecast.peer.v1.VerifyService/Digest";

/// What each replica is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The shard.
    pub vertex: Vertex,
    /// The barrier.
    pub index: LogIndex,
    /// Only this topic.
    pub topic: Option<TopicName>,
}

/// What a replica says: its digest, or that it has no such topic; or why it says nothing.
type Said = Result<Option<Vec<u8>>, String>;

impl Api {
    /// Compares the replicas of some or all shards.
    pub(super) async fn verify_replicas(
        &self,
        request: Request<public::VerifyReplicasRequest>,
    ) -> Result<Response<public::VerifyReplicasResponse>, Status> {
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        let context = Context::read(&request, PATIENCE).map_err(refuse)?;
        let context = Context {
            forwarded_by: None,
            ..context
        };
        let request = request.into_inner();
        let vertices = self.vertices(&request).map_err(refuse)?;
        let verifications = vertices
            .into_iter()
            .map(|vertex| self.verify_shard(vertex, &request.topic, &context));
        let shards: Vec<_> = stream::iter(verifications)
            .buffered(SHARDS_AT_ONCE)
            .collect()
            .await;
        let shards: Result<Vec<_>, Status> = shards.into_iter().collect();
        Ok(self.page(public::VerifyReplicasResponse { shards: shards? }))
    }

    /// Which shards are meant.
    fn vertices(&self, request: &public::VerifyReplicasRequest) -> Result<Vec<Vertex>, Fault> {
        let dimension = self.cluster().dimension();
        if let Some(topic) = convert::optional_name(&request.topic, "topic")? {
            if !request.vertices.is_empty() {
                let text = "a topic is of one vertex, which is not to be named";
                return Err(convert::invalid("vertices", text));
            }
            return Ok(vec![self.cluster().place(&topic)]);
        }
        if request.vertices.is_empty() {
            return Ok(dimension.vertices().collect());
        }
        let vertices = request
            .vertices
            .iter()
            .map(|text| convert::vertex(text, "vertices", self.cluster()));
        let mut vertices = vertices.collect::<Result<Vec<Vertex>, Fault>>()?;
        vertices.sort_unstable();
        vertices.dedup();
        Ok(vertices)
    }

    /// Has one shard compared by its leader. That there is none is told like a replica that does not answer.
    async fn verify_shard(
        &self,
        vertex: Vertex,
        topic: &str,
        context: &Context,
    ) -> Result<public::ShardVerification, Status> {
        let request = proto::VerifyShardRequest {
            shard: u32::from(vertex.index()),
            topic: topic.to_owned(),
        };
        let operation = VerifyShard::parse(&request, self.checks())
            .map_err(|fault| self.refuse(fault.into_status()))?;
        let problem = match Box::pin(self.run(&operation, &request, context)).await {
            Ok(answered) => match answered.answer.verification {
                Some(verification) => return Ok(verification),
                None => "the leader said nothing".to_owned(),
            },
            Err(failed) if failed.status.code() == Code::NotFound => return Err(self.fail(failed)),
            Err(failed) => failed.status.message().to_owned(),
        };
        Ok(public::ShardVerification {
            vertex: vertex.to_string(),
            problem,
            ..Default::default()
        })
    }

    /// Asks every replica, this peer's own too. The error is a topic that this peer's replica does not have.
    pub(super) async fn compare(
        &self,
        ask: &Ask,
        context: &Context,
    ) -> Result<public::ShardVerification, TopicName> {
        let peers = self.cluster().replicas(ask.vertex);
        let said = join_all(
            peers
                .iter()
                .map(|peer| self.ask_replica(*peer, ask, context)),
        )
        .await;
        let this = self.cluster().this();
        let mut replicas = Vec::with_capacity(peers.len());
        for (peer, said) in peers.into_iter().zip(said) {
            if let (Ok(None), Some(topic)) = (&said, &ask.topic)
                && peer == this
            {
                return Err(topic.clone());
            }
            replicas.push((peer, said));
        }
        let vertex = |peer| answer::bits(self.cluster(), peer);
        Ok(public::ShardVerification {
            vertex: ask.vertex.to_string(),
            index: ask.index.0,
            is_consistent: is_consistent(&replicas),
            replicas: judge(replicas, vertex),
            problem: String::new(),
        })
    }

    async fn ask_replica(&self, peer: PeerId, ask: &Ask, context: &Context) -> Said {
        let failure = if peer == self.cluster().this() {
            match self.digest_here(ask, context.deadline).await {
                Ok(digest) => return Ok(digest.map(|digest| digest.0.to_vec())),
                Err(failure) => failure,
            }
        } else {
            let request = proto::DigestRequest {
                shard: u32::from(ask.vertex.index()),
                index: ask.index.0,
                topic: ask
                    .topic
                    .as_ref()
                    .map_or_else(String::new, ToString::to_string),
            };
            let who = (&self.parts.peers, self.cluster().this(), peer);
            match channel::ask::<_, proto::DigestResponse>(who, DIGEST_PATH, request, context).await
            {
                Ok(said) => {
                    return Ok(Some(said.digest.to_vec()).filter(|digest| !digest.is_empty()));
                }
                Err(failure) => failure,
            }
        };
        Err(match failure {
            Failure::Final(status)
            | Failure::Elsewhere(status)
            | Failure::NoQuorum(status)
            | Failure::Damaged(status) => status.message().to_owned(),
            Failure::NotLeader(_) => "it has no replica of the shard".to_owned(),
            Failure::Unreached => "it cannot be reached".to_owned(),
            Failure::Unknown => "it did not answer in time".to_owned(),
        })
    }

    /// Answers a peer with the digest of this peer's own replica.
    pub(super) async fn digest(
        &self,
        mut request: Request<proto::DigestRequest>,
    ) -> Result<Response<proto::DigestResponse>, Status> {
        self.recognise(&mut request)?;
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        let context = Context::read(&request, PATIENCE).map_err(refuse)?;
        let request = request.into_inner();
        let ask = Ask {
            vertex: convert::shard(request.shard, self.cluster()).map_err(refuse)?,
            index: LogIndex(request.index),
            topic: convert::optional_name(&request.topic, "topic")
                .map_err(refuse)?
                .map(TopicName),
        };
        let digest = match self.digest_here(&ask, context.deadline).await {
            Ok(digest) => digest.map_or_else(Vec::new, |digest| digest.0.to_vec()),
            Err(
                Failure::Final(status)
                | Failure::Elsewhere(status)
                | Failure::NoQuorum(status)
                | Failure::Damaged(status),
            ) => return Err(self.refuse(status)),
            Err(_) => return Err(self.refuse(refusal::no_such_shard(request.shard))),
        };
        let mut response = Response::new(proto::DigestResponse {
            digest: digest.into(),
        });
        self.parts.peers.introduce(response.metadata_mut());
        Ok(response)
    }

    /// The digest of this peer's own replica; `None` when it has no such topic.
    async fn digest_here(&self, ask: &Ask, deadline: Instant) -> Result<Option<Digest>, Failure> {
        let Some(replica) = self.parts.replicas.get(ask.vertex) else {
            return Err(Failure::NotLeader(None));
        };
        let late = || {
            let text = format!(
                "it has not kept its state at entry {}, or not in time",
                ask.index
            );
            let fault = Fault::new(public::ErrorReason::DeadlineExceeded, text);
            Failure::Elsewhere(fault.into_status())
        };
        // Its turn comes first: who waits for that keeps nothing on the disk from being given back.
        let turn = Arc::clone(&self.digests).acquire_owned();
        let turn = tokio::time::timeout_at(deadline, turn).await;
        let turn = turn.map_err(|_| late())?;
        let Some(reader) = replica.frozen(ask.index, deadline).await else {
            return Err(late());
        };
        let (view, topic) = (View::new(ask.vertex, reader), ask.topic.clone());
        let read = move || {
            let _turn = turn;
            read(&view, topic.as_ref())
        };
        let read = tokio::task::spawn_blocking(read).await;
        let this = self.cluster().this();
        match read {
            Ok(Ok(digest)) => Ok(digest),
            Ok(Err(error)) => {
                let error = Arc::new(error);
                replica.blame(&error);
                Err(refusal::from_rows(ask.vertex, &error, this))
            }
            Err(error) => {
                let fault = Fault::new(public::ErrorReason::Internal, error.to_string());
                Err(Failure::Final(fault.into_status()))
            }
        }
    }
}

fn read(view: &View, topic: Option<&TopicName>) -> Result<Option<Digest>, shard::Error> {
    let Some(topic) = topic else {
        return view.digest().map(Some);
    };
    let row = view.topic(topic)?;
    row.map(|row| view.topic_digest(&row)).transpose()
}

/// All replicas said the same.
fn is_consistent(replicas: &[(PeerId, Said)]) -> bool {
    let first = replicas.first().map(|(_, said)| said);
    first.is_some_and(Result::is_ok) && replicas.iter().all(|(_, said)| Some(said) == first)
}

/// Which replicas agree with most of all there are.
fn judge(
    replicas: Vec<(PeerId, Said)>,
    vertex: impl Fn(PeerId) -> String,
) -> Vec<public::ReplicaDigest> {
    let mut votes: BTreeMap<Option<Vec<u8>>, usize> = BTreeMap::new();
    for said in replicas.iter().filter_map(|(_, said)| said.as_ref().ok()) {
        *votes.entry(said.clone()).or_default() += 1;
    }
    let majority = votes
        .into_iter()
        .find(|(_, votes)| 2 * votes > replicas.len());
    let majority = majority.map(|(digest, _)| digest);
    let digest = |(peer, said): (PeerId, Said)| {
        let is_equal = said
            .as_ref()
            .ok()
            .is_some_and(|said| Some(said) == majority.as_ref());
        let (digest, problem) = match said {
            Ok(Some(digest)) => (digest, String::new()),
            Ok(None) => (Vec::new(), "it has no such topic".to_owned()),
            Err(problem) => (Vec::new(), problem),
        };
        public::ReplicaDigest {
            peer: u32::from(peer.0),
            vertex: vertex(peer),
            digest: digest.into(),
            is_equal,
            problem,
        }
    };
    replicas.into_iter().map(digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(all: &[Result<Option<u8>, &str>]) -> Vec<(PeerId, Said)> {
        let said = |said: &Result<Option<u8>, &str>| match said {
            Ok(digest) => Ok(digest.map(|byte| vec![byte; 32])),
            Err(problem) => Err((*problem).to_owned()),
        };
        (0..).map(PeerId).zip(all.iter().map(said)).collect()
    }

    fn equal(all: &[Result<Option<u8>, &str>]) -> (bool, Vec<bool>) {
        let replicas = said(all);
        let is_consistent = is_consistent(&replicas);
        let judged = judge(replicas, |peer| peer.to_string());
        (
            is_consistent,
            judged.iter().map(|replica| replica.is_equal).collect(),
        )
    }

    #[test]
    fn replicas_are_equal_to_the_majority_of_all() {
        assert_eq!(equal(&[Ok(Some(1)); 4]), (true, vec![true; 4]));
        assert_eq!(
            equal(&[Ok(Some(1)), Ok(Some(2)), Ok(Some(1)), Ok(Some(1))]),
            (false, vec![true, false, true, true])
        );
        assert_eq!(
            equal(&[Ok(Some(1)), Ok(Some(2)), Ok(Some(1)), Ok(Some(2))]),
            (false, vec![false; 4])
        );
        assert_eq!(
            equal(&[Ok(Some(1)), Err("down"), Ok(Some(1)), Ok(Some(1))]),
            (false, vec![true, false, true, true])
        );
        assert_eq!(
            equal(&[Ok(Some(1)), Err("down"), Err("down")]),
            (false, vec![false; 3])
        );
        assert_eq!(equal(&[Err("down"), Err("down")]), (false, vec![false; 2]));
        assert_eq!(equal(&[]), (false, vec![]));
    }

    #[test]
    fn replica_without_the_topic_says_so() {
        let judged = judge(said(&[Ok(Some(1)), Ok(None), Ok(Some(1))]), |_| {
            String::new()
        });
        assert_eq!(judged[1].problem, "it has no such topic");
        assert!(judged[1].digest.is_empty() && !judged[1].is_equal);
    }
}
