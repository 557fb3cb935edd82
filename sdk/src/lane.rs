//! The publishes of one publisher to one topic: a queue, one request under way, and the session that makes it repeatable.
//!
//! One request at a time, so that a sequence never arrives before the one in front of it; what waits is joined, so that this costs no throughput.
//! After any error a new session begins: no sequence is ever used for two contents, not even when a lost attempt arrives late. A session that
//! never appended anything costs the cluster nothing. It never drops a publish without an answer. Begin with [`drive`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::address::Address;
use crate::call::{self, Call};
use crate::client::Client;
use crate::error::{Code, Error, Failure, Reason};
use crate::hedge::Hedge;
use crate::message::{self, Published, Run};
use crate::model::AckLevel;
use crate::moment;
use crate::proto::v1;

/// What one publisher's publishes may take while they wait, in KiB: 64 MiB. A publish counts at least 1 KiB, at most all.
pub(crate) const ROOM_KIB: usize = 64 << 10;
/// Publishes are joined up to so many bytes: larger requests gain nothing, and hold up the answer of the first.
const JOINED_BYTES_MAX: usize = 256 << 10;
/// Publishes are joined up to so many messages: the peers' default limit for one request.
const JOINED_MESSAGES_MAX: u32 = 10_000;
const METHOD: &str = "Publish";

/// The publishes of one publisher to one topic.
#[derive(Debug)]
pub(crate) struct Lane {
    topic: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Item>,
    /// A task drives the lane; it will see what is pushed.
    is_driven: bool,
    session: Session,
}

/// A session and the sequence of its next publish.
#[derive(Debug, Clone, Copy)]
struct Session {
    id: u64,
    next: u64,
}

impl Session {
    fn begin() -> Self {
        Self {
            id: rand::random(),
            next: 0,
        }
    }
}

/// A publish that has room to wait in.
#[derive(Debug)]
pub(crate) struct Place {
    run: Run,
    acks: AckLevel,
    deadline: Duration,
    ends: Instant,
    room: OwnedSemaphorePermit,
}

/// A publish that waits for its turn.
#[derive(Debug)]
struct Item {
    run: Run,
    acks: AckLevel,
    /// Set by whoever is first: the lane when it sends, the caller when it gives up.
    is_taken: Arc<AtomicBool>,
    answer: oneshot::Sender<Result<Published, Error>>,
    _room: OwnedSemaphorePermit,
}

impl Item {
    /// The lane may send it: its caller is still there and has not given up.
    fn take(&self) -> bool {
        !self.answer.is_closed() && !self.is_taken.swap(true, Ordering::AcqRel)
    }
}

/// The caller's end of a publish.
#[derive(Debug)]
pub(crate) struct Waiting {
    answer: oneshot::Receiver<Result<Published, Error>>,
    is_taken: Arc<AtomicBool>,
    deadline: Duration,
    ends: Instant,
}

impl Waiting {
    /// Waits for the answer; gives up at the deadline unless the publish was sent by then: the call that sends it has its own deadline.
    pub(crate) async fn answer(mut self) -> Result<Published, Error> {
        let given_up = Error::DeadlineExceeded {
            method: METHOD,
            deadline: self.deadline,
        };
        let answer = match tokio::time::timeout_at(self.ends, &mut self.answer).await {
            Ok(answer) => answer,
            Err(_) if !self.is_taken.swap(true, Ordering::AcqRel) => return Err(given_up),
            Err(_) => (&mut self.answer).await,
        };
        answer.unwrap_or_else(|_| {
            // The lane's task was stopped, which happens only when the runtime ends.
            let last = Box::new(Failure::no_answer(Address::unknown(), self.deadline));
            Err(Error::OutcomeUnknown {
                method: METHOD,
                last,
            })
        })
    }
}

/// Waits for room.
pub(crate) async fn enter(
    room: &Arc<Semaphore>,
    run: Run,
    acks: AckLevel,
    deadline: Duration,
) -> Result<Place, Error> {
    let ends = moment::after(Instant::now(), deadline);
    let kib = (run.bytes.len() >> 10).saturating_add(1).min(ROOM_KIB);
    let permits = u32::try_from(kib).unwrap_or(u32::MAX);
    let late = Error::DeadlineExceeded {
        method: METHOD,
        deadline,
    };
    // Without an await where there is room: the runtime may make any await yield, and publishes would change places.
    let room = match Arc::clone(room).try_acquire_many_owned(permits) {
        Ok(room) => room,
        Err(_) => match tokio::time::timeout_at(ends, Arc::clone(room).acquire_many_owned(permits))
            .await
        {
            Ok(Ok(room)) => room,
            Ok(Err(_)) | Err(_) => return Err(late),
        },
    };
    Ok(Place {
        run,
        acks,
        deadline,
        ends,
        room,
    })
}

