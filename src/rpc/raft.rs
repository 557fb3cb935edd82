//! `cubecast.peer.v1.RaftService`: the other replicas' calls, given to the shard that they name.

use std::pin::Pin;
use std::str::FromStr;

use cubecast_sdk::proto::v1::ErrorReason;
use futures::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::consensus::{Error, Group, MESSAGE_BYTES_MAX, SHARD_KEY, TARGET_KEY};
use crate::link::{self, Caller, Peers};
use crate::proto::peer::v1::raft_service_server::{RaftService, RaftServiceServer};
use crate::proto::peer::v1::{
    AdmitRequest, AdmitResponse, AppendRequest, AppendResponse, GreetRequest, GreetResponse,
    HeartbeatRequest, HeartbeatResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    StandingRequest, StandingResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use crate::replica::{Replica, Replicas};

use super::status::Fault;

/// The groups that run on this peer. They come and go.
pub trait Groups: Send + Sync + 'static {
    /// The group of the shard whose vertex has this index.
    fn group(&self, shard: u32) -> Option<Group>;

    /// All of them.
    fn groups(&self) -> Vec<Group>;
}

impl Groups for Replicas {
    fn group(&self, shard: u32) -> Option<Group> {
        let replica = self.with_index(shard)?;
        replica.group()
    }

    fn groups(&self) -> Vec<Group> {
        let replicas = self.all();
        let groups = replicas.iter().filter_map(Replica::group);
        groups.collect()
    }
}

/// Serves the shards of this peer to the peers that share them.
pub struct RaftApi {
    groups: Box<dyn Groups>,
    peers: Peers,
}

/// The service for these groups, with room for the largest append.
pub fn service(groups: impl Groups, peers: Peers) -> RaftServiceServer<RaftApi> {
    RaftServiceServer::new(RaftApi::new(groups, peers))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

impl RaftApi {
    /// Serves these groups to these peers.
    pub fn new(groups: impl Groups, peers: Peers) -> Self {
        let groups = Box::new(groups);
        Self { groups, peers }
    }

    /// The group that a call is for, when its sender may make it and means this life of the replica.
    fn admit(&self, metadata: &MetadataMap, shard: Option<u32>) -> Result<Group, Status> {
        self.recognise(metadata)?;
        let group = self.group(shard)?;
        let target = number(metadata, TARGET_KEY).unwrap_or(0);
        group.check_target(target).map_err(|error| status(&error))?;
        Ok(group)
    }

    fn recognise(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let caller = self.peers.recognise(metadata);
        caller.map_err(|error| not_a_peer(&error))
    }

    fn group(&self, shard: Option<u32>) -> Result<Group, Status> {
        let shard = shard.unwrap_or(u32::MAX);
        self.groups.group(shard).ok_or_else(|| {
            Fault::new(
                ErrorReason::NotReplica,
                format!("this peer runs no replica of shard {shard} now"),
            )
            .with("shard", shard)
            .into_status()
        })
    }

    /// An answer that says who gives it, so that the caller can check that too.
    fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        self.peers.introduce(response.metadata_mut());
        response
    }
}

fn not_a_peer(error: &link::Error) -> Status {
    Fault::new(ErrorReason::NotAPeer, error.to_string()).into_status()
}

fn number<T: FromStr>(metadata: &MetadataMap, key: &'static str) -> Option<T> {
    metadata.get(key)?.to_str().ok()?.parse().ok()
}

/// The messages of a stream up to where it breaks: then the connection is gone, and the sender opens another.
fn whole<T>(stream: Streaming<T>) -> impl Stream<Item = T> + Send
where
    T: Send + 'static,
{
    let messages = stream.take_while(|message| {
        if let Err(error) = message {
            debug!(%error, "a stream of another peer broke");
        }
        std::future::ready(message.is_ok())
    });
    messages.filter_map(|message| std::future::ready(message.ok()))
}

/// A peer only needs to know whether to try again: a stopped group is back after a restart, a malformed call stays malformed.
fn status(error: &Error) -> Status {
    let reason = match error {
        Error::Malformed { .. } => ErrorReason::RequestMalformed,
        Error::OtherLife { .. } => ErrorReason::NotReplica,
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
        let shard = number(request.metadata(), SHARD_KEY);
        let group = self.admit(request.metadata(), shard)?;
        group.check_room().map_err(|error| status(&error))?;
        let requests = whole(request.into_inner());
        let answers = group
            .append(requests)
            .map(|answer| answer.map_err(|error| status(&error)));
        Ok(self.answer(Box::pin(answers)))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let shard = request.get_ref().append.as_ref().map(|append| append.shard);
        let group = self.admit(request.metadata(), shard)?;
        let response = group
            .heartbeat(request.into_inner())
            .await
            .map_err(|error| status(&error))?;
        Ok(self.answer(response))
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        let group = self.admit(request.metadata(), Some(request.get_ref().shard))?;
        let response = group
            .vote(request.into_inner())
            .await
            .map_err(|error| status(&error))?;
        Ok(self.answer(response))
    }

    async fn standing(
        &self,
        request: Request<StandingRequest>,
    ) -> Result<Response<StandingResponse>, Status> {
        let group = self.admit(request.metadata(), Some(request.get_ref().shard))?;
        let response = group
            .tell_standing()
            .await
            .map_err(|error| status(&error))?;
        Ok(self.answer(response))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let group = self.admit(request.metadata(), Some(request.get_ref().shard))?;
        let response = group
            .take_over(request.into_inner())
            .await
            .map_err(|error| status(&error))?;
        Ok(self.answer(response))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<InstallSnapshotRequest>>,
    ) -> Result<Response<InstallSnapshotResponse>, Status> {
        let shard = number(request.metadata(), SHARD_KEY);
        let group = self.admit(request.metadata(), shard)?;
        group.check_room().map_err(|error| status(&error))?;
        let response = group
            .install_snapshot(whole(request.into_inner()))
            .await
            .map_err(|error| status(&error))?;
        Ok(self.answer(response))
    }

    async fn admit(
        &self,
        request: Request<AdmitRequest>,
    ) -> Result<Response<AdmitResponse>, Status> {
        let caller = self.recognise(request.metadata())?;
        let group = self.group(Some(request.get_ref().shard))?;
        let response = group
            .answer_admission(request.into_inner(), caller.peer)
            .await;
        Ok(self.answer(response))
    }

    /// Any life of a peer may ask: it is about to find out which one it is.
    async fn greet(
        &self,
        request: Request<GreetRequest>,
    ) -> Result<Response<GreetResponse>, Status> {
        let caller = self.peers.glimpse(request.metadata());
        let peer = caller.map_err(|error| not_a_peer(&error))?.peer;
        let known = self.peers.acquaintance(peer);
        let groups = self.groups.groups();
        let highest = groups
            .iter()
            .filter_map(|group| group.highest_incarnation(peer));
        let highest_incarnation = highest.max().map(|incarnation| incarnation.0);
        let directory = known.map(|known| known.directory.to_be_bytes().to_vec());
        Ok(self.answer(GreetResponse {
            known_directory: directory.unwrap_or_default().into(),
            known_incarnation: known.map(|known| known.incarnation.0),
            highest_incarnation,
        }))
    }
}
