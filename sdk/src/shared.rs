//! A subscription that many consumers share: each message goes to one of them, under a lease, and is acknowledged for itself.
//!
//! What is said and heard over one stream to one peer is in `desk`; here the streams follow each other. Begin with [`Subscriber::subscribe_shared`], then
//! [`Subscription::consume`].

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use crate::address::Address;
use crate::client::Client;
use crate::connect::PeerKey;
use crate::convert;
use crate::desk::{Desk, Line};
use crate::error::{Code, Error, Failure, Fate, Reason};
use crate::model::Start;
use crate::proto::v1;
use crate::proto::v1::stream_pull_response::Event;
use crate::pursuit::Pursuit;
use crate::received::{BatchIter, Received};
use crate::retry::{self, Repeat, Verdict};
use crate::sharing::Sharing;
use crate::subscribe::{Subscriber, Subscription};

/// Signs of life that may be missing before a peer is left.
const BEATS_MISSED_MAX: u32 = 3;
/// Leases are extended so often before they end.
const EXTENSIONS: u32 = 3;

/// How a consumer of a shared subscription reads. The default: at most 100 messages at a time, with a lease of 30 s that is extended as long as the
/// application has the message.
///
/// ```
/// let options = cubecast_sdk::ConsumeOptions::new().max_messages(10);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ConsumeOptions {
    max_messages: u32,
    lease: Duration,
    heartbeat: Duration,
}

impl Default for ConsumeOptions {
    fn default() -> Self {
        Self {
            max_messages: 100,
            lease: Duration::from_secs(30),
            heartbeat: Duration::from_secs(1),
        }
    }
}

impl ConsumeOptions {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// So many messages may be here at a time, at least 1: waiting for the application, or with it.
    pub fn max_messages(self, count: u32) -> Self {
        Self {
            max_messages: count.max(1),
            ..self
        }
    }

    /// How long the messages of an application that has died stay away from others.
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// How often the peer says that it is there; after three times as long without a word another is asked.
    pub fn heartbeat(self, heartbeat: Duration) -> Self {
        Self { heartbeat, ..self }
    }
}

impl Subscriber {
    /// Subscribes to a topic for many consumers. When the subscription is there already it is left as it is; see [`Subscription::made`].
    ///
    /// ```no_run
    /// # async fn run(workers: cubecast_sdk::Subscriber) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::{Sharing, Start};
    ///
    /// let sharing = Sharing::new().dead_letters(5, "failed-jobs");
    /// let jobs = workers.subscribe_shared("jobs", Start::Earliest, sharing).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicNotFound` (also of the dead letters), `SubscriberNotFound`, `OffsetOutOfRange` or `FieldInvalid`; and what any call
    /// can have.
    pub async fn subscribe_shared(
        &self,
        topic: &str,
        start: Start,
        sharing: Sharing,
    ) -> Result<Subscription, Error> {
        self.subscribe_as(topic, start, Some(sharing.into())).await
    }
}

impl Subscription {
    /// The messages of a shared subscription that come to this consumer, as many as it asks for, without end.
    ///
    /// A message comes to one consumer at a time. It is done with [`Leased::ack`], and comes again, to whoever is there, after [`Leased::nack`], or some time
    /// after it was dropped or this process has died. When a peer fails the stream goes on at another.
    ///
    /// ```no_run
    /// # async fn run(jobs: cubecast_sdk::Subscription) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::ConsumeOptions;
    /// use std::time::Duration;
    ///
    /// let mut consumer = jobs.consume(ConsumeOptions::new());
    /// while let Some(job) = consumer.next().await {
    ///     let job = job?;
    ///     match std::str::from_utf8(&job.message.payload) {
    ///         Ok(text) => job.ack(),
    ///         Err(_) => job.nack(Duration::from_secs(10)),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn consume(&self, options: ConsumeOptions) -> Consumer {
        let open = v1::StreamPullOpen {
            topic: self.topic().to_owned(),
            subscriber: self.subscriber().to_owned(),
            lease: Some(convert::duration(options.lease)),
            heartbeat: Some(convert::duration(options.heartbeat)),
        };
        let desk = Arc::new(Desk::default());
        let (sender, messages) = mpsc::channel(1);
        let runner = Runner {
            client: self.client().clone(),
            open,
            options,
            desk: Arc::clone(&desk),
            given: sender,
            pursuit: Pursuit::default(),
            asked: None,
            failing_since: None,
        };
        Consumer {
            desk,
            messages,
            runner: Some(runner),
            tasks: JoinSet::new(),
        }
    }
}

