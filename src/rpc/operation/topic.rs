//! Topics.

use cubecast_sdk::proto::v1 as proto;

use super::{Checks, Fate, Here, Operation};
use crate::broker::{self, Error};
use crate::cluster::Cluster;
use crate::replica::Consistency;
use crate::router::Aim;
use crate::rpc::api::Api;
use crate::rpc::status::Fault;
use crate::rpc::{answer, convert};
use crate::types::{PublisherId, Retention, TopicName, Vertex};

/// Creates a topic.
#[derive(Debug)]
pub struct CreateTopic(broker::CreateTopic);

impl Operation for CreateTopic {
    type Request = proto::CreateTopicRequest;
    type Response = proto::CreateTopicResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/CreateTopic";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        Ok(Self(broker::CreateTopic {
            topic: TopicName(convert::name(&request.topic, "topic")?),
            creator: convert::optional_name(&request.publisher, "publisher")?.map(PublisherId),
            request_id: convert::request_id(&request.request_id)?,
            retention: convert::retention(request.retention.as_ref())?,
        }))
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.0.topic.0)
    }

    fn fate(&self) -> Fate {
        if self.0.request_id.is_some() {
            Fate::Repeatable
        } else {
            Fate::Single
        }
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let topic = api.broker().create_topic(&here, &self.0).await?;
        Ok(proto::CreateTopicResponse {
            topic: Some(answer::topic(topic, here.replica.shard())),
            placement: Some(answer::placement_here(api.cluster(), &here)),
        })
    }
}

/// Changes how long a topic keeps its messages.
#[derive(Debug)]
pub struct UpdateTopic {
    topic: TopicName,
    retention: Retention,
}

impl Operation for UpdateTopic {
    type Request = proto::UpdateTopicRequest;
    type Response = proto::UpdateTopicResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/UpdateTopic";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let topic = TopicName(convert::name(&request.topic, "topic")?);
        // Absent means that this part of the topic stays as it is, and there is no other part yet.
        if request.retention.is_none() {
            return Err(convert::invalid("retention", "there is nothing to update"));
        }
        Ok(Self {
            topic,
            retention: convert::retention(request.retention.as_ref())?,
        })
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.topic.0)
    }

    fn fate(&self) -> Fate {
        Fate::Repeatable
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let topic = api
            .broker()
            .set_retention(&here, &self.topic, self.retention)
            .await?;
        Ok(proto::UpdateTopicResponse {
            topic: Some(answer::topic(topic, here.replica.shard())),
            placement: Some(answer::placement_here(api.cluster(), &here)),
        })
    }
}

/// Deletes a topic.
#[derive(Debug)]
pub struct DeleteTopic(TopicName);

impl Operation for DeleteTopic {
    type Request = proto::DeleteTopicRequest;
    type Response = proto::DeleteTopicResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/DeleteTopic";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        convert::name(&request.topic, "topic")
            .map(TopicName)
            .map(Self)
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.0.0)
    }

    fn fate(&self) -> Fate {
        Fate::Single
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let id = api.broker().delete_topic(&here, &self.0).await?;
        Ok(proto::DeleteTopicResponse {
            topic_id: id.to_bits(),
        })
    }
}

/// Tells about a topic.
#[derive(Debug)]
pub struct GetTopic {
    topic: TopicName,
    consistency: Consistency,
}

impl Operation for GetTopic {
    type Request = proto::GetTopicRequest;
    type Response = proto::GetTopicResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/GetTopic";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        Ok(Self {
            topic: TopicName(convert::name(&request.topic, "topic")?),
            consistency: convert::consistency(request.consistency)?,
        })
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.topic.0)
    }

    fn aim(&self) -> Aim {
        aim(self.consistency)
    }

    fn fate(&self) -> Fate {
        Fate::Read
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let found = api
            .broker()
            .topic(&here, &self.topic, self.consistency)
            .await?;
        Ok(proto::GetTopicResponse {
            topic: Some(answer::topic(found.topic, here.replica.shard())),
            placement: Some(answer::placement_here(api.cluster(), &here)),
            source: Some(answer::source(api.cluster(), &here, found.freshness)),
        })
    }

    fn note(response: &mut Self::Response, text: String) {
        if let Some(source) = &mut response.source {
            source.note = text;
            source.is_owner_unreached = true;
        }
    }
}

/// Tells where a topic lives.
#[derive(Debug)]
pub struct LocateTopic {
    topic: TopicName,
    consistency: Consistency,
}

impl LocateTopic {
    /// The same, of any replica.
    pub fn of_any_replica(self) -> Self {
        Self {
            consistency: Consistency::Eventual,
            ..self
        }
    }
}

impl Operation for LocateTopic {
    type Request = proto::LocateTopicRequest;
    type Response = proto::LocateTopicResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/LocateTopic";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let topic = TopicName(convert::name(&request.topic, "topic")?);
        Ok(Self {
            topic,
            consistency: Consistency::Leader,
        })
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.topic.0)
    }

    fn aim(&self) -> Aim {
        aim(self.consistency)
    }

    fn fate(&self) -> Fate {
        Fate::Read
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let located = api
            .broker()
            .locate(&here, &self.topic, self.consistency)
            .await?;
        let (cluster, vertex, status) = (api.cluster(), here.replica.shard(), &located.status);
        let links = &api.parts.peers.links().now();
        let leader = status.leader;
        Ok(proto::LocateTopicResponse {
            topic: self.topic.to_string(),
            exists: located.topic.is_some(),
            topic_id: located.topic.map(|topic| topic.id.to_bits()),
            placement: Some(answer::placement(cluster, vertex, leader)),
            leader_address: leader
                .and_then(|leader| cluster.address(leader))
                .unwrap_or_default()
                .to_owned(),
            term: leader.map_or(0, |_| status.term.0),
            replicas: answer::replicas(answer::Sight { cluster, links }, vertex, status),
            source: Some(answer::source(cluster, &here, located.freshness)),
        })
    }

    fn note(response: &mut Self::Response, text: String) {
        if let Some(source) = &mut response.source {
            source.note = text;
            source.is_owner_unreached = true;
        }
    }
}

/// Which replica may serve a read.
pub(super) fn aim(consistency: Consistency) -> Aim {
    match consistency {
        Consistency::Leader | Consistency::Linearizable => Aim::Leader,
        Consistency::Eventual => Aim::Replica,
    }
}
