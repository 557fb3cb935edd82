//! Topics: made and removed.

use super::machine::{Step, Stop};
use super::row::{self, ShardRow};
use super::{Error, Event, Refusal, Response, TopicRow};
use crate::store::{Doom, Table, Twin};
use crate::types::{ByteCount, Offset, PublisherId, RequestId, Timestamp, TopicId, TopicName};

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
        name: TopicName,
        creator: Option<PublisherId>,
        request_id: Option<RequestId>,
        at: Timestamp,
    ) -> Result<Response, Stop> {
        if let Some(topic) = self.find_topic(&name)? {
            if request_id.is_some() && topic.request_id == request_id {
                return Ok(Response::TopicCreated {
                    topic,
                    is_new: false,
                });
            }
            return Err(Refusal::TopicExists { topic: name }.into());
        }
        let topic = TopicRow {
            id: self.next_topic_id()?,
            name,
            creator,
            created: at,
            request_id,
            first_offset: Offset(0),
            next_offset: Offset(0),
            bytes: ByteCount(0),
            appended: at,
            session_count: 0,
            session_number_next: 0,
        };
        self.put_topic(&topic);
        if let Some(creator) = &topic.creator {
            let key = row::creator_key(creator, topic.name.as_str());
            self.overlay.put_key(Table::TopicByCreator, key);
        }
        Ok(Response::TopicCreated {
            topic,
            is_new: true,
        })
    }

    fn next_topic_id(&mut self) -> Result<TopicId, Error> {
        let key = row::name_key("");
        let shard = self.overlay.get::<ShardRow>(Table::Shard, &key)?;
        let number = shard.unwrap_or_default().topics_created + 1;
        let shard = ShardRow {
            topics_created: number,
        };
        self.overlay.put(Table::Shard, key, &shard);
        Ok(TopicId::new(self.overlay.shard().index(), number))
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
        let prefix = row::topic_prefix(topic.id);
        self.overlay.doom(Doom::Batches(topic.id));
        for table in [Table::Session, Table::Sequence] {
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
