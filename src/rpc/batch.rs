//! Many topics at once: the peer that was asked splits them by shard, has each shard's leader do its part, and joins what they tell.
//!
//! Parts are done at the same time, and one that fails says nothing about the others. Begin with [`Api::batch_create_topics`].

use std::collections::BTreeMap;

use cubecast_sdk::proto::v1 as public;
use cubecast_sdk::proto::v1::topic_creation::Result as Creation;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tonic::{Request, Response, Status};

use super::api::{Api, Names};
use super::context::Context;
use super::forward::{Answered, Failed, Failure};
use super::operation::{CreateShardTopics, Operation, new_topic};
use super::status::{self, Fault};
use super::{answer, convert, refusal};
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::shard_topic_creation::Result as ShardCreation;
use crate::types::{PublisherId, Vertex};

/// The topics of one shard.
struct Part {
    request: proto::CreateShardTopicsRequest,
    /// Where each stands in the batch.
    places: Vec<usize>,
}

impl Api {
    /// Creates many topics.
    pub(super) async fn batch_create_topics(
        &self,
        request: Request<public::BatchCreateTopicsRequest>,
    ) -> Result<Response<public::BatchCreateTopicsResponse>, Status> {
        let context = self.context(&request)?;
        let batch = request.into_inner();
        self.check_batch(&batch, &context)
            .await
            .map_err(|status| self.refuse(status))?;
        let mut results = vec![public::TopicCreation::default(); batch.topics.len()];
        let mut parts: FuturesUnordered<_> = self
            .split(batch, &mut results)
            .into_iter()
            // At most as many as there are shards, and topics.
            .map(|(vertex, part)| self.create_part(vertex, part, &context))
            .collect();
        while let Some(part) = parts.next().await {
            for (place, creation) in part {
                if let Some(result) = results.get_mut(place) {
                    result.result = Some(creation);
                }
            }
        }
        drop(parts);
        Ok(self.page(public::BatchCreateTopicsResponse { results }))
    }

    /// What concerns the batch as a whole. The publisher is asked for once, not by each shard.
    async fn check_batch(
        &self,
        batch: &public::BatchCreateTopicsRequest,
        context: &Context,
    ) -> Result<(), Status> {
        convert::batch_count(batch.topics.len()).map_err(Fault::into_status)?;
        convert::request_id(&batch.request_id).map_err(Fault::into_status)?;
        let publisher = convert::optional_name(&batch.publisher, "publisher");
        let Some(publisher) = publisher.map_err(Fault::into_status)?.map(PublisherId) else {
            return Ok(());
        };
        let names = Names { api: self, context };
        let found = self
            .broker()
            .require_publisher(&names, &publisher, context.deadline)
            .await;
        found.map_err(
            |error| match refusal::failure(error, self.cluster().this()) {
                Failure::Final(status) | Failure::Elsewhere(status) => status,
                other => Fault::new(
                    public::ErrorReason::Internal,
                    format!("a publisher was looked for: {other:?}"),
                )
                .into_status(),
            },
        )
    }

    /// The parts of a batch. A topic that is wrong in itself is in none of them, but told so at once.
    fn split(
        &self,
        batch: public::BatchCreateTopicsRequest,
        results: &mut [public::TopicCreation],
    ) -> BTreeMap<Vertex, Part> {
        let mut parts: BTreeMap<Vertex, Part> = BTreeMap::new();
        for ((place, topic), result) in batch.topics.into_iter().enumerate().zip(results) {
            let vertex = match new_topic(&topic) {
                Ok(topic) => self.cluster().place(&topic.topic.0),
                Err(fault) => {
                    result.result = Some(Creation::Error(fault.into_part()));
                    continue;
                }
            };
            let part = parts.entry(vertex).or_insert_with(|| Part {
                request: proto::CreateShardTopicsRequest {
                    shard: u32::from(vertex.index()),
                    topics: Vec::new(),
                    publisher: batch.publisher.clone(),
                    request_id: batch.request_id.clone(),
                },
                places: Vec::new(),
            });
            part.request.topics.push(topic);
            part.places.push(place);
        }
        parts
    }

    /// Has one shard's leader do its part.
    async fn create_part(
        &self,
        vertex: Vertex,
        part: Part,
        context: &Context,
    ) -> Vec<(usize, Creation)> {
        let Part { request, places } = part;
        let done = match CreateShardTopics::parse(&request, self.checks()) {
            Ok(operation) => Box::pin(self.run(&operation, &request, context)).await,
            Err(fault) => Err(Failed {
                status: fault.into_status(),
                peer: None,
            }),
        };
        match done {
            Ok(Answered { answer, peer, .. }) => {
                let placement = answer::placement(self.cluster(), vertex, Some(peer));
                let creation = |result: proto::ShardTopicCreation| match result.result {
                    Some(ShardCreation::Created(topic)) => {
                        Creation::Created(public::CreateTopicResponse {
                            topic: Some(topic),
                            placement: Some(placement.clone()),
                        })
                    }
                    Some(ShardCreation::Error(error)) => Creation::Error(error),
                    None => Creation::Error(nameless()),
                };
                let mut results = answer.results.into_iter();
                places
                    .into_iter()
                    .map(|place| (place, creation(results.next().unwrap_or_default())))
                    .collect()
            }
            Err(failed) => {
                let error = status::part(&failed.status);
                places
                    .into_iter()
                    .map(|place| (place, Creation::Error(error.clone())))
                    .collect()
            }
        }
    }
}

/// A peer answered without saying what became of a topic.
fn nameless() -> public::StreamError {
    Fault::new(
        public::ErrorReason::OutcomeUnknown,
        "the leader did not say what became of the topic",
    )
    .into_part()
}
