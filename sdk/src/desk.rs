//! What a consumer of a shared subscription has and what it has to say, over all its streams; and one stream to one peer.
//!
//! What comes is taken in at once, because unread it would stand in the way of other calls on the connection; how much may come is bounded by the credit.
//! Begin with [`Desk::begin`] and [`Line::open`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream;
use http::uri::PathAndQuery;
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
/// Events that are taken in and not yet looked at. Full: no more are taken in.
const EVENTS_MAX: usize = 1_024;
/// Ranges in one command.
const RANGES_MAX: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Desk {
    state: Mutex<State>,
    /// Counts what was said, and wakes the stream.
    said: watch::Sender<u64>,
    /// How many acknowledgements are not stored.
    unsettled: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    /// The line that may speak.
    line: u64,
    /// It was heard which topic it is of, so that acknowledgements may be told.
    is_open: bool,
    /// The life of the topic, and the first line of it. What came over older ones is of a topic that is gone.
    topic_id: u64,
    since: u64,
    messages: u32,
    /// Messages that are here, by the line that they came over, with how many parts of each (it may be a block) nothing was said about.
    held: BTreeMap<(u64, u64), u32>,
    /// Of those, blocks of which a part was dropped: they are not acknowledged.
    spoilt: BTreeSet<(u64, u64)>,
    /// Acknowledged, and not heard of as stored; and which of them this line was not told.
    acknowledged: BTreeSet<u64>,
    untold: BTreeSet<u64>,
    /// To be given back, by the time that they are to wait.
    rejected: BTreeMap<Duration, BTreeSet<u64>>,
    extend: Option<Duration>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            said: watch::Sender::new(0),
            unsettled: watch::Sender::new(0),
        }
    }
}

impl Desk {
    /// Leaf data, and never held across an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, change: impl FnOnce(&mut State)) {
        let unsettled = {
            let mut state = self.lock();
            change(&mut state);
            state.acknowledged.len()
        };
        self.unsettled.send_replace(unsettled);
        self.said
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A new line may speak, and no older one. It has this much room, and is told what was acknowledged. What came over older ones is for others now.
    pub(crate) fn begin(&self, messages: u32) -> u64 {
        let mut line = 0;
        self.say(|state| {
            state.line = state.line.wrapping_add(1);
            line = state.line;
            state.messages = messages;
            state.is_open = false;
            state.rejected.clear();
            state.extend = None;
        });
        line
    }

    /// The newest line is of this life of the topic. What was acknowledged in another one is no more.
    pub(crate) fn open(&self, topic_id: u64) {
        self.say(|state| {
            if state.topic_id != topic_id {
                (state.topic_id, state.since) = (topic_id, state.line);
                state.acknowledged.clear();
            }
            state.is_open = true;
            state.untold = state.acknowledged.clone();
        });
    }

    /// Whether this line is the newest.
    pub(crate) fn is_speaking(&self, line: u64) -> bool {
        self.lock().line == line
    }

    /// A message came, or the part of one with this index. One that comes again while it is here has used credit twice, and gives it back once in the end: the
    /// other is given back now.
    pub(crate) fn hold(&self, line: u64, offset: u64, index: u32) {
        let is_again = {
            let mut state = self.lock();
            let parts = state.held.entry((line, offset)).or_default();
            *parts = parts.saturating_add(1);
            index == 0 && *parts > 1
        };
        if is_again {
            self.say(|state| {
                let is_ours = state.line == line;
                state.messages = state.messages.saturating_add(u32::from(is_ours));
            });
        }
    }

    /// A message is done. Also one that came over an older line.
    pub(crate) fn acknowledge(&self, line: u64, offset: u64) {
        self.say(|state| {
            let is_whole = state.finish(line, offset) && !state.spoilt.remove(&(line, offset));
            if is_whole && line >= state.since {
                state.acknowledged.insert(offset);
                state.untold.insert(offset);
            }
        });
    }

    /// A message is for somebody else.
    pub(crate) fn reject(&self, line: u64, offset: u64, delay: Duration) {
        self.say(|state| {
            let was_here = state.held.remove(&(line, offset)).is_some();
            state.spoilt.remove(&(line, offset));
            if was_here && state.line == line {
                state.messages = state.messages.saturating_add(1);
                state.rejected.entry(delay).or_default().insert(offset);
            }
        });
    }

    /// A message was dropped: its lease ends by itself.
    pub(crate) fn drop_hold(&self, line: u64, offset: u64) {
        self.say(|state| {
            if state.finish(line, offset) {
                state.spoilt.remove(&(line, offset));
            } else if state.held.contains_key(&(line, offset)) {
                state.spoilt.insert((line, offset));
            }
        });
    }

