//! Topics: created, deleted, looked at, located.

use super::{Access, Broker, Call, Directory, Error, Freshness, misfit, rows};
use crate::consensus::Status;
use crate::replica::Consistency;
use crate::shard::{Command, NewTopic, Refusal, Response, TopicRow};
use crate::types::{LogIndex, PublisherId, RequestId, Retention, TopicId, TopicName};

/// The creation of a topic.
#[derive(Debug, Clone)]
pub struct CreateTopic {
    /// Its name.
    pub topic: TopicName,
    /// Who creates it. It must exist.
    pub creator: Option<PublisherId>,
    /// Makes the call repeatable.
    pub request_id: Option<RequestId>,
    /// How long it keeps its messages.
    pub retention: Retention,
}

/// The creation of many topics of one shard.
#[derive(Debug, Clone)]
pub struct CreateTopics {
    /// Which.
    pub topics: Vec<NewTopic>,
    /// Who creates them. It was found to exist.
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
            retention,
        } = create.clone();
        let command = Command::CreateTopic {
            topic,
            creator,
            request_id,
            at: self.now(),
            retention,
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

    /// Creates many topics, and tells of each what became of it, in their order.
    ///
    /// # Errors
    /// [`Error::Replica`] when the shard cannot be written: then none of them was created by this call.
    pub async fn create_topics<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        create: CreateTopics,
    ) -> Result<Vec<Result<TopicRow, Refusal>>, Error> {
        let CreateTopics {
            topics,
            creator,
            request_id,
        } = create;
        let command = Command::CreateTopics {
            topics,
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
            Response::TopicsCreated { topics } => Ok(topics
                .into_iter()
                .map(|created| created.map(|created| created.topic))
                .collect()),
            other => misfit(call.replica.shard(), &other),
        }
    }

    /// Says how long a topic keeps its messages from now on.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such topic.
    pub async fn set_retention<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        topic: &TopicName,
        retention: Retention,
    ) -> Result<TopicRow, Error> {
        let topic = topic.clone();
        let command = Command::SetRetention { topic, retention };
        match call
            .replica
            .propose(command, call.deadline)
            .await?
            .outcome?
        {
            Response::RetentionSet { topic } => Ok(topic),
            other => misfit(call.replica.shard(), &other),
        }
    }

    /// Puts a mark into the shard's log at which replicas can be compared, and says where it is.
    ///
    /// # Errors
    /// [`Error::Replica`] when the shard cannot be written.
    pub async fn barrier<R: Access, D>(&self, call: &Call<'_, R, D>) -> Result<LogIndex, Error> {
        // Two barriers of one shard need not differ; it helps who reads the log.
        let id = self.now().0;
        let proposed = call
            .replica
            .propose(Command::Barrier { id }, call.deadline)
            .await?;
        match proposed.outcome? {
            Response::Barrier => Ok(proposed.position.index),
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
