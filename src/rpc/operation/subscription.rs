//! Subscriptions and their cursors.

use cubecast_sdk::proto::v1 as proto;

use super::{Checks, Fate, Here, Operation};
use crate::broker::{Error, LEASE_DEFAULT};
use crate::cluster::Cluster;
use crate::rpc::api::Api;
use crate::rpc::status::Fault;
use crate::rpc::{answer, convert};
use crate::shard::{DeadLetters, Sharing, Start};
use crate::types::{Offset, SubscriberId, TopicName, Vertex};

/// More deliveries than anybody waits for.
const DELIVERIES_MAX: u32 = 1_000;

/// A topic and a subscriber.
fn parties(topic: &str, subscriber: &str) -> Result<(TopicName, SubscriberId), Fault> {
    Ok((
        TopicName(convert::name(topic, "topic")?),
        SubscriberId(convert::name(subscriber, "subscriber")?),
    ))
}

/// How consumers are to share a subscription to this topic.
fn sharing(sharing: &proto::Sharing, topic: &TopicName) -> Result<Sharing, Fault> {
    let letters = convert::optional_name(&sharing.dead_letter_topic, "shared.dead_letter_topic")?;
    let dead_letters = match (letters.map(TopicName), sharing.max_deliveries) {
        (None, 0) => None,
        (None, _) | (Some(_), 0) => {
            let text = "max_deliveries and dead_letter_topic are given both or not at all";
            return Err(convert::invalid("shared.max_deliveries", text));
        }
        (Some(_), count) if count > DELIVERIES_MAX => {
            let text = format!("{count} deliveries are more than {DELIVERIES_MAX}");
            let fault = convert::invalid("shared.max_deliveries", text);
            return Err(fault.with("limit", DELIVERIES_MAX));
        }
        (Some(letters), _) if letters == *topic => {
            let text = "the topic of the dead letters is another one";
            return Err(convert::invalid("shared.dead_letter_topic", text));
        }
        (Some(letters), max_deliveries) => Some(DeadLetters {
            max_deliveries,
            topic: letters,
        }),
    };
    let lease = convert::within(sharing.lease.as_ref(), "shared.lease", convert::LEASE)?;
    Ok(Sharing {
        lease: lease.unwrap_or(LEASE_DEFAULT),
        dead_letters,
    })
}

/// Gives a subscriber a cursor on a topic.
#[derive(Debug)]
pub struct Subscribe {
    topic: TopicName,
    subscriber: SubscriberId,
    start: Start,
    sharing: Option<Sharing>,
}

impl Operation for Subscribe {
    type Request = proto::SubscribeRequest;
    type Response = proto::SubscribeResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/Subscribe";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let (topic, subscriber) = parties(&request.topic, &request.subscriber)?;
        let shared = request.shared.as_ref();
        Ok(Self {
            sharing: shared.map(|shared| sharing(shared, &topic)).transpose()?,
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
            .subscribe(
                &here,
                (&self.topic, &self.subscriber),
                (self.start, self.sharing.clone()),
            )
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
