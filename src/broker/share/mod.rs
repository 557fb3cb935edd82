//! Subscriptions that several streams share: each message goes to one of them, and is acknowledged for itself.
//!
//! Leases are in the memory of the leader, acknowledgements with the shard (`docs/adr/0008-shared.md`). A subscription with a stream has one task, the
//! [`Clerk`](clerk::Clerk), with whom the streams talk. Begin with [`Broker::open_share`], then [`Consumer::next`].

mod clerk;
mod desk;
mod letter;
mod mail;
mod teller;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::lease::Credit;
use super::{Access, Broker, Call, Delivered, Error, Freshness, OpenDelivery, Opened, Post, rows};
use crate::consensus;
use crate::replica::{self, Consistency};
use crate::shard::{Refusal, Subscription, TopicRow, View};
use crate::types::{ByteCount, Offsets, SubscriberId, TopicId, TopicName, Vertex};
use clerk::{Beginning, Bell, Clerk, Order, Seat, Subject};
use desk::{ConsumerId, Seen};

pub use desk::Which;
pub use letter::{LETTER_PUBLISHER, Letter};

/// Events on their way to a stream. Full: nothing more is read for it.
const EVENTS_MAX: usize = 4;
/// What streams have said and the clerk has not heard yet. Full: they wait.
const ORDERS_MAX: usize = 256;
/// How often a stream is opened at a clerk that is about to end.
const JOINS_MAX: u32 = 8;
/// How often a subscription is read whose cursor is put elsewhere meanwhile. Then the stream ends, and is opened again.
const FINDS_MAX: u32 = 8;

type Key = (TopicId, SubscriberId);

/// The shared subscriptions of this peer that have a stream. Their tasks end with it.
#[derive(Debug)]
pub(super) struct Shares {
    clerks: Arc<Mutex<BTreeMap<Key, Door>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stops: DropGuard,
}

/// The way to a clerk.
#[derive(Debug, Clone)]
struct Door {
    orders: mpsc::Sender<Order>,
    bell: Bell,
}

impl Default for Shares {
    fn default() -> Self {
        let stop = CancellationToken::new();
        Self {
            clerks: Arc::default(),
            tasks: TaskTracker::new(),
            _stops: stop.clone().drop_guard(),
            stop,
        }
    }
}

impl Shares {
    /// Each change is one insert or remove, which a panic cannot leave half done.
    fn lock(clerks: &Mutex<BTreeMap<Key, Door>>) -> MutexGuard<'_, BTreeMap<Key, Door>> {
        clerks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clerk of a subscription, as long as it serves.
    fn get(&self, key: &Key) -> Option<Door> {
        let found = Self::lock(&self.clerks).get(key).cloned();
        found.filter(|door| !door.orders.is_closed())
    }

    /// A clerk for a subscription that has none, which begins with this order. Another may have been faster: the order comes back.
    fn hire<R: Access, P: Post>(
        &self,
        key: &Key,
        begin: Beginning<R, P>,
        order: Order,
    ) -> Result<Door, Box<(Door, Order)>> {
        let mut clerks = Self::lock(&self.clerks);
        if let Some(door) = clerks.get(key).filter(|door| !door.orders.is_closed()) {
            return Err(Box::new((door.clone(), order)));
        }
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        // It is empty, so there is room.
        let _ = orders.try_send(order);
        let bell = Bell::default();
        let door = Door {
            orders,
            bell: bell.clone(),
        };
        clerks.insert(key.clone(), door.clone());
        drop(clerks);
        let clerk = Clerk::new(begin, receiver, bell);
        let (stop, clerks, key) = (self.stop.clone(), Arc::clone(&self.clerks), key.clone());
        let own = door.orders.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = clerk.run() => {}
            }
            let mut clerks = Self::lock(&clerks);
            // Unless it has a successor.
            if clerks
                .get(&key)
                .is_some_and(|door| door.orders.same_channel(&own))
            {
                clerks.remove(&key);
            }
        });
        Ok(door)
    }
}

impl Broker {
    /// Opens a stream of a shared subscription, beside those that it has.
    ///
    /// # Errors
    /// [`Error::Refused`] for an unknown topic or subscription, [`Error::Replica`] when this replica does not lead.
    pub async fn open_share<R: Access, D, P: Post>(
        &self,
        call: &Call<'_, R, D>,
        open: &OpenDelivery,
        post: &P,
    ) -> Result<(Opened, Consumer), Error> {
        for _ in 0..JOINS_MAX {
            // Made before the read, so that nothing that changes after the read is missed.
            let watch = call.replica.subscribe_topic(&open.topic);
            let read = call
                .replica
                .read(Consistency::Linearizable, call.deadline)
                .await?;
            let freshness = Freshness::from(&read);
            let found = find(call.replica, &read.view, &open.topic, &open.subscriber)?;
            let (topic, subscription, seen) = found;
            let Some(sharing) = subscription.sharing.clone() else {
                let (topic, subscriber) = (open.topic.clone(), open.subscriber.clone());
                return Err(Refusal::SubscriptionNotFound { topic, subscriber }.into());
            };
            let key = (topic.id, open.subscriber.clone());
            let head_offset = topic.next_offset;
            let (order, seat) = seat(open, sharing.lease);
            let begin = Beginning {
                replica: call.replica.clone(),
                post: post.clone(),
                watch,
                subject: Subject {
                    topic: open.topic.clone(),
                    subscriber: open.subscriber.clone(),
                    dead_letters: sharing.dead_letters,
                },
                view: read.view,
                topic,
                seen,
            };
            let door = match self.shares.get(&key) {
                Some(door) => Err(Box::new((door, order))),
                None => self.shares.hire(&key, begin, order),
            };
            let door = match door {
                Ok(door) => door,
                // One that ends meanwhile drops what it was told.
                Err(held) => {
                    let (door, order) = *held;
                    if door.orders.send(order).await.is_err() {
                        continue;
                    }
                    door
                }
            };
            let Ok(id) = seat.joined.await else { continue };
            let opened = Opened {
                topic_id: key.0,
                subscription,
                head_offset,
                freshness,
            };
            let consumer = Consumer {
                id,
                door,
                events: seat.events,
                shard: call.replica.shard(),
            };
            return Ok((opened, consumer));
        }
        Err(ended(call.replica.shard()))
    }
}

