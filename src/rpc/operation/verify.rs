//! Comparing the replicas of one shard.

use cubecast_sdk::proto::v1 as public;

use super::{Checks, Fate, Here, Operation};
use crate::broker::Error;
use crate::cluster::Cluster;
use crate::proto::peer::v1 as proto;
use crate::rpc::api::Api;
use crate::rpc::convert;
use crate::rpc::status::Fault;
use crate::rpc::verify;
use crate::shard::Refusal;
use crate::types::{TopicName, Vertex};

/// Compares the replicas of a shard, at its leader.
#[derive(Debug)]
pub struct VerifyShard {
    vertex: Vertex,
    topic: Option<TopicName>,
}

impl Operation for VerifyShard {
    type Request = proto::VerifyShardRequest;
    type Response = proto::VerifyShardResponse;
    const PATH: &'static str = "/cubecast.peer.v1.VerifyService/VerifyShard";

    fn parse(request: &Self::Request, checks: Checks<'_>) -> Result<Self, Fault> {
        Ok(Self {
            vertex: convert::shard(request.shard, checks.cluster)?,
            topic: convert::optional_name(&request.topic, "topic")?.map(TopicName),
        })
    }

    fn vertex(&self, _: &Cluster) -> Vertex {
        self.vertex
    }

    fn fate(&self) -> Fate {
        // A barrier more changes nothing that anybody could see.
        Fate::Repeatable
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let index = api.broker().barrier(&here).await?;
        let ask = verify::Ask {
            vertex: self.vertex,
            index,
            topic: self.topic.clone(),
        };
        let verification = api
            .compare(&ask, here.directory.context)
            .await
            .map_err(|topic| Refusal::TopicNotFound { topic })?;
        Ok(proto::VerifyShardResponse {
            verification: Some::<public::ShardVerification>(verification),
        })
    }
}
