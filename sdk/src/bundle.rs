//! Messages of a producer on their way: gathered until there are enough or they have waited long enough, then sealed, then answered together.
//!
//! It never sends: `pipeline` does. Begin with [`Queue::push`].

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use futures::FutureExt;
use futures::future::Shared;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::address::Address;
use crate::error::{Error, Failure};
use crate::message::{self, Message, Published, Run};

/// The call, as errors name it.
pub(crate) const METHOD: &str = "PublishStream";
/// Messages of one bundle: the peers' default limit for one request.
pub(crate) const MESSAGES_MAX: u32 = 10_000;

/// What became of a part of a bundle.
#[derive(Debug, Clone)]
struct Part {
    /// The first message that it is about, counted in the bundle.
    first: u32,
    /// How many messages have one offset together: all, when they went as one block.
    shape: Shape,
    outcome: Result<Arc<Published>, Error>,
}

/// How messages lie in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each at an offset of its own.
    Dense,
    /// All at one offset.
    Block,
}

type Parts = Arc<Vec<Part>>;

/// Messages that go together.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) run: Run,
    /// When it is given up.
    pub(crate) ends: Instant,
    pub(crate) trip: Trip,
    pub(crate) packing: Packing,
    first: u32,
    group: Arc<Group>,
}

/// What is sent of a bundle.
#[derive(Debug)]
pub(crate) enum Packing {
    /// It was never sent.
    Unknown,
    /// Its messages as they are.
    Plain,
    /// All of them as one.
    Block(Run),
}

/// How far a bundle has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trip {
    /// It was never sent, or it is certain that it was not taken.
    Here,
    /// It is under way on the stream that is open.
    Sent,
    /// It was under way on a stream that broke.
    Unknown,
}

/// What the parts of a bundle share: its answer is given when all have theirs.
#[derive(Debug)]
struct Group {
    room: Arc<Semaphore>,
    bytes: usize,
    state: Mutex<GroupState>,
}

#[derive(Debug)]
struct GroupState {
    left: u32,
    parts: Vec<Part>,
    answer: Option<oneshot::Sender<Parts>>,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.room.add_permits(self.bytes);
    }
}

impl Bundle {
    /// Tells what became of it.
    pub(crate) fn resolve(self, shape: Shape, outcome: Result<Arc<Published>, Error>) {
        let group = &self.group.state;
        let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
        group.parts.push(Part {
            first: self.first,
            shape,
            outcome,
        });
        group.left = group.left.saturating_sub(self.run.count);
        if group.left == 0
            && let Some(answer) = group.answer.take()
        {
            let mut parts = std::mem::take(&mut group.parts);
            parts.sort_by_key(|part| part.first);
            // Nobody may want it.
            let _gone = answer.send(Arc::new(parts));
        }
    }

    /// Each message for itself.
    pub(crate) fn split(self) -> Vec<Self> {
        let Self {
            run,
            ends,
            trip,
            first,
            group,
            ..
        } = self;
        let single = |(index, bytes)| Self {
            run: Run { count: 1, bytes },
            ends,
            trip,
            packing: Packing::Unknown,
            first: first.saturating_add(index),
            group: Arc::clone(&group),
        };
        (0..).zip(message::frames(&run.bytes)).map(single).collect()
    }
}

/// What has not been sent yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    open: Option<Open>,
    sealed: VecDeque<Bundle>,
    last: Option<Shared<oneshot::Receiver<Parts>>>,
}

/// A bundle that takes more messages.
#[derive(Debug)]
struct Open {
    bytes: BytesMut,
    count: u32,
    begun: Instant,
    /// What its messages have taken of the room.
    held: usize,
    answer: oneshot::Sender<Parts>,
    answered: Shared<oneshot::Receiver<Parts>>,
}

/// What a queue has for whoever sends.
#[derive(Debug)]
pub(crate) enum Next {
    Ready(Bundle),
    /// Something, then.
    At(Instant),
    Nothing,
}

/// Whether a message made a difference to whoever sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IsNews(pub(crate) bool);