/// What the opener of a stream keeps of its seat.
struct Ticket {
    events: mpsc::Receiver<Result<Delivered, Error>>,
    joined: oneshot::Receiver<ConsumerId>,
}

fn seat(open: &OpenDelivery, lease: Duration) -> (Order, Ticket) {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let (join, joined) = oneshot::channel();
    let seat = Seat {
        lease: open.lease.unwrap_or(lease),
        heartbeat: open.heartbeat,
        beats: Instant::now() + open.heartbeat,
        credit: Credit::default(),
        events: sender,
        ready: VecDeque::new(),
        settled: Offsets::default(),
        finish: None,
    };
    (Order::Join(seat, join), Ticket { events, joined })
}

/// The clerk has ended without a reason: its peer stops.
fn ended(shard: Vertex) -> Error {
    Error::Replica(replica::Error::Consensus(consensus::Error::Stopped {
        shard,
    }))
}

/// The rows of the topic and a shared subscription, and what the door wants to see of them. The rows are read one after the other while others change them: what
/// is known of messages is not newer than the cursor, and both are of one era.
fn find<R: Access>(
    replica: &R,
    view: &View,
    topic: &TopicName,
    subscriber: &SubscriberId,
) -> Result<(TopicRow, Subscription, Seen), Error> {
    let shard = replica.shard();
    for _ in 0..FINDS_MAX {
        let row = topic_row(replica, view, topic)?;
        let share = rows(shard, view.share(&row, subscriber))?;
        let subscription = rows(shard, view.subscription(&row, subscriber))?;
        let after = rows(shard, view.share(&row, subscriber))?;
        let (Some(subscription), Some(share), Some(after)) = (subscription, share, after) else {
            let (topic, subscriber) = (topic.clone(), subscriber.clone());
            return Err(Refusal::SubscriptionNotFound { topic, subscriber }.into());
        };
        if share.era != after.era {
            continue;
        }
        let seen = Seen {
            cursor: subscription.cursor,
            first: row.first_offset,
            head: row.next_offset,
            missed: subscription.missed,
            share,
        };
        return Ok((row, subscription, seen));
    }
    Err(ended(shard))
}

/// The rows of a topic, if it is there.
fn topic_row<R: Access>(replica: &R, view: &View, topic: &TopicName) -> Result<TopicRow, Error> {
    let row = rows(replica.shard(), view.topic(topic))?;
    let topic = topic.clone();
    row.ok_or_else(|| Refusal::TopicNotFound { topic }.into())
}

/// One stream of a shared subscription. Dropping it frees what it has.
#[derive(Debug)]
pub struct Consumer {
    id: ConsumerId,
    door: Door,
    events: mpsc::Receiver<Result<Delivered, Error>>,
    shard: Vertex,
}

impl Consumer {
    /// Lets more messages, and so many bytes of them, be delivered. No bytes in the first credit: only the number of messages counts.
    pub async fn give(&self, messages: u32, bytes: ByteCount) {
        self.say(Order::Give(self.id, messages, bytes)).await;
    }

    /// These messages are done. The stream is told when that is stored.
    pub async fn acknowledge(&self, ranges: Offsets) {
        self.say(Order::Acknowledge(self.id, ranges)).await;
    }

    /// These messages are for somebody else, after this time.
    pub async fn reject(&self, which: Which, delay: Duration) {
        self.say(Order::Reject(self.id, which, delay)).await;
    }

    /// These messages have this time from now.
    pub async fn extend(&self, which: Which, lease: Duration) {
        self.say(Order::Extend(self.id, which, lease)).await;
    }

    /// Says something to the clerk; one that has ended says so with the next event.
    async fn say(&self, order: Order) {
        let _ = self.door.orders.send(order).await;
    }

    /// The next thing to tell the reader. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::TopicDeleted`], [`Error::Replica`] when this replica does not lead any more, and what an acknowledgement or a read can have. The stream
    /// is over then.
    pub async fn next(&mut self) -> Result<Delivered, Error> {
        let event = self.events.recv().await;
        self.door.bell.rung.notify_one();
        event.unwrap_or_else(|| Err(self.over()))
    }

    /// Waits until all is stored that was acknowledged, and gives what there is still to tell.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn finish(&mut self) -> Result<(), Error> {
        let (done, finished) = oneshot::channel();
        self.say(Order::Finish(self.id, done)).await;
        finished.await.map_err(|_| self.over())
    }

    /// Why the clerk has ended.
    fn over(&self) -> Error {
        let over = self.door.bell.over.get().cloned();
        over.unwrap_or_else(|| ended(self.shard))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.events.close();
        self.door.bell.rung.notify_one();
    }
}
