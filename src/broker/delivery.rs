//! A stream of deliveries from a durable cursor on, strictly in order, to the one reader that holds the subscription.
//!
//! It lives at the leader and keeps nothing but a few batches that are about to be delivered: what is delivered and not acknowledged is known by its
//! offsets alone, and read again when it has to come again. It is woken by what happens to the topic and never polls. Never talks to a client.
//! Begin with [`Broker::open_delivery`], then [`Delivery::next`].

use std::collections::VecDeque;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, OptionFuture};
use tokio::time::Instant;

use super::holder::Holding;
use super::lease::{Credit, Leases};
use super::{Access, Broker, Call, Error, Freshness, Watch, look, misfit, rows};
use crate::replica::{Consistency, Read};
use crate::shard::{Command, Refusal, Response, Subscription, TopicRow, View};
use crate::types::{ByteCount, Offset, Offsets, StoredBatch, SubscriberId, TopicId, TopicName};

/// Bytes that are read at once, and so at most what a stream keeps besides its credit: a slow reader costs no more.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Messages that are read at once.
const READ_COUNT_MAX: u32 = 10_000;
/// How long one step, a read or a move of the cursor, may take.
const STEP_MAX: Duration = Duration::from_secs(10);

/// How long a reader has for what is delivered, when nobody says.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);

/// What a reader asks for.
#[derive(Debug, Clone)]
pub struct OpenDelivery {
    /// The topic.
    pub topic: TopicName,
    /// Whose cursor.
    pub subscriber: SubscriberId,
    /// What is not acknowledged after this time is delivered again. `None`: what the subscription says, or [`LEASE_DEFAULT`].
    pub lease: Option<Duration>,
    /// How often the reader hears something when there is nothing to deliver.
    pub heartbeat: Duration,
}

/// What a delivery begins with.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The life of the topic that is delivered.
    pub topic_id: TopicId,
    /// The subscription, with the cursor at which delivery begins.
    pub subscription: Subscription,
    /// The offset that the topic's next message will get.
    pub head_offset: Offset,
    /// How fresh that is.
    pub freshness: Freshness,
}

/// What a reader is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// Messages.
    Batch {
        /// The messages, with their offsets.
        batch: StoredBatch,
        /// 1 the first time, greater when they come again.
        attempt: u32,
        /// Messages right before these that were removed before they could be delivered.
        missed: u64,
    },
    /// Acknowledgements of a shared subscription are stored.
    Settled {
        /// These messages never come again.
        ranges: Offsets,
    },
    /// A sign of life.
    Heartbeat {
        /// Where the cursor is.
        cursor: Offset,
        /// The offset that the topic's next message will get.
        head_offset: Offset,
    },
}

impl Broker {
    /// Begins to deliver from the cursor on. Whoever held the subscription before loses it.
    ///
    /// # Errors
    /// [`Error::Refused`] for an unknown topic or subscription, or one that is shared; [`Error::Replica`] when this replica does not lead.
    pub async fn open_delivery<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        open: OpenDelivery,
    ) -> Result<(Opened, Delivery<R>), Error> {
        // Made before the read, so that nothing that changes after the read is missed.
        let watch = call.replica.subscribe_topic(&open.topic);
        // A reader takes a cursor that is lower than it was told as moved back, so it must not be told of one by a leader that was replaced.
        let read = call
            .replica
            .read(Consistency::Linearizable, call.deadline)
            .await?;
        let (topic, subscription) = find(call.replica, &read, &open)?;
        let holding = self.holders.take(topic.id, &open.subscriber);
        let cursor = subscription.cursor;
        let delivery = Delivery {
            replica: call.replica.clone(),
            watch,
            holding,
            view: read.view.clone(),
            position: cursor,
            delivered: cursor,
            cursor,
            attempt: 1,
            missed: subscription.missed,
            topic,
            credit: Credit::default(),
            leases: Leases::new(open.lease.unwrap_or(LEASE_DEFAULT)),
            ready: VecDeque::new(),
            reading: None,
            acknowledged: cursor,
            acknowledging: None,
            resumes: None,
            beats: Instant::now() + open.heartbeat,
            is_stale: false,
            is_due: false,
            is_closing: false,
            open,
        };
        let opened = Opened {
            topic_id: delivery.topic.id,
            subscription,
            head_offset: delivery.topic.next_offset,
            freshness: Freshness::from(&read),
        };
        Ok((opened, delivery))
    }
}

