//! Lists of what one shard holds, a page at a time, in the order of the names' bytes.

use super::{Access, Broker, Call, Error, Kind, look, rows};
use crate::replica::Consistency;
use crate::shard::{self, Subscription, TopicFilter, TopicRow, View};
use crate::types::{Name, Offset, PublisherId, SubscriberId, Timestamp, TopicName};

/// Topics that are looked through at once for subscriptions.
const TOPIC_COUNT: usize = 64;

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, P> {
    /// The entries.
    pub entries: Vec<T>,
    /// Where to go on. `None`: the shard has no more.
    pub resume: Option<P>,
}

/// Which topics are wanted.
#[derive(Debug, Clone, Default)]
pub struct TopicsAsked {
    /// What the names begin with.
    pub prefix: String,
    /// Who created them.
    pub creator: Option<PublisherId>,
    /// Only names after this one.
    pub after: Option<TopicName>,
}

/// A place in a list of subscriptions.
pub type SubscriptionPlace = (TopicName, SubscriberId);

/// Which subscriptions are wanted.
#[derive(Debug, Clone, Default)]
pub struct SubscriptionsAsked {
    /// Only those on this topic.
    pub topic: Option<TopicName>,
    /// Only those of this subscriber.
    pub subscriber: Option<SubscriberId>,
    /// Only those after this place.
    pub after: Option<SubscriptionPlace>,
}

impl Broker {
    /// Topics of the shard.
    ///
    /// # Errors
    /// [`Error::Replica`] when this replica does not lead.
    pub async fn topics<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        asked: TopicsAsked,
        limit: usize,
    ) -> Result<Page<TopicRow, Name>, Error> {
        let read = call
            .replica
            .read(Consistency::Leader, call.deadline)
            .await?;
        let query = move || {
            let filter = TopicFilter {
                prefix: &asked.prefix,
                creator: asked.creator.as_ref(),
            };
            read.view.topics(filter, asked.after.as_ref(), limit)
        };
        let entries = look(call.replica.shard(), query).await?;
        let resume = entries
            .last()
            .filter(|_| entries.len() == limit)
            .map(|topic| topic.name.0.clone());
        Ok(Page { entries, resume })
    }

    /// Publishers or subscribers of the shard, each with the time of its creation.
    ///
    /// # Errors
    /// [`Error::Replica`] when this replica does not lead.
    pub async fn identities<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        (kind, prefix): (Kind, String),
        after: Option<Name>,
        limit: usize,
    ) -> Result<Page<(Name, Timestamp), Name>, Error> {
        let read = call
            .replica
            .read(Consistency::Leader, call.deadline)
            .await?;
        let after = after.max(before_prefix(&prefix));
        let mut entries = look(call.replica.shard(), move || {
            identities(&read.view, kind, after, limit)
        })
        .await?;
        let is_full = entries.len() == limit;
        entries.retain(|(name, _)| name.as_str().starts_with(&prefix));
        // What does not begin so comes after all that do.
        let resume = entries
            .last()
            .filter(|_| is_full && entries.len() == limit)
            .map(|(name, _)| name.clone());
        Ok(Page { entries, resume })
    }

    /// Subscriptions on topics of the shard, each with the topic's next offset.
    ///
    /// # Errors
    /// [`Error::Replica`] when this replica does not lead.
    pub async fn subscriptions<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        asked: SubscriptionsAsked,
        limit: usize,
    ) -> Result<Page<(Subscription, Offset), SubscriptionPlace>, Error> {
        let shard = call.replica.shard();
        let read = call
            .replica
            .read(Consistency::Leader, call.deadline)
            .await?;
        let view = read.view.clone();
        let found = look(shard, move || subscriptions(&view, &asked, limit)).await?;
        let resume = found.last().filter(|_| found.len() == limit);
        let resume = resume.map(|last| (last.topic.clone(), last.subscriber.clone()));
        let mut entries: Vec<(Subscription, Offset)> = Vec::with_capacity(found.len());
        for subscription in found {
            let head = match entries.last() {
                Some((last, head)) if last.topic == subscription.topic => *head,
                _ => rows(shard, read.view.topic(&subscription.topic))?
                    .map_or(subscription.cursor, |row| row.next_offset),
            };
            entries.push((subscription, head));
        }
        Ok(Page { entries, resume })
    }
}

