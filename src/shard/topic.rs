//! Topics: made, trimmed and removed.

use super::machine::{Step, Stop};
use super::row::{self, ShardRow};
use super::{CreatedTopic, Error, Event, NewTopic, Refusal, Response, TopicRow};
use crate::store::{Doom, Table, Twin};
use crate::types::{
    ByteCount, Offset, PublisherId, RequestId, Retention, Timestamp, TopicId, TopicName,
};

/// What a create call says of all its topics.
pub(super) struct Creation {
    creator: Option<PublisherId>,
    request_id: Option<RequestId>,
    at: Timestamp,
}

impl Creation {
    pub(super) fn new(
        creator: Option<PublisherId>,
        request_id: Option<RequestId>,
        at: Timestamp,
    ) -> Self {
        Self {
            creator,
            request_id,
            at,
        }
    }
}

impl Step<'_> {
    pub(super) fn topic(&mut self, name: &TopicName) -> Result<TopicRow, Stop> {
        let row = self.find_topic(name)?;
        let refusal = || Refusal::TopicNotFound {
            topic: name.clone(),
        };
        Ok(row.ok_or_else(refusal)?)
    }

    fn find_topic(&mut self, name: &TopicName) -> Result<Option<TopicRow>, Error> {
        self.overlay
            .get(Table::Topic, &row::name_key(name.as_str()))
    }

    pub(super) fn put_topic(&mut self, topic: &TopicRow) {
        let key = row::name_key(topic.name.as_str());
        self.overlay.put(Table::Topic, key, topic);
    }

    pub(super) fn create_topic(
        &mut self,
        new: NewTopic,
        creation: &Creation,
    ) -> Result<Response, Stop> {
        let CreatedTopic { topic, is_new } = self.create_one(new, creation)??;
        Ok(Response::TopicCreated { topic, is_new })
    }

    pub(super) fn create_topics(
        &mut self,
        topics: Vec<NewTopic>,
        creation: &Creation,
    ) -> Result<Response, Stop> {
        let created = topics.into_iter().map(|new| self.create_one(new, creation));
        Ok(Response::TopicsCreated {
            topics: created.collect::<Result<_, Error>>()?,
        })
    }

    fn create_one(
        &mut self,
        NewTopic {
            topic: name,
            retention,
        }: NewTopic,
        creation: &Creation,
    ) -> Result<Result<CreatedTopic, Refusal>, Error> {
        let request_id = creation.request_id;
        if let Some(topic) = self.find_topic(&name)? {
            if request_id.is_some() && topic.request_id == request_id {
                return Ok(Ok(CreatedTopic {
                    topic,
                    is_new: false,
                }));
            }
            return Ok(Err(Refusal::TopicExists { topic: name }));
        }
        let topic = TopicRow {
            id: self.next_topic_id()?,
            name,
            creator: creation.creator.clone(),
            created: creation.at,
            request_id,
            first_offset: Offset(0),
            next_offset: Offset(0),
            bytes: ByteCount(0),
            trimmed: ByteCount(0),
            appended: creation.at,
            session_count: 0,
            session_number_next: 0,
            retention,
        };
        self.put_topic(&topic);
        if let Some(creator) = &topic.creator {
            let key = row::creator_key(creator, topic.name.as_str());
            self.overlay.put_key(Table::TopicByCreator, key);
        }
        if !retention.is_for_ever() {
            let key = row::retention_key(topic.id);
            self.overlay.put(Table::Retention, key, &topic.name);
        }
        Ok(Ok(CreatedTopic {
            topic,
            is_new: true,
        }))
    }

    fn next_topic_id(&mut self) -> Result<TopicId, Error> {
        let mut shard = self.counts()?;
        shard.topics_created += 1;
        shard.topic_count += 1;
        self.overlay.put(Table::Shard, row::shard_key(), &shard);
        let number = shard.topics_created;
        Ok(TopicId::new(self.overlay.shard().index(), number))
    }

    fn counts(&mut self) -> Result<ShardRow, Error> {
        let shard = self.overlay.get(Table::Shard, &row::shard_key())?;
        Ok(shard.unwrap_or_default())
    }

    pub(super) fn set_retention(
        &mut self,
        name: &TopicName,
        retention: Retention,
    ) -> Result<Response, Stop> {
        let mut topic = self.topic(name)?;
        let key = row::retention_key(topic.id);
        if retention.is_for_ever() {
            self.overlay.remove(Table::Retention, key);
        } else {
            self.overlay.put(Table::Retention, key, name);
        }
        topic.retention = retention;
        self.put_topic(&topic);
        Ok(Response::RetentionSet { topic })
    }

    /// The rows of what was published stay until their sessions publish again; see `append.rs`.
    pub(super) fn trim(
        &mut self,
        name: &TopicName,
        id: TopicId,
        (before, bytes): (Offset, ByteCount),
    ) -> Result<Response, Stop> {
        let mut topic = self.topic(name)?;
        let before = before.min(topic.next_offset);
        if topic.id == id && before > topic.first_offset {
            let total = topic.trimmed.0.saturating_add(topic.bytes.0);
            let trimmed = if before == topic.next_offset {
                total // Whatever was said: nothing is left.
            } else {
                bytes.0.max(topic.trimmed.0).min(total)
            };
            let gone = topic.first_offset..before;
            topic.first_offset = before;
            topic.bytes = ByteCount(total - trimmed);
            topic.trimmed = ByteCount(trimmed);
            self.put_topic(&topic);
            self.overlay.doom(Doom::BatchesBefore(topic.id, gone));
            self.events.push(Event::TopicTrimmed {
                topic_id: topic.id,
                topic: topic.name,
                first_offset: before,
            });
        }
        Ok(Response::Trimmed {
            first_offset: topic.first_offset,
        })
    }

    /// The rows that a name leads to go at once; all that hangs on the id is swept later.
    pub(super) fn delete_topic(&mut self, name: &TopicName) -> Result<Response, Stop> {
        let topic = self.topic(name)?;
        self.overlay
            .remove(Table::Topic, row::name_key(name.as_str()));
        if let Some(creator) = &topic.creator {
            let key = row::creator_key(creator, name.as_str());
            self.overlay.remove(Table::TopicByCreator, key);
        }
        self.overlay
            .remove(Table::Retention, row::retention_key(topic.id));
        let mut shard = self.counts()?;
        shard.topic_count = shard.topic_count.saturating_sub(1);
        self.overlay.put(Table::Shard, row::shard_key(), &shard);
        let prefix = row::topic_prefix(topic.id);
        self.overlay.doom(Doom::Batches(topic.id));
        for table in [Table::Session, Table::Sequence, Table::Share] {
            self.overlay.doom(Doom::Rows {
                table,
                prefix: prefix.clone(),
                twin: None,
            });
        }
        self.overlay.doom(Doom::Rows {
            table: Table::Subscription,
            prefix,
            twin: Some(Twin {
                table: Table::SubscriptionBySubscriber,
                suffix: row::twin_suffix(name, topic.id),
            }),
        });
        self.events.push(Event::TopicDeleted {
            topic_id: topic.id,
            topic: topic.name.clone(),
        });
        Ok(Response::TopicDeleted { topic })
    }
}
