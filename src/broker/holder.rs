//! Who reads from which subscription, when one reader at a time may.
//!
//! Known to the leader alone and kept in memory: with another leader every reader begins anew. Begin with [`Holders::take`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::types::{SubscriberId, TopicId};

type Key = (TopicId, SubscriberId);

/// The readers of this peer. At most one entry for each stream that is open.
#[derive(Debug, Clone, Default)]
pub(super) struct Holders {
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    readers: BTreeMap<Key, (u64, CancellationToken)>,
    /// How often a subscription was taken.
    count: u64,
}

impl Holders {
    /// Takes a subscription; who held it has lost it.
    pub(super) fn take(&self, topic: TopicId, subscriber: &SubscriberId) -> Holding {
        let (key, lost) = ((topic, subscriber.clone()), CancellationToken::new());
        let mut held = self.lock();
        held.count += 1;
        let number = held.count;
        let before = held.readers.insert(key.clone(), (number, lost.clone()));
        drop(held);
        if let Some((_, before)) = before {
            before.cancel();
        }
        Holding {
            holders: self.clone(),
            key,
            number,
            lost,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Each change is one insert or remove, which a panic cannot leave half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription that is held, until it is dropped or another reader takes it.
#[derive(Debug)]
pub(super) struct Holding {
    holders: Holders,
    key: Key,
    number: u64,
    lost: CancellationToken,
}

impl Holding {
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Waits until another reader takes it.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut held = self.holders.lock();
        let holder = held.readers.get(&self.key).map(|(number, _)| *number);
        if holder == Some(self.number) {
            held.readers.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_reader_holds_and_none_is_remembered_for_ever() {
        let holders = Holders::default();
        let (topic, reader) = (TopicId::from_bits(7), SubscriberId::new("s").unwrap());
        let first = holders.take(topic, &reader);
        let other = holders.take(TopicId::from_bits(8), &reader);
        let second = holders.take(topic, &reader);
        assert!(first.is_lost());
        drop(first);
        assert!(!second.is_lost() && !other.is_lost());
        drop((second, other));
        assert!(holders.lock().readers.is_empty());
    }
}