impl Lane {
    pub(crate) fn new(topic: &str) -> Self {
        let state = State {
            queue: VecDeque::new(),
            is_driven: false,
            session: Session::begin(),
        };
        Self {
            topic: topic.to_owned(),
            state: Mutex::new(state),
        }
    }

    /// Leaf data, and never held across an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a publish at the end of the queue. `start` is called when no task drives the lane.
    pub(crate) fn push(&self, place: Place, start: impl FnOnce()) -> Waiting {
        let (sender, receiver) = oneshot::channel();
        let is_taken = Arc::new(AtomicBool::new(false));
        let waiting = Waiting {
            answer: receiver,
            is_taken: Arc::clone(&is_taken),
            deadline: place.deadline,
            ends: place.ends,
        };
        let item = Item {
            run: place.run,
            acks: place.acks,
            is_taken,
            answer: sender,
            _room: place.room,
        };
        let mut state = self.lock();
        state.queue.push_back(item);
        let was_driven = std::mem::replace(&mut state.is_driven, true);
        drop(state);
        if !was_driven {
            start();
        }
        waiting
    }

    /// The publishes to send next as one. Empty: there are none, and the lane is not driven any more.
    fn take(&self) -> Vec<Item> {
        let mut state = self.lock();
        let mut joined: Vec<Item> = Vec::new();
        let (mut count, mut bytes) = (0_u32, 0_usize);
        while let Some(next) = state.queue.front() {
            let fits = joined.first().is_none_or(|first| {
                first.acks == next.acks
                    && count.saturating_add(next.run.count) <= JOINED_MESSAGES_MAX
                    && bytes.saturating_add(next.run.bytes.len()) <= JOINED_BYTES_MAX
                    // An empty publish is refused, and must be refused alone.
                    && first.run.count > 0
                    && next.run.count > 0
            });
            if !fits {
                break;
            }
            let Some(item) = state.queue.pop_front() else {
                break;
            };
            if item.take() {
                count = count.saturating_add(item.run.count);
                bytes = bytes.saturating_add(item.run.bytes.len());
                joined.push(item);
            }
        }
        state.is_driven = !joined.is_empty();
        joined
    }
}

/// Sends what is in the lane until it is empty.
pub(crate) async fn drive(lane: Arc<Lane>, client: Client, publisher: Arc<str>) {
    loop {
        let items = lane.take();
        if items.is_empty() {
            return;
        }
        let result = publish(&lane, &client, &publisher, &items).await;
        match result {
            // One of them is wrong, and nobody knows which: each for itself.
            Err(Error::Refused(failure))
                if items.len() > 1 && is_about_content(failure.code, failure.reason) =>
            {
                for item in items {
                    let alone = std::slice::from_ref(&item);
                    let result = publish(&lane, &client, &publisher, alone).await;
                    answer(vec![item], &result);
                }
            }
            result => answer(items, &result),
        }
    }
}

/// Gives each publish its share of the result.
fn answer(items: Vec<Item>, result: &Result<Published, Error>) {
    let mut skip = 0;
    for item in items {
        let share = result
            .as_ref()
            .map(|published| published.part(skip, item.run.count))
            .map_err(Clone::clone);
        skip += u64::from(item.run.count);
        // A caller that is gone does not want it.
        let _gone = item.answer.send(share);
    }
}

/// The messages are refused for what they are, not for where they were to go.
fn is_about_content(code: Code, reason: Reason) -> bool {
    code == Code::InvalidArgument || reason == Reason::RequestTooLarge
}

/// Publishes the items as one.
async fn publish(
    lane: &Lane,
    client: &Client,
    publisher: &str,
    items: &[Item],
) -> Result<Published, Error> {
    let result = publish_once(lane, client, publisher, items).await;
    match &result {
        // Definite refusals of the session alone, which is new now: it was forgotten, or its last publishes were lost with an owner's disk.
        Err(Error::Refused(failure))
            if matches!(failure.reason, Reason::SessionUnknown | Reason::SequenceGap) =>
        {
            publish_once(lane, client, publisher, items).await
        }
        _ => result,
    }
}

