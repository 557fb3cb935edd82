//! Queries about one shard. They read what is committed and change nothing; several may run beside the machine.
//!
//! A list is in the order of the names' bytes; `after` is the last name of the page before.

use std::sync::Arc;

use super::row::{self, ShardRow, SubscriptionRow, name_at};
use super::{Error, Identity, Share, Subscription, TopicRow};
use crate::store::{self, BatchRange, Reader, RowRange, Table};
use crate::types::{
    ByteCount, Name, Offset, PublisherId, StoredBatch, SubscriberId, Timestamp, TopicId, TopicName,
    Vertex,
};

/// Which topics are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct TopicFilter<'a> {
    /// What the names begin with.
    pub prefix: &'a str,
    /// Only those that this publisher created.
    pub creator: Option<&'a PublisherId>,
}

/// Answers queries about one shard. Calls block: from async code use a blocking thread.
#[derive(Clone)]
pub struct View {
    pub(super) shard: Vertex,
    pub(super) store: Arc<dyn Reader>,
}

impl View {
    /// The view of a shard in a store, or in a frozen reader of one.
    pub fn new(shard: Vertex, store: Arc<dyn Reader>) -> Self {
        Self { shard, store }
    }

    /// The shard.
    pub fn shard(&self) -> Vertex {
        self.shard
    }

