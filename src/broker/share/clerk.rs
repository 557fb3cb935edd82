//! The task that serves all streams of one shared subscription, as long as there is one.
//!
//! It owns the [`Desk`], reads messages, has the shard told what became of them, and publishes dead letters. Acknowledgements of all streams that come while a
//! command is on the way go in the next one. It ends with the first error, and with it all streams: they are opened again wherever the shard is led then.
//! Begin with [`Clerk::run`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, OptionFuture};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use super::desk::{ConsumerId, Desk, Seen, Which};
use super::mail::Posting;
use super::teller::slice;
use crate::broker::lease::Credit;
use crate::broker::{Access, Delivered, Error, Post, Watch, look, misfit};
use crate::replica::Consistency;
use crate::shard::{Command, DeadLetters, Refusal, Response, TopicRow, View};
use crate::types::{ByteCount, Offset, OffsetRange, Offsets, StoredBatch, SubscriberId, TopicName};

/// Bytes that are read at once for one stream, and so about what a stream keeps that does not take them.
const READ_BYTES_MAX: u64 = 256 << 10;
/// Messages that are read at once for one stream: then it is another one's turn.
const READ_COUNT_MAX: u64 = 256;
/// How long one step may take: a look, a settlement, a dead letter.
const STEP_MAX: Duration = Duration::from_secs(10);
/// How long a dead letter waits that could not be published, at first and at most.
pub(super) const LETTER_PAUSE: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(60));

/// What streams say.
pub(super) enum Order {
    /// A stream is opened.
    Join(Seat, oneshot::Sender<ConsumerId>),
    Give(ConsumerId, u32, ByteCount),
    Acknowledge(ConsumerId, Offsets),
    Reject(ConsumerId, Which, Duration),
    Extend(ConsumerId, Which, Duration),
    /// The stream wants to know when all is stored that it has acknowledged.
    Finish(ConsumerId, oneshot::Sender<()>),
}

/// A stream.
pub(super) struct Seat {
    pub(super) lease: Duration,
    pub(super) heartbeat: Duration,
    /// When it is to hear something.
    pub(super) beats: Instant,
    pub(super) credit: Credit,
    pub(super) events: mpsc::Sender<Result<Delivered, Error>>,
    /// To be sent as there is room. Nothing more is read for it meanwhile.
    pub(super) ready: VecDeque<Result<Delivered, Error>>,
    /// To be told as stored.
    pub(super) settled: Offsets,
    pub(super) finish: Option<oneshot::Sender<()>>,
}

/// Whose subscription.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) topic: TopicName,
    pub(super) subscriber: SubscriberId,
    pub(super) dead_letters: Option<DeadLetters>,
}

/// What clerk and streams share.
#[derive(Debug, Clone, Default)]
pub(super) struct Bell {
    /// There is room again, or a stream is gone.
    pub(super) rung: Arc<Notify>,
    /// Why the clerk has ended.
    pub(super) over: Arc<OnceLock<Error>>,
}

type Reading = BoxFuture<'static, Result<(ConsumerId, OffsetRange, Vec<StoredBatch>), Error>>;

/// See the module.
pub(super) struct Clerk<R: Access, P: Post> {
    pub(super) replica: R,
    pub(super) post: P,
    pub(super) watch: R::Watch,
    pub(super) subject: Subject,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) bell: Bell,
    pub(super) desk: Desk,
    /// The rows and the topic as they were when they were last looked at.
    pub(super) view: View,
    pub(super) topic: TopicRow,
    pub(super) seats: BTreeMap<ConsumerId, Seat>,
    seats_ever: u64,
    /// Whose turn it was last.
    turn: ConsumerId,
    reading: Option<Reading>,
    settling: Option<BoxFuture<'static, Result<(), Error>>>,
    pub(super) posting: Option<Posting>,
    /// No dead letter is published before this, and how long the next pause is.
    pub(super) resumes: Option<Instant>,
    pub(super) pause: Duration,
    is_stale: bool,
    /// Nobody is woken any more: the peer stops.
    is_closing: bool,
}

