//! The reading end of a stream: opens lines, one after the other, and makes one sequence of messages of what they deliver.
//!
//! Never acknowledges what the application has not had. Begin with [`Reader::next`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::address::Address;
use crate::client::Client;
use crate::connect::PeerKey;
use crate::error::{Code, Error, Failure, Fate};
use crate::line::{self, Batch, Broken, Delivery, Line, Resumed, Sayings};
use crate::proto::v1;
use crate::pursuit::Pursuit;
use crate::received::{BatchIter, Received};
use crate::retry::{self, Repeat, Verdict};
use crate::stream::StreamOptions;

/// The call, as errors name it.
const METHOD: &str = "StreamPull";
/// Signs of life that may be missing before a peer is left.
const BEATS_MISSED_MAX: u32 = 3;

/// Where a stream is.
pub(crate) struct Reader {
    client: Client,
    open: v1::StreamPullOpen,
    options: StreamOptions,
    sayings: Arc<Sayings>,
    line: Option<Line>,
    /// The rest of a delivery, with what it used up of the credit.
    batch: Option<(BatchIter, (u32, u64))>,
    /// What follows it in the delivery: a message that is none, and those behind it.
    broken: Option<Broken>,
    /// The place after that of the last message that was given: its offset, and its index there. `None`: none was.
    position: Option<(u64, u32)>,
    /// What comes is from before a rejection, until this offset comes, or something comes again.
    skipping: Option<u64>,
    /// The greatest that was heard.
    attempt: u32,
    /// To be told with the next message.
    missed: u64,
    pursuit: Pursuit,
    /// Who was asked last.
    asked: Option<PeerKey>,
    /// When nobody serves any more.
    failing_since: Option<Instant>,
    /// The stream was opened at a peer that said that another leads, and has gone there.
    has_moved: bool,
}

pub(crate) type Next = Option<(Result<Received, Error>, Option<Reader>)>;

impl Reader {
    pub(crate) fn new(
        client: Client,
        open: v1::StreamPullOpen,
        options: StreamOptions,
        sayings: Arc<Sayings>,
    ) -> Self {
        Self {
            client,
            open,
            options,
            sayings,
            line: None,
            batch: None,
            broken: None,
            position: None,
            skipping: None,
            attempt: 1,
            missed: 0,
            pursuit: Pursuit::default(),
            asked: None,
            failing_since: None,
            has_moved: false,
        }
    }

    /// The next message, with the reader unless this is the end.
    pub(crate) async fn next(mut self) -> Next {
        loop {
            self.go_back();
            if let Some(result) = self.take() {
                return Some((result, Some(self)));
            }
            let failure = match self.hear().await {
                Ok(()) => continue,
                Err(failure) => failure,
            };
            self.line = None;
            debug!(%failure, topic = self.open.topic, "a stream of deliveries ended");
            match self.judge(&failure) {
                Verdict::Again(place) => {
                    if let Some(error) = self.give_notice(&failure) {
                        return Some((Err(error), Some(self)));
                    }
                    let shared = &self.client.shared;
                    let pause = self.pursuit.pause(shared, &place, &failure);
                    tokio::time::sleep(pause).await;
                }
                Verdict::Fail | Verdict::Done => return Some((Err(failed(failure)), None)),
            }
        }
    }

    /// Does what a rejection asks for.
    fn go_back(&mut self) {
        if let Some(first) = self.sayings.take_back() {
            self.position = self.position.map(|position| position.min((first, 0)));
            self.skipping = Some(first);
            self.finish_batch();
        }
    }

    /// The next message of the delivery in hand, or what is wrong with it.
    fn take(&mut self) -> Option<Result<Received, Error>> {
        loop {
            let Some(message) = self.batch.as_mut()?.0.next() else {
                if let Some(broken) = self.broken.take() {
                    if let Some(error) = self.pass(broken) {
                        return Some(Err(error));
                    }
                    continue;
                }
                self.finish_batch();
                return None;
            };
            if !self.advance((message.offset, message.index)) {
                continue;
            }
            let missed = std::mem::take(&mut self.missed);
            return Some(Ok(Received { missed, ..message }));
        }
    }