/// What makes a bundle full, and how long it waits to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measure {
    pub(crate) bytes_max: usize,
    pub(crate) linger: Duration,
    pub(crate) deadline: Duration,
}

impl Queue {
    /// Adds a message that has taken `held` bytes of the room. Tells whether whoever sends has to look.
    pub(crate) fn push(
        &mut self,
        message: &Message,
        held: usize,
        measure: Measure,
        room: &Arc<Semaphore>,
    ) -> (Receipt, IsNews) {
        let (was_open, sealed) = (self.open.is_some(), self.sealed.len());
        let is_full = self.open.as_ref().is_some_and(|open| {
            open.bytes.len().saturating_add(held) > measure.bytes_max || open.count >= MESSAGES_MAX
        });
        if is_full {
            self.seal(measure, room);
        }
        let open = self.open.get_or_insert_with(|| {
            let (answer, answered) = oneshot::channel();
            Open {
                bytes: BytesMut::new(),
                count: 0,
                begun: Instant::now(),
                held: 0,
                answer,
                answered: answered.shared(),
            }
        });
        message.encode_into(&mut open.bytes);
        let index = open.count;
        open.count = open.count.saturating_add(1);
        open.held = open.held.saturating_add(held);
        let receipt = Receipt {
            answered: open.answered.clone(),
            index,
            deadline: measure.deadline,
        };
        if open.bytes.len() >= measure.bytes_max {
            self.seal(measure, room);
        }
        let is_news = !was_open || self.sealed.len() > sealed;
        (receipt, IsNews(is_news))
    }

    /// Nothing is added to the bundle that is open.
    pub(crate) fn seal(&mut self, measure: Measure, room: &Arc<Semaphore>) {
        let Some(open) = self.open.take() else { return };
        self.last = Some(open.answered);
        let state = GroupState {
            left: open.count,
            parts: Vec::new(),
            answer: Some(open.answer),
        };
        self.sealed.push_back(Bundle {
            run: Run {
                count: open.count,
                bytes: open.bytes.freeze(),
            },
            ends: Instant::now() + measure.deadline,
            trip: Trip::Here,
            packing: Packing::Unknown,
            first: 0,
            group: Arc::new(Group {
                room: Arc::clone(room),
                bytes: open.held,
                state: Mutex::new(state),
            }),
        });
    }

    /// The next bundle to send.
    pub(crate) fn next(&mut self, measure: Measure, room: &Arc<Semaphore>) -> Next {
        if self.sealed.is_empty()
            && let Some(open) = &self.open
        {
            let due = open.begun + measure.linger;
            if due > Instant::now() {
                return Next::At(due);
            }
            self.seal(measure, room);
        }
        self.sealed.pop_front().map_or(Next::Nothing, Next::Ready)
    }

    /// Resolves when the bundle that was sealed last is answered.
    pub(crate) fn last(&self) -> impl Future<Output = ()> + use<> {
        let last = self.last.clone();
        async move {
            if let Some(last) = last {
                let _answered = last.await;
            }
        }
    }
}

/// What becomes of a message that was given to a producer: a future. It need not be awaited.
#[derive(Debug, Clone)]
#[must_use = "only the receipt tells whether the message is in the log"]
pub struct Receipt {
    answered: Shared<oneshot::Receiver<Parts>>,
    index: u32,
    deadline: Duration,
}

impl Future for Receipt {
    type Output = Result<Appended, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (index, deadline) = (self.index, self.deadline);
        let answered = Pin::new(&mut self.answered).poll(context);
        answered.map(|parts| match parts {
            Ok(parts) => appended(&parts, index),
            Err(_) => Err(abandoned(deadline)),
        })
    }
}

fn appended(parts: &Parts, index: u32) -> Result<Appended, Error> {
    let part = parts.iter().rev().find(|part| part.first <= index);
    let part = part.ok_or(Error::Answer { field: "result" })?;
    let publish = part.outcome.clone()?;
    let place = index.saturating_sub(part.first);
    let (skip, index) = match part.shape {
        Shape::Dense => (u64::from(place), 0),
        Shape::Block => (0, place),
    };
    Ok(Appended {
        offset: publish.first_offset.saturating_add(skip),
        index,
        publish,
    })
}

