//! Topics: created, deleted, looked at, located.

use super::{Access, Broker, Call, Directory, Error, Freshness, misfit, rows};
use crate::consensus::Status;
use crate::replica::Consistency;
use crate::shard::{Command, Refusal, Response, TopicRow};
use crate::types::{PublisherId, RequestId, TopicId, TopicName};

/// The creation of a topic.
#[derive(Debug, Clone)]
pub struct CreateTopic {
    /// Its name.
    pub topic: TopicName,
    /// Who creates it. It must exist.
    pub creator: Option<PublisherId>,
    /// Makes the call repeatable.
    pub request_id: Option<RequestId>,
}

/// A topic that was looked for.
#[derive(Debug, Clone)]
pub struct Found {
    /// As it is.
    pub topic: TopicRow,
    /// How fresh that is.
    pub freshness: Freshness,
}

/// Where a topic lives.
#[derive(Debug, Clone)]
pub struct Located {
    /// The topic, when it exists.
    pub topic: Option<TopicRow>,
    /// The shard's group, as the replica that answers sees it.
    pub status: Status,
    /// How fresh that is.
    pub freshness: Freshness,
}

impl Broker {
    /// Creates a topic.
    ///
    /// # Errors
    /// [`Error::Refused`] when the name is taken or the creator does not exist.
    pub async fn create_topic<R: Access, D: Directory>(
        &self,
        call: &Call<'_, R, D>,
        create: &CreateTopic,
    ) -> Result<TopicRow, Error> {
        if let Some(creator) = &create.creator {
            self.check_publisher(call, creator).await?;
        }
        let CreateTopic {
            topic,
            creator,
            request_id,
        } = create.clone();
        let command = Command::CreateTopic {
            topic,
            creator,
            request_id,
            at: self.now(),
        };
        match call
            .replica
            .propose(command, call.deadline)
            .await?
            .outcome?
        {
            Response::TopicCreated { topic, .. } => Ok(topic),
            other => misfit(call.replica.shard(), &other),
        }
    }

    /// Deletes a topic with all that belongs to it, and says which life of the name ended.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such topic.
    pub async fn delete_topic<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        topic: &TopicName,
    ) -> Result<TopicId, Error> {
        let command = Command::DeleteTopic {
            topic: topic.clone(),
        };
        match call
            .replica
            .propose(command, call.deadline)
            .await?
            .outcome?
        {
            Response::TopicDeleted { topic } => Ok(topic.id),
            other => misfit(call.replica.shard(), &other),
        }
    }

    /// Tells about one topic.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such topic.
    pub async fn topic<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        topic: &TopicName,
        consistency: Consistency,
    ) -> Result<Found, Error> {
        let read = call.replica.read(consistency, call.deadline).await?;
        match rows(call.replica.shard(), read.view.topic(topic))? {
            Some(topic) => Ok(Found {
                topic,
                freshness: Freshness::from(&read),
            }),
            None => Err(Refusal::TopicNotFound {
                topic: topic.clone(),
            }
            .into()),
        }
    }

    /// Tells where a topic lives or would live.
    ///
    /// # Errors
    /// [`Error::Replica`] when the replica may not be read at this consistency.
    pub async fn locate<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        topic: &TopicName,
        consistency: Consistency,
    ) -> Result<Located, Error> {
        let read = call.replica.read(consistency, call.deadline).await?;
        let topic = rows(call.replica.shard(), read.view.topic(topic))?;
        Ok(Located {
            topic,
            status: call.replica.status(),
            freshness: Freshness::from(&read),
        })
    }
}
