//! The desk on a real state machine.

mod property;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::desk::{ConsumerId, Desk, Seen, Which};
use super::letter::{Letter, Sender};
use crate::shard::{
    Command, DeadLetters, LetterFate, Letters, Machine, Response, Settlement, Share, Sharing, Start,
};
use crate::store::MemoryStore;
use crate::types::{
    Batch, ByteCount, LogIndex, LogPosition, Offset, OffsetRange, Offsets, Retention, Sequence,
    SubscriberId, Term, Timestamp, TopicId, TopicName,
};

const LEASE: Duration = Duration::from_secs(10);
const MAX: u32 = 3;

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

fn subscriber() -> SubscriberId {
    SubscriberId::new("s").unwrap()
}

fn range(start: u64, end: u64) -> OffsetRange {
    Offset(start)..Offset(end)
}

fn these(ranges: &[OffsetRange]) -> Which {
    Which::These(ranges.iter().cloned().collect())
}

/// A shard with a shared subscription, and the desk of its leader.
struct World {
    machine: Machine,
    index: u64,
    desk: Desk,
    now: Instant,
    on_the_way: Option<Settlement>,
}

impl World {
    fn new(deliveries_max: Option<u32>) -> Self {
        let shard = "100".parse().unwrap();
        let machine = Machine::open(shard, Arc::new(MemoryStore::new())).unwrap();
        let mut world = Self {
            desk: Desk::new(unseen(), deliveries_max),
            machine,
            index: 0,
            now: Instant::now(),
            on_the_way: None,
        };
        world.apply(&Command::CreateTopic {
            topic: topic(),
            creator: None,
            request_id: None,
            at: Timestamp(1),
            retention: Retention::FOR_EVER,
        });
        world.apply(&Command::SubscribeShared {
            topic: topic(),
            subscriber: subscriber(),
            start: Start::Earliest,
            at: Timestamp(1),
            sharing: Sharing {
                lease: LEASE,
                dead_letters: deliveries_max.map(|max_deliveries| DeadLetters {
                    max_deliveries,
                    topic: TopicName::new("dead").unwrap(),
                }),
            },
        });
        world.fail_over(deliveries_max);
        world
    }

    fn apply(&mut self, command: &Command) -> Response {
        let position = LogPosition {
            term: Term(1),
            index: LogIndex(self.index),
        };
        self.index += 1;
        let entries = vec![(position, Some(command.encode()))];
        let applied = self.machine.apply(entries, Bytes::new()).unwrap();
        let outcome = applied.outcomes.into_iter().next().unwrap().unwrap();
        outcome.unwrap()
    }

    fn publish(&mut self, count: u64) {
        let message = [0x22, 3, 0x12, 1, 7].repeat(usize::try_from(count).unwrap());
        self.apply(&Command::Append {
            topic: topic(),
            origin: None,
            at: Timestamp(2),
            batch: Batch::new(message.into()).unwrap(),
        });
        self.see();
    }

    fn seen(&self) -> Seen {
        let view = self.machine.view();
        let row = view.topic(&topic()).unwrap().unwrap();
        let subscription = view.subscription(&row, &subscriber()).unwrap().unwrap();
        Seen {
            cursor: subscription.cursor,
            first: row.first_offset,
            head: row.next_offset,
            missed: subscription.missed,
            share: view.share(&row, &subscriber()).unwrap().unwrap(),
        }
    }

    fn see(&mut self) {
        let seen = self.seen();
        self.desk.see(seen);
    }

    /// Another peer leads: what was in memory is lost.
    fn fail_over(&mut self, deliveries_max: Option<u32>) {
        self.desk = Desk::new(self.seen(), deliveries_max);
        self.on_the_way = None;
    }

