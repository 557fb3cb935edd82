//! Calls that take more than one shard, or more than one way.
//!
//! Begin with [`Api::delete_subscriber`].

use std::time::Duration;

use cubecast_sdk::proto::v1 as public;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use super::api::Api;
use super::context::Context;
use super::forward::Failed;
use super::operation::{DeleteSubscriber, LocateTopic, Operation, RemoveSubscriptions};
use super::status::Fault;
use crate::proto::peer::v1 as proto;

/// How long the leader is looked for before any replica may tell where a topic lives.
const LOCATE_LEADER_MAX: Duration = Duration::from_millis(500);

impl Api {
    /// Removes the subscriptions at all shards, then the id at its own. When it fails in between, its repetition does the rest.
    pub(super) async fn delete_subscriber(
        &self,
        request: Request<public::DeleteSubscriberRequest>,
    ) -> Result<Response<public::DeleteSubscriberResponse>, Status> {
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        let operation =
            DeleteSubscriber::parse(request.get_ref(), self.checks()).map_err(refuse)?;
        let context = Context::read(&request, operation.patience()).map_err(refuse)?;
        let request = request.into_inner();
        let mut removed = 0;
        // The peer that forwarded the call has done this part.
        if context.forwarded_by.is_none() {
            removed = self
                .remove_subscriptions(&request.subscriber, &context)
                .await
                .map_err(|failed| self.fail(failed))?;
        }
        let result = Box::pin(self.run(&operation, &request, &context)).await;
        let mut response = self.respond(result, &operation)?;
        response.get_mut().subscriptions_removed = removed;
        Ok(response)
    }

    async fn remove_subscriptions(
        &self,
        subscriber: &str,
        context: &Context,
    ) -> Result<u64, Failed> {
        let mut removed = 0;
        for vertex in self.cluster().dimension().vertices() {
            let request = proto::RemoveSubscriptionsRequest {
                shard: u32::from(vertex.index()),
                subscriber: subscriber.to_owned(),
            };
            let refuse = |fault: Fault| Failed {
                status: fault.into_status(),
                peer: Some(self.cluster().this()),
            };
            let operation = RemoveSubscriptions::parse(&request, self.checks()).map_err(refuse)?;
            removed += Box::pin(self.run(&operation, &request, context))
                .await?
                .answer
                .removed;
        }
        Ok(removed)
    }

    /// Asks the leader; when there is none for a while, any replica.
    pub(super) async fn locate_topic(
        &self,
        request: Request<public::LocateTopicRequest>,
    ) -> Result<Response<public::LocateTopicResponse>, Status> {
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        let operation = LocateTopic::parse(request.get_ref(), self.checks()).map_err(refuse)?;
        let context = Context::read(&request, Duration::ZERO).map_err(refuse)?;
        let request = request.into_inner();
        let left = context.deadline.saturating_duration_since(Instant::now());
        let first = Context {
            deadline: Instant::now() + (left / 2).min(LOCATE_LEADER_MAX),
            ..context.clone()
        };
        match Box::pin(self.run(&operation, &request, &first)).await {
            Err(failed) if is_leaderless(&failed) && context.forwarded_by.is_none() => {
                let any = operation.of_any_replica();
                let result = Box::pin(self.run(&any, &request, &context)).await;
                self.respond(result, &any)
            }
            result => self.respond(result, &operation),
        }
    }
}

/// The call failed for want of a leader.
fn is_leaderless(failed: &Failed) -> bool {
    matches!(
        failed.status.code(),
        Code::Unavailable | Code::DeadlineExceeded
    )
}