async fn publish_once(
    lane: &Lane,
    client: &Client,
    publisher: &str,
    items: &[Item],
) -> Result<Published, Error> {
    let session = lane.lock().session;
    let acks = items.first().map(|item| item.acks).unwrap_or_default();
    let head = v1::PublishRequest {
        topic: lane.topic.clone(),
        publisher: publisher.to_owned(),
        sequence: Some(v1::PublishSequence {
            session: session.id,
            sequence: session.next,
        }),
        messages: Vec::new(),
        acks: v1::AckLevel::from(acks).into(),
    };
    let request = message::request(&head, items.iter().map(|item| &item.run));
    let hedge = match acks {
        // Its answer comes at the deadline when a replica is away.
        AckLevel::All => Hedge::Watch,
        _ => Hedge::Usual,
    };
    let call = Call::new(&call::PUBLISH_SEQUENCED)
        .about(&lane.topic)
        .hedged(hedge);
    let result = client.call_whole(call, request).await;
    let result = result.map(|answer| client.published(answer));
    lane.lock().session = match &result {
        Ok(_) => Session {
            next: session.next + 1,
            ..session
        },
        Err(_) => Session::begin(),
    };
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn push(
        lane: &Lane,
        room: &Arc<Semaphore>,
        acks: AckLevel,
        messages: &[&'static str],
    ) -> Waiting {
        let run = Run::new(messages.iter().copied());
        let place = enter(room, run, acks, Duration::from_millis(20))
            .await
            .unwrap();
        lane.push(place, || ())
    }

    fn counts(items: &[Item]) -> Vec<u32> {
        items.iter().map(|item| item.run.count).collect()
    }

    #[tokio::test]
    async fn what_waits_is_joined_while_level_and_size_allow() {
        let (lane, room) = (Lane::new("news"), Arc::new(Semaphore::new(ROOM_KIB)));
        let mut waiting = Vec::new();
        for messages in [&["a"][..], &["b", "c"]] {
            waiting.push(push(&lane, &room, AckLevel::Quorum, messages).await);
        }
        waiting.push(push(&lane, &room, AckLevel::All, &["d"]).await);
        assert_eq!(counts(&lane.take()), [1, 2]);
        assert_eq!(counts(&lane.take()), [1]);
        assert!(lane.take().is_empty());
        assert!(!lane.lock().is_driven);
    }

    #[tokio::test]
    async fn empty_publish_goes_alone() {
        let (lane, room) = (Lane::new("news"), Arc::new(Semaphore::new(ROOM_KIB)));
        let _first = push(&lane, &room, AckLevel::Quorum, &[]).await;
        let _second = push(&lane, &room, AckLevel::Quorum, &["a"]).await;
        assert_eq!(counts(&lane.take()), [0]);
        assert_eq!(counts(&lane.take()), [1]);
    }

    #[tokio::test]
    async fn publish_that_was_given_up_is_not_sent() {
        let (lane, room) = (Lane::new("news"), Arc::new(Semaphore::new(ROOM_KIB)));
        let dropped = push(&lane, &room, AckLevel::Quorum, &["a"]).await;
        drop(dropped);
        let waiting = push(&lane, &room, AckLevel::Quorum, &["b"]).await;
        assert!(matches!(
            waiting.answer().await,
            Err(Error::DeadlineExceeded { .. })
        ));
        let _kept = push(&lane, &room, AckLevel::Quorum, &["c", "d"]).await;
        assert_eq!(counts(&lane.take()), [2]);
    }

    #[tokio::test]
    async fn room_comes_back_when_a_publish_is_answered() {
        let (lane, room) = (Lane::new("news"), Arc::new(Semaphore::new(1)));
        let waiting = push(&lane, &room, AckLevel::Quorum, &["a"]).await;
        let run = Run::new(["b"]);
        assert!(
            enter(
                &room,
                run.clone(),
                AckLevel::Quorum,
                Duration::from_millis(5)
            )
            .await
            .is_err()
        );
        answer(lane.take(), &Err(Error::Answer { field: "x" }));
        assert!(matches!(waiting.answer().await, Err(Error::Answer { .. })));
        assert!(
            enter(&room, run, AckLevel::Quorum, Duration::from_millis(5))
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn each_gets_its_own_offsets() {
        let (lane, room) = (Lane::new("news"), Arc::new(Semaphore::new(ROOM_KIB)));
        let first = push(&lane, &room, AckLevel::Quorum, &["a", "b"]).await;
        let second = push(&lane, &room, AckLevel::Quorum, &["c"]).await;
        let whole = Published::new(v1::PublishResponse {
            first_offset: 7,
            message_count: 3,
            ..v1::PublishResponse::default()
        });
        answer(lane.take(), &Ok(whole));
        assert_eq!(first.answer().await.unwrap().first_offset, 7);
        assert_eq!(second.answer().await.unwrap().first_offset, 9);
    }
}
