//! Subscriptions and their cursors.

use super::{Access, Broker, Call, Directory, Error, Kind, look, misfit, rows};
use crate::replica::Consistency;
use crate::shard::{Command, DeadLetters, Refusal, Response, Sharing, Start, Subscription};
use crate::types::{Offset, SubscriberId, TopicName};

/// Subscriptions that are removed between two reads when a subscriber is deleted.
const REMOVE_COUNT: usize = 256;

/// A subscription that was made or found.
#[derive(Debug, Clone)]
pub struct Subscribed {
    /// As it is now.
    pub subscription: Subscription,
    /// It was there before.
    pub is_existing: bool,
    /// The offset that the topic's next message will get.
    pub head_offset: Offset,
}

impl Broker {
    /// Gives a subscriber a durable cursor on a topic, which consumers share if that is said.
    ///
    /// # Errors
    /// [`Error::Refused`] when the topic, that of the dead letters, or the subscriber does not exist, or the place to start does not.
    pub async fn subscribe<R: Access, D: Directory>(
        &self,
        call: &Call<'_, R, D>,
        (topic, subscriber): (&TopicName, &SubscriberId),
        (start, sharing): (Start, Option<Sharing>),
    ) -> Result<Subscribed, Error> {
        // A replica that does not lead says so before anybody is asked.
        let read = call
            .replica
            .read(Consistency::Leader, call.deadline)
            .await?;
        if !call
            .directory
            .exists(Kind::Subscriber, &subscriber.0, call.deadline)
            .await?
        {
            return Err(Refusal::SubscriberNotFound {
                subscriber: subscriber.clone(),
            }
            .into());
        }
        let letters = sharing
            .as_ref()
            .and_then(|sharing| sharing.dead_letters.as_ref());
        if let Some(DeadLetters { topic, .. }) = letters
            && !call.directory.has_topic(topic, call.deadline).await?
        {
            let topic = topic.clone();
            return Err(Refusal::TopicNotFound { topic }.into());
        }
        let (topic, subscriber, at) = (topic.clone(), subscriber.clone(), self.now());
        let name = topic.clone();
        let command = match sharing {
            None => Command::Subscribe {
                topic,
                subscriber,
                start,
                at,
            },
            Some(sharing) => Command::SubscribeShared {
                topic,
                subscriber,
                start,
                at,
                sharing,
            },
        };
        let (subscription, is_new) = match call
            .replica
            .propose(command, call.deadline)
            .await?
            .outcome?
        {
            Response::Subscribed {
                subscription,
                is_new,
            } => (subscription, is_new),
            other => return misfit(call.replica.shard(), &other),
        };
        let row = rows(call.replica.shard(), read.view.topic(&name))?;
        let head_offset = row.map_or(subscription.cursor, |row| row.next_offset);
        Ok(Subscribed {
            subscription,
            is_existing: !is_new,
            head_offset,
        })
    }

    /// Removes a subscription with its cursor.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such topic or subscription.
    pub async fn unsubscribe<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        topic: &TopicName,
        subscriber: &SubscriberId,
    ) -> Result<(), Error> {
        let command = Command::Unsubscribe {
            topic: topic.clone(),
            subscriber: subscriber.clone(),
        };
        match call
            .replica
            .propose(command, call.deadline)
            .await?
            .outcome?
        {
            Response::Unsubscribed => Ok(()),
            other => misfit(call.replica.shard(), &other),
        }
    }

    /// Moves a cursor forward, and says where it is then.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such topic or subscription, or the offset is beyond the topic's end.
    pub async fn acknowledge<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        topic: &TopicName,
        subscriber: &SubscriberId,
        next_offset: Offset,
    ) -> Result<Offset, Error> {
        let (topic, subscriber) = (topic.clone(), subscriber.clone());
        let command = Command::Acknowledge {
            topic,
            subscriber,
            next_offset,
            expected: None,
        };
        match call
            .replica
            .propose(command, call.deadline)
            .await?
            .outcome?
        {
            Response::Acknowledged { cursor } => Ok(cursor),
            other => misfit(call.replica.shard(), &other),
        }
    }

    /// Moves a cursor anywhere, and says where it is then.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such topic, subscription or place.
    pub async fn seek<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        topic: &TopicName,
        subscriber: &SubscriberId,
        to: Start,
    ) -> Result<Offset, Error> {
        let command = Command::Seek {
            topic: topic.clone(),
            subscriber: subscriber.clone(),
            to,
        };
        match call
            .replica
            .propose(command, call.deadline)
            .await?
            .outcome?
        {
            Response::Sought { cursor } => Ok(cursor),
            other => misfit(call.replica.shard(), &other),
        }
    }

    /// Removes all subscriptions of a subscriber on topics of this shard, and says how many. Those that vanish meanwhile are not counted.
    ///
    /// # Errors
    /// [`Error::Replica`] when the shard cannot be written; what was removed until then stays removed.
    pub async fn remove_subscriptions<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        subscriber: &SubscriberId,
    ) -> Result<u64, Error> {
        let mut removed = 0;
        let mut after: Option<TopicName> = None;
        loop {
            let read = call
                .replica
                .read(Consistency::Leader, call.deadline)
                .await?;
            let (view, whose, from) = (read.view, subscriber.clone(), after.take());
            let query =
                move || view.subscriptions_of_subscriber(&whose, from.as_ref(), REMOVE_COUNT);
            let found = look(call.replica.shard(), query).await?;
            let Some(last) = found.last() else {
                return Ok(removed);
            };
            after = Some(last.topic.clone());
            for subscription in &found {
                match self
                    .unsubscribe(call, &subscription.topic, subscriber)
                    .await
                {
                    Ok(()) => removed += 1,
                    Err(Error::Refused(
                        Refusal::TopicNotFound { .. } | Refusal::SubscriptionNotFound { .. },
                    )) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}
