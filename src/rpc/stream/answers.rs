//! The answers of a PublishStream on their way to its caller.
//!
//! Each has its place in the queue before its request is read, and keeps it until the transport takes the answer: the queue is never full, and who reads
//! no answers has no more requests read. Never holds a request. Begin with [`queue`].

use std::pin::Pin;
use std::sync::Arc;

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::ErrorReason;
use futures::Stream;
use futures::stream::unfold;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tonic::Status;

use crate::rpc::status::Fault;

/// The answers of a stream.
pub type Answers =
    Pin<Box<dyn Stream<Item = Result<proto::PublishStreamResponse, Status>> + Send + 'static>>;

/// An answer with its place, or the end.
type Told = (
    Result<proto::PublishStreamResponse, Status>,
    Option<OwnedSemaphorePermit>,
);

/// Both ends of a queue for so many answers, and one end.
pub fn queue(count: usize) -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel(count + 1);
    let outbox = Outbox {
        places: Arc::new(Semaphore::new(count)),
        sender,
    };
    (outbox, Inbox(receiver))
}

/// The end of the queue at which answers are put in.
pub struct Outbox {
    places: Arc<Semaphore>,
    sender: mpsc::Sender<Told>,
}

/// A place for one answer.
#[derive(Debug)]
pub struct Place(Option<OwnedSemaphorePermit>);

impl Outbox {
    /// Waits for a place. Cancel-safe.
    pub async fn place(&self) -> Place {
        // Fails only when the semaphore is closed, which it never is.
        Place(Arc::clone(&self.places).acquire_owned().await.ok())
    }

    /// Puts an answer into its place.
    pub fn put(&self, answer: proto::PublishStreamResponse, Place(place): Place) {
        self.tell((Ok(answer), place));
    }

    /// Says how the stream ends, once.
    pub fn end(&self, status: Status) {
        self.tell((Err(status), None));
    }

    fn tell(&self, told: Told) {
        // It has a place, so there is room unless the caller is gone.
        let _ = self.sender.try_send(told);
    }
}

/// The end of the queue at which the transport takes them.
pub struct Inbox(mpsc::Receiver<Told>);

impl Inbox {
    /// The answers that `work` gives. It ends with them, and they keep the seat.
    pub fn stream(
        self,
        work: impl Future<Output = ()> + Send + 'static,
        seat: Option<OwnedSemaphorePermit>,
    ) -> Answers {
        let mut tasks = JoinSet::new();
        tasks.spawn(work);
        let reading = Reading {
            queue: self.0,
            tasks,
            _seat: seat,
        };
        Box::pin(unfold(reading, Reading::next))
    }
}

/// What the transport holds.
struct Reading {
    queue: mpsc::Receiver<Told>,
    /// The one that answers. Ends with this.
    tasks: JoinSet<()>,
    _seat: Option<OwnedSemaphorePermit>,
}

impl Reading {
    async fn next(mut self) -> Option<(Result<proto::PublishStreamResponse, Status>, Self)> {
        if let Some((answer, _place)) = self.queue.recv().await {
            return Some((answer, self));
        }
        // Without its work the stream must not look as if all were answered.
        self.tasks.join_next().await?.err()?;
        let text = "the stream broke: what has no answer may have been done";
        // Every other reason would say that nothing was done.
        let fault = Fault::new(ErrorReason::OutcomeUnknown, text);
        Some((Err(fault.into_status()), self))
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn answer(request_number: u64) -> proto::PublishStreamResponse {
        proto::PublishStreamResponse {
            request_number,
            result: None,
        }
    }

    #[tokio::test]
    async fn caller_that_reads_nothing_gets_no_more_places_and_hears_the_end() {
        let (outbox, inbox) = queue(2);
        let work = async move {
            for number in 0..2 {
                let place = outbox.place().await;
                outbox.put(answer(number), place);
            }
            assert!(outbox.place().now_or_never().is_none());
            outbox.end(Status::unavailable("stops"));
        };
        let mut answers = inbox.stream(work, None);
        // The work has ended before anything is read.
        tokio::task::yield_now().await;
        for number in 0..2 {
            let read = answers.next().await.unwrap().unwrap();
            assert_eq!(read.request_number, number);
        }
        assert!(answers.next().await.unwrap().is_err());
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn place_is_free_when_the_answer_is_read() {
        let (outbox, inbox) = queue(1);
        let work = async move {
            for number in 0..3 {
                let place = outbox.place().await;
                outbox.put(answer(number), place);
            }
        };
        let answers: Vec<_> = inbox.stream(work, None).collect().await;
        assert_eq!(answers.len(), 3);
    }

    #[tokio::test]
    async fn work_ends_when_the_caller_goes_away() {
        let (_outbox, inbox) = queue(1);
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let work = async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        };
        drop(inbox.stream(work, None));
        ended.cancelled().await;
    }

    #[tokio::test]
    async fn work_that_breaks_is_no_good_end() {
        async fn broken(_outbox: Outbox) {
            panic!("a defect");
        }
        let (outbox, inbox) = queue(1);
        let work = broken(outbox);
        let answers: Vec<_> = inbox.stream(work, None).collect().await;
        let [Err(status)] = answers.as_slice() else {
            panic!("{answers:?}");
        };
        let reason = crate::rpc::status::reason(status);
        assert_eq!(reason, Some(ErrorReason::OutcomeUnknown));
    }
}
