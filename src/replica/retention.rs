//! Trims topics: the leader looks which messages are too old or too much, and proposes to forget them.
//!
//! All replicas forget the same, because what is forgotten is in the log; the clock is only asked here, and only by the leader. A shard in which
//! nothing is due is not looked at again before it changes or a message is old enough.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::error::in_full;
use super::{Error, Replica};
use crate::shard::{self, Command, Due, View};
use crate::types::{LogIndex, Timestamp, TopicId};

/// Topics looked at between two steps.
const PAGE_TOPICS: usize = 256;
/// Trims proposed in one round: what is left waits for the next, so that publishes do not wait behind it.
const TRIMS_MAX: usize = 1024;
/// Trims proposed at the same time: they share the log's syncs. No more are looked for before they are made.
const TRIMS_AT_ONCE: usize = 32;

/// Until when nothing is due.
#[derive(Debug, Default)]
pub(super) struct Lull(Mutex<Option<Quiet>>);

/// Nothing was due when this was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quiet {
    applied: Option<LogIndex>,
    /// Up to when that stays so; `None`: as long as nothing more is applied.
    until: Option<Timestamp>,
}

impl Lull {
    /// Whether something may be due.
    pub(super) fn is_over(&self, applied: Option<LogIndex>, now: Timestamp) -> bool {
        let quiet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !quiet.is_some_and(|quiet| {
            quiet.applied == applied && quiet.until.is_none_or(|until| now <= until)
        })
    }

    fn begin(&self, quiet: Quiet) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(quiet);
    }
}

/// What was found among some topics.
#[derive(Default)]
struct Page {
    trims: Vec<Command>,
    /// When something else is due.
    until: Option<Timestamp>,
    /// Where the next topics begin; `None` when these were the last.
    next: Option<TopicId>,
}

impl Replica {
    /// Proposes, if this replica leads, to forget what the topics are not to keep any more, and says how many trims were made.
    ///
    /// # Errors
    /// As [`Replica::propose`]; [`Error::Damaged`] and [`Error::Unreadable`] when the rows cannot be read. What was trimmed until then stays trimmed.
    pub async fn retain(&self, now: Timestamp, deadline: Instant) -> Result<usize, Error> {
        let leads = || self.leader().borrow().is_ready;
        // Asked before anything is read: what is applied meanwhile is looked at the next time.
        let applied = if leads() { self.status().applied } else { None };
        if !leads() || !self.shared.lull.is_over(applied, now) {
            return Ok(0);
        }
        let (mut trims, mut after) = (0, None);
        let mut until: Option<Timestamp> = None;
        loop {
            if !leads() || trims >= TRIMS_MAX || Instant::now() >= deadline {
                return Ok(trims);
            }
            let page = self.look(after, now).await?;
            if !page.trims.is_empty() {
                // One trim is bounded, so the same topics are looked at again.
                let trimmed = page.trims.into_iter();
                let trimmed = trimmed.map(|trim| self.propose(trim, deadline));
                trims += futures::future::try_join_all(trimmed).await?.len();
                continue;
            }
            until = until.into_iter().chain(page.until).min();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if trims == 0 {
            self.shared.lull.begin(Quiet { applied, until });
        }
        Ok(trims)
    }

    /// What is due from a topic on.
    async fn look(&self, after: Option<TopicId>, now: Timestamp) -> Result<Page, Error> {
        let (view, shard) = (self.view(), self.shard());
        let looked = move || look(&view, after, now);
        let looked = self.shared.tasks.spawn_blocking(looked).await;
        let error = match looked {
            Ok(Ok(page)) => return Ok(page),
            Ok(Err(error)) => Arc::new(error),
            Err(lost) => {
                let reason = lost.to_string();
                return Err(Error::Unreadable { shard, reason });
            }
        };
        self.blame(&error);
        let reason = in_full(&*error);
        Err(if error.is_damage() {
            Error::Damaged { shard, reason }
        } else {
            Error::Unreadable { shard, reason }
        })
    }
}

fn look(view: &View, after: Option<TopicId>, now: Timestamp) -> Result<Page, shard::Error> {
    let topics = view.retained_topics(after, PAGE_TOPICS)?;
    let is_full = topics.len() >= PAGE_TOPICS;
    let mut page = Page {
        next: topics.last().map(|topic| topic.id).filter(|_| is_full),
        ..Page::default()
    };
    for topic in topics {
        match view.due(&topic, now)? {
            Due::Trim(before, bytes) => page.trims.push(Command::Trim {
                topic_id: topic.id,
                topic: topic.name,
                before,
                bytes,
            }),
            Due::After(time) => page.until = Some(page.until.map_or(time, |until| until.min(time))),
            Due::Nothing => {}
        }
        if page.trims.len() == TRIMS_AT_ONCE {
            break;
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lull_ends_with_a_change_or_with_its_time() {
        let lull = Lull::default();
        let applied = Some(LogIndex(7));
        assert!(lull.is_over(applied, Timestamp(1)));
        let until = Some(Timestamp(9));
        lull.begin(Quiet { applied, until });
        assert!(!lull.is_over(applied, Timestamp(9)));
        assert!(lull.is_over(applied, Timestamp(10)));
        assert!(lull.is_over(Some(LogIndex(8)), Timestamp(1)));
        let until = None;
        lull.begin(Quiet { applied, until });
        assert!(!lull.is_over(applied, Timestamp(u64::MAX)));
    }
}
