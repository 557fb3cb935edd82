//! Exactly once in the log (guarantee G3). REQ D11

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::{RowRange, Table};
use crate::types::{ByteCount, Limits, Offset, TopicId};

fn first_offset(outcome: Outcome) -> (u64, bool) {
    match outcome {
        Ok(Response::Appended {
            first_offset,
            is_duplicate,
            ..
        }) => (first_offset.0, is_duplicate),
        other => panic!("{other:?}"),
    }
}

#[test]
fn any_old_repetition_answers_with_the_first_offset() {
    let mut single = Single::new();
    single.done(&create("news"));
    for sequence in 0..300 {
        let outcome = single.apply(&append("news", Some(("alice", 1, sequence)), 2));
        assert_eq!(first_offset(outcome), (sequence * 2, false));
    }
    for sequence in [0, 1, 150, 299] {
        let outcome = single.apply(&append("news", Some(("alice", 1, sequence)), 2));
        assert_eq!(first_offset(outcome), (sequence * 2, true));
    }
}

#[test]
fn longest_unused_session_is_forgotten_with_its_sequences() {
    let mut single = Single::new();
    single.done(&create("news"));
    let max = u64::from(Limits::SESSIONS_PER_TOPIC_MAX);
    for session in 0..max {
        single.done(&append("news", Some(("alice", session, 0)), 1));
    }
    // A repetition is a use too: session 0 is now the last one used, session 1 the first.
    let outcome = single.apply(&append("news", Some(("alice", 0, 0)), 1));
    assert_eq!(first_offset(outcome), (0, true));
    let outcome = single.apply(&append("news", Some(("alice", max, 0)), 1));
    assert_eq!(first_offset(outcome), (max, false));
    let refusal = single.apply(&append("news", Some(("alice", 1, 1)), 1));
    assert!(
        matches!(refusal, Err(Refusal::SessionUnknown { .. })),
        "{refusal:?}"
    );
    let outcome = single.apply(&append("news", Some(("alice", 0, 1)), 1));
    assert_eq!(first_offset(outcome), (max + 1, false));
    let row = single
        .machine
        .view()
        .topic(&topic("news"))
        .unwrap()
        .unwrap();
    assert_eq!(row.session_count, Limits::SESSIONS_PER_TOPIC_MAX);
    // Beginning again does not meet the rows of the life before, swept or not.
    let outcome = single.apply(&append("news", Some(("alice", 1, 0)), 1));
    assert_eq!(first_offset(outcome), (max + 2, false));
    let digest = single.machine.view().digest().unwrap();
    while single.machine.store().sweep(100).unwrap() > 0 {}
    assert_eq!(single.machine.view().digest().unwrap(), digest);
}

/// Without end: rows are as many as the batches kept, and two for each session that waits for its next publish.
#[test]
fn what_publishes_got_is_forgotten_with_their_messages() {
    let mut single = Single::new();
    single.done(&create("news"));
    for number in 0..900_u64 {
        let (session, sequence) = (number % 3, number / 3);
        single.done(&append("news", Some(("alice", session, sequence)), 2));
        if number % 10 == 9 {
            single.done(&Command::Trim {
                topic: topic("news"),
                topic_id: TopicId::new(shard().index(), 1),
                before: Offset(number * 2 - 10),
                bytes: ByteCount(60),
            });
        }
        let store = single.machine.store();
        let rows = store.rows(shard(), Table::Sequence, RowRange::default(), usize::MAX);
        assert!(rows.unwrap().len() < 40, "{number}");
    }
    let row = single.machine.view().topic(&topic("news")).unwrap();
    assert_eq!(row.unwrap().first_offset, Offset(1788));
    for session in 0..3 {
        let refusal = single.apply(&append("news", Some(("alice", session, 0)), 2));
        assert!(
            matches!(refusal, Err(Refusal::SequenceForgotten { .. })),
            "{refusal:?}"
        );
        let outcome = single.apply(&append("news", Some(("alice", session, 299)), 2));
        assert_eq!(first_offset(outcome), ((299 * 3 + session) * 2, true));
    }
}

#[test]
fn topic_of_the_same_name_knows_nothing_of_the_old_one() {
    let mut single = Single::new();
    single.done(&create("news"));
    single.done(&append("news", Some(("alice", 1, 0)), 3));
    single.done(&Command::DeleteTopic {
        topic: topic("news"),
    });
    single.done(&create("news"));
    let outcome = single.apply(&append("news", Some(("alice", 1, 0)), 1));
    assert_eq!(first_offset(outcome), (0, false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Publishes in any order, against a map of what each got.
    #[test]
    fn each_sequence_is_appended_once_and_in_order(
        calls in prop::collection::vec((0_u64..3, 0_u64..6, 1_usize..4), 1..80),
    ) {
        let mut single = Single::new();
        single.done(&create("news"));
        let mut given: BTreeMap<(u64, u64), Offset> = BTreeMap::new();
        let mut next_offset = Offset(0);
        for (session, sequence, count) in calls {
            let next = given.range((session, 0)..(session + 1, 0)).count() as u64;
            let outcome = single.apply(&append("news", Some(("alice", session, sequence)), count));
            match outcome {
                Ok(Response::Appended { first_offset, is_duplicate, .. }) => {
                    prop_assert!(sequence <= next);
                    prop_assert_eq!(is_duplicate, sequence < next);
                    let expected = *given.entry((session, sequence)).or_insert(next_offset);
                    prop_assert_eq!(first_offset, expected);
                    if !is_duplicate {
                        next_offset = next_offset.plus(count as u64);
                    }
                }
                Err(Refusal::SequenceGap { expected, got, .. }) => {
                    prop_assert_eq!((expected.0, got.0), (next, sequence));
                    prop_assert!(sequence > next && next > 0);
                }
                Err(Refusal::SessionUnknown { .. }) => prop_assert!(sequence > 0 && next == 0),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        let row = single.machine.view().topic(&topic("news")).unwrap().unwrap();
        prop_assert_eq!(row.next_offset, next_offset);
    }
}