/// A stream of deliveries. See the module.
pub struct Delivery<R: Access> {
    replica: R,
    open: OpenDelivery,
    watch: R::Watch,
    holding: Holding,
    /// The rows and the topic as they were when they were last looked at.
    view: View,
    topic: TopicRow,
    /// Where the cursor was then.
    cursor: Offset,
    /// The next message to deliver.
    position: Offset,
    /// The end of what was delivered at some time. What lies before it comes again.
    delivered: Offset,
    attempt: u32,
    /// To be told with the next messages.
    missed: u64,
    credit: Credit,
    leases: Leases,
    /// Read, and not yet delivered; begins at `position`.
    ready: VecDeque<StoredBatch>,
    reading: Option<BoxFuture<'static, Result<Vec<StoredBatch>, Error>>>,
    /// The end of what the reader has acknowledged; the cursor follows.
    acknowledged: Offset,
    acknowledging: Option<BoxFuture<'static, Result<Offset, Error>>>,
    /// Nothing is delivered before this.
    resumes: Option<Instant>,
    /// When the reader is to hear something.
    beats: Instant,
    /// The topic has changed since it was looked at.
    is_stale: bool,
    /// The reader is to be told where the cursor is.
    is_due: bool,
    /// Nobody is woken any more: the peer stops.
    is_closing: bool,
}

impl<R: Access> Delivery<R> {
    /// Lets more messages, and so many bytes of them, be delivered. No bytes in the first credit: only the number of messages counts.
    pub fn give(&mut self, messages: u32, bytes: ByteCount) {
        self.credit.give(messages, bytes);
    }

    /// All messages before this offset are done. The cursor is moved in the background.
    pub fn acknowledge(&mut self, next_offset: Offset) {
        self.acknowledged = self.acknowledged.max(next_offset);
        self.leases.release(next_offset);
    }

    /// Delivers again from this offset on, after this time, but nothing that is acknowledged.
    pub fn reject(&mut self, first_offset: Offset, delay: Duration) {
        let from = first_offset.max(self.acknowledged);
        if from < self.position {
            self.go_back(from);
        }
        self.resumes = Some(Instant::now() + delay).filter(|_| !delay.is_zero());
    }

    /// Gives all that is delivered and not acknowledged this time from now.
    pub fn extend(&mut self, lease: Duration) {
        self.leases.extend(lease);
    }

    /// The next thing to tell the reader. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::TopicDeleted`], [`Error::Superseded`] when another reader took the subscription, [`Error::Replica`] when this replica does not lead any
    /// more, and what an acknowledgement or a read can have. The stream is over then.
    pub async fn next(&mut self) -> Result<Delivered, Error> {
        loop {
            if self.holding.is_lost() {
                return Err(self.superseded());
            }
            if self.is_stale {
                self.see().await?;
            }
            if let Some(batch) = self.take() {
                return Ok(batch);
            }
            if self.is_due {
                self.is_due = false;
                self.beats = Instant::now() + self.open.heartbeat;
                return Ok(Delivered::Heartbeat {
                    cursor: self.cursor,
                    head_offset: self.topic.next_offset,
                });
            }
            self.start_reading();
            self.start_acknowledging();
            self.wait().await?;
        }
    }