    /// Delivers what there is, at most so many, and gives what was delivered with the attempt of each.
    fn deliver(&mut self, by: ConsumerId, count_max: u64) -> Vec<(Offset, u32)> {
        let Some(range) = self.desk.pick(count_max) else {
            return Vec::new();
        };
        let runs = self.desk.grant(range, by, self.now + LEASE);
        let each = |(run, attempt): (OffsetRange, u32)| {
            (run.start.0..run.end.0).map(move |offset| (Offset(offset), attempt))
        };
        runs.into_iter().flat_map(each).collect()
    }

    fn propose(&mut self) {
        self.on_the_way = self
            .on_the_way
            .take()
            .or_else(|| self.desk.take_settlement());
    }

    fn commit(&mut self) -> BTreeMap<ConsumerId, Offsets> {
        let Some(settlement) = self.on_the_way.take() else {
            return BTreeMap::new();
        };
        let era = self.desk.era();
        self.apply(&Command::Settle {
            topic: topic(),
            topic_id: TopicId::new(4, 1),
            subscriber: subscriber(),
            era,
            settlement,
        });
        self.see();
        self.desk.settled()
    }

    /// All that is said is stored, and told.
    fn settle(&mut self) -> BTreeMap<ConsumerId, Offsets> {
        let mut told = self.commit();
        self.propose();
        told.extend(self.commit());
        told
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.desk.tick(self.now);
    }
}

fn unseen() -> Seen {
    let letters = Letters {
        session: LogIndex(0),
        next: Sequence(0),
        waiting: Vec::new(),
    };
    let share = Share {
        era: LogIndex(0),
        acknowledged: Offsets::default(),
        deliveries: BTreeMap::new(),
        missed: 0,
        letters,
    };
    Seen {
        cursor: Offset(0),
        first: Offset(0),
        head: Offset(0),
        missed: 0,
        share,
    }
}

#[test]
fn consumers_have_different_messages_until_a_lease_ends() {
    let mut world = World::new(None);
    world.publish(6);
    let first = world.deliver(1, 3);
    assert_eq!(first, [(Offset(0), 1), (Offset(1), 1), (Offset(2), 1)]);
    assert_eq!(world.deliver(2, 2), [(Offset(3), 1), (Offset(4), 1)]);
    assert!(world.desk.acknowledge(1, &range(1, 2)));
    assert!(!world.desk.acknowledge(1, &range(1, 7)), "beyond the end");
    world.pass(LEASE / 2);
    world.desk.extend(2, &Which::All, world.now + LEASE);
    world.pass(LEASE / 2);
    assert_eq!(world.deliver(2, 9), [(Offset(0), 2)]);
    assert_eq!(world.deliver(2, 9), [(Offset(2), 2)]);
    assert_eq!(world.deliver(2, 9), [(Offset(5), 1)]);
    assert_eq!(world.deliver(2, 9), []);
    let told = world.settle();
    assert_eq!(told[&1].iter().collect::<Vec<_>>(), [range(1, 2)]);
}

#[test]
fn what_is_rejected_waits_and_what_a_lost_stream_had_does_not() {
    let mut world = World::new(None);
    world.publish(4);
    assert_eq!(world.deliver(1, 4).len(), 4);
    let until = world.now + Duration::from_secs(3);
    world.desk.reject(2, &Which::All, None);
    assert_eq!(world.deliver(2, 9), [], "it is not its to reject");
    world.desk.reject(1, &these(&[range(1, 3)]), Some(until));
    assert_eq!(world.deliver(2, 9), []);
    world.desk.leave(1);
    assert_eq!(world.deliver(2, 9), [(Offset(0), 2)]);
    assert_eq!(world.deliver(2, 9), [(Offset(3), 2)]);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.deliver(2, 9), [(Offset(1), 2), (Offset(2), 2)]);
}

