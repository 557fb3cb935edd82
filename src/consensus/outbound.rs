//! What goes out to a follower: its entries at once, a commit without entries a moment later.
//!
//! Each publish would otherwise cost two messages to every follower and two answers, one for the entry and one to say that it is committed. Under
//! load the commit travels with the next entry; without load it goes by itself after [`COMMIT_DELAY`]. Nothing that a caller waits for depends
//! on it: the leader answers when the entry is committed, not when the followers know. It never holds an entry back and never drops a
//! commit without sending a later one. Begin with [`Outbound`].

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, Sleep};

use super::types::Types;

type Request = AppendEntriesRequest<Types>;

/// How long a commit waits for an entry to travel with: longer than the time between the publishes of one busy client, and so short that
/// a read from a follower is hardly later (measured by `benches/publish`).
const COMMIT_DELAY: Duration = Duration::from_millis(2);

/// The requests of one append stream, with fewer of those that carry no entries.
pub(super) struct Outbound<S> {
    requests: S,
    /// Carries no entries. Sent when the timer ends, unless a later request says the same and more.
    held: Option<Request>,
    timer: Pin<Box<Sleep>>,
    /// The first request finds out where the follower is, so it never waits.
    is_begun: bool,
    is_ended: bool,
}

impl<S> Outbound<S> {
    pub(super) fn new(requests: S) -> Self {
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self {
            requests,
            held: None,
            timer,
            is_begun: false,
            is_ended: false,
        }
    }

    /// Takes a request: the one to send now, or `None` when it is held.
    fn take(&mut self, request: Request) -> Option<Request> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        if is_first || !request.entries.is_empty() {
            // It is later than the held one, and commits never go back, so it says all that the held one would.
            self.held = None;
            return Some(request);
        }
        if self.held.is_none() {
            self.timer.as_mut().reset(Instant::now() + COMMIT_DELAY);
        }
        self.held = Some(request);
        None
    }
}

impl<S: Stream<Item = Request> + Unpin> Stream for Outbound<S> {
    type Item = Request;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Request>> {
        let this = &mut *self;
        while !this.is_ended {
            match this.requests.poll_next_unpin(context) {
                Poll::Ready(Some(request)) => {
                    if let Some(now) = this.take(request) {
                        return Poll::Ready(Some(now));
                    }
                }
                Poll::Ready(None) => this.is_ended = true,
                Poll::Pending => break,
            }
        }
        if this.is_ended {
            return Poll::Ready(this.held.take());
        }
        if this.held.is_some() && this.timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(this.held.take());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use openraft::EntryPayload;
    use openraft::alias::CommittedLeaderIdOf;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::consensus::types::{Entry, LogId, Vote};

    fn id(index: u64) -> LogId {
        LogId::new(
            CommittedLeaderIdOf::<Types> {
                term: 1,
                node_id: 1,
            },
            index,
        )
    }

    /// Carries the entries of these indices, and says that all up to `commit` are committed.
    fn request(entries: &[u64], commit: u64) -> Request {
        let entry = |index: &u64| Entry {
            log_id: id(*index),
            payload: EntryPayload::Blank,
        };
        Request {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            entries: entries.iter().map(entry).collect(),
            leader_commit: Some(id(commit)),
        }
    }

    /// How many entries each has, and what it says is committed.
    async fn sent(requests: impl Stream<Item = Request> + Unpin) -> Vec<(usize, u64)> {
        let said = |request: Request| {
            (
                request.entries.len(),
                request.leader_commit.map_or(0, |id| id.index),
            )
        };
        Outbound::new(requests).map(said).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn commit_travels_with_the_next_entries() {
        let all = [
            request(&[1], 0),
            request(&[], 1),
            request(&[2, 3], 1),
            request(&[], 2),
            request(&[], 3),
        ];
        assert_eq!(sent(stream::iter(all)).await, [(1, 0), (2, 1), (0, 3)]);
    }

    #[tokio::test(start_paused = true)]
    async fn first_request_and_entries_never_wait() {
        let begun = Instant::now();
        assert_eq!(
            sent(stream::iter([request(&[], 5), request(&[6], 5)])).await,
            [(0, 5), (1, 5)]
        );
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn commit_without_entries_is_sent_after_the_delay() {
        let (sender, receiver) = mpsc::channel(4);
        let mut outbound = Outbound::new(ReceiverStream::new(receiver));
        for next in [request(&[1], 0), request(&[], 1)] {
            sender.send(next).await.unwrap();
        }
        let begun = Instant::now();
        assert_eq!(outbound.next().await.unwrap().entries.len(), 1);
        assert_eq!(outbound.next().await.unwrap().leader_commit, Some(id(1)));
        let waited = begun.elapsed();
        assert!(
            waited >= COMMIT_DELAY && waited < 2 * COMMIT_DELAY,
            "{waited:?}"
        );
    }
}
