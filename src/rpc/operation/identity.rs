//! Publishers and subscribers.

use cubecast_sdk::proto::v1 as proto;

use super::{Checks, Fate, Here, Operation};
use crate::broker::{Error, Kind};
use crate::cluster::Cluster;
use crate::rpc::api::Api;
use crate::rpc::status::Fault;
use crate::rpc::{answer, convert};
use crate::types::{Name, RequestId, Vertex};

/// Makes a publisher known.
#[derive(Debug)]
pub struct CreatePublisher {
    publisher: Name,
    request_id: Option<RequestId>,
}

impl Operation for CreatePublisher {
    type Request = proto::CreatePublisherRequest;
    type Response = proto::CreatePublisherResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/CreatePublisher";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let publisher = convert::publisher(&request.publisher, "publisher")?;
        Ok(Self {
            publisher: publisher.0,
            request_id: convert::request_id(&request.request_id)?,
        })
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.publisher)
    }

    fn fate(&self) -> Fate {
        creation(self.request_id)
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let who = (Kind::Publisher, &self.publisher);
        let created = api
            .broker()
            .create_identity(&here, who, self.request_id)
            .await?;
        Ok(proto::CreatePublisherResponse {
            publisher: Some(answer::publisher(
                &self.publisher,
                created,
                here.replica.shard(),
            )),
            placement: Some(answer::placement_here(api.cluster(), &here)),
        })
    }
}

/// Forgets a publisher.
#[derive(Debug)]
pub struct DeletePublisher(Name);

impl Operation for DeletePublisher {
    type Request = proto::DeletePublisherRequest;
    type Response = proto::DeletePublisherResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/DeletePublisher";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        convert::name(&request.publisher, "publisher").map(Self)
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.0)
    }

    fn fate(&self) -> Fate {
        Fate::Single
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        api.broker()
            .delete_identity(&here, Kind::Publisher, &self.0)
            .await?;
        Ok(proto::DeletePublisherResponse {})
    }
}

/// Makes a subscriber known.
#[derive(Debug)]
pub struct CreateSubscriber {
    subscriber: Name,
    request_id: Option<RequestId>,
}

impl Operation for CreateSubscriber {
    type Request = proto::CreateSubscriberRequest;
    type Response = proto::CreateSubscriberResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/CreateSubscriber";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let subscriber = convert::name(&request.subscriber, "subscriber")?;
        Ok(Self {
            subscriber,
            request_id: convert::request_id(&request.request_id)?,
        })
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.subscriber)
    }

    fn fate(&self) -> Fate {
        creation(self.request_id)
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let who = (Kind::Subscriber, &self.subscriber);
        let created = api
            .broker()
            .create_identity(&here, who, self.request_id)
            .await?;
        Ok(proto::CreateSubscriberResponse {
            subscriber: Some(answer::subscriber(
                &self.subscriber,
                created,
                here.replica.shard(),
            )),
            placement: Some(answer::placement_here(api.cluster(), &here)),
        })
    }
}

/// Forgets a subscriber's id. Its subscriptions are removed before, at all shards, by the peer that took the call.
#[derive(Debug)]
pub struct DeleteSubscriber(Name);

impl Operation for DeleteSubscriber {
    type Request = proto::DeleteSubscriberRequest;
    type Response = proto::DeleteSubscriberResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/DeleteSubscriber";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        convert::name(&request.subscriber, "subscriber").map(Self)
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.0)
    }

    fn fate(&self) -> Fate {
        Fate::Single
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        api.broker()
            .delete_identity(&here, Kind::Subscriber, &self.0)
            .await?;
        Ok(proto::DeleteSubscriberResponse {
            subscriptions_removed: 0,
        })
    }
}

/// A creation that bears an id may be repeated.
fn creation(request_id: Option<RequestId>) -> Fate {
    if request_id.is_some() {
        Fate::Repeatable
    } else {
        Fate::Single
    }
}