/// The messages of a shared subscription that come to one consumer. Made by [`Subscription::consume`]. Dropping it gives back what the application does not
/// have yet.
pub struct Consumer {
    desk: Arc<Desk>,
    messages: mpsc::Receiver<Result<Leased, Error>>,
    /// Until the first message is asked for.
    runner: Option<Runner>,
    tasks: JoinSet<()>,
}

impl Consumer {
    /// The next message. After an error that may pass ([`Error::is_transient`]) the next call goes on; otherwise `None` follows.
    ///
    /// ```no_run
    /// # async fn run(mut consumer: cubecast_sdk::Consumer) -> Result<(), cubecast_sdk::Error> {
    /// if let Some(job) = consumer.next().await {
    ///     job?.ack();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Result<Leased, Error>> {
        if let Some(runner) = self.runner.take() {
            self.tasks.spawn(runner.run());
        }
        loop {
            let next = self.messages.recv().await?;
            let is_of_now = |leased: &Leased| {
                let hold = leased.hold.as_ref();
                hold.is_none_or(|hold| self.desk.is_speaking(hold.line))
            };
            // What came before the stream was opened anew is for whoever has it now.
            if next.as_ref().map_or(true, is_of_now) {
                return Some(next);
            }
        }
    }

    /// Waits until all that was acknowledged is stored: it never comes again. Waits as long as the stream cannot go on.
    ///
    /// ```no_run
    /// # async fn run(consumer: cubecast_sdk::Consumer) {
    /// consumer.flush().await;
    /// # }
    /// ```
    pub async fn flush(&self) {
        self.desk.flush().await;
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").finish_non_exhaustive()
    }
}

/// A message that this consumer has. Its lease is extended until it is acknowledged, given back or dropped. Dropped, it comes again when the lease ends.
#[derive(Debug)]
#[must_use = "it comes again unless it is acknowledged"]
pub struct Leased {
    /// The message.
    pub message: Received,
    /// Which delivery of it this is, to whomever: 1 for the first. It may be less than it should be after the leader has moved.
    pub attempt: u32,
    /// Present until something is said about it.
    hold: Option<Hold>,
}

#[derive(Debug)]
struct Hold {
    desk: Arc<Desk>,
    line: u64,
    offset: u64,
}

impl Leased {
    /// It is done. To wait until that is stored, use [`Consumer::flush`].
    ///
    /// ```no_run
    /// # fn run(job: cubecast_sdk::Leased) {
    /// job.ack();
    /// # }
    /// ```
    pub fn ack(mut self) {
        if let Some(hold) = self.hold.take() {
            hold.desk.acknowledge(hold.line, hold.offset);
        }
    }

    /// It is for somebody else, after this time.
    ///
    /// ```no_run
    /// # fn run(job: cubecast_sdk::Leased) {
    /// job.nack(std::time::Duration::from_secs(5));
    /// # }
    /// ```
    pub fn nack(mut self, delay: Duration) {
        if let Some(hold) = self.hold.take() {
            hold.desk.reject(hold.line, hold.offset, delay);
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            hold.desk.drop_hold(hold.line, hold.offset);
        }
    }
}

/// Opens streams, one after the other.
struct Runner {
    client: Client,
    open: v1::StreamPullOpen,
    options: ConsumeOptions,
    desk: Arc<Desk>,
    given: mpsc::Sender<Result<Leased, Error>>,
    pursuit: Pursuit,
    /// Who was asked last.
    asked: Option<PeerKey>,
    /// When nobody serves any more.
    failing_since: Option<Instant>,
}

