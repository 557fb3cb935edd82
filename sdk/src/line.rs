//! One StreamPull to one peer: what is said to it and what it delivers.
//!
//! What comes is taken in at once, because unread it would stand in the way of other calls on the connection; how much may come is bounded by the credit.
//! What is said is kept as one of each kind, so that nothing piles up while a peer is slow. It never opens itself again: `stream` does. Begin with [`open`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use crate::address::Address;
use crate::connect::Chosen;
use crate::convert;
use crate::error::Failure;
use crate::proto::v1;
use crate::proto::v1::stream_pull_request::Command;

const PATH: &str = "/cubecast.v1.PeerService/StreamPull";
/// Events that are taken in and not yet looked at. Full: no more are taken in; signs of life are dropped.
const EVENTS_MAX: usize = 4_096;

/// What there is to say, over all lines of a stream.
#[derive(Debug)]
pub(crate) struct Sayings {
    state: Mutex<State>,
    /// Counts what was said, and wakes the line.
    said: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// The line that may speak.
    line: u64,
    /// The line has heard where the cursor is. Until then it gives credit and says nothing else: what is remembered may be out of date.
    is_open: bool,
    /// The life of the topic that the rest is about. 0: not known.
    topic_id: u64,
    messages: u32,
    bytes: u64,
    /// All before this is done, and up to where the line was told.
    acknowledged: u64,
    told: u64,
    /// As far as was heard, this is on stable storage.
    cursor: u64,
    reject: Option<(u64, Duration)>,
    /// From where on the reader is to get everything again.
    back_to: Option<u64>,
    extend: Option<Duration>,
}

impl State {
    /// The cursor is here by the will of somebody else: what was said of messages that come again, or of another life of the topic, counts no more.
    fn start_over(&mut self, cursor: u64) {
        (self.acknowledged, self.told, self.cursor) = (cursor, cursor, cursor);
        (self.reject, self.back_to, self.extend) = (None, None, None);
    }

    /// What is acknowledged beyond the cursor may not have arrived and is told again, unless it was told on this line.
    fn follow(&mut self, cursor: u64) {
        self.cursor = cursor;
        self.acknowledged = self.acknowledged.max(cursor);
        self.told = self.told.max(cursor);
    }
}

/// From where on a reader goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resumed {
    /// Behind what it had.
    Behind,
    /// At the cursor: it was moved back, or the topic is another.
    AtCursor,
}

impl Default for Sayings {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            said: watch::Sender::new(0),
        }
    }
}

impl Sayings {
    /// Leaf data, and never held across an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.said
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// All messages below this offset are done.
    pub(crate) fn acknowledge(&self, next_offset: u64) {
        self.say(|state| state.acknowledged = state.acknowledged.max(next_offset));
    }

    /// Everything from this offset on is to come again.
    pub(crate) fn reject(&self, first_offset: u64, delay: Duration) {
        self.say(|state| {
            state.reject = Some((first_offset, delay));
            state.back_to = Some(first_offset.max(state.acknowledged));
        });
    }

    /// There is more time for what is not acknowledged.
    pub(crate) fn extend(&self, lease: Duration) {
        self.say(|state| state.extend = Some(lease));
    }

    /// There is room for so much more.
    pub(crate) fn give(&self, messages: u32, bytes: u64) {
        self.say(|state| {
            state.messages = state.messages.saturating_add(messages);
            state.bytes = state.bytes.saturating_add(bytes);
        });
    }

    /// What was heard of the cursor. It never moves back by itself, so one that is lower than was heard before was moved back by somebody.
    pub(crate) fn hear(&self, cursor: u64) -> Resumed {
        let mut state = self.lock();
        if cursor < state.cursor {
            state.start_over(cursor);
            return Resumed::AtCursor;
        }
        state.follow(cursor);
        Resumed::Behind
    }

