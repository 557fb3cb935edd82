//! `cubecast.peer.v1.DirectoryService`: what other peers ask about the shards of this one.
//!
//! Only peers of the cluster are answered, and nothing is passed on. Begin with [`DirectoryApi`].

use tonic::{Request, Response, Status};

use super::api::Api;
use super::operation::{
    ListShard, ListShardSubscriptions, Operation, RemoveSubscriptions, Resolve,
};
use super::{context, refusal};
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::directory_service_server::DirectoryService;

/// Serves an [`Api`] to the other peers.
#[derive(Debug, Clone)]
pub struct DirectoryApi(pub Api);

impl DirectoryApi {
    /// Answers a peer, from this peer's own replica or not at all.
    async fn answer<O: Operation>(
        &self,
        mut request: Request<O::Request>,
    ) -> Result<Response<O::Response>, Status> {
        let caller = self.0.parts.peers.recognise(request.metadata());
        let caller = caller.map_err(|error| self.0.refuse(refusal::not_a_peer(&error)))?;
        request
            .metadata_mut()
            .insert(context::FORWARDED_BY, caller.peer.0.into());
        let mut response = self.0.call::<O>(request).await?;
        self.0.parts.peers.identity().write(response.metadata_mut());
        Ok(response)
    }
}

#[tonic::async_trait]
impl DirectoryService for DirectoryApi {
    async fn resolve(
        &self,
        request: Request<proto::ResolveRequest>,
    ) -> Result<Response<proto::ResolveResponse>, Status> {
        self.answer::<Resolve>(request).await
    }

    async fn list_shard(
        &self,
        request: Request<proto::ListShardRequest>,
    ) -> Result<Response<proto::ListShardResponse>, Status> {
        self.answer::<ListShard>(request).await
    }

    async fn list_shard_subscriptions(
        &self,
        request: Request<proto::ListShardSubscriptionsRequest>,
    ) -> Result<Response<proto::ListShardSubscriptionsResponse>, Status> {
        self.answer::<ListShardSubscriptions>(request).await
    }

    async fn remove_subscriptions(
        &self,
        request: Request<proto::RemoveSubscriptionsRequest>,
    ) -> Result<Response<proto::RemoveSubscriptionsResponse>, Status> {
        self.answer::<RemoveSubscriptions>(request).await
    }
}
