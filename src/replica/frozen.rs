//! States of a shard as they were right after an entry, kept for those who compare replicas.
//!
//! A kept state holds on to files that the store would else give back, so few are kept, and not for long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::Reader;
use crate::types::LogIndex;

/// States kept at once; the oldest goes first.
const KEPT_MAX: usize = 4;
/// How long a state is kept: its digest is asked for within moments.
const KEPT_TIME: Duration = Duration::from_secs(60);

struct Kept {
    index: LogIndex,
    since: Instant,
    reader: Arc<dyn Reader>,
}

/// The states that are kept of one shard.
pub(super) struct Frozen {
    kept: watch::Sender<VecDeque<Kept>>,
}

impl Default for Frozen {
    fn default() -> Self {
        Self {
            kept: watch::Sender::new(VecDeque::new()),
        }
    }
}

impl Frozen {
    /// Keeps the state right after an entry.
    pub(super) fn keep(&self, index: LogIndex, reader: Arc<dyn Reader>) {
        self.kept.send_modify(|kept| {
            let since = Instant::now();
            kept.push_back(Kept {
                index,
                since,
                reader,
            });
            while kept.len() > KEPT_MAX {
                kept.pop_front();
            }
        });
    }

    /// The state right after an entry; waits until it is there, but not for one that will not come any more.
    pub(super) async fn get(&self, index: LogIndex, deadline: Instant) -> Option<Arc<dyn Reader>> {
        let mut kept = self.kept.subscribe();
        let found = |all: &VecDeque<Kept>| {
            let one = all.iter().find(|one| one.index == index);
            one.map(|one| Arc::clone(&one.reader))
        };
        let is_passed = |all: &VecDeque<Kept>| all.iter().any(|one| one.index > index);
        let there = kept.wait_for(|all| found(all).is_some() || is_passed(all));
        let all = tokio::time::timeout_at(deadline, there).await.ok()?.ok()?;
        found(&all)
    }

    /// Lets go of what was kept long enough.
    pub(super) fn tidy(&self) {
        let is_old = |one: &Kept| one.since.elapsed() > KEPT_TIME;
        self.kept.send_if_modified(|kept| {
            let count = kept.len();
            kept.retain(|one| !is_old(one));
            kept.len() < count
        });
    }

    /// Lets go of everything: it belongs to a life that is over.
    pub(super) fn clear(&self) {
        self.kept.send_replace(VecDeque::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn reader() -> Arc<dyn Reader> {
        Arc::new(MemoryStore::new())
    }

    #[tokio::test(start_paused = true)]
    async fn state_is_waited_for_and_kept_for_a_while() {
        let frozen = Frozen::default();
        let soon = || Instant::now() + Duration::from_secs(1);
        assert!(frozen.get(LogIndex(7), soon()).await.is_none());
        let (found, ()) = tokio::join!(frozen.get(LogIndex(7), soon()), async {
            frozen.keep(LogIndex(7), reader());
        });
        assert!(found.is_some());
        for index in 8..8 + KEPT_MAX as u64 {
            frozen.keep(LogIndex(index), reader());
        }
        let asked = Instant::now();
        assert!(frozen.get(LogIndex(7), soon()).await.is_none());
        assert_eq!(asked.elapsed(), Duration::ZERO, "it will not come again");
        tokio::time::advance(KEPT_TIME * 2).await;
        frozen.tidy();
        assert!(frozen.get(LogIndex(8), soon()).await.is_none());
    }
}
