//! Pulling: reading from a durable cursor, waiting for something new, and acknowledging on the way.

use std::time::Duration;

use tokio::time::Instant;

use super::{Access, Broker, Call, Error, Freshness, Watch, look, rows};
use crate::replica::{Consistency, Read};
use crate::shard::{Command, Refusal, Response, Subscription, TopicRow};
use crate::types::{ByteCount, Offset, StoredBatch, SubscriberId, TopicId, TopicName};

/// How often a pull tries to move a cursor that others move at the same time.
const CURSOR_ATTEMPTS_MAX: u32 = 16;

/// What a batch's offsets, times and numbers take at most on the wire, without the publisher's name.
const ENVELOPE_BYTES: usize = 80;

/// A pull.
#[derive(Debug, Clone)]
pub struct Pull {
    /// The topic.
    pub topic: TopicName,
    /// Whose cursor.
    pub subscriber: SubscriberId,
    /// Messages at most.
    pub count_max: u32,
    /// Bytes at most, but at least one message.
    pub bytes_max: ByteCount,
    /// How long to wait for a first message.
    pub wait: Duration,
    /// Acknowledge all messages before this one first.
    pub acknowledge_to: Option<Offset>,
    /// Who acknowledges the messages of the answer.
    pub acknowledgement: Acknowledgement,
    /// What is sure to be seen.
    pub consistency: Consistency,
}

/// Who acknowledges the messages of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The caller, later.
    Caller,
    /// The pull itself, before it answers.
    Pull,
}

/// The answer to a pull.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The messages, without a gap. Empty: nothing is new.
    pub batches: Vec<StoredBatch>,
    /// The offset after the last message; the cursor when there is none.
    pub next_offset: Offset,
    /// Where the cursor is now.
    pub cursor: Offset,
    /// The offset that the topic's next message will get.
    pub head_offset: Offset,
    /// Messages right below the cursor that were removed before they were acknowledged.
    pub missed: u64,
    /// How fresh that is.
    pub freshness: Freshness,
}

/// What the cursor's subscription and topic look like.
struct Place {
    topic: TopicRow,
    subscription: Subscription,
}

impl Broker {
    /// Reads messages from the cursor on, and waits for some when there are none.
    ///
    /// # Errors
    /// [`Error::Refused`] for an unknown topic or subscription or a wrong `acknowledge_to`; [`Error::TopicDeleted`] when that happens while
    /// waiting; [`Error::CursorContended`] when others keep moving the cursor.
    pub async fn pull<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        pull: &Pull,
    ) -> Result<Pulled, Error> {
        if let Some(next_offset) = pull.acknowledge_to {
            self.acknowledge(call, &pull.topic, &pull.subscriber, next_offset)
                .await?;
        }
        let wait_until = call.deadline.min(Instant::now() + pull.wait);
        let mut seen: Option<TopicId> = None;
        let mut attempts = 0;
        let mut waits = true;
        loop {
            // Made before the read, so that nothing that changes after the read is missed.
            let mut watch = call.replica.subscribe_topic(&pull.topic);
            let read = call.replica.read(pull.consistency, call.deadline).await?;
            let place = find(call.replica, &read, pull, seen)?;
            seen = Some(place.topic.id);
            let pulled = gather(call.replica, &read, pull, place).await?;
            if pulled.batches.is_empty() {
                if !waits || Instant::now() >= wait_until {
                    return Ok(pulled);
                }
                // One more look tells what there is, and is the last when nobody is to wait any more.
                waits = watch.changed(wait_until).await;
                continue;
            }
            if pull.acknowledgement == Acknowledgement::Caller {
                return Ok(pulled);
            }
            if let Some(pulled) = advance(call, pull, pulled).await? {
                return Ok(pulled);
            }
            attempts += 1;
            if attempts == CURSOR_ATTEMPTS_MAX {
                let (topic, subscriber) = (pull.topic.clone(), pull.subscriber.clone());
                return Err(Error::CursorContended {
                    topic,
                    subscriber,
                    attempts,
                });
            }
        }
    }
}