    /// The line is open, in this life of the topic (0: the peer does not say), with the cursor here. What was acknowledged and never confirmed is
    /// told again, unless the cursor shows that somebody moved it below what was confirmed.
    pub(crate) fn resume(&self, topic_id: u64, cursor: u64) -> Resumed {
        let mut resumed = Resumed::Behind;
        self.say(|state| {
            let is_other = topic_id != 0 && state.topic_id != 0 && topic_id != state.topic_id;
            if topic_id != 0 {
                state.topic_id = topic_id;
            }
            if is_other || cursor < state.cursor {
                state.start_over(cursor);
                resumed = Resumed::AtCursor;
            }
            state.follow(cursor);
            state.is_open = true;
        });
        resumed
    }

    pub(crate) fn cursor(&self) -> u64 {
        self.lock().cursor
    }

    /// Where to go back to, once.
    pub(crate) fn take_back(&self) -> Option<u64> {
        self.lock().back_to.take()
    }

    /// A new line may speak, and no older one. It has this much room.
    fn begin(&self, messages: u32, bytes: u64) -> u64 {
        let mut line = 0;
        self.say(|state| {
            state.line = state.line.wrapping_add(1);
            (state.messages, state.bytes) = (messages, bytes);
            state.is_open = false;
            (state.told, state.reject, state.extend) = (0, None, None);
            line = state.line;
        });
        line
    }

    /// The next thing for a line to say. `Err`: it may not speak any more.
    fn next(&self, line: u64) -> Result<Option<Command>, ()> {
        let mut state = self.lock();
        if state.line != line {
            return Err(());
        }
        if state.messages > 0 || state.bytes > 0 {
            let credit = v1::StreamPullCredit {
                messages: std::mem::take(&mut state.messages),
                bytes: std::mem::take(&mut state.bytes),
            };
            return Ok(Some(Command::Credit(credit)));
        }
        if !state.is_open {
            return Ok(None);
        }
        if let Some((first_offset, delay)) = state.reject.take() {
            return Ok(Some(Command::Reject(v1::StreamPullReject {
                first_offset,
                delay: Some(convert::duration(delay)),
            })));
        }
        if state.acknowledged > state.told {
            state.told = state.acknowledged;
            let next_offset = state.acknowledged;
            return Ok(Some(Command::Acknowledge(v1::StreamPullAcknowledge {
                next_offset,
            })));
        }
        Ok(state.extend.take().map(|lease| {
            Command::Extend(v1::StreamPullExtend {
                lease: Some(convert::duration(lease)),
            })
        }))
    }
}

/// A batch whose messages are not decoded yet: a repeated field of messages is one of bytes on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Batch {
    #[prost(uint64, tag = "1")]
    base_offset: u64,
    #[prost(message, optional, tag = "2")]
    append_time: Option<prost_types::Timestamp>,
    #[prost(message, optional, tag = "3")]
    origin: Option<v1::BatchOrigin>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    messages: Vec<Bytes>,
    #[prost(uint32, tag = "5")]
    message_count: u32,
}

impl Batch {
    /// What it used up of the credit.
    pub(crate) fn size(&self) -> (u32, u64) {
        let bytes =
            |message: &Bytes| 1 + prost::length_delimiter_len(message.len()) + message.len();
        let bytes: usize = self.messages.iter().map(bytes).sum();
        (self.message_count, bytes as u64)
    }

    pub(crate) fn base_offset(&self) -> u64 {
        self.base_offset
    }

    /// With its messages, up to the first one that is none: then there is that one's offset, what is wrong, and what lies behind it.
    pub(crate) fn decode_messages(mut self) -> (v1::MessageBatch, Option<Broken>) {
        let mut decoded = v1::MessageBatch {
            base_offset: self.base_offset,
            append_time: self.append_time,
            origin: self.origin.clone(),
            messages: Vec::with_capacity(self.messages.len()),
            message_count: self.message_count,
        };
        let mut messages = self.messages.into_iter();
        while let Some(message) = messages.next() {
            match v1::Message::decode(message) {
                Ok(message) => decoded.messages.push(message),
                Err(cause) => {
                    let offset = self
                        .base_offset
                        .saturating_add(decoded.messages.len() as u64);
                    self.base_offset = offset.saturating_add(1);
                    self.messages = messages.collect();
                    let (problem, rest) = (cause.to_string(), self);
                    return (
                        decoded,
                        Some(Broken {
                            offset,
                            problem,
                            rest,
                        }),
                    );
                }
            }
        }
        (decoded, None)
    }
}