    /// There is more time for what is here.
    pub(crate) fn extend(&self, lease: Duration) {
        self.say(|state| state.extend = Some(lease));
    }

    /// Acknowledgements are stored.
    pub(crate) fn settle(&self, ranges: &[v1::OffsetRange]) {
        self.say(|state| {
            for range in ranges {
                let range = range.first_offset..range.next_offset.max(range.first_offset);
                let settled: Vec<u64> = state.acknowledged.range(range).copied().collect();
                for offset in settled {
                    state.acknowledged.remove(&offset);
                }
            }
        });
    }

    /// Waits until all acknowledgements are stored.
    pub(crate) async fn flush(&self) {
        // The sender is this desk, which is there.
        let _ = self
            .unsettled
            .subscribe()
            .wait_for(|count| *count == 0)
            .await;
    }

    /// The next thing for a line to say. `Err`: it may not speak any more.
    fn next(&self, line: u64) -> Result<Option<Command>, ()> {
        let mut state = self.lock();
        if state.line != line {
            return Err(());
        }
        if state.messages > 0 {
            let messages = std::mem::take(&mut state.messages);
            return Ok(Some(Command::Credit(v1::StreamPullCredit {
                messages,
                bytes: 0,
            })));
        }
        if state.is_open && !state.untold.is_empty() {
            let ranges = take_ranges(&mut state.untold);
            let done = v1::StreamPullAcknowledgeRanges { ranges };
            return Ok(Some(Command::AcknowledgeRanges(done)));
        }
        if let Some((delay, mut offsets)) = state.rejected.pop_first() {
            let ranges = take_ranges(&mut offsets);
            if !offsets.is_empty() {
                state.rejected.insert(delay, offsets);
            }
            return Ok(Some(Command::RejectRanges(v1::StreamPullRejectRanges {
                ranges,
                delay: Some(convert::duration(delay)),
            })));
        }
        let held = state.held.range((line, 0)..=(line, u64::MAX));
        let mut held: BTreeSet<u64> = held.map(|((_, offset), _)| *offset).collect();
        let lease = state.extend.take().filter(|_| !held.is_empty());
        Ok(lease.map(|lease| {
            Command::ExtendRanges(v1::StreamPullExtendRanges {
                ranges: take_ranges(&mut held),
                lease: Some(convert::duration(lease)),
            })
        }))
    }
}

impl State {
    /// Something was said about a part of a message. Whether that was the last part.
    fn finish(&mut self, line: u64, offset: u64) -> bool {
        let Some(parts) = self.held.get_mut(&(line, offset)) else {
            return false;
        };
        *parts = parts.saturating_sub(1);
        let is_over = *parts == 0;
        if is_over {
            self.held.remove(&(line, offset));
            self.messages += u32::from(self.line == line);
        }
        is_over
    }
}

/// Takes offsets out of a set, as ranges: no more than one command may have.
fn take_ranges(offsets: &mut BTreeSet<u64>) -> Vec<v1::OffsetRange> {
    let mut ranges: Vec<v1::OffsetRange> = Vec::new();
    while let Some(offset) = offsets.first().copied() {
        let is_full = ranges.len() == RANGES_MAX;
        match ranges.last_mut() {
            Some(last) if last.next_offset == offset => last.next_offset = offset + 1,
            _ if is_full => break,
            _ => ranges.push(v1::OffsetRange {
                first_offset: offset,
                next_offset: offset + 1,
            }),
        }
        offsets.pop_first();
    }
    ranges
}

/// A stream that is open. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) chosen: Chosen,
    pub(crate) events: mpsc::Receiver<Result<v1::StreamPullResponse, Failure>>,
    _tasks: JoinSet<()>,
}

impl Line {
    /// Opens a stream, which says what the desk has to say.
    pub(crate) async fn open(
        chosen: Chosen,
        open: v1::StreamPullOpen,
        (desk, line): (&Arc<Desk>, u64),
        answer_bytes_max: usize,
    ) -> Result<Self, Failure> {
        let requests = requests(open, Arc::clone(desk), line);
        let mut client =
            Grpc::new(chosen.channel.clone()).max_decoding_message_size(answer_bytes_max);
        // A lazy channel is always ready, or closed for good: then the call itself says so.
        let _ready = client.ready().await;
        let codec = ProstCodec::<v1::StreamPullRequest, v1::StreamPullResponse>::default();
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
        Ok(Self {
            chosen,
            events: receiver,
            _tasks: tasks,
        })
    }
}

