//! Pulling.

use std::time::Duration;

use cubecast_sdk::proto::v1 as proto;

use super::{Checks, Fate, Here, Operation};
use crate::broker::{self, Acknowledgement, Error};
use crate::cluster::Cluster;
use crate::replica::Consistency;
use crate::router::Aim;
use crate::rpc::api::Api;
use crate::rpc::status::Fault;
use crate::rpc::{answer, convert, wire};
use crate::types::{Offset, SubscriberId, TopicName, Vertex};

/// Reads messages from a cursor on.
#[derive(Debug)]
pub struct Pull(broker::Pull);

impl Operation for Pull {
    type Request = proto::PullRequest;
    type Response = wire::PullResponse;
    const PATH: &'static str = "/cubecast.v1.PeerService/Pull";

    fn parse(request: &Self::Request, checks: Checks<'_>) -> Result<Self, Fault> {
        let consistency = convert::consistency(request.consistency)?;
        let acknowledgement = if request.auto_acknowledge {
            Acknowledgement::Pull
        } else {
            Acknowledgement::Caller
        };
        if consistency == Consistency::Eventual && acknowledgement == Acknowledgement::Pull {
            return Err(convert::invalid(
                "auto_acknowledge",
                "auto_acknowledge needs the leader, so not with EVENTUAL",
            ));
        }
        Ok(Self(broker::Pull {
            topic: TopicName(convert::name(&request.topic, "topic")?),
            subscriber: SubscriberId(convert::name(&request.subscriber, "subscriber")?),
            count_max: convert::pull_count(request.max_messages, checks.limits),
            bytes_max: convert::pull_bytes(request.max_bytes, checks.limits),
            wait: convert::wait(request.wait.as_ref(), checks.limits)?,
            acknowledge_to: request.acknowledge_to.map(Offset),
            acknowledgement,
            consistency,
        }))
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.0.topic.0)
    }

    fn aim(&self) -> Aim {
        // Only the leader can acknowledge.
        if self.0.acknowledge_to.is_some() {
            Aim::Leader
        } else {
            super::topic::aim(self.0.consistency)
        }
    }

    fn fate(&self) -> Fate {
        match (self.0.acknowledgement, self.0.acknowledge_to) {
            (Acknowledgement::Pull, _) => Fate::Single,
            (Acknowledgement::Caller, Some(_)) => Fate::Repeatable,
            (Acknowledgement::Caller, None) => Fate::Read,
        }
    }

    fn patience(&self) -> Duration {
        self.0.wait
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let pulled = api.broker().pull(&here, &self.0).await?;
        Ok(wire::PullResponse {
            batches: pulled.batches.into_iter().map(answer::batch).collect(),
            tail: wire::PullTail {
                next_offset: pulled.next_offset.0,
                cursor: pulled.cursor.0,
                head_offset: pulled.head_offset.0,
                source: Some(answer::source(api.cluster(), &here, pulled.freshness)),
                missed: pulled.missed,
            },
        })
    }

    fn note(response: &mut Self::Response, text: String) {
        if let Some(source) = &mut response.tail.source {
            source.note = text;
            source.is_owner_unreached = true;
        }
    }
}