    /// Goes behind this place. `false`: what is there was given before the stream was opened again.
    fn advance(&mut self, place: (u64, u32)) -> bool {
        if self.position.is_some_and(|position| place < position) && self.is_resuming() {
            return false;
        }
        self.position = Some((place.0, place.1.saturating_add(1)));
        true
    }

    /// Takes in hand what lies behind a message that is none. Gives the error to tell, once.
    fn pass(&mut self, broken: Broken) -> Option<Error> {
        let (offset, problem) = (broken.offset, broken.problem);
        let (_, size) = self.batch.take()?;
        self.hold(broken.rest, size);
        self.advance((offset, 0)).then(|| Error::Undecodable {
            topic: self.open.topic.clone(),
            offset,
            problem,
        })
    }

    /// Takes messages in hand, of a delivery that used up so much of the credit.
    fn hold(&mut self, batch: Batch, size: (u32, u64)) {
        let (decoded, broken) = batch.decode_messages();
        self.batch = Some((BatchIter::new(decoded), size));
        self.broken = broken;
    }

    /// The messages that come now are repeated for the stream, not for the application.
    fn is_resuming(&self) -> bool {
        self.attempt == 1
    }

    /// There is room for as much as the delivery in hand took.
    fn finish_batch(&mut self) {
        self.broken = None;
        if let Some((_, (messages, bytes))) = self.batch.take() {
            self.sayings.give(messages, bytes);
        }
    }

    /// Waits for something new.
    async fn hear(&mut self) -> Result<(), Failure> {
        // The application asks for the first message after those that it has.
        if let (false, Some((offset, 1..))) = (self.options.is_manual, self.position) {
            self.sayings.acknowledge(offset.saturating_add(1));
        }
        if self.line.is_none() {
            self.connect().await?;
        }
        let Some(line) = &mut self.line else {
            return Ok(());
        };
        let mut lost = line.chosen.lost.clone();
        lost.mark_unchanged();
        let patience = self
            .options
            .heartbeat
            .saturating_mul(BEATS_MISSED_MAX)
            .saturating_add(self.client.shared.options.delays.usual);
        let address = line.chosen.address.clone();
        let silent = |after| Failure::no_answer(address.clone(), after);
        let event = tokio::select! {
            biased;
            event = line.events.recv() => event.unwrap_or_else(|| Err(silent(Duration::ZERO)))?,
            Ok(()) = lost.changed() => return Err(silent(Duration::ZERO)),
            () = tokio::time::sleep(patience) => return Err(silent(patience)),
        };
        self.pursuit.succeed();
        self.failing_since = None;
        if let Some(heartbeat) = event.heartbeat {
            let resumed = self.sayings.hear(heartbeat.cursor);
            self.resume(resumed);
        }
        if let Some(delivery) = event.delivery {
            self.deliver(delivery);
        }
        Ok(())
    }

    /// Takes a delivery in hand.
    fn deliver(&mut self, delivery: Delivery) {
        let Some(batch) = delivery.batch else { return };
        let (size, first) = (batch.size(), batch.base_offset());
        let is_again = delivery.attempt > self.attempt;
        self.attempt = match delivery.attempt {
            // Something new: what was resumed is over.
            1 => self.attempt,
            attempt => attempt.max(self.attempt),
        };
        let is_before = self
            .skipping
            .is_some_and(|target| first != target && !is_again && delivery.missed == 0);
        if is_before {
            self.sayings.give(size.0, size.1);
            return;
        }
        self.skipping = None;
        let missed = self.news_of(delivery.missed, first);
        self.missed = self.missed.saturating_add(missed);
        self.hold(batch, size);
    }