/// What a clerk begins with.
pub(super) struct Beginning<R: Access, P: Post> {
    pub(super) replica: R,
    pub(super) post: P,
    pub(super) watch: R::Watch,
    pub(super) subject: Subject,
    pub(super) view: View,
    pub(super) topic: TopicRow,
    pub(super) seen: Seen,
}

impl<R: Access, P: Post> Clerk<R, P> {
    pub(super) fn new(begin: Beginning<R, P>, orders: mpsc::Receiver<Order>, bell: Bell) -> Self {
        let letters = begin.subject.dead_letters.as_ref();
        let deliveries_max = letters.map(|letters| letters.max_deliveries);
        Self {
            desk: Desk::new(begin.seen, deliveries_max),
            replica: begin.replica,
            post: begin.post,
            watch: begin.watch,
            subject: begin.subject,
            orders,
            bell,
            view: begin.view,
            topic: begin.topic,
            seats: BTreeMap::new(),
            seats_ever: 0,
            turn: 0,
            reading: None,
            settling: None,
            posting: None,
            resumes: None,
            pause: LETTER_PAUSE.0,
            is_stale: false,
            is_closing: false,
        }
    }

    /// Serves until the last stream is gone and the shard knows all.
    pub(super) async fn run(mut self) {
        let mut has_begun = false;
        loop {
            self.sweep();
            has_begun |= !self.seats.is_empty();
            if has_begun && self.is_idle() {
                // Who is about to join finds the door closed, and opens another.
                return self.orders.close();
            }
            if let Err(error) = self.step().await {
                debug!(%error, topic = %self.subject.topic, "the streams of a shared subscription end");
                // A stream that finds its events at an end looks here.
                let _ = self.bell.over.set(error);
                return self.orders.close();
            }
        }
    }

    /// Nobody is served, and nothing is left to do that could be done now.
    fn is_idle(&self) -> bool {
        let has_letter = self.desk.letter().is_some() && self.resumes.is_none();
        self.seats.is_empty()
            && self.desk.is_settled()
            && self.posting.is_none()
            && !has_letter
            && !self.is_stale
    }

    async fn step(&mut self) -> Result<(), Error> {
        if self.is_stale {
            self.see().await?;
        }
        self.start_posting();
        self.start_settling();
        self.start_reading();
        self.tell();
        self.wait().await
    }

