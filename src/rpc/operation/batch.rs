//! The part of a batch of new topics that one shard does.

use cubecast_sdk::proto::v1 as public;

use super::{Checks, Fate, Here, Operation};
use crate::broker::{self, Error};
use crate::cluster::Cluster;
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::shard_topic_creation::Result as Creation;
use crate::rpc::api::Api;
use crate::rpc::refusal::from_refusal;
use crate::rpc::status::Fault;
use crate::rpc::{answer, convert};
use crate::shard::NewTopic;
use crate::types::{PublisherId, TopicName, Vertex};

/// Creates topics of one shard.
#[derive(Debug)]
pub struct CreateShardTopics {
    vertex: Vertex,
    create: broker::CreateTopics,
}

/// Checks one topic of a batch.
pub fn new_topic(topic: &public::TopicToCreate) -> Result<NewTopic, Fault> {
    Ok(NewTopic {
        topic: TopicName(convert::name(&topic.topic, "topic")?),
        retention: convert::retention(topic.retention.as_ref())?,
    })
}

impl Operation for CreateShardTopics {
    type Request = proto::CreateShardTopicsRequest;
    type Response = proto::CreateShardTopicsResponse;
    const PATH: &'static str = "/cubecast.peer.v1.DirectoryService/CreateShardTopics";

    fn parse(request: &Self::Request, checks: Checks<'_>) -> Result<Self, Fault> {
        convert::batch_count(request.topics.len())?;
        let vertex = convert::shard(request.shard, checks.cluster)?;
        let topics: Result<Vec<NewTopic>, Fault> = request.topics.iter().map(new_topic).collect();
        Ok(Self {
            vertex,
            create: broker::CreateTopics {
                topics: topics?,
                creator: convert::optional_name(&request.publisher, "publisher")?.map(PublisherId),
                request_id: convert::request_id(&request.request_id)?,
            },
        })
    }

    fn vertex(&self, _: &Cluster) -> Vertex {
        self.vertex
    }

    fn fate(&self) -> Fate {
        if self.create.request_id.is_some() {
            Fate::Repeatable
        } else {
            Fate::Single
        }
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let created = api
            .broker()
            .create_topics(&here, self.create.clone())
            .await?;
        let owner = here.replica.shard();
        let results = created.into_iter().map(|created| {
            let result = match created {
                Ok(topic) => Creation::Created(answer::topic(topic, owner)),
                Err(refusal) => Creation::Error(from_refusal(&refusal).into_part()),
            };
            proto::ShardTopicCreation {
                result: Some(result),
            }
        });
        Ok(proto::CreateShardTopicsResponse {
            results: results.collect(),
        })
    }
}
