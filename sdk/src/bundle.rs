//! Messages of a producer on their way: gathered until there are enough or they have waited long enough, then sealed, then answered together.
//!
//! It never sends: `pipeline` does. Begin with [`Queue::push`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::error::Error;
use crate::message::{self, Message, Published, Run};
use crate::moment;
use crate::receipt::{Answered, Part, Parts, Receipt, Shape};

/// The call, as errors name it.
pub(crate) const METHOD: &str = "PublishStream";
/// Messages of one bundle: the peers' default limit for one request.
pub(crate) const MESSAGES_MAX: u32 = 10_000;

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
    last: Option<Answered>,
    /// Bytes of the bundle before: the next one is likely to have as many.
    bytes_expected: usize,
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
    answered: Answered,
}

impl Open {
    fn new() -> Self {
        let (answer, answered) = oneshot::channel();
        Self {
            bytes: BytesMut::new(),
            count: 0,
            begun: Instant::now(),
            held: 0,
            answer,
            answered: answered.shared(),
        }
    }

    /// Counts messages. Gives the place of the first.
    fn add(&mut self, count: u32, held: usize) -> u32 {
        let first = self.count;
        self.count = self.count.saturating_add(count);
        self.held = self.held.saturating_add(held);
        first
    }
}

/// Messages that were encoded before they had a place in the queue.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    bytes: BytesMut,
    pub(crate) count: u32,
    /// What they take of the room.
    pub(crate) held: usize,
}

impl Chunk {
    /// One more message would be too much for a bundle of so many bytes.
    pub(crate) fn is_full_for(&self, held: usize, bytes_max: usize) -> bool {
        self.count > 0 && (self.count >= MESSAGES_MAX || self.held.saturating_add(held) > bytes_max)
    }

    /// Adds a message of so many bytes, which takes `held` of the room. `expected`: bytes of all that will be added, as far as is known.
    pub(crate) fn add(
        &mut self,
        message: &Message,
        (bytes, held): (usize, usize),
        expected: usize,
    ) {
        if self.count == 0 {
            self.bytes.reserve(expected);
        }
        message.encode_into(bytes, &mut self.bytes);
        self.count = self.count.saturating_add(1);
        self.held = self.held.saturating_add(held);
    }
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
    /// Adds a message of so many bytes that has taken `held` of the room. Tells whether whoever sends has to look.
    pub(crate) fn push(
        &mut self,
        message: &Message,
        (bytes, held): (usize, usize),
        measure: Measure,
        room: &Arc<Semaphore>,
    ) -> (Receipt, IsNews) {
        let before = self.sight();
        let expected = self.bytes_expected;
        let open = self.open_for((held, 1), measure, room);
        if open.count == 0 {
            open.bytes.reserve(expected);
        }
        message.encode_into(bytes, &mut open.bytes);
        let index = open.add(1, held);
        let receipt = Receipt::coming(open.answered.clone(), index, measure.deadline);
        self.seal_full(measure, room);
        (receipt, self.is_news(before))
    }

    /// Adds messages that have taken their room. Gives where they are answered, and the place of the first there.
    pub(crate) fn push_chunk(
        &mut self,
        chunk: Chunk,
        measure: Measure,
        room: &Arc<Semaphore>,
    ) -> (Answered, u32, IsNews) {
        let before = self.sight();
        let open = self.open_for((chunk.held, chunk.count), measure, room);
        if open.count == 0 {
            open.bytes = chunk.bytes;
        } else {
            open.bytes.extend_from_slice(&chunk.bytes);
        }
        let first = open.add(chunk.count, chunk.held);
        let answered = open.answered.clone();
        self.seal_full(measure, room);
        (answered, first, self.is_news(before))
    }

    /// The bundle that takes so many bytes and messages more.
    fn open_for(
        &mut self,
        (bytes, count): (usize, u32),
        measure: Measure,
        room: &Arc<Semaphore>,
    ) -> &mut Open {
        let is_full = self.open.as_ref().is_some_and(|open| {
            open.bytes.len().saturating_add(bytes) > measure.bytes_max
                || open.count.saturating_add(count) > MESSAGES_MAX
        });
        if is_full {
            self.seal(measure, room);
        }
        self.open.get_or_insert_with(Open::new)
    }

    fn seal_full(&mut self, measure: Measure, room: &Arc<Semaphore>) {
        let is_full = |open: &Open| open.bytes.len() >= measure.bytes_max;
        if self.open.as_ref().is_some_and(is_full) {
            self.seal(measure, room);
        }
    }

    /// What whoever sends has seen: whether a bundle is open, and how many are sealed.
    fn sight(&self) -> (bool, usize) {
        (self.open.is_some(), self.sealed.len())
    }

    fn is_news(&self, (was_open, sealed): (bool, usize)) -> IsNews {
        IsNews(!was_open || self.sealed.len() > sealed)
    }

    /// Nothing is added to the bundle that is open.
    pub(crate) fn seal(&mut self, measure: Measure, room: &Arc<Semaphore>) {
        let Some(open) = self.open.take() else { return };
        self.last = Some(open.answered);
        self.bytes_expected = open.bytes.len();
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
            ends: moment::after(Instant::now(), measure.deadline),
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
            let due = moment::after(open.begun, measure.linger);
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
            receipts.push(queue.push(&message, (42, 44), MEASURE, &room).0);
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
            .map(|_| queue.push(&Message::new("a"), (3, 5), MEASURE, &room).0)
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
    async fn chunks_are_bundles_and_what_is_left_takes_more() {
        let (mut queue, room) = (Queue::default(), Arc::new(Semaphore::new(0)));
        let message = Message::new(vec![7; 40]);
        let mut places = Vec::new();
        for count in [1, 1, 2] {
            let mut chunk = Chunk::default();
            for _ in 0..count {
                assert!(!chunk.is_full_for(44, MEASURE.bytes_max));
                chunk.add(&message, (42, 44), 88);
            }
            let (_, first, _) = queue.push_chunk(chunk, MEASURE, &room);
            places.push(first);
        }
        assert_eq!(places, [0, 1, 0]);
        queue.seal(MEASURE, &room);
        for first_offset in [0, 2] {
            let bundle = ready(&mut queue, &room);
            assert_eq!(bundle.run.count, 2);
            assert_eq!(message::frames(&bundle.run.bytes).len(), 2);
            bundle.resolve(Shape::Dense, Ok(published(first_offset)));
        }
        assert_eq!(room.available_permits(), 4 * 44);
    }

    #[tokio::test]
    async fn dropped_producer_leaves_the_outcome_unknown() {
        let (mut queue, room) = (Queue::default(), Arc::new(Semaphore::new(0)));
        let (receipt, _) = queue.push(&Message::new("a"), (3, 5), MEASURE, &room);
        drop(queue);
        assert!(matches!(receipt.await, Err(Error::OutcomeUnknown { .. })));
    }
}
