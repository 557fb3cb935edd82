//! What peers ask each other about one shard.

use cubecast_sdk::proto::v1 as public;

use super::{Checks, Fate, Here, Operation};
use crate::broker::{Error, Kind, SubscriptionsAsked, TopicsAsked};
use crate::cluster::Cluster;
use crate::proto::peer::v1 as proto;
use crate::replica::Consistency;
use crate::rpc::api::Api;
use crate::rpc::status::Fault;
use crate::rpc::{answer, convert};
use crate::types::{Name, PublisherId, SubscriberId, TopicName, Vertex};

fn count(limit: u32, checks: Checks<'_>) -> Result<usize, Fault> {
    match usize::try_from(limit.min(checks.limits.page_size_max)) {
        Ok(limit) if limit > 0 => Ok(limit),
        _ => Err(convert::invalid("limit", "limit is 0")),
    }
}

/// Tells whether an id exists.
#[derive(Debug)]
pub struct Resolve {
    /// What the id names.
    pub kind: Kind,
    /// The id.
    pub name: Name,
}

impl Operation for Resolve {
    type Request = proto::ResolveRequest;
    type Response = proto::ResolveResponse;
    const PATH: &'static str = "/cubecast.peer.v1.DirectoryService/Resolve";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let kind = match request.kind() {
            proto::NameKind::Publisher => Kind::Publisher,
            proto::NameKind::Subscriber => Kind::Subscriber,
            proto::NameKind::Topic | proto::NameKind::Unspecified => {
                return Err(convert::invalid(
                    "kind",
                    "kind is neither PUBLISHER nor SUBSCRIBER",
                ));
            }
        };
        Ok(Self {
            kind,
            name: convert::name(&request.name, "name")?,
        })
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.name)
    }

    fn fate(&self) -> Fate {
        Fate::Read
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let exists = api.broker().resolve(&here, self.kind, &self.name).await?;
        Ok(proto::ResolveResponse { exists })
    }
}

/// Lists the names of one kind in a shard.
#[derive(Debug)]
pub struct ListShard {
    vertex: Vertex,
    kind: Option<Kind>,
    after: Option<Name>,
    limit: usize,
    prefix: String,
    creator: Option<PublisherId>,
}

impl Operation for ListShard {
    type Request = proto::ListShardRequest;
    type Response = proto::ListShardResponse;
    const PATH: &'static str = "/cubecast.peer.v1.DirectoryService/ListShard";

    fn parse(request: &Self::Request, checks: Checks<'_>) -> Result<Self, Fault> {
        let kind = match request.kind() {
            proto::NameKind::Publisher => Some(Kind::Publisher),
            proto::NameKind::Subscriber => Some(Kind::Subscriber),
            proto::NameKind::Topic => None,
            proto::NameKind::Unspecified => {
                return Err(convert::invalid("kind", "kind is missing"));
            }
        };
        Ok(Self {
            vertex: convert::shard(request.shard, checks.cluster)?,
            kind,
            after: convert::optional_name(&request.after, "after")?,
            limit: count(request.limit, checks)?,
            prefix: convert::prefix(&request.prefix)?,
            creator: convert::optional_name(&request.publisher, "publisher")?.map(PublisherId),
        })
    }

    fn vertex(&self, _: &Cluster) -> Vertex {
        self.vertex
    }

    fn fate(&self) -> Fate {
        Fate::Read
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let (owner, after) = (self.vertex, self.after.clone());
        let mut response = proto::ListShardResponse::default();
        let Some(kind) = self.kind else {
            let (prefix, creator) = (self.prefix.clone(), self.creator.clone());
            let asked = TopicsAsked {
                prefix,
                creator,
                after: after.map(TopicName),
            };
            let page = api.broker().topics(&here, asked, self.limit).await?;
            response.topics = page
                .entries
                .into_iter()
                .map(|topic| answer::topic(topic, owner))
                .collect();
            response.resume_after = page
                .resume
                .map_or_else(String::new, |name| name.to_string());
            return Ok(response);
        };
        let page = api
            .broker()
            .identities(&here, (kind, self.prefix.clone()), after, self.limit)
            .await?;
        let found = page.entries.iter().map(|(name, created)| (name, *created));
        match kind {
            Kind::Publisher => {
                response.publishers = found
                    .map(|(name, created)| answer::publisher(name, created, owner))
                    .collect();
            }
            Kind::Subscriber => {
                response.subscribers = found
                    .map(|(name, created)| answer::subscriber(name, created, owner))
                    .collect();
            }
        }
        response.resume_after = page
            .resume
            .map_or_else(String::new, |name| name.to_string());
        Ok(response)
    }
}

