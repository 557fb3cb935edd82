//! `cubecast.v1.ClusterService`: what an operator calls.
//!
//! Each method is one line: what a call does is in `node.rs`, `watch.rs`, `fault.rs` and `verify.rs`. Begin with [`ClusterApi`].

use cubecast_sdk::proto::v1 as proto;
use tonic::{Request, Response, Status};

use super::api::Api;
use super::refusal;
use super::watch::Changes;
use crate::proto::v1::cluster_service_server::ClusterService;

/// Serves an [`Api`].
#[derive(Debug, Clone)]
pub struct ClusterApi(pub Api);

#[tonic::async_trait]
impl ClusterService for ClusterApi {
    type WatchClusterStream = Changes;

    async fn get_cluster(
        &self,
        _: Request<proto::GetClusterRequest>,
    ) -> Result<Response<proto::GetClusterResponse>, Status> {
        Ok(self.0.get_cluster())
    }

    async fn watch_cluster(
        &self,
        _: Request<proto::WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        self.0.watch_cluster()
    }

    async fn join_cluster(
        &self,
        _: Request<proto::JoinClusterRequest>,
    ) -> Result<Response<proto::JoinClusterResponse>, Status> {
        Err(self.0.refuse(refusal::not_implemented("JoinCluster")))
    }

    async fn leave_cluster(
        &self,
        _: Request<proto::LeaveClusterRequest>,
    ) -> Result<Response<proto::LeaveClusterResponse>, Status> {
        Err(self.0.refuse(refusal::not_implemented("LeaveCluster")))
    }

    async fn move_vertex(
        &self,
        _: Request<proto::MoveVertexRequest>,
    ) -> Result<Response<proto::MoveVertexResponse>, Status> {
        Err(self.0.refuse(refusal::not_implemented("MoveVertex")))
    }

    async fn pin_topic(
        &self,
        _: Request<proto::PinTopicRequest>,
    ) -> Result<Response<proto::PinTopicResponse>, Status> {
        Err(self.0.refuse(refusal::not_implemented("PinTopic")))
    }

    async fn inject_fault(
        &self,
        request: Request<proto::InjectFaultRequest>,
    ) -> Result<Response<proto::InjectFaultResponse>, Status> {
        self.0.inject_fault(request)
    }

    async fn clear_faults(
        &self,
        request: Request<proto::ClearFaultsRequest>,
    ) -> Result<Response<proto::ClearFaultsResponse>, Status> {
        self.0.clear_faults(request)
    }

    async fn list_faults(
        &self,
        _: Request<proto::ListFaultsRequest>,
    ) -> Result<Response<proto::ListFaultsResponse>, Status> {
        self.0.list_faults()
    }

    async fn verify_replicas(
        &self,
        request: Request<proto::VerifyReplicasRequest>,
    ) -> Result<Response<proto::VerifyReplicasResponse>, Status> {
        self.0.verify_replicas(request).await
    }

    async fn snapshot(
        &self,
        _: Request<proto::SnapshotRequest>,
    ) -> Result<Response<proto::SnapshotResponse>, Status> {
        Err(self.0.refuse(refusal::not_implemented("Snapshot")))
    }
}
