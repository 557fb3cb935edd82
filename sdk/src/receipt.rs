//! What becomes of the messages that were given to a producer, as futures.
//!
//! The messages of a bundle share one answer, and each finds its own part of it. It never sends and never waits for room. Begin with [`Receipt`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::future::Shared;
use tokio::sync::oneshot;

use crate::address::Address;
use crate::bundle::METHOD;
use crate::error::{Error, Failure};
use crate::message::Published;

/// What became of a part of a bundle.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The first message that it is about, counted in the bundle.
    pub(crate) first: u32,
    /// How many messages have one offset together: all, when they went as one block.
    pub(crate) shape: Shape,
    pub(crate) outcome: Result<Arc<Published>, Error>,
}

/// How messages lie in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each at an offset of its own.
    Dense,
    /// All at one offset.
    Block,
}

/// In the order of their messages.
pub(crate) type Parts = Arc<Vec<Part>>;

/// The answer to a bundle.
pub(crate) type Answered = Shared<oneshot::Receiver<Parts>>;

/// What becomes of a message that was given to a producer: a future. It need not be awaited.
#[derive(Debug, Clone)]
#[must_use = "only the receipt tells whether the message is in the log"]
pub struct Receipt {
    fate: Fate,
    index: u32,
    deadline: Duration,
}

#[derive(Debug, Clone)]
enum Fate {
    /// It went with a bundle.
    Given(Answered),
    /// It was never sent.
    Refused(Box<Error>),
}

impl Receipt {
    pub(crate) fn coming(answered: Answered, index: u32, deadline: Duration) -> Self {
        Self {
            fate: Fate::Given(answered),
            index,
            deadline,
        }
    }
}

impl Future for Receipt {
    type Output = Result<Appended, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (index, deadline) = (self.index, self.deadline);
        match &mut self.fate {
            Fate::Given(answered) => {
                let answered = Pin::new(answered).poll(context);
                answered.map(|parts| match parts {
                    Ok(parts) => appended(&parts, index),
                    Err(_) => Err(abandoned(deadline)),
                })
            }
            Fate::Refused(error) => Poll::Ready(Err(Error::clone(error))),
        }
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

/// What becomes of many messages that were given to a producer together. Made by [`Producer::send_all`](crate::Producer::send_all).
///
/// Iterate over it to get a [`Receipt`] for each message, in their order; [`Self::wait`] costs less.
#[derive(Debug, Clone, Default)]
#[must_use = "only the receipts tell whether the messages are in the log"]
pub struct Receipts {
    stretches: Vec<Stretch>,
    count: usize,
}

/// Messages one after the other that share a fate.
#[derive(Debug, Clone)]
struct Stretch {
    fate: Fate,
    first: u32,
    count: u32,
    deadline: Duration,
}

impl Receipts {
    /// The next messages were given away, and are these of their bundle.
    pub(crate) fn give(
        &mut self,
        answered: Answered,
        (first, count): (u32, u32),
        deadline: Duration,
    ) {
        let fate = Fate::Given(answered);
        self.push(Stretch {
            fate,
            first,
            count,
            deadline,
        });
    }

    /// The next messages are not sent.
    pub(crate) fn refuse(&mut self, error: Error, count: u32) {
        self.push(Stretch {
            fate: Fate::Refused(Box::new(error)),
            first: 0,
            count,
            deadline: Duration::ZERO,
        });
    }

    fn push(&mut self, stretch: Stretch) {
        let count = usize::try_from(stretch.count).unwrap_or(usize::MAX);
        self.count = self.count.saturating_add(count);
        self.stretches.push(stretch);
    }

    /// How many messages there are.
    ///
    /// ```no_run
    /// # fn run(receipts: cubecast_sdk::Receipts) {
    /// println!("{} messages", receipts.len());
    /// # }
    /// ```
    pub fn len(&self) -> usize {
        self.count
    }