/// What a line says: that it opens, then what there is to say.
fn requests(
    open: v1::StreamPullOpen,
    desk: Arc<Desk>,
    line: u64,
) -> impl futures::Stream<Item = v1::StreamPullRequest> + Send + 'static {
    let said = desk.said.subscribe();
    let first = Some(Command::Open(open));
    stream::unfold(
        (first, desk, said),
        move |(mut first, desk, mut said)| async move {
            loop {
                // Seen before it is looked at, so that nothing falls in between.
                said.mark_unchanged();
                let command = match first.take() {
                    Some(open) => Some(open),
                    None => desk.next(line).ok()?,
                };
                if command.is_some() {
                    let request = v1::StreamPullRequest { command };
                    return Some((request, (first, desk, said)));
                }
                said.changed().await.ok()?;
            }
        },
    )
}

/// Takes in what comes, until the stream ends or nobody wants it.
async fn take_in(
    mut events: Streaming<v1::StreamPullResponse>,
    address: Address,
    taken: mpsc::Sender<Result<v1::StreamPullResponse, Failure>>,
) {
    loop {
        let event = match events.message().await {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(Failure::no_answer(address.clone(), Duration::ZERO)),
            Err(status) => Err(Failure::from_status(&status, address.clone())),
        };
        let is_over = event.is_err();
        if taken.send(event).await.is_err() || is_over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first_offset: u64, next_offset: u64) -> v1::OffsetRange {
        v1::OffsetRange {
            first_offset,
            next_offset,
        }
    }

    #[test]
    fn acknowledgements_are_told_again_until_they_are_stored() {
        let desk = Desk::default();
        let line = desk.begin(5);
        desk.open(7);
        assert!(
            matches!(desk.next(line), Ok(Some(Command::Credit(credit))) if credit.messages == 5)
        );
        for offset in [3, 4, 7] {
            desk.hold(line, offset, 0);
            desk.acknowledge(line, offset);
        }
        assert!(
            matches!(desk.next(line), Ok(Some(Command::Credit(credit))) if credit.messages == 3)
        );
        let done = v1::StreamPullAcknowledgeRanges {
            ranges: vec![range(3, 5), range(7, 8)],
        };
        assert_eq!(desk.next(line), Ok(Some(Command::AcknowledgeRanges(done))));
        assert_eq!(desk.next(line), Ok(None));
        desk.settle(&[range(0, 4)]);
        let other = desk.begin(0);
        assert!(desk.next(line).is_err(), "an older line is silent");
        assert_eq!(desk.next(other), Ok(None), "it may be another topic");
        desk.open(7);
        let done = v1::StreamPullAcknowledgeRanges {
            ranges: vec![range(4, 5), range(7, 8)],
        };
        assert_eq!(desk.next(other), Ok(Some(Command::AcknowledgeRanges(done))));
        // The topic was made anew: what was read of the other one is not acknowledged in it.
        desk.hold(other, 9, 0);
        let another = desk.begin(0);
        desk.open(8);
        desk.acknowledge(other, 9);
        assert_eq!(desk.next(another), Ok(None));
    }

    #[test]
    fn message_that_comes_again_while_it_is_here_gives_back_what_it_used() {
        let desk = Desk::default();
        let line = desk.begin(0);
        let credit = |messages| {
            Ok(Some(Command::Credit(v1::StreamPullCredit {
                messages,
                bytes: 0,
            })))
        };
        desk.hold(line, 1, 0);
        desk.hold(line, 1, 1);
        assert_eq!(desk.next(line), Ok(None));
        desk.hold(line, 1, 0);
        desk.hold(line, 1, 1);
        assert_eq!(desk.next(line), credit(1));
        for _ in 0..4 {
            assert_eq!(desk.next(line), Ok(None));
            desk.drop_hold(line, 1);
        }
        assert_eq!(desk.next(line), credit(1));
    }

    #[test]
    fn block_is_done_when_each_of_its_messages_is() {
        let desk = Desk::default();
        let line = desk.begin(0);
        desk.open(7);
        for (offset, index) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
            desk.hold(line, offset, index);
        }
        desk.acknowledge(line, 1);
        desk.drop_hold(line, 2);
        desk.extend(Duration::from_secs(1));
        assert!(matches!(
            desk.next(line),
            Ok(Some(Command::ExtendRanges(extend))) if extend.ranges == [range(1, 3)]
        ));
        desk.acknowledge(line, 1);
        desk.acknowledge(line, 2);
        assert!(
            matches!(desk.next(line), Ok(Some(Command::Credit(credit))) if credit.messages == 2)
        );
        let done = v1::StreamPullAcknowledgeRanges {
            ranges: vec![range(1, 2)],
        };
        assert_eq!(desk.next(line), Ok(Some(Command::AcknowledgeRanges(done))));
    }
}
