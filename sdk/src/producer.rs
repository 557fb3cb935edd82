//! A producer: many single messages to one topic, gathered into few requests that are under way at the same time.
//!
//! How messages become bundles is in `bundle`, how these reach the log in `pipeline`. Begin with [`Publisher::producer`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::block::Compression;
use crate::bundle::{Chunk, IsNews, METHOD, Measure, Next, Queue};
use crate::client::Client;
use crate::error::Error;
use crate::message::{Message, Published};
use crate::model::AckLevel;
use crate::moment;
use crate::pipeline;
use crate::proto::v1;
use crate::publish::Publisher;
use crate::receipt::{Receipt, Receipts};

/// Larger requests gain nothing: peers split what they propose at about this size.
const BUNDLE_BYTES: usize = 64 << 10;
/// Peers take no larger request unless they are set otherwise.
const BUNDLE_BYTES_MAX: usize = 1 << 20;
/// Below what peers hold of a stream.
const IN_FLIGHT_MAX: usize = 64;
/// What tag and length of a message take in a request at most, as long as it is shorter than 4 GiB.
const FRAME_BYTES: usize = 6;

/// How a producer gathers and sends. The default: 64 KiB or 1 ms, 16 requests under way, 32 MiB waiting, not compressed.
///
/// ```
/// use std::time::Duration;
/// use cubecast_sdk::ProducerOptions;
///
/// let options = ProducerOptions::new().linger(Duration::from_millis(5)).in_flight(32);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ProducerOptions {
    bundle_bytes: usize,
    linger: Duration,
    pub(crate) in_flight: usize,
    waiting_bytes: usize,
    pub(crate) acks: AckLevel,
    pub(crate) compression: Option<Compression>,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            bundle_bytes: BUNDLE_BYTES,
            linger: Duration::from_millis(1),
            in_flight: 16,
            waiting_bytes: 32 << 20,
            acks: AckLevel::Quorum,
            compression: None,
        }
    }
}

impl ProducerOptions {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages are sent as soon as they make so many bytes, at most 1 MiB. A larger message goes alone.
    pub fn bundle_bytes(self, bytes: usize) -> Self {
        Self {
            bundle_bytes: bytes.clamp(1, BUNDLE_BYTES_MAX),
            ..self
        }
    }

    /// How long a message waits for others. Zero: no longer than until the next request may go.
    pub fn linger(self, linger: Duration) -> Self {
        Self { linger, ..self }
    }

    /// How many requests may be under way, 1 to 64.
    pub fn in_flight(self, count: usize) -> Self {
        Self {
            in_flight: count.clamp(1, IN_FLIGHT_MAX),
            ..self
        }
    }

    /// How many bytes of messages may wait for their answers. Full: [`Producer::send`] waits.
    pub fn waiting_bytes(self, bytes: usize) -> Self {
        Self {
            waiting_bytes: bytes.clamp(1, Semaphore::MAX_PERMITS),
            ..self
        }
    }

    /// When a message counts as published.
    pub fn acks(self, acks: AckLevel) -> Self {
        Self { acks, ..self }
    }

    /// Compresses the messages of a request together. They then have one offset, are acknowledged together, and can be read by this SDK only, as
    /// peers store them as one message that they do not look into. A request that does not get smaller is sent as it is.
    pub fn compression(self, compression: Compression) -> Self {
        Self {
            compression: Some(compression),
            ..self
        }
    }
}

impl Publisher {
    /// Publishes single messages to one topic as fast as they come: gathered, several requests at a time, each message exactly once in the log and all in
    /// order, whatever happens to the peers.
    ///
    /// A producer has one stream to the cluster and a session of its own; for many topics with little to say each, [`Self::publish`] costs less.
    ///
    /// ```no_run
    /// # async fn run(publisher: cubecast_sdk::Publisher) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::ProducerOptions;
    ///
    /// let producer = publisher.producer("news", ProducerOptions::new());
    /// let receipt = producer.send("rain").await?;
    /// println!("offset {}", receipt.await?.offset);
    /// # Ok(())
    /// # }
    /// ```
    pub fn producer(&self, topic: &str, options: ProducerOptions) -> Producer {
        let core = Arc::new(Core {
            client: self.client().clone(),
            topic: topic.into(),
            publisher: self.id().into(),
            queue: Mutex::default(),
            room: Arc::new(Semaphore::new(options.waiting_bytes)),
            wake: Notify::new(),
            options,
        });
        Producer {
            shared: Arc::new(Shared {
                core,
                tasks: Mutex::default(),
            }),
        }
    }
}