#[test]
fn message_that_nobody_acknowledges_becomes_one_dead_letter() {
    let mut world = World::new(Some(MAX));
    world.publish(3);
    for attempt in 1..=MAX {
        let one = world.deliver(1, 1);
        assert_eq!(one, [(Offset(0), attempt)]);
        world.desk.reject(1, &Which::All, None);
        world.settle();
        // Counts are stored: another leader goes on with them.
        world.fail_over(Some(MAX));
    }
    assert_eq!(world.deliver(1, 9), [(Offset(1), 1), (Offset(2), 1)]);
    assert!(world.desk.acknowledge(1, &range(1, 3)));
    world.settle();
    let (offset, (session, sequence), deliveries) = world.desk.letter().unwrap();
    assert_eq!(
        (offset, sequence, deliveries),
        (Offset(0), Sequence(0), MAX)
    );
    assert_eq!(
        world.desk.cursor(),
        Offset(0),
        "it is done when it is published"
    );
    world.fail_over(Some(MAX));
    assert_eq!(world.deliver(1, 9), []);
    let again = world.desk.letter().unwrap();
    assert_eq!(again.1, (session, sequence), "under the same number");
    world
        .desk
        .decide(LetterFate::Published { session, sequence });
    world.settle();
    assert_eq!(
        (world.desk.cursor(), world.desk.letter()),
        (Offset(3), None)
    );
    assert!(world.desk.is_settled());
}

#[test]
fn cursor_put_elsewhere_frees_all_and_retention_is_told() {
    let mut world = World::new(None);
    world.publish(8);
    assert_eq!(world.deliver(1, 8).len(), 8);
    assert!(world.desk.acknowledge(1, &range(0, 2)));
    assert!(world.desk.acknowledge(1, &range(3, 4)));
    world.settle();
    world.apply(&Command::Trim {
        topic: topic(),
        topic_id: TopicId::new(4, 1),
        before: Offset(5),
        bytes: ByteCount(25),
    });
    world.see();
    assert_eq!(world.desk.take_missed(), 2);
    assert_eq!(world.seen().missed, 2);
    assert!(world.desk.acknowledge(1, &range(6, 7)));
    let settlement = world.desk.take_settlement();
    world.apply(&Command::Seek {
        topic: topic(),
        subscriber: subscriber(),
        to: Start::Offset(Offset(6)),
    });
    world.on_the_way = settlement;
    assert!(world.commit().is_empty(), "it was said of what was before");
    assert_eq!(world.deliver(2, 9), [(Offset(6), 1), (Offset(7), 1)]);
}

#[test]
fn counts_of_what_retention_removed_stand_in_nobodys_way() {
    let mut world = World::new(Some(2));
    world.publish(6);
    assert_eq!(world.deliver(1, 4).len(), 4);
    world.desk.reject(1, &Which::All, None);
    assert_eq!(world.deliver(1, 2).len(), 2);
    world.desk.reject(1, &Which::All, None);
    world.settle();
    assert_eq!(world.seen().share.letters.waiting, [Offset(0), Offset(1)]);
    world.apply(&Command::Trim {
        topic: topic(),
        topic_id: TopicId::new(4, 1),
        before: Offset(3),
        bytes: ByteCount(15),
    });
    assert_eq!(world.seen().share.deliveries.len(), 4, "not yet forgotten");
    world.fail_over(Some(2));
    assert_eq!(world.deliver(2, 9), [(Offset(3), 2)]);
    assert_eq!(world.deliver(2, 9), [(Offset(4), 1), (Offset(5), 1)]);
    assert!(world.desk.acknowledge(2, &range(3, 6)));
    world.settle();
    assert_eq!(
        (world.desk.cursor(), world.desk.letter()),
        (Offset(6), None)
    );
}

#[test]
fn cursor_that_is_seen_late_is_believed() {
    let mut world = World::new(None);
    world.publish(8);
    assert_eq!(world.deliver(1, 8).len(), 8);
    assert!(world.desk.acknowledge(1, &range(0, 6)));
    world.settle();
    let before = world.seen();
    world.apply(&Command::Seek {
        topic: topic(),
        subscriber: subscriber(),
        to: Start::Offset(Offset(5)),
    });
    let share = world.seen().share;
    world.desk.see(Seen { share, ..before });
    world.see();
    let each = [(Offset(5), 1), (Offset(6), 1), (Offset(7), 1)];
    assert_eq!(world.deliver(2, 9), each);
}

