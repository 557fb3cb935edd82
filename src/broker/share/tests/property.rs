//! Whatever happens in whatever order: what is acknowledged never comes again, and all else does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{LEASE, World, these};
use crate::broker::share::desk::{ConsumerId, Which};
use crate::shard::LetterFate;
use crate::types::{LogIndex, Offset, Offsets, Sequence};

#[derive(Debug, Clone, Copy)]
enum Deed {
    Publish(u64),
    Deliver(ConsumerId, u64),
    Acknowledge(ConsumerId, usize),
    Reject(ConsumerId, usize, u64),
    Extend(ConsumerId),
    Leave(ConsumerId),
    Pass(u64),
    Propose,
    Commit,
    /// The leader dies, before or after what is on the way is stored.
    Fail(bool),
    Letter(bool),
}

fn deed() -> impl Strategy<Value = Deed> {
    let who = || 1_u64..4;
    prop_oneof![
        3 => (1_u64..6).prop_map(Deed::Publish),
        8 => (who(), 1_u64..5).prop_map(|(who, count)| Deed::Deliver(who, count)),
        6 => (who(), 0_usize..8).prop_map(|(who, which)| Deed::Acknowledge(who, which)),
        3 => (who(), 0_usize..8, 0_u64..4).prop_map(|(who, which, delay)| Deed::Reject(who, which, delay)),
        1 => who().prop_map(Deed::Extend),
        1 => who().prop_map(Deed::Leave),
        2 => (1_u64..12).prop_map(Deed::Pass),
        4 => Just(Deed::Propose),
        4 => Just(Deed::Commit),
        1 => any::<bool>().prop_map(Deed::Fail),
        2 => any::<bool>().prop_map(Deed::Letter),
    ]
}

/// What a test knows beside the desk.
#[derive(Default)]
struct Known {
    published: u64,
    /// What a consumer was given and has not said anything about, with the end of its lease.
    held: BTreeMap<Offset, (ConsumerId, Instant)>,
    /// Told as stored.
    settled: BTreeSet<Offset>,
    /// In the topic of the dead letters, by their numbers.
    letters: BTreeMap<(LogIndex, Sequence), Offset>,
}

impl Known {
    fn of(&self, who: ConsumerId) -> Vec<Offset> {
        let held = self.held.iter().filter(|(_, (by, _))| *by == who);
        held.map(|(offset, _)| *offset).collect()
    }

    fn take(&mut self, told: BTreeMap<ConsumerId, Offsets>) {
        for ranges in told.into_values() {
            for range in ranges.iter() {
                self.settled
                    .extend((range.start.0..range.end.0).map(Offset));
            }
        }
    }

    fn give(&mut self, now: Instant, by: ConsumerId, given: &[(Offset, u32)]) {
        for (offset, _) in given {
            assert!(!self.settled.contains(offset), "{offset} comes again");
            let before = self.held.insert(*offset, (by, now + LEASE));
            assert!(
                before.is_none_or(|(_, ends)| ends <= now),
                "{offset} is held twice"
            );
        }
    }
}

fn act(world: &mut World, known: &mut Known, deed: Deed, max: Option<u32>) {
    match deed {
        Deed::Publish(count) => {
            known.published += count;
            world.publish(count);
        }
        Deed::Deliver(who, count) => {
            let given = world.deliver(who, count);
            known.give(world.now, who, &given);
        }
        Deed::Acknowledge(who, which) => {
            if let Some(offset) = known.of(who).get(which).copied() {
                assert!(world.desk.acknowledge(who, &(offset..offset.plus(1))));
                known.held.remove(&offset);
            }
        }
        Deed::Reject(who, which, delay) => {
            if let Some(offset) = known.of(who).get(which).copied() {
                let until = world.now + Duration::from_secs(delay);
                let which = these(&[offset..offset.plus(1)]);
                world.desk.reject(who, &which, (delay > 0).then_some(until));
                known.held.remove(&offset);
            }
        }
        Deed::Extend(who) => {
            world.desk.extend(who, &Which::All, world.now + LEASE);
            let (now, held) = (world.now, known.held.values_mut());
            held.filter(|(by, ends)| *by == who && *ends > now)
                .for_each(|(_, ends)| *ends = now + LEASE);
        }
        Deed::Leave(who) => {
            world.desk.leave(who);
            known.held.retain(|_, (by, _)| *by != who);
        }
        Deed::Pass(seconds) => {
            world.pass(Duration::from_secs(seconds));
            let now = world.now;
            known.held.retain(|_, (_, ends)| *ends > now);
        }
        Deed::Propose => world.propose(),
        Deed::Commit => known.take(world.commit()),
        Deed::Fail(is_stored) => {
            if is_stored {
                // Nobody was told.
                world.commit();
            }
            world.fail_over(max);
            known.held.clear();
        }
        Deed::Letter(is_heard) => {
            if let Some((offset, (session, sequence), _)) = world.desk.letter() {
                let first = *known.letters.entry((session, sequence)).or_insert(offset);
                assert_eq!(first, offset, "another message has its number");
                if is_heard {
                    world
                        .desk
                        .decide(LetterFate::Published { session, sequence });
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_acknowledged_comes_again_and_all_else_does(
        deeds in prop::collection::vec(deed(), 1..120),
        max in prop::option::of(1_u32..4),
    ) {
        let (mut world, mut known) = (World::new(max), Known::default());
        for deed in deeds {
            act(&mut world, &mut known, deed, max);
        }
        // In the end one consumer takes all that comes; what became of the rest is known.
        act(&mut world, &mut known, Deed::Fail(false), max);
        let stored = known.settled.clone();
        let mut came = BTreeSet::new();
        for _ in 0..2 * known.published + 2 {
            let given = world.deliver(9, 100);
            known.give(world.now, 9, &given);
            for (offset, _) in given {
                came.insert(offset);
                prop_assert!(world.desk.acknowledge(9, &(offset..offset.plus(1))));
            }
            act(&mut world, &mut known, Deed::Letter(true), max);
            known.take(world.settle());
        }
        let letters: BTreeSet<Offset> = known.letters.values().copied().collect();
        prop_assert_eq!(known.letters.len(), letters.len(), "a letter is there twice");
        let seen = world.seen();
        prop_assert_eq!(seen.cursor, Offset(known.published));
        prop_assert!(seen.share.acknowledged.is_empty() && seen.share.deliveries.is_empty());
        prop_assert!(stored.is_disjoint(&came));
    }
}
