//! What of the log a replica needs that is being sent a snapshot.
//!
//! It goes on from the log behind the snapshot's last entry. Were that let go of while the snapshot is on its way, the replica would need the next
//! one when it has this one; in a large shard under lasting load it would never catch up. Begin with [`Deliveries`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

/// How long the log is kept for a replica that has installed its snapshot: one that has not caught up by then is too slow for the load.
const CATCH_UP_MAX: Duration = Duration::from_secs(300);

/// The snapshots that one group sends, by the Raft id of who gets it. A cheap handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Deliveries {
    open: Arc<Mutex<BTreeMap<u64, Open>>>,
}

#[derive(Debug, Clone)]
struct Open {
    /// The snapshot's last entry.
    index: u64,
    /// Whoever sends it.
    sender: Weak<()>,
    installed: Option<Instant>,
}

/// A snapshot that is being sent, until this is dropped.
pub(super) struct Delivery {
    deliveries: Deliveries,
    node: u64,
    index: u64,
    sender: Arc<()>,
}

impl Deliveries {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A snapshot up to an entry is to be sent. One that nobody takes keeps nothing.
    pub(super) fn prepare(&self, node: u64, index: u64) -> Delivery {
        Delivery {
            deliveries: self.clone(),
            node,
            index,
            sender: Arc::default(),
        }
    }

    /// The last entry that may be let go of; `None` when all may. `stored` says how far a replica is.
    pub(super) fn limit(&self, stored: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let mut open = self.open();
        open.retain(|_, delivery| match delivery.installed {
            Some(at) => at.elapsed() <= CATCH_UP_MAX,
            None => delivery.sender.strong_count() > 0,
        });
        let needed = open.iter().map(|(node, delivery)| {
            let stored = stored(*node).filter(|_| delivery.installed.is_some());
            stored.map_or(delivery.index, |stored| stored.max(delivery.index))
        });
        needed.min()
    }
}

impl Delivery {
    /// To be called when the replica begins to take it: from then on the log behind it stays.
    pub(super) fn begin(&self) -> impl FnOnce() + Send + use<> {
        let open = Open {
            index: self.index,
            sender: Arc::downgrade(&self.sender),
            installed: None,
        };
        let (deliveries, node) = (self.deliveries.clone(), self.node);
        move || {
            deliveries.open().insert(node, open);
        }
    }

    /// The replica has it, and goes on from the log.
    pub(super) fn installed(self) {
        if let Some(open) = self.deliveries.open().get_mut(&self.node) {
            open.installed = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn log_behind_a_snapshot_stays_until_the_replica_has_it() {
        let deliveries = Deliveries::default();
        let nobody = |_: u64| None;
        let delivery = deliveries.prepare(7, 100);
        assert_eq!(deliveries.limit(nobody), None, "nobody takes it yet");
        delivery.begin()();
        assert_eq!(deliveries.limit(nobody), Some(100));
        assert_eq!(
            deliveries.limit(|_| Some(500)),
            Some(100),
            "of another life"
        );
        delivery.installed();
        assert_eq!(deliveries.limit(nobody), Some(100));
        assert_eq!(deliveries.limit(|_| Some(150)), Some(150));
        tokio::time::advance(CATCH_UP_MAX * 2).await;
        assert_eq!(deliveries.limit(|_| Some(150)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn delivery_that_broke_keeps_nothing() {
        let deliveries = Deliveries::default();
        let (slow, broken) = (deliveries.prepare(7, 100), deliveries.prepare(8, 50));
        slow.begin()();
        let late = broken.begin();
        late();
        assert_eq!(deliveries.limit(|_| None), Some(50));
        drop(broken);
        assert_eq!(deliveries.limit(|_| None), Some(100));
        drop(slow);
        assert_eq!(deliveries.limit(|_| None), None);
    }
}