impl Runner {
    async fn run(mut self) {
        loop {
            let Err(failure) = self.serve().await else {
                // The consumer is gone.
                return;
            };
            debug!(%failure, topic = self.open.topic, "a stream of a shared subscription ended");
            self.failing_since.get_or_insert_with(Instant::now);
            let shared = &self.client.shared;
            let topic = &self.open.topic;
            self.pursuit
                .fail(shared, topic, self.asked.take(), &failure);
            match retry::decide(&failure, Repeat::Read, false) {
                Verdict::Again(place) => {
                    let pause = self.pursuit.pause(shared, &place, &failure);
                    if self.is_overdue() && self.given.send(Err(failed(failure))).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
                Verdict::Fail | Verdict::Done => {
                    // Whoever is gone need not hear of it.
                    let _ = self.given.send(Err(failed(failure))).await;
                    return;
                }
            }
        }
    }

    /// Nobody has served for as long as a call may take, and the application has not been told.
    fn is_overdue(&mut self) -> bool {
        let deadline = self.client.shared.options.deadline;
        let is_overdue = |since: &mut Instant| since.elapsed() >= deadline;
        self.failing_since.take_if(is_overdue).is_some()
    }

    /// One stream, until it fails or nobody wants it.
    async fn serve(&mut self) -> Result<(), Failure> {
        let (mut line, number) = self.connect().await?;
        let patience = self
            .options
            .heartbeat
            .saturating_mul(BEATS_MISSED_MAX)
            .saturating_add(self.client.shared.options.delays.usual);
        let mut extensions = tokio::time::interval(self.options.lease / EXTENSIONS);
        let mut heard = Instant::now();
        // As much as there was credit for. What is left when the stream ends is for others.
        let mut queue = VecDeque::new();
        let mut lost = line.chosen.lost.clone();
        lost.mark_unchanged();
        loop {
            let silent = |after| Failure::no_answer(line.chosen.address.clone(), after);
            tokio::select! {
                () = self.given.closed() => return Ok(()),
                event = line.events.recv() => {
                    let event = event.unwrap_or_else(|| Err(silent(Duration::ZERO)))?;
                    heard = Instant::now();
                    self.pursuit.succeed();
                    self.failing_since = None;
                    if let Some(event) = event.event {
                        self.take(event, number, &mut queue);
                    }
                }
                Ok(place) = self.given.reserve(), if !queue.is_empty() => {
                    if let Some(message) = queue.pop_front() {
                        place.send(Ok(message));
                    }
                }
                Ok(()) = lost.changed() => return Err(silent(Duration::ZERO)),
                _ = extensions.tick() => self.desk.extend(self.options.lease),
                () = tokio::time::sleep_until(heard + patience) => return Err(silent(patience)),
            }
        }
    }

    /// Takes in what came.
    fn take(&self, event: Event, line: u64, queue: &mut VecDeque<Leased>) {
        let delivery = match event {
            Event::Opened(_) | Event::Heartbeat(_) => return,
            Event::Settled(settled) => return self.desk.settle(&settled.ranges),
            Event::Delivery(delivery) => delivery,
        };
        let Some(batch) = delivery.batch else { return };
        let (mut messages, mut missed) = (BatchIter::new(batch), delivery.missed);
        while let Some(message) = messages.next() {
            self.desk.hold(line, message.offset, message.index);
            queue.push_back(Leased {
                attempt: delivery.attempt,
                hold: Some(Hold {
                    desk: Arc::clone(&self.desk),
                    line,
                    offset: message.offset,
                }),
                message: Received {
                    missed: std::mem::take(&mut missed),
                    ..message
                },
            });
        }
    }

    /// Opens a stream at the peer that leads, as far as is known.
    async fn connect(&mut self) -> Result<(Line, u64), Failure> {
        let shared = Arc::clone(&self.client.shared);
        let chosen = self.pursuit.choose(&shared, &self.open.topic);
        let Some(chosen) = chosen else {
            return Err(Failure::no_answer(Address::unknown(), Duration::ZERO));
        };
        let (key, address) = (chosen.key, chosen.address.clone());
        self.asked = Some(key);
        let number = self.desk.begin(self.options.max_messages);
        let patience = self.pursuit.patience(shared.options.attempt_timeout);
        let opening = async {
            let max = shared.options.answer_bytes_max;
            let desk = (&self.desk, number);
            let mut line = Line::open(chosen, self.open.clone(), desk, max).await?;
            let lost = || Err(Failure::no_answer(address.clone(), Duration::ZERO));
            let first = line.events.recv().await.unwrap_or_else(lost)?;
            Ok((line, first))
        };
        let opened = tokio::time::timeout(patience, opening).await;
        let silent = |_| Err(Failure::no_answer(address.clone(), patience));
        let (line, first) = opened.unwrap_or_else(silent)?;
        shared.peers.mark_up(key);
        let Some(Event::Opened(opened)) = first.event else {
            return Ok((line, number));
        };
        if let Some(source) = &opened.source {
            shared.peers.learn(&self.open.topic, &source.served_by);
        }
        // Whoever listens to the events is told of a stand-in.
        let _noted = self.client.note(opened.source.map(Into::into));
        let is_shared = |made: v1::Subscription| made.shared.is_some();
        if opened.subscription.is_none_or(is_shared) {
            self.desk.open(opened.topic_id);
            return Ok((line, number));
        }
        Err(Failure {
            code: Code::FailedPrecondition,
            reason: Reason::Unspecified,
            message: "one reader at a time has this subscription: use `stream`".to_owned(),
            facts: BTreeMap::new(),
            retry_after: None,
            served_by: None,
            address,
            fate: Fate::Nothing,
        })
    }
}

fn failed(last: Failure) -> Error {
    let (method, last) = ("StreamPull", Box::new(last));
    match last.fate {
        Fate::Nothing => Error::Refused(last),
        Fate::Unknown if last.code != Code::DeadlineExceeded => Error::Refused(last),
        Fate::NotSent | Fate::Unknown => Error::Unreachable { method, last },
    }
}
