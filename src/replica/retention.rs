//! Trims topics: the leader looks which messages are too old or too much, and proposes to forget them.
//!
//! All replicas forget the same, because what is forgotten is in the log; the clock is only asked here, and only by the leader.

use tokio::time::Instant;

use super::{Error, Replica};
use crate::shard::{self, Command, View};
use crate::types::{Timestamp, TopicId};

/// Topics looked at between two steps.
const PAGE_TOPICS: usize = 256;
/// Trims proposed in one round: what is left waits for the next, so that publishes do not wait behind it.
const TRIMS_MAX: usize = 1024;
/// Trims proposed at the same time: they share the log's syncs.
const TRIMS_AT_ONCE: usize = 32;

/// What is due among some topics.
#[derive(Default)]
struct Due {
    trims: Vec<Command>,
    /// Where the next topics begin; `None` when these were the last.
    next: Option<TopicId>,
}

impl Replica {
    /// Proposes, if this replica leads, to forget what the topics are not to keep any more, and says how many trims were made.
    ///
    /// # Errors
    /// As [`Replica::propose`]; what was trimmed until then stays trimmed.
    pub async fn retain(&self, now: Timestamp, deadline: Instant) -> Result<usize, Error> {
        let mut trims = 0;
        let mut after = None;
        while self.leader().borrow().is_ready && trims < TRIMS_MAX && Instant::now() < deadline {
            let due = self.due(after, now).await?;
            if due.trims.is_empty() {
                match due.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
                continue;
            }
            // One trim is bounded, so the same topics are looked at again.
            let mut left = due.trims.into_iter();
            loop {
                let some = left.by_ref().take(TRIMS_AT_ONCE);
                let made = some.map(|trim| self.propose(trim, deadline));
                let made = futures::future::try_join_all(made).await?.len();
                if made == 0 {
                    break;
                }
                trims += made;
            }
        }
        Ok(trims)
    }

    async fn due(&self, after: Option<TopicId>, now: Timestamp) -> Result<Due, Error> {
        let view = self.view();
        let found = self
            .shared
            .tasks
            .spawn_blocking(move || due(&view, after, now))
            .await;
        let damaged = |error: shard::Error| Error::Damaged {
            shard: self.shard(),
            reason: error.to_string(),
        };
        // A task that panicked found nothing; it is tried again.
        found
            .unwrap_or_else(|_| Ok(Due::default()))
            .map_err(damaged)
    }
}

fn due(view: &View, after: Option<TopicId>, now: Timestamp) -> Result<Due, shard::Error> {
    let topics = view.retained_topics(after, PAGE_TOPICS)?;
    let is_full = topics.len() >= PAGE_TOPICS;
    let next = topics.last().map(|topic| topic.id).filter(|_| is_full);
    let mut trims = Vec::new();
    for topic in topics {
        if let Some((before, bytes)) = view.trim_target(&topic, now)? {
            trims.push(Command::Trim {
                topic_id: topic.id,
                topic: topic.name,
                before,
                bytes,
            });
        }
    }
    Ok(Due { trims, next })
}
