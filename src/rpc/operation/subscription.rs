//! Subscriptions and their cursors.

use cubecast_sdk::proto::v1 as proto;

use super::{Checks, Fate, Here, Operation};
use crate::broker::Error;
use crate::cluster::Cluster;
use crate::rpc::api::Api;
use crate::rpc::status::Fault;
use crate::rpc::{answer, convert};
use crate::shard::Start;
use crate::types::{Offset, SubscriberId, TopicName, Vertex};

/// A topic and a subscriber.
fn parties(topic: &str, subscriber: &str) -> Result<(TopicName, SubscriberId), Fault> {
    Ok((
        TopicName(convert::name(topic, "topic")?),
        SubscriberId(convert::name(subscriber, "subscriber")?),
    ))
}

/// Gives a subscriber a cursor on a topic.
#[derive(Debug)]
pub struct Subscribe {
    topic: TopicName,
    subscriber: SubscriberId,
    start: Start,
}

impl Operation for Subscribe {
    type Request = proto::SubscribeRequest;
    type Response = proto::SubscribeResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/Subscribe";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let (topic, subscriber) = parties(&request.topic, &request.subscriber)?;
        Ok(Self {
            topic,
            subscriber,
            start: convert::optional_start(request.start.as_ref())?,
        })
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.topic.0)
    }

    fn fate(&self) -> Fate {
        Fate::Repeatable
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let subscribed = api
            .broker()
            .subscribe(&here, (&self.topic, &self.subscriber), self.start)
            .await?;
        Ok(proto::SubscribeResponse {
            subscription: Some(answer::subscription(
                &subscribed.subscription,
                subscribed.head_offset,
            )),
            is_existing: subscribed.is_existing,
            placement: Some(answer::placement_here(api.cluster(), &here)),
        })
    }
}

/// Removes a subscription.
#[derive(Debug)]
pub struct Unsubscribe {
    topic: TopicName,
    subscriber: SubscriberId,
}

impl Operation for Unsubscribe {
    type Request = proto::UnsubscribeRequest;
    type Response = proto::UnsubscribeResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/Unsubscribe";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let (topic, subscriber) = parties(&request.topic, &request.subscriber)?;
        Ok(Self { topic, subscriber })
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.topic.0)
    }

    fn fate(&self) -> Fate {
        Fate::Single
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        api.broker()
            .unsubscribe(&here, &self.topic, &self.subscriber)
            .await?;
        Ok(proto::UnsubscribeResponse {})
    }
}

/// Moves a cursor forward.
#[derive(Debug)]
pub struct Acknowledge {
    topic: TopicName,
    subscriber: SubscriberId,
    next_offset: Offset,
}

impl Operation for Acknowledge {
    type Request = proto::AcknowledgeRequest;
    type Response = proto::AcknowledgeResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/Acknowledge";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let (topic, subscriber) = parties(&request.topic, &request.subscriber)?;
        Ok(Self {
            topic,
            subscriber,
            next_offset: Offset(request.next_offset),
        })
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.topic.0)
    }

    fn fate(&self) -> Fate {
        Fate::Repeatable
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let cursor = api
            .broker()
            .acknowledge(&here, &self.topic, &self.subscriber, self.next_offset)
            .await?;
        Ok(proto::AcknowledgeResponse { cursor: cursor.0 })
    }
}

/// Moves a cursor anywhere.
#[derive(Debug)]
pub struct Seek {
    topic: TopicName,
    subscriber: SubscriberId,
    start: Start,
}

impl Operation for Seek {
    type Request = proto::SeekRequest;
    type Response = proto::SeekResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/Seek";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let (topic, subscriber) = parties(&request.topic, &request.subscriber)?;
        Ok(Self {
            topic,
            subscriber,
            start: convert::start(request.start.as_ref())?,
        })
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.topic.0)
    }

    fn fate(&self) -> Fate {
        Fate::Repeatable
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let cursor = api
            .broker()
            .seek(&here, &self.topic, &self.subscriber, self.start)
            .await?;
        Ok(proto::SeekResponse { cursor: cursor.0 })
    }
}