#[test]
fn acknowledgement_takes_a_message_back_until_its_letter_is_queued() {
    let mut world = World::new(Some(1));
    world.publish(3);
    assert_eq!(world.deliver(1, 3).len(), 3);
    world.desk.reject(1, &Which::All, None);
    assert!(world.desk.acknowledge(2, &range(0, 1)));
    let told = world.settle();
    assert_eq!(told[&2].iter().collect::<Vec<_>>(), [range(0, 1)]);
    assert_eq!(world.seen().share.letters.waiting, [Offset(1), Offset(2)]);
    assert!(world.desk.acknowledge(2, &range(0, 3)));
    let told = world.settle();
    assert_eq!(told[&2].iter().collect::<Vec<_>>(), [range(0, 1)]);
    for offset in [1, 2] {
        let (first, (session, sequence), _) = world.desk.letter().unwrap();
        assert_eq!(first, Offset(offset));
        world
            .desk
            .decide(LetterFate::Published { session, sequence });
        assert!(world.settle().is_empty(), "it is told when it is known");
        let told = world.settle();
        let own = range(offset, offset + 1);
        assert_eq!(told[&2].iter().collect::<Vec<_>>(), [own]);
    }
    assert!(world.desk.is_settled());
    assert_eq!(world.desk.cursor(), Offset(3));
}

#[test]
fn what_a_stream_has_no_more_is_not_its_to_be_sent() {
    let mut world = World::new(None);
    world.publish(5);
    assert_eq!(world.deliver(1, 5).len(), 5);
    assert!(world.desk.acknowledge(2, &range(1, 2)));
    let held = world.desk.held_of(1, range(0, 4));
    assert_eq!(held.iter().collect::<Vec<_>>(), [range(0, 1), range(2, 4)]);
    assert!(world.desk.held_of(2, range(0, 5)).is_empty());
    world.pass(LEASE);
    assert!(world.desk.held_of(1, range(0, 5)).is_empty());
}

#[test]
fn no_more_are_under_way_than_may_be() {
    let mut world = World::new(None);
    world.publish(10_000);
    world.publish(10);
    let mut count = 0;
    loop {
        match world.deliver(1, 4_000).len() {
            0 => break,
            some => count += some,
        }
    }
    assert_eq!(count, 10_000);
    assert!(world.desk.acknowledge(1, &range(1, 10_000)));
    world.settle();
    assert_eq!(world.deliver(1, 9), []);
    assert!(world.desk.acknowledge(1, &range(0, 1)));
    world.settle();
    assert_eq!(world.deliver(1, 99).len(), 10);
}

#[test]
fn letter_is_the_message_with_headers() {
    let message = [&[0x22, 5, 0x12, 3][..], b"abc"].concat();
    let (topic, subscriber) = (topic(), subscriber());
    let sender = Sender {
        topic: &topic,
        topic_id: TopicId::new(4, 1),
        subscriber: &subscriber,
        offset: Offset(7),
        deliveries: 3,
    };
    let number = (LogIndex(5), Sequence(2));
    let batch = Batch::new(message.into()).unwrap();
    let letter = Letter::new(TopicName::new("dead").unwrap(), sender, number, &batch).unwrap();
    assert_eq!(letter.origin.0.as_str(), "dead-letter.4000000000001");
    assert_eq!((letter.origin.1.0, letter.origin.2), (5, Sequence(2)));
    let text = String::from_utf8_lossy(letter.batch.payload()).into_owned();
    for part in [
        "abc",
        "cubecast-dead-letter-offset\u{12}\u{1}7",
        "deliveries\u{12}\u{1}3",
    ] {
        assert!(text.contains(part), "{text:?}");
    }
    assert_eq!(letter.batch.count(), 1);
}
