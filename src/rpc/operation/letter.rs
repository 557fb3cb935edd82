//! Dead letters on their way to the topic that they are for, which may be led by another peer.

use cubecast_sdk::proto::v1::{ErrorReason as Reason, PublishSequence};
use tokio::time::Instant;

use super::{Checks, Fate, Here, Operation};
use crate::broker::{Error, Letter, Post, Returned};
use crate::cluster::Cluster;
use crate::proto::peer::v1 as proto;
use crate::rpc::api::Api;
use crate::rpc::context::Context;
use crate::rpc::convert::{self, Presence};
use crate::rpc::status::{self, Fault};
use crate::types::{Batch, PublisherId, TopicName, Vertex};

/// Publishes a dead letter.
#[derive(Debug)]
pub struct PublishLetter(Letter);

impl Operation for PublishLetter {
    type Request = proto::PublishLetterRequest;
    type Response = proto::PublishLetterResponse;
    const PATH: &'static str = "/cubecast.peer.v1.DirectoryService/PublishLetter";

    /// The message was checked when it was published first, and is somewhat longer now: a log entry has room for that.
    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let topic = TopicName(convert::name(&request.topic, "topic")?);
        let publisher = PublisherId(convert::name(&request.publisher, "publisher")?);
        let sequence = convert::sequence(request.sequence.as_ref(), Presence::Present)?;
        let absent = || convert::invalid("sequence", "a letter has a sequence");
        let (session, sequence) = sequence.ok_or_else(absent)?;
        let batch = Batch::new(request.message.clone());
        let batch = batch.map_err(|error| convert::invalid("message", error.to_string()))?;
        Ok(Self(Letter {
            topic,
            origin: (publisher, session, sequence),
            batch,
        }))
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.0.topic.0)
    }

    fn fate(&self) -> Fate {
        Fate::Repeatable
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let offset = api.broker().publish_letter(&here, &self.0).await?;
        Ok(proto::PublishLetterResponse { offset: offset.0 })
    }
}

impl Post for Api {
    async fn publish(&self, letter: Letter, deadline: Instant) -> Result<(), Returned> {
        let (publisher, session, sequence) = &letter.origin;
        let request = proto::PublishLetterRequest {
            topic: letter.topic.to_string(),
            publisher: publisher.to_string(),
            sequence: Some(PublishSequence {
                session: session.0,
                sequence: sequence.0,
            }),
            message: letter.batch.payload().clone(),
        };
        let context = Context::own(deadline);
        let operation = PublishLetter(letter);
        let failed = match Box::pin(self.run(&operation, &request, &context)).await {
            Ok(_) => return Ok(()),
            Err(failed) => failed.status,
        };
        match status::reason(&failed) {
            // It was published, and retention has removed it since.
            Some(Reason::SequenceForgotten) => Ok(()),
            Some(Reason::SessionUnknown | Reason::SequenceGap) => Err(Returned::Unknown),
            _ => Err(Returned::Later(failed.message().to_owned())),
        }
    }
}

/// Tells whether a topic exists.
#[derive(Debug)]
pub struct ResolveTopic {
    /// Its name.
    pub topic: TopicName,
}

impl Operation for ResolveTopic {
    type Request = proto::ResolveTopicRequest;
    type Response = proto::ResolveTopicResponse;
    const PATH: &'static str = "/cubecast.peer.v1.DirectoryService/ResolveTopic";

    fn parse(request: &Self::Request, _: Checks<'_>) -> Result<Self, Fault> {
        let topic = TopicName(convert::name(&request.topic, "topic")?);
        Ok(Self { topic })
    }

    fn vertex(&self, cluster: &Cluster) -> Vertex {
        cluster.place(&self.topic.0)
    }

    fn fate(&self) -> Fate {
        Fate::Read
    }

    async fn serve(&self, api: &Api, here: Here<'_>) -> Result<Self::Response, Error> {
        let exists = api.broker().has_topic(&here, &self.topic).await?;
        Ok(proto::ResolveTopicResponse { exists })
    }
}
