//! `cubecast.v1.PeerService`: what an application calls.
//!
//! Each method is one line: what a call does is in `operation/`, `list.rs`, `batch.rs`, `gather.rs`, `node.rs`, `own.rs`,
//! `outage.rs` and `stream/`. Begin with [`PeerApi`].

use cubecast_sdk::proto::v1 as proto;
use tonic::{Request, Response, Status, Streaming};

use super::api::Api;
use super::operation;
use super::stream::{Deliveries, PublishAnswers};
use super::wire;
use crate::proto::v1::peer_service_server::PeerService;

/// Serves an [`Api`].
#[derive(Debug, Clone)]
pub struct PeerApi(pub Api);

#[tonic::async_trait]
impl PeerService for PeerApi {
    type PublishStreamStream = PublishAnswers;
    type StreamPullStream = Deliveries;

    async fn create_publisher(
        &self,
        request: Request<proto::CreatePublisherRequest>,
    ) -> Result<Response<proto::CreatePublisherResponse>, Status> {
        self.0.call::<operation::CreatePublisher>(request).await
    }

    async fn delete_publisher(
        &self,
        request: Request<proto::DeletePublisherRequest>,
    ) -> Result<Response<proto::DeletePublisherResponse>, Status> {
        self.0.call::<operation::DeletePublisher>(request).await
    }

    async fn create_subscriber(
        &self,
        request: Request<proto::CreateSubscriberRequest>,
    ) -> Result<Response<proto::CreateSubscriberResponse>, Status> {
        self.0.call::<operation::CreateSubscriber>(request).await
    }

    async fn create_topic(
        &self,
        request: Request<proto::CreateTopicRequest>,
    ) -> Result<Response<proto::CreateTopicResponse>, Status> {
        self.0.call::<operation::CreateTopic>(request).await
    }

    async fn batch_create_topics(
        &self,
        request: Request<proto::BatchCreateTopicsRequest>,
    ) -> Result<Response<proto::BatchCreateTopicsResponse>, Status> {
        self.0.batch_create_topics(request).await
    }

    async fn update_topic(
        &self,
        request: Request<proto::UpdateTopicRequest>,
    ) -> Result<Response<proto::UpdateTopicResponse>, Status> {
        self.0.call::<operation::UpdateTopic>(request).await
    }

    async fn get_topic(
        &self,
        request: Request<proto::GetTopicRequest>,
    ) -> Result<Response<proto::GetTopicResponse>, Status> {
        self.0.call::<operation::GetTopic>(request).await
    }

    async fn delete_topic(
        &self,
        request: Request<proto::DeleteTopicRequest>,
    ) -> Result<Response<proto::DeleteTopicResponse>, Status> {
        self.0.call::<operation::DeleteTopic>(request).await
    }

    async fn publish(
        &self,
        request: Request<wire::PublishRequest>,
    ) -> Result<Response<proto::PublishResponse>, Status> {
        self.0.call::<operation::Publish>(request).await
    }

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<proto::SubscribeResponse>, Status> {
        self.0.call::<operation::Subscribe>(request).await
    }

    async fn unsubscribe(
        &self,
        request: Request<proto::UnsubscribeRequest>,
    ) -> Result<Response<proto::UnsubscribeResponse>, Status> {
        self.0.call::<operation::Unsubscribe>(request).await
    }

    async fn pull(
        &self,
        request: Request<proto::PullRequest>,
    ) -> Result<Response<wire::PullResponse>, Status> {
        self.0.call::<operation::Pull>(request).await
    }

    async fn acknowledge(
        &self,
        request: Request<proto::AcknowledgeRequest>,
    ) -> Result<Response<proto::AcknowledgeResponse>, Status> {
        self.0.call::<operation::Acknowledge>(request).await
    }

    async fn seek(
        &self,
        request: Request<proto::SeekRequest>,
    ) -> Result<Response<proto::SeekResponse>, Status> {
        self.0.call::<operation::Seek>(request).await
    }

    async fn list_publishers(
        &self,
        request: Request<proto::ListPublishersRequest>,
    ) -> Result<Response<proto::ListPublishersResponse>, Status> {
        self.0.list_publishers(request).await
    }

    async fn list_subscribers(
        &self,
        request: Request<proto::ListSubscribersRequest>,
    ) -> Result<Response<proto::ListSubscribersResponse>, Status> {
        self.0.list_subscribers(request).await
    }

    async fn list_topics(
        &self,
        request: Request<proto::ListTopicsRequest>,
    ) -> Result<Response<proto::ListTopicsResponse>, Status> {
        self.0.list_topics(request).await
    }

    async fn list_subscriptions(
        &self,
        request: Request<proto::ListSubscriptionsRequest>,
    ) -> Result<Response<proto::ListSubscriptionsResponse>, Status> {
        self.0.list_subscriptions(request).await
    }

    async fn delete_subscriber(
        &self,
        request: Request<proto::DeleteSubscriberRequest>,
    ) -> Result<Response<proto::DeleteSubscriberResponse>, Status> {
        self.0.delete_subscriber(request).await
    }

    async fn locate_topic(
        &self,
        request: Request<proto::LocateTopicRequest>,
    ) -> Result<Response<proto::LocateTopicResponse>, Status> {
        self.0.locate_topic(request).await
    }

    async fn get_node_status(
        &self,
        request: Request<proto::GetNodeStatusRequest>,
    ) -> Result<Response<proto::GetNodeStatusResponse>, Status> {
        self.0.get_node_status(request).await
    }

    async fn replica_pull(
        &self,
        request: Request<proto::ReplicaPullRequest>,
    ) -> Result<Response<wire::ReplicaPullResponse>, Status> {
        self.0.replica_pull(request).await
    }

    async fn sync_replica(
        &self,
        request: Request<proto::SyncReplicaRequest>,
    ) -> Result<Response<proto::SyncReplicaResponse>, Status> {
        self.0.sync_replica(request).await
    }

    async fn stop_node(
        &self,
        request: Request<proto::StopNodeRequest>,
    ) -> Result<Response<proto::StopNodeResponse>, Status> {
        self.0.stop_node(&request)
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<wire::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        self.0.publish_stream(request)
    }

    async fn stream_pull(
        &self,
        request: Request<Streaming<proto::StreamPullRequest>>,
    ) -> Result<Response<Self::StreamPullStream>, Status> {
        self.0.stream_pull(request).await
    }
}
