//! Tests of the state machine.

mod codec;
mod crash;
mod dedupe;
mod property;
mod retention;
mod snapshot;
mod transcript;
mod version;

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::store::{MemoryStore, TopicStore};
use crate::types::{
    Batch, LogIndex, LogPosition, PublisherId, Retention, Sequence, SessionId, SubscriberId, Term,
    Timestamp, TopicName, Vertex,
};

fn shard() -> Vertex {
    "100".parse().unwrap()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn publisher(name: &str) -> PublisherId {
    PublisherId::new(name).unwrap()
}

fn subscriber(name: &str) -> SubscriberId {
    SubscriberId::new(name).unwrap()
}

/// `count` messages of one byte.
fn batch(count: usize, byte: u8) -> Batch {
    Batch::new([0x22, 1, byte].repeat(count).into()).unwrap()
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: Term(1 + index / 100),
        index: LogIndex(index),
    }
}

/// A machine that is given one command after the other.
struct Single {
    machine: Machine,
    next: u64,
}

impl Single {
    fn new() -> Self {
        Self::on(Arc::new(MemoryStore::new()))
    }

    fn on(store: Arc<dyn TopicStore>) -> Self {
        Self {
            machine: Machine::open(shard(), store).unwrap(),
            next: 0,
        }
    }

    fn bytes(&mut self, command: Option<Bytes>) -> (Option<Outcome>, Vec<Event>) {
        let entries = vec![(position(self.next), command)];
        self.next += 1;
        let mut applied = self.machine.apply(entries, Bytes::new()).unwrap();
        (applied.outcomes.pop().unwrap(), applied.events)
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.bytes(Some(command.encode())).0.unwrap()
    }

    /// Applies a command that must not be refused.
    fn done(&mut self, command: &Command) {
        self.apply(command).unwrap();
    }
}

fn create(name: &str) -> Command {
    Command::CreateTopic {
        topic: topic(name),
        creator: None,
        request_id: None,
        at: Timestamp(1),
        retention: Retention::FOR_EVER,
    }
}

fn append(name: &str, origin: Option<(&str, u64, u64)>, count: usize) -> Command {
    let origin = origin
        .map(|(name, session, sequence)| (publisher(name), SessionId(session), Sequence(sequence)));
    Command::Append {
        topic: topic(name),
        origin,
        at: Timestamp(2),
        batch: batch(count, b'x'),
    }
}

#[test]
fn entry_applied_before_or_left_out_is_refused_and_changes_nothing() {
    let mut single = Single::new();
    single.done(&create("news"));
    single.done(&append("news", None, 1));
    let digest = single.machine.view().digest().unwrap();
    for index in [0, 1, 3] {
        let entry = (position(index), Some(append("news", None, 1).encode()));
        let result = single.machine.apply(vec![entry], Bytes::from_static(b"x"));
        assert!(matches!(result, Err(Error::OutOfOrder { .. })), "{index}");
    }
    assert_eq!(single.machine.view().digest().unwrap(), digest);
    assert_eq!(single.machine.mark().unwrap(), "");
    single.done(&append("news", None, 1));
    assert_ne!(single.machine.view().digest().unwrap(), digest);
}

#[test]
fn mark_and_position_are_found_again() {
    let store: Arc<dyn TopicStore> = Arc::new(MemoryStore::new());
    let mut machine = Machine::open(shard(), Arc::clone(&store)).unwrap();
    assert_eq!((machine.applied(), machine.mark()), (None, None));
    let mark = Bytes::from_static(b"members");
    machine.apply(vec![(position(5), None)], mark).unwrap();
    assert_eq!(machine.durable_applied().unwrap(), None);
    store.checkpoint().unwrap();
    let machine = Machine::open(shard(), store).unwrap();
    assert_eq!(machine.applied(), Some(position(5)));
    assert_eq!(machine.mark().unwrap(), "members");
    assert_eq!(machine.durable_applied().unwrap(), Some(position(5)));
}