    /// How many of the messages that are missed right before this one the application has not had and was not told of: a peer says so anew on each
    /// stream, as long as nothing behind them is acknowledged.
    fn news_of(&self, missed: u64, first: u64) -> u64 {
        match self.position {
            Some((offset, index)) if self.is_resuming() => {
                let next = offset.saturating_add(u64::from(index.min(1)));
                missed.min(first.saturating_sub(next))
            }
            _ => missed,
        }
    }

    /// Goes on at the cursor when what was given before counts no more.
    fn resume(&mut self, resumed: Resumed) {
        if resumed == Resumed::AtCursor {
            (self.position, self.skipping) = (None, None);
        }
    }

    /// Opens a stream at the peer that leads, as far as is known.
    async fn connect(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.client.shared);
        let topic = self.open.topic.clone();
        let chosen = self.pursuit.choose(&shared, &topic);
        let Some(chosen) = chosen else {
            return Err(Failure::no_answer(Address::unknown(), Duration::ZERO));
        };
        let (key, address) = (chosen.key, chosen.address.clone());
        self.asked = Some(key);
        let room = (
            &self.sayings,
            self.options.max_messages,
            self.options.max_bytes,
        );
        let patience = self.pursuit.patience(shared.options.attempt_timeout);
        let opening = async {
            let answer_bytes_max = shared.options.answer_bytes_max;
            let mut line = line::open(chosen, self.open.clone(), room, answer_bytes_max).await?;
            let first = line.events.recv().await;
            let first = first
                .unwrap_or_else(|| Err(Failure::no_answer(address.clone(), Duration::ZERO)))?;
            Ok((line, first.opened.unwrap_or_default()))
        };
        let opened = tokio::time::timeout(patience, opening).await;
        let (line, opened) =
            opened.unwrap_or_else(|_| Err(Failure::no_answer(address.clone(), patience)))?;
        shared.peers.mark_up(key);
        self.begin(line, opened, key);
        Ok(())
    }

    /// A stream was opened.
    fn begin(&mut self, line: Line, opened: v1::StreamPullOpened, key: PeerKey) {
        let peers = &self.client.shared.peers;
        let source = opened.source.clone().map(Into::into);
        // Whoever listens to the events is told of a stand-in.
        let _noted = self.client.note(source);
        if let Some(source) = &opened.source {
            peers.learn(&self.open.topic, &source.served_by);
        }
        let cursor = opened
            .subscription
            .map_or(0, |subscription| subscription.next_offset);
        let resumed = self.sayings.resume(opened.topic_id, cursor);
        self.resume(resumed);
        // What is missed and was not told yet is told by this peer anew.
        (self.attempt, self.skipping, self.missed) = (1, None, 0);
        let peers = &self.client.shared.peers;
        if !self.has_moved && peers.leads_elsewhere(&self.open.topic, key) {
            // One way less for each message; it is opened anew there.
            self.has_moved = true;
            self.pursuit.follow();
            return;
        }
        self.line = Some(line);
    }

    /// What follows a failure.
    fn judge(&mut self, failure: &Failure) -> Verdict {
        self.failing_since.get_or_insert_with(Instant::now);
        self.has_moved = false;
        let shared = &self.client.shared;
        self.pursuit
            .fail(shared, &self.open.topic, self.asked.take(), failure);
        retry::decide(failure, Repeat::Read, false)
    }

    /// What the application is told when nobody has served it for as long as a call may take.
    fn give_notice(&mut self, failure: &Failure) -> Option<Error> {
        let since = self.failing_since?;
        if since.elapsed() < self.client.shared.options.deadline {
            return None;
        }
        self.failing_since = None;
        Some(failed(failure.clone()))
    }
}

fn failed(last: Failure) -> Error {
    let last = Box::new(last);
    match last.fate {
        Fate::NotSent => Error::Unreachable {
            method: METHOD,
            last,
        },
        Fate::Nothing | Fate::Unknown if last.code == Code::DeadlineExceeded => {
            Error::Unreachable {
                method: METHOD,
                last,
            }
        }
        Fate::Nothing | Fate::Unknown => Error::Refused(last),
    }
}
