//! Publishing.

use cubecast_sdk::proto::v1 as proto;

use super::{Checks, Fate, Here, Operation};
use crate::broker::{self, AckLevel, Error};
use crate::cluster::Cluster;
use crate::rpc::api::Api;
use crate::rpc::convert::{self, Presence};
use crate::rpc::status::Fault;
use crate::rpc::{answer, message, wire};
use crate::types::{PublisherId, TopicName, Vertex};

/// Appends messages to a topic.
#[derive(Debug)]
pub struct Publish(broker::Publish);

impl Operation for Publish {
    type Request = wire::PublishRequest;
    type Response = proto::PublishResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/Publish";

    fn parse(request: &Self::Request, checks: Checks<'_>) -> Result<Self, Fault> {
        let head = &request.head;
        let topic = TopicName(convert::name(&head.topic, "topic")?);
        let publisher = convert::optional_publisher(&head.publisher, "publisher")?;
        let has_publisher = if publisher.is_some() {
            Presence::Present
        } else {
            Presence::Absent
        };
        let sequence = convert::sequence(head.sequence.as_ref(), has_publisher)?;
        let acks = convert::acks(head.acks)?;
        let batch = message::check(request.messages.clone(), checks.limits)?;
        Ok(Self(broker::Publish {
            topic,
            publisher,
            sequence,
            batch,
            acks,
        }))
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.0.topic.0)
    }

    fn fate(&self) -> Fate {
        if self.0.sequence.is_some() {
            Fate::Repeatable
        } else {
            Fate::Single
        }
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let published = api.broker().publish(&here, &self.0).await?;
        Ok(response(published, api.cluster(), &here))
    }
}

impl Publish {
    /// Who publishes, when that is said.
    pub fn publisher(&self) -> Option<&PublisherId> {
        self.0.publisher.as_ref()
    }

    /// Where to.
    pub fn topic(&self) -> &TopicName {
        &self.0.topic
    }

    /// As [`Operation::serve`], for a publisher that was found lately: proposed when it is first polled.
    pub async fn append(&self, api: &Api, here: Here<'_>) -> Result<proto::PublishResponse, Error> {
        let published = api.broker().append(&here, &self.0).await?;
        Ok(response(published, api.cluster(), &here))
    }
}

fn response(
    published: broker::Published,
    cluster: &Cluster,
    here: &Here<'_>,
) -> proto::PublishResponse {
    let reached = match published.reached {
        AckLevel::Owner => proto::AckLevel::Owner,
        AckLevel::Quorum => proto::AckLevel::Quorum,
        AckLevel::All => proto::AckLevel::All,
    };
    let stored_by = published.stored_by.into_iter();
    proto::PublishResponse {
        first_offset: published.first_offset.0,
        message_count: published.count,
        append_time: Some(answer::timestamp(published.append_time)),
        is_duplicate: published.is_duplicate,
        stored_by: stored_by.map(|peer| answer::bits(cluster, peer)).collect(),
        reached: reached.into(),
        placement: Some(answer::placement_here(cluster, here)),
    }
}
