//! `cubecast.peer.v1.VerifyService`: what other peers ask to compare replicas.
//!
//! Only peers of the cluster are answered, and nothing is passed on. Begin with [`VerifyApi`].

use tonic::{Request, Response, Status};

use super::api::Api;
use super::operation::VerifyShard;
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::verify_service_server::VerifyService;

/// Serves an [`Api`] to the other peers.
#[derive(Debug, Clone)]
pub struct VerifyApi(pub Api);

#[tonic::async_trait]
impl VerifyService for VerifyApi {
    async fn verify_shard(
        &self,
        request: Request<proto::VerifyShardRequest>,
    ) -> Result<Response<proto::VerifyShardResponse>, Status> {
        self.0.answer_peer::<VerifyShard>(request).await
    }

    async fn digest(
        &self,
        request: Request<proto::DigestRequest>,
    ) -> Result<Response<proto::DigestResponse>, Status> {
        self.0.digest(request).await
    }
}