/// Lists the subscriptions of a shard.
#[derive(Debug)]
pub struct ListShardSubscriptions {
    vertex: Vertex,
    asked: SubscriptionsAsked,
    limit: usize,
}

impl Operation for ListShardSubscriptions {
    type Request = proto::ListShardSubscriptionsRequest;
    type Response = proto::ListShardSubscriptionsResponse;
    const PATH: &'static str = "/cubecast.peer.v1.DirectoryService/ListShardSubscriptions";

    fn parse(request: &Self::Request, checks: Checks<'_>) -> Result<Self, Fault> {
        let after_topic =
            convert::optional_name(&request.after_topic, "after_topic")?.map(TopicName);
        let after_subscriber =
            convert::optional_name(&request.after_subscriber, "after_subscriber")?
                .map(SubscriberId);
        let after = after_topic.zip(after_subscriber);
        let topic = convert::optional_name(&request.topic, "topic")?.map(TopicName);
        let subscriber =
            convert::optional_name(&request.subscriber, "subscriber")?.map(SubscriberId);
        let (vertex, limit) = (
            convert::shard(request.shard, checks.cluster)?,
            count(request.limit, checks)?,
        );
        Ok(Self {
            vertex,
            asked: SubscriptionsAsked {
                topic,
                subscriber,
                after,
            },
            limit,
        })
    }

    fn vertex(&self, _: &Cluster) -> Vertex {
        self.vertex
    }

    fn fate(&self) -> Fate {
        Fate::Read
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let page = api
            .broker()
            .subscriptions(&here, self.asked.clone(), self.limit)
            .await?;
        let subscriptions: Vec<public::Subscription> = page
            .entries
            .iter()
            .map(|(subscription, head)| answer::subscription(subscription, *head))
            .collect();
        let (topic, subscriber) = page
            .resume
            .map_or_else(Default::default, |(topic, subscriber)| {
                (topic.to_string(), subscriber.to_string())
            });
        Ok(proto::ListShardSubscriptionsResponse {
            subscriptions,
            resume_after_topic: topic,
            resume_after_subscriber: subscriber,
        })
    }
}

/// Removes the subscriptions of a subscriber in a shard.
#[derive(Debug)]
pub struct RemoveSubscriptions {
    vertex: Vertex,
    subscriber: SubscriberId,
}

impl Operation for RemoveSubscriptions {
    type Request = proto::RemoveSubscriptionsRequest;
    type Response = proto::RemoveSubscriptionsResponse;
    const PATH: &'static str = "/cubecast.peer.v1.DirectoryService/RemoveSubscriptions";

    fn parse(request: &Self::Request, checks: Checks<'_>) -> Result<Self, Fault> {
        let subscriber = SubscriberId(convert::name(&request.subscriber, "subscriber")?);
        Ok(Self {
            vertex: convert::shard(request.shard, checks.cluster)?,
            subscriber,
        })
    }

    fn vertex(&self, _: &Cluster) -> Vertex {
        self.vertex
    }

    fn fate(&self) -> Fate {
        Fate::Repeatable
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let removed = api
            .broker()
            .remove_subscriptions(&here, &self.subscriber)
            .await?;
        Ok(proto::RemoveSubscriptionsResponse { removed })
    }
}

/// Tells how far a shard is committed.
#[derive(Debug)]
pub struct ShardTail {
    vertex: Vertex,
}

impl Operation for ShardTail {
    type Request = proto::ShardTailRequest;
    type Response = proto::ShardTailResponse;
    const PATH: &'static str = "/cubecast.peer.v1.DirectoryService/ShardTail";

    fn parse(request: &Self::Request, checks: Checks<'_>) -> Result<Self, Fault> {
        let vertex = convert::shard(request.shard, checks.cluster)?;
        Ok(Self { vertex })
    }

    fn vertex(&self, _: &Cluster) -> Vertex {
        self.vertex
    }

    fn fate(&self) -> Fate {
        Fate::Read
    }

    async fn serve(&self, _: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        here.replica
            .read(Consistency::Linearizable, here.deadline)
            .await?;
        let committed = here.replica.status().committed;
        Ok(proto::ShardTailResponse {
            committed_index: committed.map(|index| index.0),
        })
    }
}
