//! Who waits for which topic.
//!
//! A pull that finds nothing waits here. Each commit of the shard's state machine wakes those whose topic it changed, and nobody else: a
//! topic that nobody waits for costs nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::types::TopicName;

/// The waiters of one shard. A cheap handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiters {
    /// Nobody is to wait any more.
    closed: CancellationToken,
    topics: Arc<Mutex<BTreeMap<TopicName, watch::Sender<u64>>>>,
}

impl Waiters {
    /// Begins to watch a topic: what changes from now on is seen.
    pub(super) fn watch(&self, topic: &TopicName) -> TopicWatch {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = match topics.get(topic) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, receiver) = watch::channel(0);
                topics.insert(topic.clone(), sender);
                receiver
            }
        };
        TopicWatch {
            waiters: self.clone(),
            topic: topic.clone(),
            receiver: Some(receiver),
        }
    }

    /// Wakes those who wait for a topic.
    pub(super) fn wake(&self, topic: &TopicName) {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = topics.get(topic) {
            sender.send_modify(|changes| *changes += 1);
        }
    }

    /// Wakes everybody: the shard's leadership moved, so each waiter has to look again, or go elsewhere.
    pub(super) fn wake_all(&self) {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in topics.values() {
            sender.send_modify(|changes| *changes += 1);
        }
    }

    /// Ends all waiting, also what begins later: the peer is stopping.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    fn forget(&self, topic: &TopicName) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if topics
            .get(topic)
            .is_some_and(|sender| sender.receiver_count() == 0)
        {
            topics.remove(topic);
        }
    }
}

/// Sees what happens to one topic.
#[derive(Debug)]
pub struct TopicWatch {
    waiters: Waiters,
    topic: TopicName,
    /// Present until the watch is dropped.
    receiver: Option<watch::Receiver<u64>>,
}

impl TopicWatch {
    /// Waits until the topic has changed since the watch was made or since the last call: it grew, was deleted, a cursor of it moved, or its
    /// shard has another leader. False when the deadline came first, or the peer is stopping.
    pub async fn changed(&mut self, deadline: Instant) -> bool {
        let Some(receiver) = &mut self.receiver else {
            return false;
        };
        tokio::select! {
            biased;
            () = self.waiters.closed.cancelled() => false,
            changed = tokio::time::timeout_at(deadline, receiver.changed()) => matches!(changed, Ok(Ok(()))),
        }
    }
}

impl Drop for TopicWatch {
    fn drop(&mut self) {
        self.receiver = None;
        self.waiters.forget(&self.topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn topic(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_changed_topic_wakes() {
        let waiters = Waiters::default();
        let mut news = waiters.watch(&topic("news"));
        let mut sport = waiters.watch(&topic("sport"));
        waiters.wake(&topic("news"));
        let deadline = Instant::now() + Duration::from_secs(1);
        assert!(news.changed(deadline).await);
        assert!(!sport.changed(deadline).await);
        waiters.wake_all();
        assert!(sport.changed(Instant::now() + Duration::from_secs(1)).await);
    }

    #[tokio::test]
    async fn nobody_waits_when_the_peer_stops() {
        let waiters = Waiters::default();
        let mut news = waiters.watch(&topic("news"));
        waiters.close();
        assert!(
            !news
                .changed(Instant::now() + Duration::from_secs(3600))
                .await
        );
    }

    #[tokio::test]
    async fn a_topic_that_nobody_watches_is_forgotten() {
        let waiters = Waiters::default();
        let first = waiters.watch(&topic("news"));
        let second = waiters.watch(&topic("news"));
        drop(first);
        assert_eq!(waiters.topics.lock().unwrap().len(), 1);
        drop(second);
        assert_eq!(waiters.topics.lock().unwrap().len(), 0);
    }
}