    /// Waits until the cursor is where the reader has acknowledged to.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn finish(&mut self) -> Result<(), Error> {
        loop {
            self.start_acknowledging();
            let Some(acknowledging) = &mut self.acknowledging else {
                return Ok(());
            };
            let result = acknowledging.await;
            self.moved(result)?;
        }
    }

    /// Waits until something has happened.
    async fn wait(&mut self) -> Result<(), Error> {
        let timer = [Some(self.beats), self.leases.ends(), self.resumes];
        let timer = timer.into_iter().flatten().min().unwrap_or(self.beats);
        tokio::select! {
            biased;
            () = self.holding.lost() => {}
            Some(result) = OptionFuture::from(self.acknowledging.as_mut()) => self.moved(result)?,
            Some(result) = OptionFuture::from(self.reading.as_mut()) => self.came(result)?,
            has_changed = self.watch.changed(timer), if !self.is_closing => {
                self.is_stale |= has_changed;
                self.is_closing = !has_changed && Instant::now() < timer;
            }
            () = tokio::time::sleep_until(timer), if self.is_closing => {}
        }
        self.tick();
        Ok(())
    }

    /// Does what is due by now.
    fn tick(&mut self) {
        let now = Instant::now();
        if self.leases.ends().is_some_and(|ends| ends <= now) {
            self.go_back(self.acknowledged.min(self.position));
        }
        if self.resumes.is_some_and(|resumes| resumes <= now) {
            self.resumes = None;
        }
        if self.beats <= now {
            // Looked at anew, so that a replica that does not lead any more finds out.
            (self.is_stale, self.is_due) = (true, true);
        }
    }

    /// Looks at the topic and the cursor as they are now.
    async fn see(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + STEP_MAX;
        let read = self.replica.read(Consistency::Leader, deadline).await?;
        let found = find(&self.replica, &read, &self.open);
        let (topic, subscription) = match found {
            Ok((topic, subscription)) if topic.id == self.topic.id => (topic, subscription),
            Ok(_) | Err(Error::Refused(Refusal::TopicNotFound { .. })) => {
                return Err(Error::TopicDeleted {
                    topic: self.open.topic.clone(),
                });
            }
            Err(error) => return Err(error),
        };
        self.is_stale = false;
        self.view = read.view;
        let first = topic.first_offset;
        self.topic = topic;
        if self.position < first {
            // What was delivered once, and would have come again, is not missed.
            let seen = self.position.max(self.delivered);
            self.missed += first.0.saturating_sub(seen.0);
            self.jump(first);
        }
        let cursor = subscription.cursor;
        if cursor < self.cursor {
            // Somebody moved it back; what was acknowledged before that counts no more.
            self.acknowledged = cursor;
            self.go_back(cursor);
        } else if cursor > self.position {
            self.jump(cursor);
        }
        if cursor != self.cursor {
            self.cursor = cursor;
            self.acknowledged = self.acknowledged.max(cursor);
            self.leases.release(cursor);
            self.is_due = true;
        }
        Ok(())
    }

    /// The next messages that may be delivered.
    fn take(&mut self) -> Option<Delivered> {
        if self.resumes.is_some() || !self.credit.is_open() {
            return None;
        }
        let front = self.ready.front_mut()?;
        let is_again = self.position < self.delivered;
        // What comes again is not mixed with what is new.
        let same = match is_again {
            true => self.delivered.0 - self.position.0,
            false => u64::MAX,
        };
        let count_max = u32::try_from(same.min(self.credit.messages())).unwrap_or(u32::MAX);
        let part = front
            .batch
            .slice(0, count_max, self.credit.bytes(READ_BYTES_MAX))?;
        let batch = StoredBatch {
            batch: part,
            ..front.clone()
        };
        match front
            .batch
            .slice(batch.batch.count(), u32::MAX, ByteCount(u64::MAX))
        {
            Some(rest) => {
                front.base_offset = batch.next_offset();
                front.batch = rest;
            }
            None => {
                self.ready.pop_front();
            }
        }
        self.credit
            .take(u64::from(batch.batch.count()), batch.batch.bytes());
        self.position = batch.next_offset();
        self.leases.begin(self.position);
        let attempt = if is_again { self.attempt } else { 1 };
        self.delivered = self.delivered.max(self.position);
        self.beats = Instant::now() + self.open.heartbeat;
        Some(Delivered::Batch {
            batch,
            attempt,
            missed: std::mem::take(&mut self.missed),
        })
    }

    fn start_reading(&mut self) {
        let is_wanted = self.ready.is_empty()
            && self.reading.is_none()
            && self.position < self.topic.next_offset
            && self.resumes.is_none()
            && self.credit.is_open();
        if !is_wanted {
            return;
        }
        let (view, topic, from) = (self.view.clone(), self.topic.clone(), self.position);
        let count = u32::try_from(self.credit.messages()).unwrap_or(u32::MAX);
        let (count, bytes) = (count.min(READ_COUNT_MAX), self.credit.bytes(READ_BYTES_MAX));
        let shard = self.replica.shard();
        let read = look(shard, move || view.batches(&topic, from, count, bytes));
        self.reading = Some(read.boxed());
    }

    fn came(&mut self, result: Result<Vec<StoredBatch>, Error>) -> Result<(), Error> {
        self.reading = None;
        self.ready = result?.into();
        // Removed since it was looked at.
        self.is_stale |= self.ready.is_empty();
        Ok(())
    }

    /// Moves the cursor, unless that is under way.
    fn start_acknowledging(&mut self) {
        if self.acknowledging.is_some() || self.acknowledged <= self.cursor {
            return;
        }
        let topic = self.open.topic.clone();
        let command = Command::AcknowledgeLife {
            topic: topic.clone(),
            topic_id: self.topic.id,
            subscriber: self.open.subscriber.clone(),
            next_offset: self.acknowledged,
        };
        let replica = self.replica.clone();
        let acknowledging = async move {
            let deadline = Instant::now() + STEP_MAX;
            match replica.propose(command, deadline).await?.outcome {
                Ok(Response::Acknowledged { cursor }) => Ok(cursor),
                Ok(other) => misfit(replica.shard(), &other),
                Err(Refusal::TopicNotFound { .. }) => Err(Error::TopicDeleted { topic }),
                Err(refusal) => Err(refusal.into()),
            }
        };
        self.acknowledging = Some(acknowledging.boxed());
    }

    fn moved(&mut self, result: Result<Offset, Error>) -> Result<(), Error> {
        self.acknowledging = None;
        let cursor = result?;
        // It may be further than this stream has said, by another call; and somebody may have moved it back since, which is seen as that only when it is
        // compared with this.
        self.cursor = self.cursor.max(cursor);
        self.acknowledged = self.acknowledged.max(cursor);
        self.leases.release(cursor);
        (self.is_stale, self.is_due) = (true, true);
        Ok(())
    }

    /// Delivery goes on here, without what lies between.
    fn jump(&mut self, to: Offset) {
        self.position = to;
        self.delivered = self.delivered.max(to);
        self.ready.clear();
        self.reading = None;
    }

    /// Delivers again from here on.
    fn go_back(&mut self, to: Offset) {
        self.position = to;
        self.attempt = self.attempt.saturating_add(1);
        self.leases.forget(to, self.acknowledged);
        self.ready.clear();
        self.reading = None;
    }

    fn superseded(&self) -> Error {
        Error::Superseded {
            topic: self.open.topic.clone(),
            subscriber: self.open.subscriber.clone(),
        }
    }
}

/// The rows of the topic and the cursor.
fn find<R: Access>(
    replica: &R,
    read: &Read,
    open: &OpenDelivery,
) -> Result<(TopicRow, Subscription), Error> {
    let shard = replica.shard();
    let (topic, subscriber) = (open.topic.clone(), open.subscriber.clone());
    let Some(row) = rows(shard, read.view.topic(&topic))? else {
        return Err(Refusal::TopicNotFound { topic }.into());
    };
    match rows(shard, read.view.subscription(&row, &subscriber))? {
        Some(subscription) if subscription.sharing.is_some() => {
            Err(Refusal::SubscriptionShared { topic, subscriber }.into())
        }
        Some(subscription) => Ok((row, subscription)),
        None => Err(Refusal::SubscriptionNotFound { topic, subscriber }.into()),
    }
}