fn identities(
    view: &View,
    kind: Kind,
    after: Option<Name>,
    limit: usize,
) -> Result<Vec<(Name, Timestamp)>, shard::Error> {
    match kind {
        Kind::Publisher => {
            let found = view.publishers(after.map(PublisherId).as_ref(), limit)?;
            Ok(found
                .into_iter()
                .map(|(id, identity)| (id.0, identity.created))
                .collect())
        }
        Kind::Subscriber => {
            let found = view.subscribers(after.map(SubscriberId).as_ref(), limit)?;
            Ok(found
                .into_iter()
                .map(|(id, identity)| (id.0, identity.created))
                .collect())
        }
    }
}

fn subscriptions(
    view: &View,
    asked: &SubscriptionsAsked,
    limit: usize,
) -> Result<Vec<Subscription>, shard::Error> {
    match (&asked.topic, &asked.subscriber) {
        (Some(topic), subscriber) => on_topic(
            view,
            topic,
            subscriber.as_ref(),
            asked.after.as_ref(),
            limit,
        ),
        (None, Some(subscriber)) => {
            let after = asked.after.as_ref().map(|(topic, _)| topic);
            view.subscriptions_of_subscriber(subscriber, after, limit)
        }
        (None, None) => on_all(view, asked.after.as_ref(), limit),
    }
}

fn on_topic(
    view: &View,
    topic: &TopicName,
    subscriber: Option<&SubscriberId>,
    after: Option<&SubscriptionPlace>,
    limit: usize,
) -> Result<Vec<Subscription>, shard::Error> {
    let Some(row) = view.topic(topic)? else {
        return Ok(Vec::new());
    };
    let after = after
        .filter(|(last, _)| last == topic)
        .map(|(_, subscriber)| subscriber);
    match subscriber {
        Some(subscriber) if after.is_some_and(|after| after >= subscriber) => Ok(Vec::new()),
        Some(subscriber) => Ok(view.subscription(&row, subscriber)?.into_iter().collect()),
        None => view.subscriptions_of_topic(&row, after, limit),
    }
}

/// All subscriptions: those on the topic where the page before ended, then those on the topics after it.
fn on_all(
    view: &View,
    after: Option<&SubscriptionPlace>,
    limit: usize,
) -> Result<Vec<Subscription>, shard::Error> {
    let mut found = match after {
        Some((topic, _)) => on_topic(view, topic, None, after, limit)?,
        None => Vec::new(),
    };
    let mut last = after.map(|(topic, _)| topic.clone());
    while found.len() < limit {
        let topics = view.topics(TopicFilter::default(), last.as_ref(), TOPIC_COUNT)?;
        let Some(end) = topics.last() else { break };
        last = Some(end.name.clone());
        for topic in &topics {
            if found.len() < limit {
                found.extend(view.subscriptions_of_topic(topic, None, limit - found.len())?);
            }
        }
    }
    Ok(found)
}

/// A name so that exactly the names after it are not before those that begin with `prefix`. `None`: all names are.
fn before_prefix(prefix: &str) -> Option<Name> {
    // The characters of names in the order of their bytes.
    const FIRST: char = '-';
    const LAST: char = 'z';
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let mut head = prefix.to_owned();
    let last = head.pop()?;
    if last > FIRST
        && let Some(below) = (FIRST..last).rev().find(is_allowed)
    {
        head.push(below);
        while head.len() < Name::BYTES_MAX {
            head.push(LAST);
        }
    }
    Name::new(&head).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_before_a_prefix_lies_right_before_it() {
        assert_eq!(before_prefix(""), None);
        assert_eq!(before_prefix("-"), None);
        assert_eq!(before_prefix("ab-"), Some(Name::new("ab").unwrap()));
        for prefix in ["a", "ab", "a0", "x_", "Z"] {
            let before = before_prefix(prefix).unwrap();
            assert!(before < Name::new(prefix).unwrap(), "{prefix}");
            assert_eq!(before.as_str().len(), Name::BYTES_MAX);
        }
        assert!(before_prefix("a").unwrap() > Name::new("_zz").unwrap());
    }
}