/// Publishes single messages to one topic. Cheap to clone; clones share the order. Made by [`Publisher::producer`].
///
/// When the last clone is dropped, what is not answered by then is not waited for: it may be in the log or not. Call [`Self::flush`] first.
#[derive(Debug, Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    core: Arc<Core>,
    /// The one that sends, from the first message on. It ends with the producer.
    tasks: Mutex<JoinSet<()>>,
}

/// What a producer and its task share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) client: Client,
    pub(crate) topic: Arc<str>,
    pub(crate) publisher: Arc<str>,
    pub(crate) options: ProducerOptions,
    queue: Mutex<Queue>,
    /// Bytes of messages that may wait.
    room: Arc<Semaphore>,
    /// The task has something to look at.
    pub(crate) wake: Notify,
}

impl Producer {
    /// Gives a message away and gets a receipt: a future that tells where the message is in the log. Waits only for room. Messages have the order in
    /// which this was first polled, as long as there is room.
    ///
    /// ```no_run
    /// # async fn run(producer: cubecast_sdk::Producer) -> Result<(), cubecast_sdk::Error> {
    /// let mut receipts = Vec::new();
    /// for number in 0..1_000 {
    ///     receipts.push(producer.send(format!("message {number}")).await?);
    /// }
    /// for receipt in receipts {
    ///     receipt.await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::MessageEmpty`]; [`Error::MessageTooLarge`] when no peer takes it, as far as the client has heard; [`Error::DeadlineExceeded`] when there was no
    /// room within the client's deadline: the message was not sent. The receipt gives [`Error::Refused`] as
    /// [`Publisher::publish`] does; [`Error::DeadlineExceeded`] when the message was not sent in time; [`Error::OutcomeUnknown`] when the deadline
    /// passed and it may have been. An error of one message does not stop the next.
    pub async fn send(&self, message: impl Into<Message>) -> Result<Receipt, Error> {
        let message = message.into();
        let core = &self.shared.core;
        let size = core.size(&message)?;
        core.enter(size.1).await?;
        let pushed = core.lock().push(&message, size, core.measure(), &core.room);
        let (receipt, is_news) = pushed;
        self.shared.tell(is_news);
        Ok(receipt)
    }

    /// As [`Self::send`] for one message after the other, for less: whole requests are made of them before they take their place in the queue, and one
    /// future stands for all. Waits for room when there is none, and calls the iterator meanwhile no further.
    ///
    /// A message that is refused, as [`Self::send`] would, does not stop the next; that there is no room within the client's deadline stops all that are left.
    /// Each receipt tells.
    ///
    /// ```no_run
    /// # async fn run(producer: cubecast_sdk::Producer) -> Result<(), cubecast_sdk::Error> {
    /// let receipts = producer.send_all((0..10_000).map(|number| format!("message {number}"))).await;
    /// receipts.wait().await?;
    ///
    /// // Or one by one.
    /// for receipt in producer.send_all(["rain", "sun"]).await {
    ///     println!("offset {}", receipt.await?.offset);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_all<M: Into<Message>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Receipts {
        let core = &self.shared.core;
        let bytes_max = core.options.bundle_bytes.min(core.options.waiting_bytes);
        let (mut chunk, mut receipts) = (Chunk::default(), Receipts::default());
        let mut late: Option<Error> = None;
        let mut messages = messages.into_iter();
        while let Some(message) = messages.next() {
            let message = message.into();
            let size = match &late {
                Some(late) => Err(late.clone()),
                None => core.size(&message),
            };
            let goes_first = match &size {
                Ok((_, held)) => chunk.is_full_for(*held, bytes_max),
                Err(_) => true,
            };
            if goes_first && let Err(error) = self.give(&mut chunk, &mut receipts).await {
                late = Some(error);
            }
            match (size, &late) {
                (Err(error), _) => receipts.refuse(error, 1),
                (Ok(_), Some(late)) => receipts.refuse(late.clone(), 1),
                (Ok(size), None) => {
                    let count = messages.size_hint().0.saturating_add(1);
                    chunk.add(&message, size, count.saturating_mul(size.1).min(bytes_max));
                }
            }
        }
        // Its receipts tell what became of it.
        let _told = self.give(&mut chunk, &mut receipts).await;
        receipts
    }

    /// Gives a chunk away, when there is room for it.
    async fn give(&self, chunk: &mut Chunk, receipts: &mut Receipts) -> Result<(), Error> {
        let core = &self.shared.core;
        let chunk = std::mem::take(chunk);
        if chunk.count == 0 {
            return Ok(());
        }
        let count = chunk.count;
        if let Err(error) = core.enter(chunk.held).await {
            receipts.refuse(error.clone(), count);
            return Err(error);
        }
        let measure = core.measure();
        let pushed = core.lock().push_chunk(chunk, measure, &core.room);
        let (answered, first, is_news) = pushed;
        receipts.give(answered, (first, count), measure.deadline);
        self.shared.tell(is_news);
        Ok(())
    }

    /// Sends what waits, and waits until everything that was given away before is answered.
    ///
    /// ```no_run
    /// # async fn run(producer: cubecast_sdk::Producer) {
    /// producer.flush().await;
    /// # }
    /// ```
    pub async fn flush(&self) {
        let core = &self.shared.core;
        let last = {
            let mut queue = core.lock();
            queue.seal(core.measure(), &core.room);
            queue.last()
        };
        core.wake.notify_one();
        last.await;
    }

    /// The topic's name.
    ///
    /// ```no_run
    /// # fn run(producer: cubecast_sdk::Producer) {
    /// assert_eq!(producer.topic(), "news");
    /// # }
    /// ```
    pub fn topic(&self) -> &str {
        &self.shared.core.topic
    }
}

