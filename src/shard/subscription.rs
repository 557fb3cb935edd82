//! Cursors: made, moved and removed.

use super::machine::{Step, Stop};
use super::row::{self, SubscriptionRow};
use super::{Event, Refusal, Response, Sharing, Start, Subscription, TopicRow};
use crate::store::Table;
use crate::types::{Offset, SubscriberId, Timestamp, TopicId, TopicName};

impl Step<'_> {
    pub(super) fn subscribe(
        &mut self,
        name: &TopicName,
        subscriber: &SubscriberId,
        (start, sharing): (Start, Option<Sharing>),
        at: Timestamp,
    ) -> Result<Response, Stop> {
        let topic = self.topic(name)?;
        if let Some(row) = self.find_cursor(&topic, subscriber)? {
            return Ok(Response::Subscribed {
                subscription: self.told(row, &topic, subscriber)?,
                is_new: false,
            });
        }
        let row = SubscriptionRow {
            cursor: self.find(&topic, start)?,
            created: at,
            sharing,
        };
        self.begin_share(&topic, subscriber, &row);
        self.put_cursor(&topic, subscriber, &row);
        let twin = row::twin_key(subscriber, name, topic.id);
        self.overlay.put_key(Table::SubscriptionBySubscriber, twin);
        Ok(Response::Subscribed {
            subscription: self.told(row, &topic, subscriber)?,
            is_new: true,
        })
    }

    pub(super) fn unsubscribe(
        &mut self,
        name: &TopicName,
        subscriber: &SubscriberId,
    ) -> Result<Response, Stop> {
        let (topic, row) = self.cursor(name, subscriber)?;
        let key = row::subscription_key(topic.id, subscriber);
        self.overlay.remove(Table::Subscription, key.clone());
        if row.sharing.is_some() {
            self.overlay.remove(Table::Share, key);
        }
        let twin = row::twin_key(subscriber, name, topic.id);
        self.overlay.remove(Table::SubscriptionBySubscriber, twin);
        self.events.push(Event::SubscriptionDeleted {
            topic_id: topic.id,
            topic: topic.name,
            subscriber: subscriber.clone(),
        });
        Ok(Response::Unsubscribed)
    }

    pub(super) fn acknowledge(
        &mut self,
        name: &TopicName,
        subscriber: &SubscriberId,
        next_offset: Offset,
        expected: Option<Offset>,
    ) -> Result<Response, Stop> {
        let (topic, mut row) = self.cursor(name, subscriber)?;
        if row.sharing.is_some() {
            return Err(Refusal::SubscriptionShared {
                topic: topic.name,
                subscriber: subscriber.clone(),
            }
            .into());
        }
        if let Some(expected) = expected.filter(|expected| *expected != row.cursor(&topic)) {
            return Err(Refusal::CursorMoved {
                cursor: row.cursor(&topic),
                topic: topic.name,
                subscriber: subscriber.clone(),
                expected,
            }
            .into());
        }
        if next_offset > topic.next_offset {
            return Err(out_of_range(&topic, next_offset).into());
        }
        // Messages that are gone may be acknowledged too: they were delivered then, not missed.
        if next_offset > row.cursor {
            row.cursor = next_offset;
            self.put_cursor(&topic, subscriber, &row);
        }
        Ok(Response::Acknowledged {
            cursor: row.cursor(&topic),
        })
    }

    pub(super) fn acknowledge_life(
        &mut self,
        (name, id): (TopicName, TopicId),
        subscriber: &SubscriberId,
        next_offset: Offset,
    ) -> Result<Response, Stop> {
        if self.topic(&name)?.id != id {
            // That of this name now is another.
            return Err(Refusal::TopicNotFound { topic: name }.into());
        }
        self.acknowledge(&name, subscriber, next_offset, None)
    }

    pub(super) fn seek(
        &mut self,
        name: &TopicName,
        subscriber: &SubscriberId,
        to: Start,
    ) -> Result<Response, Stop> {
        let (topic, mut row) = self.cursor(name, subscriber)?;
        row.cursor = self.find(&topic, to)?;
        self.begin_share(&topic, subscriber, &row);
        self.put_cursor(&topic, subscriber, &row);
        Ok(Response::Sought { cursor: row.cursor })
    }

    /// A row as it is told.
    fn told(
        &mut self,
        row: SubscriptionRow,
        topic: &TopicRow,
        subscriber: &SubscriberId,
    ) -> Result<Subscription, Stop> {
        let share = match &row.sharing {
            Some(_) => Some(self.share(topic, subscriber)?),
            None => None,
        };
        Ok(row.with(topic, subscriber, share.as_ref()))
    }

    fn find_cursor(
        &mut self,
        topic: &TopicRow,
        subscriber: &SubscriberId,
    ) -> Result<Option<SubscriptionRow>, Stop> {
        let key = row::subscription_key(topic.id, subscriber);
        let bytes = self.overlay.bytes(Table::Subscription, &key)?;
        let row = bytes.map(|bytes| SubscriptionRow::decode(&bytes));
        Ok(row.transpose()?)
    }

    pub(super) fn cursor(
        &mut self,
        name: &TopicName,
        subscriber: &SubscriberId,
    ) -> Result<(TopicRow, SubscriptionRow), Stop> {
        let topic = self.topic(name)?;
        let row = self.find_cursor(&topic, subscriber)?;
        let refusal = || Refusal::SubscriptionNotFound {
            topic: name.clone(),
            subscriber: subscriber.clone(),
        };
        Ok((topic, row.ok_or_else(refusal)?))
    }

    pub(super) fn put_cursor(
        &mut self,
        topic: &TopicRow,
        subscriber: &SubscriberId,
        row: &SubscriptionRow,
    ) {
        let key = row::subscription_key(topic.id, subscriber);
        self.overlay
            .write(Table::Subscription, key, Some(row.encode()));
        self.events.push(Event::CursorMoved {
            topic_id: topic.id,
            topic: topic.name.clone(),
            subscriber: subscriber.clone(),
            cursor: row.cursor(topic),
        });
    }

    fn find(&mut self, topic: &TopicRow, start: Start) -> Result<Offset, Stop> {
        let messages = topic.first_offset..topic.next_offset;
        match start {
            Start::Earliest => Ok(messages.start),
            Start::Latest => Ok(messages.end),
            Start::Offset(offset) if offset < messages.start || offset > messages.end => {
                Err(out_of_range(topic, offset).into())
            }
            Start::Offset(offset) => Ok(offset),
            Start::Time(time) => Ok(self.overlay.offset_at(topic.id, messages, time)?),
        }
    }
}

fn out_of_range(topic: &TopicRow, offset: Offset) -> Refusal {
    Refusal::OffsetOutOfRange {
        topic: topic.name.clone(),
        offset,
        first: topic.first_offset,
        next: topic.next_offset,
    }
}
