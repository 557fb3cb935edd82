//! `cubecast.peer.v1.DirectoryService`: what other peers ask about the shards of this one.
//!
//! Only peers of the cluster are answered, and nothing is passed on. Begin with [`DirectoryApi`].

use tonic::{Request, Response, Status};

use super::api::Api;
use super::operation::{
    CreateShardTopics, ListShard, ListShardSubscriptions, Operation, PublishLetter,
    RemoveSubscriptions, Resolve, ResolveTopic, ShardTail,
};
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::directory_service_server::DirectoryService;

/// Serves an [`Api`] to the other peers.
#[derive(Debug, Clone)]
pub struct DirectoryApi(pub Api);

impl DirectoryApi {
    async fn answer<O: Operation>(
        &self,
        request: Request<O::Request>,
    ) -> Result<Response<O::Response>, Status> {
        self.0.answer_peer::<O>(request).await
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

    async fn create_shard_topics(
        &self,
        request: Request<proto::CreateShardTopicsRequest>,
    ) -> Result<Response<proto::CreateShardTopicsResponse>, Status> {
        self.answer::<CreateShardTopics>(request).await
    }

    async fn remove_subscriptions(
        &self,
        request: Request<proto::RemoveSubscriptionsRequest>,
    ) -> Result<Response<proto::RemoveSubscriptionsResponse>, Status> {
        self.answer::<RemoveSubscriptions>(request).await
    }

    async fn publish_letter(
        &self,
        request: Request<proto::PublishLetterRequest>,
    ) -> Result<Response<proto::PublishLetterResponse>, Status> {
        self.answer::<PublishLetter>(request).await
    }

    async fn resolve_topic(
        &self,
        request: Request<proto::ResolveTopicRequest>,
    ) -> Result<Response<proto::ResolveTopicResponse>, Status> {
        self.answer::<ResolveTopic>(request).await
    }

    async fn shard_tail(
        &self,
        request: Request<proto::ShardTailRequest>,
    ) -> Result<Response<proto::ShardTailResponse>, Status> {
        self.answer::<ShardTail>(request).await
    }
}
