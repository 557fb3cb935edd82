//! How far a topic may be trimmed, against a model; and that one call does a bounded work.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::types::{ByteCount, Offset};

fn due(single: &Single, retention: Retention, now: u64) -> Due {
    let view = single.machine.view();
    let mut row = view.topic(&topic("news")).unwrap().unwrap();
    row.retention = retention;
    view.due(&row, Timestamp(now)).unwrap()
}

fn found(single: &Single, retention: Retention, now: u64) -> Option<(Offset, ByteCount)> {
    match due(single, retention, now) {
        Due::Trim(before, bytes) => Some((before, bytes)),
        Due::After(_) | Due::Nothing => None,
    }
}

fn append_at(single: &mut Single, count: usize, at: u64) {
    single.done(&Command::Append {
        topic: topic("news"),
        origin: None,
        at: Timestamp(at),
        batch: batch(count, b'x'),
    });
}

fn trim(single: &mut Single, (before, bytes): (Offset, ByteCount)) {
    let view = single.machine.view();
    let row = view.topic(&topic("news")).unwrap().unwrap();
    single.done(&Command::Trim {
        topic: row.name,
        topic_id: row.id,
        before,
        bytes,
    });
}

#[test]
fn one_call_walks_a_bounded_number_of_batches() {
    let mut single = Single::new();
    single.done(&create("news"));
    for _ in 0..5000 {
        append_at(&mut single, 1, 1);
    }
    let retention = Retention {
        messages: Some(100),
        ..Retention::FOR_EVER
    };
    let first = found(&single, retention, 2).unwrap();
    assert_eq!(first, (Offset(4096), ByteCount(3 * 4096)));
    trim(&mut single, first);
    let second = found(&single, retention, 2).unwrap();
    assert_eq!(second, (Offset(4900), ByteCount(3 * 4900)));
    trim(&mut single, second);
    assert_eq!(found(&single, retention, 2), None);
    let row = single.machine.view().topic(&topic("news")).unwrap();
    assert_eq!(row.unwrap().bytes, ByteCount(300));
}

#[test]
fn one_call_reads_a_bounded_number_of_bytes() {
    let mut single = Single::new();
    single.done(&create("news"));
    // A message of 24 MiB: the tag, its length as a varint, and the bytes.
    let message = [&[0x22, 0x80, 0x80, 0x80, 0x0c][..], &[0; 24 << 20]].concat();
    let large = Batch::new(message.into()).unwrap();
    for _ in 0..4 {
        single.done(&Command::Append {
            topic: topic("news"),
            origin: None,
            at: Timestamp(1),
            batch: large.clone(),
        });
    }
    let retention = Retention {
        age: Some(Duration::from_nanos(5)),
        ..Retention::FOR_EVER
    };
    let two = ByteCount(2 * large.bytes().0);
    assert_eq!(found(&single, retention, 99), Some((Offset(2), two)));
}

/// As when a trim of the leader before is still under way.
#[test]
fn trims_that_overlap_count_nothing_twice() {
    let mut single = Single::new();
    single.done(&create("news"));
    for _ in 0..5 {
        append_at(&mut single, 1, 1);
    }
    let keep = |count| Retention {
        messages: Some(count),
        ..Retention::FOR_EVER
    };
    let few = found(&single, keep(3), 2).unwrap();
    let more = found(&single, keep(1), 2).unwrap();
    for target in [few, more, few] {
        trim(&mut single, target);
    }
    let row = single.machine.view().topic(&topic("news")).unwrap();
    assert_eq!(row.unwrap().bytes, ByteCount(3));
}

#[test]
fn row_read_before_a_trim_has_no_target() {
    let mut single = Single::new();
    single.done(&create("news"));
    append_at(&mut single, 1, 1);
    append_at(&mut single, 1, 1);
    let view = single.machine.view();
    let mut old = view.topic(&topic("news")).unwrap().unwrap();
    old.retention.messages = Some(0);
    let Due::Trim(before, bytes) = view.due(&old, Timestamp(2)).unwrap() else {
        panic!("nothing is due");
    };
    trim(&mut single, (before, bytes));
    single.machine.store().checkpoint().unwrap();
    while single.machine.store().sweep(10).unwrap() > 0 {}
    assert_eq!(view.due(&old, Timestamp(2)).unwrap(), Due::Nothing);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn target_is_that_of_the_model(
        batches in prop::collection::vec((1_usize..5, 0_u64..4), 0..20),
        trims in prop::collection::vec(0_u64..20, 0..2),
        bounds in (prop::option::of(0_u64..40), prop::option::of(0_u64..200), prop::option::of(0_u64..60)),
        now in 0_u64..80,
    ) {
        let mut single = Single::new();
        single.done(&create("news"));
        let mut freed = 0;
        let mut model: Vec<(u64, u64, u64)> = Vec::new();
        let (mut next, mut time) = (0, 1);
        for (count, later) in batches {
            time += later;
            append_at(&mut single, count, time);
            model.push((next + count as u64, count as u64 * 3, time));
            next += count as u64;
        }
        for batch in trims {
            let gone = usize::try_from(batch).unwrap().min(model.len());
            let gone: Vec<_> = model.drain(..gone).collect();
            if let Some((before, ..)) = gone.last() {
                freed += gone.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
                trim(&mut single, (Offset(*before), ByteCount(freed)));
            }
        }
        let (age, bytes, messages) = bounds;
        let retention = Retention {
            age: age.map(Duration::from_nanos),
            bytes: bytes.map(ByteCount),
            messages,
        };
        let mut left: u64 = model.iter().map(|(_, bytes, _)| bytes).sum();
        let mut expected = None;
        for (end, size, time) in model {
            let is_old = age.is_some_and(|age| time < now.saturating_sub(age));
            let is_beyond = messages.is_some_and(|count| next - end >= count);
            let is_much = bytes.is_some_and(|bytes| left - size >= bytes);
            if !(is_old || is_beyond || is_much) {
                break;
            }
            left -= size;
            freed += size;
            expected = Some((Offset(end), ByteCount(freed)));
        }
        prop_assert_eq!(found(&single, retention, now), expected);
        // What is not due now is due when it is said to be, and not before.
        match due(&single, retention, now) {
            Due::Trim(..) => {}
            Due::After(Timestamp(time)) => {
                prop_assert_eq!(found(&single, retention, time), None);
                prop_assert!(found(&single, retention, time + 1).is_some());
            }
            Due::Nothing => prop_assert_eq!(found(&single, retention, u64::MAX), None),
        }
    }
}