/// The producer was dropped before it had an answer.
fn abandoned(deadline: Duration) -> Error {
    Error::OutcomeUnknown {
        method: METHOD,
        last: Box::new(Failure::no_answer(Address::unknown(), deadline)),
    }
}

/// Where a message of a producer is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// Its offset.
    pub offset: u64,
    /// Its place among the messages of this offset: 0, unless it was compressed together with others.
    pub index: u32,
    /// The publish that it was part of.
    pub publish: Arc<Published>,
}

impl Appended {
    /// When the leader took it.
    ///
    /// ```no_run
    /// # fn run(appended: cubecast_sdk::Appended) {
    /// println!("{} at {:?}", appended.offset, appended.append_time());
    /// # }
    /// ```
    pub fn append_time(&self) -> SystemTime {
        self.publish.append_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;

    const MEASURE: Measure = Measure {
        bytes_max: 100,
        linger: Duration::from_millis(5),
        deadline: Duration::from_secs(1),
    };

    fn published(first_offset: u64) -> Arc<Published> {
        Arc::new(Published::new(v1::PublishResponse {
            first_offset,
            ..v1::PublishResponse::default()
        }))
    }

    fn ready(queue: &mut Queue, room: &Arc<Semaphore>) -> Bundle {
        match queue.next(MEASURE, room) {
            Next::Ready(bundle) => bundle,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bundle_goes_when_it_is_full_or_has_waited() {
        let (mut queue, room) = (Queue::default(), Arc::new(Semaphore::new(0)));
        let message = Message::new(vec![7; 40]);
        let mut receipts = Vec::new();
        for _ in 0..3 {
            receipts.push(queue.push(&message, 44, MEASURE, &room).0);
        }
        let first = ready(&mut queue, &room);
        assert_eq!(first.run.count, 2);
        assert!(matches!(queue.next(MEASURE, &room), Next::At(_)));
        tokio::time::advance(Duration::from_millis(6)).await;
        let second = ready(&mut queue, &room);
        assert!(matches!(queue.next(MEASURE, &room), Next::Nothing));
        first.resolve(Shape::Dense, Ok(published(10)));
        second.resolve(Shape::Block, Ok(published(12)));
        assert_eq!(room.available_permits(), 3 * 44);
        let mut places = Vec::new();
        for receipt in receipts {
            let appended = receipt.await.unwrap();
            places.push((appended.offset, appended.index));
        }
        assert_eq!(places, [(10, 0), (11, 0), (12, 0)]);
    }

    #[tokio::test]
    async fn message_that_is_wrong_fails_alone() {
        let (mut queue, room) = (Queue::default(), Arc::new(Semaphore::new(0)));
        let receipts: Vec<_> = (0..3)
            .map(|_| queue.push(&Message::new("a"), 5, MEASURE, &room).0)
            .collect();
        queue.seal(MEASURE, &room);
        let mut parts = ready(&mut queue, &room).split();
        assert_eq!(parts.len(), 3);
        let wrong = parts.remove(1);
        wrong.resolve(Shape::Dense, Err(Error::Answer { field: "test" }));
        for (part, offset) in parts.into_iter().zip([5, 6]) {
            part.resolve(Shape::Dense, Ok(published(offset)));
        }
        let mut offsets = Vec::new();
        for receipt in receipts {
            offsets.push(receipt.await.ok().map(|appended| appended.offset));
        }
        assert_eq!(offsets, [Some(5), None, Some(6)]);
    }

    #[tokio::test]
    async fn dropped_producer_leaves_the_outcome_unknown() {
        let (mut queue, room) = (Queue::default(), Arc::new(Semaphore::new(0)));
        let (receipt, _) = queue.push(&Message::new("a"), 5, MEASURE, &room);
        drop(queue);
        assert!(matches!(receipt.await, Err(Error::OutcomeUnknown { .. })));
    }
}