/// The rows of the topic and the cursor. `seen` is the life of the topic that the call began with.
fn find<R: Access>(
    replica: &R,
    read: &Read,
    pull: &Pull,
    seen: Option<TopicId>,
) -> Result<Place, Error> {
    let shard = replica.shard();
    let topic = rows(shard, read.view.topic(&pull.topic))?;
    let deleted = || Error::TopicDeleted {
        topic: pull.topic.clone(),
    };
    let topic = match (topic, seen) {
        (Some(topic), None) => topic,
        (Some(topic), Some(seen)) if topic.id == seen => topic,
        (_, Some(_)) => return Err(deleted()),
        (None, None) => {
            return Err(Refusal::TopicNotFound {
                topic: pull.topic.clone(),
            }
            .into());
        }
    };
    match rows(shard, read.view.subscription(&topic, &pull.subscriber))? {
        Some(subscription) if subscription.sharing.is_some() => {
            let (topic, subscriber) = (pull.topic.clone(), pull.subscriber.clone());
            Err(Refusal::SubscriptionShared { topic, subscriber }.into())
        }
        Some(subscription) => Ok(Place {
            topic,
            subscription,
        }),
        None => {
            let (topic, subscriber) = (pull.topic.clone(), pull.subscriber.clone());
            Err(Refusal::SubscriptionNotFound { topic, subscriber }.into())
        }
    }
}

/// The messages from the cursor on.
async fn gather<R: Access>(
    replica: &R,
    read: &Read,
    pull: &Pull,
    place: Place,
) -> Result<Pulled, Error> {
    let Place {
        topic,
        subscription,
    } = place;
    let (cursor, head_offset) = (subscription.cursor, topic.next_offset);
    // A cursor beyond the end was moved after the topic's row was read: nothing is new for it yet.
    let batches = if cursor < head_offset {
        let (view, count_max, bytes_max) = (read.view.clone(), pull.count_max, pull.bytes_max);
        look(replica.shard(), move || {
            view.batches(&topic, cursor, count_max, bytes_max)
        })
        .await?
    } else {
        Vec::new()
    };
    let batches = trim(batches, pull.bytes_max);
    let next_offset = batches.last().map_or(cursor, StoredBatch::next_offset);
    Ok(Pulled {
        batches,
        next_offset,
        cursor,
        head_offset,
        missed: subscription.missed,
        freshness: Freshness::from(read),
    })
}

/// Cuts the batches so that they and their envelopes fit, but leaves at least one: many small batches have more envelope than payload.
pub(super) fn trim(mut batches: Vec<StoredBatch>, bytes_max: ByteCount) -> Vec<StoredBatch> {
    let mut bytes = 0;
    let fitting = batches.iter().take_while(|stored| {
        let publisher = stored
            .origin
            .as_ref()
            .map_or(0, |(publisher, ..)| publisher.as_str().len());
        bytes += stored.batch.payload().len() + publisher + ENVELOPE_BYTES;
        bytes as u64 <= bytes_max.0
    });
    let count = fitting.count().max(1);
    batches.truncate(count);
    batches
}

/// Moves the cursor behind the messages, if it is still where it was. `None`: others have moved it.
async fn advance<R: Access, D>(
    call: &Call<'_, R, D>,
    pull: &Pull,
    mut pulled: Pulled,
) -> Result<Option<Pulled>, Error> {
    let command = Command::Acknowledge {
        topic: pull.topic.clone(),
        subscriber: pull.subscriber.clone(),
        next_offset: pulled.next_offset,
        expected: Some(pulled.cursor),
    };
    match call.replica.propose(command, call.deadline).await?.outcome {
        Ok(Response::Acknowledged { cursor }) => {
            pulled.cursor = cursor;
            Ok(Some(pulled))
        }
        Ok(other) => super::misfit(call.replica.shard(), &other),
        Err(Refusal::CursorMoved { .. }) => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}
