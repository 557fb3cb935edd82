//! How a clerk publishes dead letters: one after the other, each with its number, until it is heard that it is there. Begin with [`Clerk::start_posting`].

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tracing::warn;

use super::clerk::{Clerk, LETTER_PAUSE};
use super::letter::{Letter, Sender};
use crate::broker::{Access, Error, Post, Returned, look};
use crate::shard::LetterFate;
use crate::types::{ByteCount, LogIndex, Sequence, StoredBatch};

/// How long one attempt may take.
const STEP_MAX: Duration = Duration::from_secs(10);

pub(super) type Posting = BoxFuture<'static, Result<Result<LetterFate, Returned>, Error>>;

impl<R: Access, P: Post> Clerk<R, P> {
    /// Publishes the first dead letter that waits, unless one is under way.
    pub(super) fn start_posting(&mut self) {
        if self.posting.is_some() || self.resumes.is_some() {
            return;
        }
        let (Some(letter), Some(letters)) = (self.desk.letter(), &self.subject.dead_letters) else {
            return;
        };
        let (offset, number, deliveries) = letter;
        if offset < self.topic.first_offset {
            // It is gone: with the next settlement the shard forgets it, and begins another session.
            let session = number.0;
            return self.desk.decide(LetterFate::Refused { session });
        }
        let (view, topic, subject) = (self.view.clone(), self.topic.clone(), self.subject.clone());
        let (post, shard, to) = (
            self.post.clone(),
            self.replica.shard(),
            letters.topic.clone(),
        );
        let posting = async move {
            let row = topic.clone();
            let read = move || view.batches(&row, offset, 1, ByteCount(u64::MAX));
            let stored = look(shard, read).await?.into_iter().next();
            let sender = Sender {
                topic: &topic.name,
                topic_id: topic.id,
                subscriber: &subject.subscriber,
                offset,
                deliveries,
            };
            let is_it = |stored: &StoredBatch| stored.base_offset == offset;
            let stored = stored.filter(is_it);
            let Some(letter) =
                stored.and_then(|stored| Letter::new(to, sender, number, &stored.batch))
            else {
                return Ok(Err(Returned::Later("it cannot be read".to_owned())));
            };
            let posted = post.publish(letter, Instant::now() + STEP_MAX).await;
            Ok(fate(posted, number))
        };
        self.posting = Some(posting.boxed());
    }

    pub(super) fn posted(&mut self, posted: Result<LetterFate, Returned>) {
        match posted {
            Ok(fate) => {
                self.pause = LETTER_PAUSE.0;
                self.desk.decide(fate);
            }
            Err(returned) => {
                warn!(topic = %self.subject.topic, subscriber = %self.subject.subscriber, ?returned, "a dead letter could not be published, and is tried again");
                self.resumes = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(LETTER_PAUSE.1);
            }
        }
    }
}

/// What an attempt to publish a letter with this number means for the subscription.
fn fate(
    posted: Result<(), Returned>,
    (session, sequence): (LogIndex, Sequence),
) -> Result<LetterFate, Returned> {
    match posted {
        Ok(()) => Ok(LetterFate::Published { session, sequence }),
        // One that begins a session is never unknown: then the topic cannot take it for another reason.
        Err(Returned::Unknown) if sequence > Sequence(0) => Ok(LetterFate::Refused { session }),
        Err(returned) => Err(returned),
    }
}