/// A message of a batch that is none.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) offset: u64,
    /// In words.
    pub(crate) problem: String,
    /// The messages behind it.
    pub(crate) rest: Batch,
}

/// A delivery.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Delivery {
    #[prost(message, optional, tag = "1")]
    pub(crate) batch: Option<Batch>,
    #[prost(uint32, tag = "2")]
    pub(crate) attempt: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) missed: u64,
}

/// What a peer tells: one of these.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Event {
    #[prost(message, optional, tag = "1")]
    pub(crate) opened: Option<v1::StreamPullOpened>,
    #[prost(message, optional, tag = "2")]
    pub(crate) delivery: Option<Delivery>,
    #[prost(message, optional, tag = "3")]
    pub(crate) heartbeat: Option<v1::StreamPullHeartbeat>,
}

/// A stream that is open. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) chosen: Chosen,
    pub(crate) events: mpsc::Receiver<Result<Event, Failure>>,
    _tasks: JoinSet<()>,
}

/// Opens a line with so much room.
pub(crate) async fn open(
    chosen: Chosen,
    open: v1::StreamPullOpen,
    (sayings, messages, bytes): (&Arc<Sayings>, u32, u64),
    answer_bytes_max: usize,
) -> Result<Line, Failure> {
    let requests = requests(open, Arc::clone(sayings), sayings.begin(messages, bytes));
    let mut client = Grpc::new(chosen.channel.clone()).max_decoding_message_size(answer_bytes_max);
    // A lazy channel is always ready, or closed for good: then the call itself says so.
    let _ready = client.ready().await;
    let codec = ProstCodec::<v1::StreamPullRequest, Event>::default();
    let path = PathAndQuery::from_static(PATH);
    let opened = client
        .streaming(tonic::Request::new(requests), path, codec)
        .await;
    let events = match opened {
        Ok(opened) => opened.into_inner(),
        Err(status) => return Err(Failure::from_status(&status, chosen.address)),
    };
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn(take_in(events, chosen.address.clone(), sender));
    Ok(Line {
        chosen,
        events: receiver,
        _tasks: tasks,
    })
}

/// What a line says: that it opens, then what there is to say.
fn requests(
    open: v1::StreamPullOpen,
    sayings: Arc<Sayings>,
    line: u64,
) -> impl futures::Stream<Item = v1::StreamPullRequest> + Send + 'static {
    let said = sayings.said.subscribe();
    let first = Some(Command::Open(open));
    stream::unfold(
        (first, sayings, said),
        move |(mut first, sayings, mut said)| async move {
            loop {
                // Seen before it is looked at, so that nothing falls in between.
                said.mark_unchanged();
                let command = match first.take() {
                    Some(open) => Some(open),
                    None => sayings.next(line).ok()?,
                };
                if command.is_some() {
                    let request = v1::StreamPullRequest { command };
                    return Some((request, (first, sayings, said)));
                }
                said.changed().await.ok()?;
            }
        },
    )
}

/// Takes in what comes, until the stream ends or nobody wants it.
async fn take_in(
    mut events: Streaming<Event>,
    address: Address,
    taken: mpsc::Sender<Result<Event, Failure>>,
) {
    loop {
        let event = match events.message().await {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(Failure::no_answer(address.clone(), Duration::ZERO)),
            Err(status) => Err(Failure::from_status(&status, address.clone())),
        };
        let is_over = event.is_err();
        let is_sign = event
            .as_ref()
            .is_ok_and(|event| event.opened.is_none() && event.delivery.is_none());
        let is_gone = if is_sign {
            matches!(
                taken.try_send(event),
                Err(mpsc::error::TrySendError::Closed(_))
            )
        } else {
            taken.send(event).await.is_err()
        };
        if is_over || is_gone {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
