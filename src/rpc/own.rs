//! What is asked of this peer's own replica and of no other; never forwarded.
//!
//! Begin with [`Api::replica_pull`].

use std::time::Duration;

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::ErrorReason;
use cubecast_sdk::proto::v1::sync_replica_request::Shard;
use tonic::{Request, Response, Status};

use super::api::{Api, Names};
use super::context::Context;
use super::operation::{Here, Operation, ShardTail};
use super::status::Fault;
use super::{answer, convert, refusal, wire};
use crate::broker::{Freshness, ReplicaPull};
use crate::proto::peer::v1 as peer_proto;
use crate::replica::Replica;
use crate::types::{LogIndex, Offset, TopicName, Vertex};

/// What a SyncReplica without a deadline gets beyond the default: a replica that is made again takes its time.
const SYNC_PATIENCE: Duration = Duration::from_secs(50);

impl Api {
    /// Reads a topic from this peer's replica.
    pub(super) async fn replica_pull(
        &self,
        request: Request<proto::ReplicaPullRequest>,
    ) -> Result<Response<wire::ReplicaPullResponse>, Status> {
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        let context = Context::read(&request, Duration::ZERO).map_err(refuse)?;
        let request = request.into_inner();
        let limits = &self.parts.limits;
        let pull = ReplicaPull {
            topic: TopicName(convert::name(&request.topic, "topic").map_err(refuse)?),
            first: request.first_offset.map(Offset),
            count_max: convert::pull_count(request.max_messages, limits),
            bytes_max: convert::pull_bytes(request.max_bytes, limits),
        };
        let (cluster, vertex) = (self.cluster(), self.cluster().place(&pull.topic.0));
        let replica = self.own_replica(vertex).map_err(refuse)?;
        let directory = Names {
            api: self,
            context: &context,
        };
        let here = Here {
            replica: &replica,
            directory: &directory,
            deadline: context.deadline,
        };
        let pulled = self.broker().replica_pull(&here, &pull).await;
        let pulled = pulled.map_err(|error| {
            let failure = refusal::failure(error, cluster.this());
            self.refuse(refusal::of_own_replica(failure, vertex))
        })?;
        let tail = wire::ReplicaPullTail {
            next_offset: pulled.next_offset.0,
            head_offset: pulled.head_offset.0,
            source: Some(self.own_source(&here, pulled.freshness)),
            placement: Some(answer::placement(cluster, vertex, pulled.leader)),
        };
        Ok(self.tagged(wire::ReplicaPullResponse {
            batches: pulled.batches.into_iter().map(answer::batch).collect(),
            tail,
        }))
    }

    /// As any read tells its source. That the owner did not answer needs no note: nobody asked it.
    fn own_source(&self, here: &Here<'_>, freshness: Freshness) -> proto::ReadSource {
        proto::ReadSource {
            note: String::new(),
            ..answer::source(self.cluster(), here, freshness)
        }
    }

    /// Waits until this peer's replica has all that is committed now.
    pub(super) async fn sync_replica(
        &self,
        request: Request<proto::SyncReplicaRequest>,
    ) -> Result<Response<proto::SyncReplicaResponse>, Status> {
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        let context = Context::read(&request, SYNC_PATIENCE).map_err(refuse)?;
        let vertex = self.asked_shard(request.get_ref()).map_err(refuse)?;
        let replica = self.own_replica(vertex).map_err(refuse)?;
        let before = replica.status().applied;
        let tail = self.shard_tail(vertex, &context).await?;
        if let Some(index) = tail {
            let caught_up = replica.catch_up(index, context.deadline).await;
            caught_up.map_err(|error| {
                let failure = refusal::from_replica(&error, self.cluster().this());
                self.refuse(refusal::of_own_replica(failure, vertex))
            })?;
        }
        // Entries count from 0.
        let count = |index: Option<LogIndex>| index.map_or(0, |index| index.0 + 1);
        Ok(self.tagged(proto::SyncReplicaResponse {
            status: Some(self.shard_status(&replica)),
            entries_received: count(tail).saturating_sub(count(before)),
        }))
    }

    /// How far the shard is committed, as its leader tells.
    async fn shard_tail(
        &self,
        vertex: Vertex,
        context: &Context,
    ) -> Result<Option<LogIndex>, Status> {
        let request = peer_proto::ShardTailRequest {
            shard: u32::from(vertex.index()),
        };
        let operation = ShardTail::parse(&request, self.checks())
            .map_err(|fault| self.refuse(fault.into_status()))?;
        // A call of its own: that this one may not be forwarded does not keep it from asking.
        let context = Context {
            forwarded_by: None,
            ..context.clone()
        };
        match Box::pin(self.run(&operation, &request, &context)).await {
            Ok(answered) => Ok(answered.answer.committed_index.map(LogIndex)),
            Err(failed) => Err(self.fail(failed)),
        }
    }

    fn asked_shard(&self, request: &proto::SyncReplicaRequest) -> Result<Vertex, Fault> {
        match &request.shard {
            Some(Shard::Topic(topic)) => Ok(self.cluster().place(&convert::name(topic, "topic")?)),
            Some(Shard::Vertex(text)) => convert::vertex(text, "vertex", self.cluster()),
            None => Err(convert::invalid(
                "shard",
                "neither a topic nor a vertex is given",
            )),
        }
    }

    /// This peer's replica of a shard.
    fn own_replica(&self, vertex: Vertex) -> Result<Replica, Fault> {
        self.parts.replicas.get(vertex).ok_or_else(|| {
            let replicas: Vec<String> = self
                .cluster()
                .replica_vertices(vertex)
                .iter()
                .map(|replica| replica.to_string())
                .collect();
            let replicas = replicas.join(",");
            let text = format!("this peer has no replica of shard {vertex}; {replicas} have");
            Fault::new(ErrorReason::NotReplica, text)
                .with("shard", vertex)
                .with("replicas", replicas)
        })
    }
}