    /// There is none.
    ///
    /// ```no_run
    /// # fn run(receipts: cubecast_sdk::Receipts) {
    /// assert!(!receipts.is_empty());
    /// # }
    /// ```
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Waits until all messages are answered. Looks at each request once, and not at each message.
    ///
    /// ```no_run
    /// # async fn run(receipts: cubecast_sdk::Receipts) -> Result<(), cubecast_sdk::Error> {
    /// receipts.wait().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// That of the first message that is not in the log for certain, as its receipt gives it. Others before and behind it may be there.
    pub async fn wait(self) -> Result<(), Error> {
        let mut first = Ok(());
        for stretch in self.stretches {
            let result = stretch.wait().await;
            first = first.and(result);
        }
        first
    }
}

impl Stretch {
    async fn wait(self) -> Result<(), Error> {
        let answered = match self.fate {
            Fate::Given(answered) => answered,
            Fate::Refused(error) => return Err(*error),
        };
        let parts = answered.await.map_err(|_| abandoned(self.deadline))?;
        let end = self.first.saturating_add(self.count);
        let mut after = parts.iter().skip(1).map(|part| part.first);
        for part in parts.iter().take_while(|part| part.first < end) {
            let is_ours = after.next().is_none_or(|after| after > self.first);
            if let (true, Err(error)) = (is_ours, &part.outcome) {
                return Err(error.clone());
            }
        }
        Ok(())
    }
}

impl IntoIterator for Receipts {
    type Item = Receipt;
    type IntoIter = ReceiptsIter;

    fn into_iter(self) -> ReceiptsIter {
        ReceiptsIter {
            stretches: self.stretches.into_iter(),
            current: None,
        }
    }
}

/// A receipt for each of the messages of [`Receipts`], in their order.
#[derive(Debug)]
pub struct ReceiptsIter {
    stretches: std::vec::IntoIter<Stretch>,
    current: Option<Stretch>,
}

impl Iterator for ReceiptsIter {
    type Item = Receipt;

    fn next(&mut self) -> Option<Receipt> {
        loop {
            if let Some(stretch) = self.current.as_mut().filter(|stretch| stretch.count > 0) {
                let index = stretch.first;
                stretch.first = stretch.first.saturating_add(1);
                stretch.count = stretch.count.saturating_sub(1);
                return Some(Receipt {
                    fate: stretch.fate.clone(),
                    index,
                    deadline: stretch.deadline,
                });
            }
            self.current = Some(self.stretches.next()?);
        }
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
    use futures::FutureExt;

    use super::*;
    use crate::proto::v1;

    fn part(first: u32, outcome: Option<u64>) -> Part {
        let published = |first_offset| {
            Arc::new(Published::new(v1::PublishResponse {
                first_offset,
                ..v1::PublishResponse::default()
            }))
        };
        Part {
            first,
            shape: Shape::Dense,
            outcome: outcome
                .map(published)
                .ok_or(Error::Answer { field: "test" }),
        }
    }

    fn answered(parts: Vec<Part>) -> Answered {
        let (sender, receiver) = oneshot::channel();
        sender.send(Arc::new(parts)).unwrap();
        receiver.shared()
    }

    #[tokio::test]
    async fn receipts_come_in_order_over_bundles_and_refusals() {
        let mut receipts = Receipts::default();
        let deadline = Duration::from_secs(1);
        receipts.give(answered(vec![part(0, Some(10))]), (3, 2), deadline);
        receipts.refuse(Error::MessageEmpty, 1);
        receipts.give(answered(vec![part(0, Some(20))]), (0, 1), deadline);
        assert_eq!((receipts.len(), receipts.is_empty()), (4, false));
        let mut offsets = Vec::new();
        for receipt in receipts.clone() {
            offsets.push(receipt.await.ok().map(|appended| appended.offset));
        }
        assert_eq!(offsets, [Some(13), Some(14), None, Some(20)]);
        assert!(matches!(receipts.wait().await, Err(Error::MessageEmpty)));
    }

    #[tokio::test]
    async fn only_what_became_of_ones_own_messages_counts() {
        let parts = vec![
            part(0, None),
            part(2, Some(5)),
            part(4, Some(6)),
            part(6, None),
        ];
        for (range, is_good) in [
            ((0, 2), false),
            ((2, 2), true),
            ((3, 3), true),
            ((5, 2), false),
        ] {
            let mut receipts = Receipts::default();
            receipts.give(answered(parts.clone()), range, Duration::ZERO);
            assert_eq!(receipts.wait().await.is_ok(), is_good, "{range:?}");
        }
    }
}