    /// The topic with this name.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn topic(&self, name: &TopicName) -> Result<Option<TopicRow>, Error> {
        let row = self
            .store
            .row(self.shard, Table::Topic, name.as_str().as_bytes())?;
        row.map(|row| row::decode(Table::Topic, &row)).transpose()
    }

    /// Topics after a name.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn topics(
        &self,
        filter: TopicFilter<'_>,
        after: Option<&TopicName>,
        limit: usize,
    ) -> Result<Vec<TopicRow>, Error> {
        let Some(creator) = filter.creator else {
            let prefix = filter.prefix.as_bytes();
            let after = after.map(|after| after.as_str().as_bytes());
            let range = RowRange { prefix, after };
            let rows = self.store.rows(self.shard, Table::Topic, range, limit)?;
            let topics = rows.iter().map(|(_, row)| row::decode(Table::Topic, row));
            return topics.collect();
        };
        let after = after.map(|after| row::creator_key(creator, after.as_str()));
        let range = RowRange {
            prefix: &row::creator_key(creator, filter.prefix),
            after: after.as_deref(),
        };
        let table = Table::TopicByCreator;
        let rows = self.store.rows(self.shard, table, range, limit)?;
        let skip = row::creator_prefix(creator).len();
        let mut topics = Vec::with_capacity(rows.len());
        for (key, _) in rows {
            // Deleted between the two reads when it is not there.
            if let Some(name) = name_at(&key, skip).map(TopicName) {
                topics.extend(self.topic(&name)?);
            }
        }
        Ok(topics)
    }

    /// How many topics there are.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn topic_count(&self) -> Result<u64, Error> {
        let row = self
            .store
            .row(self.shard, Table::Shard, &row::shard_key())?;
        let row = row.map(|row| row::decode::<ShardRow>(Table::Shard, &row));
        Ok(row.transpose()?.unwrap_or_default().topic_count)
    }

    /// Topics that do not keep all messages for ever, in the order of their ids; `after` is the last id of the page before.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn retained_topics(
        &self,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<TopicRow>, Error> {
        let mut after = after.map(row::retention_key);
        let mut topics = Vec::new();
        while topics.len() < limit {
            let range = RowRange {
                prefix: &[],
                after: after.as_deref(),
            };
            let wanted = limit - topics.len();
            let rows = self
                .store
                .rows(self.shard, Table::Retention, range, wanted)?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            for (key, row) in &rows {
                let name: TopicName = row::decode(Table::Retention, row)?;
                // Deleted between the two reads when it is not there.
                let topic = self.topic(&name)?;
                topics.extend(topic.filter(|topic| row::retention_key(topic.id) == key));
            }
        }
        Ok(topics)
    }

    /// The publisher with this id.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn publisher(&self, id: &PublisherId) -> Result<Option<Identity>, Error> {
        self.identity(Table::Publisher, &id.0)
    }

    /// The subscriber with this id.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn subscriber(&self, id: &SubscriberId) -> Result<Option<Identity>, Error> {
        self.identity(Table::Subscriber, &id.0)
    }

    fn identity(&self, table: Table, name: &Name) -> Result<Option<Identity>, Error> {
        let row = self
            .store
            .row(self.shard, table, name.as_str().as_bytes())?;
        row.map(|row| row::decode(table, &row)).transpose()
    }

    /// Publishers after an id.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn publishers(
        &self,
        after: Option<&PublisherId>,
        limit: usize,
    ) -> Result<Vec<(PublisherId, Identity)>, Error> {
        let found = self.identities(Table::Publisher, after.map(|after| &after.0), limit)?;
        Ok(found.map(|(name, row)| (PublisherId(name), row)).collect())
    }

    /// Subscribers after an id.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn subscribers(
        &self,
        after: Option<&SubscriberId>,
        limit: usize,
    ) -> Result<Vec<(SubscriberId, Identity)>, Error> {
        let found = self.identities(Table::Subscriber, after.map(|after| &after.0), limit)?;
        Ok(found.map(|(name, row)| (SubscriberId(name), row)).collect())
    }

    fn identities(
        &self,
        table: Table,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<impl Iterator<Item = (Name, Identity)>, Error> {
        let range = RowRange {
            prefix: &[],
            after: after.map(|after| after.as_str().as_bytes()),
        };
        let rows = self.store.rows(self.shard, table, range, limit)?;
        let mut found = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            let identity = row::decode(table, &row)?;
            found.extend(name_at(&key, 0).map(|name| (name, identity)));
        }
        Ok(found.into_iter())
    }

    /// The cursor of a subscriber on a topic.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn subscription(
        &self,
        topic: &TopicRow,
        subscriber: &SubscriberId,
    ) -> Result<Option<Subscription>, Error> {
        let table = Table::Subscription;
        let key = row::subscription_key(topic.id, subscriber);
        let Some(row) = self.store.row(self.shard, table, &key)? else {
            return Ok(None);
        };
        Ok(Some(self.told(&row, topic, subscriber)?))
    }

    /// A row as it is told.
    fn told(
        &self,
        row: &[u8],
        topic: &TopicRow,
        subscriber: &SubscriberId,
    ) -> Result<Subscription, Error> {
        let row = SubscriptionRow::decode(row)?;
        let share = match &row.sharing {
            Some(_) => self.share(topic, subscriber)?,
            None => None,
        };
        Ok(row.with(topic, subscriber, share.as_ref()))
    }

    /// What is known of a shared subscription beside its cursor.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn share(
        &self,
        topic: &TopicRow,
        subscriber: &SubscriberId,
    ) -> Result<Option<Share>, Error> {
        let table = Table::Share;
        let key = row::subscription_key(topic.id, subscriber);
        let row = self.store.row(self.shard, table, &key)?;
        row.map(|row| row::decode(table, &row)).transpose()
    }

    /// Cursors on a topic, of subscribers after an id.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn subscriptions_of_topic(
        &self,
        topic: &TopicRow,
        after: Option<&SubscriberId>,
        limit: usize,
    ) -> Result<Vec<Subscription>, Error> {
        let table = Table::Subscription;
        let prefix = row::topic_prefix(topic.id);
        let after = after.map(|after| row::subscription_key(topic.id, after));
        let range = RowRange {
            prefix: &prefix,
            after: after.as_deref(),
        };
        let mut found = Vec::new();
        for (key, row) in self.store.rows(self.shard, table, range, limit)? {
            if let Some(subscriber) = name_at(&key, prefix.len()).map(SubscriberId) {
                found.push(self.told(&row, topic, &subscriber)?);
            }
        }
        Ok(found)
    }

    /// Cursors of a subscriber on this shard's topics after a name.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn subscriptions_of_subscriber(
        &self,
        subscriber: &SubscriberId,
        after: Option<&TopicName>,
        limit: usize,
    ) -> Result<Vec<Subscription>, Error> {
        let table = Table::SubscriptionBySubscriber;
        let prefix = row::subscriber_prefix(subscriber);
        let last_id = TopicId::from_bits(u64::MAX);
        let mut after = after.map(|after| row::twin_key(subscriber, after, last_id));
        let mut found = Vec::new();
        while found.len() < limit {
            let range = RowRange {
                prefix: &prefix,
                after: after.as_deref(),
            };
            let rows = self.store.rows(self.shard, table, range, limit)?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            for (name, id) in rows.iter().filter_map(|(key, _)| row::twin_parts(key)) {
                // Of a deleted topic, not swept yet, when there is none or another one.
                let topic = self.topic(&name)?.filter(|topic| topic.id == id);
                if let Some(topic) = topic {
                    found.extend(self.subscription(&topic, subscriber)?);
                }
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The topic's messages from an offset on, cut exactly there and at the limits; at least one when there is one. Ends at the topic's end
    /// as the row says, so two calls with one row see the same. Nothing when the topic was trimmed or deleted since the row was read.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read, or does not hold what the topic's row speaks of.
    pub fn batches(
        &self,
        topic: &TopicRow,
        from: Offset,
        count_max: u32,
        bytes_max: ByteCount,
    ) -> Result<Vec<StoredBatch>, Error> {
        let range = BatchRange {
            from: from.max(topic.first_offset),
            until: topic.next_offset,
            count_max,
            bytes_max,
        };
        let found = self.store.batches(topic.id, range)?;
        let is_lacking = found.is_empty() && count_max > 0 && range.from < range.until;
        if is_lacking && !self.is_outdated(topic)? {
            return Err(Error::Store(store::Error::Missing {
                topic: topic.id,
                offset: range.from,
            }));
        }
        Ok(found)
    }

    /// Where the first message appended at `time` or later is; the topic's end when all are older.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn offset_at(&self, topic: &TopicRow, time: Timestamp) -> Result<Offset, Error> {
        let messages = topic.first_offset..topic.next_offset;
        Ok(self.store.offset_at(topic.id, messages, time)?)
    }
}
