//! `cubecast.peer.v1.RaftService`: the other replicas' calls, given to the shard that they name.

use std::pin::Pin;

use cubecast_sdk::proto::v1::ErrorReason;
use futures::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::consensus::{Error, Group, MESSAGE_BYTES_MAX, SHARD_KEY};
use crate::link::Peers;
use crate::proto::peer::v1::raft_service_server::{RaftService, RaftServiceServer};
use crate::proto::peer::v1::{
    AppendRequest, AppendResponse, HeartbeatRequest, HeartbeatResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use crate::replica::Replicas;

use super::status::Fault;

/// Serves the shards of this peer to the peers that share them.
pub struct RaftApi {
    replicas: Replicas,
    peers: Peers,
}

/// The service for these replicas, with room for the largest append.
pub fn service(replicas: Replicas, peers: Peers) -> RaftServiceServer<RaftApi> {
    RaftServiceServer::new(RaftApi::new(replicas, peers))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

impl RaftApi {
    /// Serves these replicas to these peers.
    pub fn new(replicas: Replicas, peers: Peers) -> Self {
        Self { replicas, peers }
    }

    /// The group that a call is for, when its sender may make it.
    fn admit(&self, metadata: &MetadataMap, shard: u32) -> Result<Group, Status> {
        self.peers
            .recognise(metadata)
            .map_err(|error| Fault::new(ErrorReason::NotAPeer, error.to_string()).into_status())?;
        let replica = self.replicas.with_index(shard);
        replica
            .map(|replica| replica.group().clone())
            .ok_or_else(|| {
                Fault::new(
                    ErrorReason::NotReplica,
                    format!("this peer holds no replica of shard {shard}"),
                )
                .with("shard", shard)
                .into_status()
            })
    }

    /// An answer that says who gives it, so that the caller can check that too.
    fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        self.peers.identity().write(response.metadata_mut());
        response
    }
}

/// A peer only needs to know whether to try again: a stopped group is back after a restart, a malformed call stays malformed.
fn status(error: &Error) -> Status {
    let reason = match error {
        Error::Malformed { .. } => ErrorReason::RequestMalformed,
        _ => ErrorReason::Starting,
    };
    Fault::new(reason, error.to_string()).into_status()
}

#[tonic::async_trait]
impl RaftService for RaftApi {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<AppendResponse, Status>> + Send>>;

    async fn append(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let shard = request
            .metadata()
            .get(SHARD_KEY)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let group = self.admit(request.metadata(), shard.unwrap_or(u32::MAX))?;
        // When the connection breaks, the stream of requests ends: the leader opens another.
        let requests = request.into_inner().take_while(|message| {
            if let Err(error) = message {
                debug!(%error, "an append stream broke");
            }
            std::future::ready(message.is_ok())
        });
        let requests = requests.filter_map(|message| std::future::ready(message.ok()));
        let answers = group
            .append(requests)
            .map(|answer| answer.map_err(|error| status(&error)));
        Ok(self.answer(Box::pin(answers)))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let shard = request
            .get_ref()
            .append
            .as_ref()
            .map_or(u32::MAX, |append| append.shard);
        let group = self.admit(request.metadata(), shard)?;
        let response = group
            .heartbeat(request.into_inner())
            .await
            .map_err(|error| status(&error))?;
        Ok(self.answer(response))
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        let group = self.admit(request.metadata(), request.get_ref().shard)?;
        let response = group
            .vote(request.into_inner())
            .await
            .map_err(|error| status(&error))?;
        Ok(self.answer(response))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let group = self.admit(request.metadata(), request.get_ref().shard)?;
        let response = group
            .take_over(request.into_inner())
            .await
            .map_err(|error| status(&error))?;
        Ok(self.answer(response))
    }
}