    /// Lets go of streams that are gone.
    fn sweep(&mut self) {
        let gone = self
            .seats
            .iter()
            .filter(|(_, seat)| seat.events.is_closed());
        let gone: Vec<ConsumerId> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            self.seats.remove(&id);
            self.desk.leave(id);
        }
    }

    /// Waits until something has happened.
    async fn wait(&mut self) -> Result<(), Error> {
        let beats = self.seats.values().map(|seat| seat.beats);
        let timer = beats.chain(self.desk.timer()).chain(self.resumes).min();
        let timer = timer.unwrap_or_else(|| Instant::now() + STEP_MAX);
        tokio::select! {
            biased;
            Some(result) = OptionFuture::from(self.settling.as_mut()) => {
                self.settling = None;
                result?;
                self.see().await?;
                self.confirm();
            }
            Some(result) = OptionFuture::from(self.posting.as_mut()) => {
                self.posting = None;
                self.posted(result?);
            }
            Some(result) = OptionFuture::from(self.reading.as_mut()) => {
                self.reading = None;
                let (by, range, batches) = result?;
                self.deliver(by, range, batches);
            }
            Some(order) = self.orders.recv() => self.obey(order),
            () = self.bell.rung.notified() => {}
            has_changed = self.watch.changed(timer), if !self.is_closing => {
                self.is_stale |= has_changed;
                self.is_closing = !has_changed && Instant::now() < timer;
            }
            () = tokio::time::sleep_until(timer), if self.is_closing => {}
        }
        self.tick();
        Ok(())
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.desk.tick(now);
        if self.resumes.is_some_and(|resumes| resumes <= now) {
            self.resumes = None;
        }
        let (cursor, head_offset) = (self.desk.cursor(), self.topic.next_offset);
        for seat in self.seats.values_mut().filter(|seat| seat.beats <= now) {
            seat.beats = now + seat.heartbeat;
            // Looked at anew, so that a replica that does not lead any more finds out.
            self.is_stale = true;
            if seat.ready.is_empty() {
                seat.ready.push_back(Ok(Delivered::Heartbeat {
                    cursor,
                    head_offset,
                }));
            }
        }
    }

    fn obey(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Join(seat, joined) => {
                self.seats_ever += 1;
                self.seats.insert(self.seats_ever, seat);
                // The stream was opened by what is newer, perhaps, than what was looked at.
                self.is_stale = true;
                // Whoever does not wait for it has dropped its events, too.
                let _ = joined.send(self.seats_ever);
            }
            Order::Give(id, messages, bytes) => {
                if let Some(seat) = self.seats.get_mut(&id) {
                    seat.credit.give(messages, bytes);
                }
            }
            Order::Acknowledge(id, ranges) if self.seats.contains_key(&id) => {
                let wrong = ranges
                    .iter()
                    .find(|range| !self.desk.acknowledge(id, range));
                if let Some(range) = wrong {
                    self.expel(id, range.end);
                }
            }
            Order::Acknowledge(..) => {}
            Order::Reject(id, which, delay) => {
                let until = Some(now + delay).filter(|_| !delay.is_zero());
                self.desk.reject(id, &which, until);
            }
            Order::Extend(id, which, lease) => self.desk.extend(id, &which, now + lease),
            Order::Finish(id, done) => {
                if let Some(seat) = self.seats.get_mut(&id) {
                    seat.finish = Some(done);
                }
                self.answer_finished();
            }
        }
    }

    /// Ends a stream that acknowledged what does not exist.
    fn expel(&mut self, id: ConsumerId, offset: Offset) {
        let refusal = Refusal::OffsetOutOfRange {
            topic: self.subject.topic.clone(),
            offset,
            first: self.topic.first_offset,
            next: self.topic.next_offset,
        };
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.ready.push_back(Err(refusal.into()));
        }
        self.desk.leave(id);
    }

    /// Looks at the topic and the subscription as they are now.
    async fn see(&mut self) -> Result<(), Error> {
        self.is_stale = false;
        let deadline = Instant::now() + STEP_MAX;
        let read = self.replica.read(Consistency::Leader, deadline).await?;
        let (topic, subscriber) = (&self.subject.topic, &self.subject.subscriber);
        let found = super::find(&self.replica, &read.view, topic, subscriber);
        let deleted = || Error::TopicDeleted {
            topic: topic.clone(),
        };
        let (row, subscription, seen) = match found {
            Ok(found) if found.0.id == self.topic.id => found,
            Ok(_) | Err(Error::Refused(Refusal::TopicNotFound { .. })) => return Err(deleted()),
            Err(error) => return Err(error),
        };
        let dead_letters = subscription
            .sharing
            .and_then(|sharing| sharing.dead_letters);
        if dead_letters != self.subject.dead_letters {
            // Made anew, in another way: it is another subscription.
            let (topic, subscriber) = (topic.clone(), subscriber.clone());
            return Err(Refusal::SubscriptionNotFound { topic, subscriber }.into());
        }
        (self.view, self.topic) = (read.view, row);
        if seen.share.era != self.desk.era() || seen.cursor < self.desk.cursor() {
            self.reading = None;
            // What is being published is of before, and so is what was missed.
            self.posting = None;
            let ready = self.seats.values_mut().flat_map(|seat| &mut seat.ready);
            for event in ready.flatten() {
                if let Delivered::Batch { missed, .. } = event {
                    *missed = 0;
                }
            }
        }
        self.desk.see(seen);
        Ok(())
    }

    /// Has the shard told what became of messages, unless that is under way.
    fn start_settling(&mut self) {
        let Some(settlement) = self.desk.take_settlement() else {
            return;
        };
        let command = Command::Settle {
            topic: self.subject.topic.clone(),
            topic_id: self.topic.id,
            subscriber: self.subject.subscriber.clone(),
            era: self.desk.era(),
            settlement,
        };
        let replica = self.replica.clone();
        let settling = async move {
            let deadline = Instant::now() + STEP_MAX;
            match replica.propose(command, deadline).await?.outcome? {
                // What is stale was said of an era that is over: the next look sees that.
                Response::Settled { .. } => Ok(()),
                other => misfit(replica.shard(), &other),
            }
        };
        self.settling = Some(settling.boxed());
    }

    /// A settlement is stored.
    fn confirm(&mut self) {
        for (id, ranges) in self.desk.settled() {
            if let Some(seat) = self.seats.get_mut(&id) {
                ranges.iter().for_each(|range| seat.settled.insert(range));
            }
        }
        self.answer_finished();
    }

    fn answer_finished(&mut self) {
        for (id, seat) in &mut self.seats {
            if self.desk.is_quiet(*id)
                && let Some(finish) = seat.finish.take()
            {
                // Whoever does not wait any more need not be told.
                let _ = finish.send(());
            }
        }
    }

    /// Reads for the next stream that may have something, if there is something.
    fn start_reading(&mut self) {
        if self.reading.is_some() {
            return;
        }
        let (turn, is_next) = (self.turn, |(_, seat): &(&ConsumerId, &Seat)| {
            seat.ready.is_empty() && seat.credit.is_open() && seat.finish.is_none()
        });
        let mut after = self.seats.range(turn + 1..).filter(is_next);
        let mut before = self.seats.range(..=turn).filter(is_next);
        let Some((id, seat)) = after.next().or_else(|| before.next()) else {
            return;
        };
        let count_max = seat.credit.messages().min(READ_COUNT_MAX);
        let Some(range) = self.desk.pick(count_max) else {
            return;
        };
        let (id, bytes_max) = (*id, seat.credit.bytes(READ_BYTES_MAX));
        self.turn = id;
        let (view, topic, shard) = (self.view.clone(), self.topic.clone(), self.replica.shard());
        let reading = async move {
            let count = u32::try_from(range.end.0 - range.start.0).unwrap_or(u32::MAX);
            let from = range.start;
            let batches = look(shard, move || view.batches(&topic, from, count, bytes_max));
            Ok((id, range, batches.await?))
        };
        self.reading = Some(reading.boxed());
    }

    /// Gives a stream what was read for it, as far as it is still free.
    fn deliver(&mut self, by: ConsumerId, range: OffsetRange, batches: Vec<StoredBatch>) {
        // Removed since it was looked at.
        self.is_stale |= batches.is_empty();
        let seat = self.seats.get_mut(&by);
        let Some(seat) = seat.filter(|seat| !seat.ready.iter().any(Result::is_err)) else {
            return;
        };
        let ends = Instant::now() + seat.lease;
        for stored in batches {
            let part = stored.base_offset.max(range.start)..stored.next_offset().min(range.end);
            for (run, attempt) in self.desk.grant(part, by, ends) {
                let Some(batch) = slice(&stored, &run) else {
                    continue;
                };
                let missed = self.desk.take_missed();
                let count = u64::from(batch.batch.count());
                seat.credit.take(count, batch.batch.bytes());
                seat.beats = Instant::now() + seat.heartbeat;
                seat.ready.push_back(Ok(Delivered::Batch {
                    batch,
                    attempt,
                    missed,
                }));
            }
        }
    }
}