impl Shared {
    /// Lets the task look, when there is something to see.
    fn tell(&self, is_news: IsNews) {
        if is_news.0 {
            self.start();
            self.core.wake.notify_one();
        }
    }

    fn start(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended, by a defect, is replaced.
        while tasks.try_join_next().is_some() {}
        if tasks.is_empty() {
            tasks.spawn(pipeline::drive(Arc::clone(&self.core)));
        }
    }
}

impl Core {
    /// Leaf data, and never held across an await.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measure(&self) -> Measure {
        Measure {
            bytes_max: self.options.bundle_bytes,
            linger: self.options.linger,
            deadline: self.client.shared.options.deadline,
        }
    }

    /// The bytes of a message, and what it takes of the room.
    fn size(&self, message: &Message) -> Result<(usize, usize), Error> {
        if message.is_empty() {
            return Err(Error::MessageEmpty);
        }
        let (bytes, limit) = (message.bytes(), self.client.shared.message_bytes_max());
        if bytes > limit {
            return Err(Error::MessageTooLarge { bytes, limit });
        }
        let held = bytes.saturating_add(FRAME_BYTES);
        Ok((bytes, held.min(self.options.waiting_bytes)))
    }

    /// Takes so many bytes of the room, which the bundle gives back. Without an await where there is room, so that messages do not change places.
    async fn enter(&self, held: usize) -> Result<(), Error> {
        let permits = u32::try_from(held).unwrap_or(u32::MAX);
        let place = match self.room.try_acquire_many(permits) {
            Ok(place) => place,
            Err(_) => self.wait_for_room(permits).await?,
        };
        place.forget();
        Ok(())
    }

    async fn wait_for_room(&self, permits: u32) -> Result<tokio::sync::SemaphorePermit<'_>, Error> {
        let deadline = self.client.shared.options.deadline;
        let ends = moment::after(Instant::now(), deadline);
        let late = Error::DeadlineExceeded {
            method: METHOD,
            deadline,
        };
        // What fills the room may be in a request that still waits for more.
        self.lock().seal(self.measure(), &self.room);
        self.wake.notify_one();
        match tokio::time::timeout_at(ends, self.room.acquire_many(permits)).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(late),
        }
    }

    /// The next bundle to send.
    pub(crate) fn next(&self) -> Next {
        self.lock().next(self.measure(), &self.room)
    }

    /// What became of a bundle, with who answered in whose place.
    pub(crate) fn published(&self, answer: v1::PublishResponse) -> Published {
        let published = Published::new(answer);
        let leader = published.placement.leader.clone();
        let note = self
            .client
            .stand_in(&published.placement.owner, leader.as_deref());
        Published { note, ..published }
    }
}
