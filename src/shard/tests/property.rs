//! The same log, cut into any groups, on any store, with restarts and sweeps: the same outcomes and the same state. REQ D10

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::store::{FjallStore, Options};
use crate::types::{ByteCount, LogIndex, Offset, RequestId, TopicId};

fn small_topic() -> impl Strategy<Value = TopicName> {
    prop::sample::select(vec!["a", "b", "b.c"]).prop_map(topic)
}

fn small_subscriber() -> impl Strategy<Value = SubscriberId> {
    prop::sample::select(vec!["s", "t"]).prop_map(subscriber)
}

fn small_publisher() -> impl Strategy<Value = PublisherId> {
    prop::sample::select(vec!["p", "q"]).prop_map(publisher)
}

fn request() -> impl Strategy<Value = Option<RequestId>> {
    prop::option::of((0_u8..2).prop_map(|byte| RequestId([byte; 16])))
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0_u64..20).prop_map(Timestamp)
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![
        Just(Start::Earliest),
        Just(Start::Latest),
        (0_u64..12).prop_map(|offset| Start::Offset(Offset(offset))),
        time().prop_map(Start::Time),
    ]
}

fn lifetimes() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => (small_topic(), prop::option::of(small_publisher()), request(), time()).prop_map(
            |(topic, creator, request_id, at)| Command::CreateTopic {
                topic, creator, request_id, at, retention: Retention::FOR_EVER,
            }
        ),
        1 => small_topic().prop_map(|topic| Command::DeleteTopic { topic }),
        1 => (small_publisher(), request(), time()).prop_map(
            |(publisher, request_id, at)| Command::CreatePublisher { publisher, request_id, at }
        ),
        1 => small_publisher().prop_map(|publisher| Command::DeletePublisher { publisher }),
        1 => (small_subscriber(), request(), time()).prop_map(
            |(subscriber, request_id, at)| Command::CreateSubscriber { subscriber, request_id, at }
        ),
        1 => small_subscriber().prop_map(|subscriber| Command::DeleteSubscriber { subscriber }),
    ]
}

fn appends() -> impl Strategy<Value = Command> {
    let origin = prop::option::of((small_publisher(), 0_u64..2, 0_u64..3).prop_map(
        |(publisher, session, sequence)| (publisher, SessionId(session), Sequence(sequence)),
    ));
    (small_topic(), origin, time(), 1_usize..4, any::<u8>()).prop_map(
        |(topic, origin, at, count, byte)| Command::Append {
            topic,
            origin,
            at,
            batch: batch(count, byte),
        },
    )
}

fn cursors() -> impl Strategy<Value = Command> {
    let offset = || (0_u64..12).prop_map(Offset);
    prop_oneof![
        2 => (small_topic(), small_subscriber(), start(), time()).prop_map(
            |(topic, subscriber, start, at)| Command::Subscribe { topic, subscriber, start, at }
        ),
        1 => (small_topic(), small_subscriber())
            .prop_map(|(topic, subscriber)| Command::Unsubscribe { topic, subscriber }),
        2 => (small_topic(), small_subscriber(), offset(), prop::option::of(offset())).prop_map(
            |(topic, subscriber, next_offset, expected)| Command::Acknowledge {
                topic, subscriber, next_offset, expected,
            }
        ),
        2 => (small_topic(), 1_u64..5, small_subscriber(), offset()).prop_map(
            |(topic, number, subscriber, next_offset)| Command::AcknowledgeLife {
                topic, topic_id: TopicId::new(shard().index(), number), subscriber, next_offset,
            }
        ),
        1 => (small_topic(), small_subscriber(), start())
            .prop_map(|(topic, subscriber, to)| Command::Seek { topic, subscriber, to }),
        2 => (small_topic(), small_subscriber(), start(), time(), any::<bool>()).prop_map(
            |(topic, subscriber, start, at, has_letters)| {
                let sharing = sharing(has_letters);
                Command::SubscribeShared { topic, subscriber, start, at, sharing }
            }
        ),
        4 => (small_topic(), 1_u64..5, small_subscriber(), 0_u64..40, settlement()).prop_map(
            |(topic, number, subscriber, era, settlement)| {
                let (topic_id, era) = (TopicId::new(shard().index(), number), LogIndex(era));
                Command::Settle { topic, topic_id, subscriber, era, settlement }
            }
        ),
    ]
}

fn sharing(has_letters: bool) -> Sharing {
    Sharing {
        lease: Duration::from_secs(1),
        dead_letters: has_letters.then(|| DeadLetters {
            max_deliveries: 2,
            topic: topic("dead"),
        }),
    }
}

fn settlement() -> impl Strategy<Value = Settlement> {
    let offset = || (0_u64..12).prop_map(Offset);
    let letter = prop_oneof![
        (0_u64..40, 0_u64..3).prop_map(|(session, sequence)| LetterFate::Published {
            session: LogIndex(session),
            sequence: Sequence(sequence),
        }),
        (0_u64..40).prop_map(|session| LetterFate::Refused {
            session: LogIndex(session),
        }),
    ];
    let ranges = prop::collection::vec((offset(), offset()), 0..3);
    let deliveries = prop::collection::vec((offset(), 0_u32..4), 0..3);
    let condemned = prop::collection::vec(offset(), 0..3);
    (ranges, deliveries, condemned, prop::option::of(letter)).prop_map(
        |(acknowledged, deliveries, condemned, letter)| Settlement {
            acknowledged,
            deliveries,
            condemned,
            letter,
        },
    )
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    prop_oneof![4 => lifetimes(), 8 => appends(), 4 => cursors(), 3 => upkeep()]
}

fn retention() -> impl Strategy<Value = Retention> {
    let small = || prop::option::of(0_u64..20);
    (small(), small(), small()).prop_map(|(age, bytes, messages)| Retention {
        age: age.map(Duration::from_nanos),
        bytes: bytes.map(ByteCount),
        messages,
    })
}

fn upkeep() -> impl Strategy<Value = Command> {
    let new = || {
        (small_topic(), retention()).prop_map(|(topic, retention)| NewTopic { topic, retention })
    };
    let topics = prop::collection::vec(new(), 0..4);
    let id = (1_u64..5).prop_map(|number| TopicId::new(shard().index(), number));
    prop_oneof![
        2 => (topics, prop::option::of(small_publisher()), request(), time()).prop_map(
            |(topics, creator, request_id, at)| Command::CreateTopics { topics, creator, request_id, at }
        ),
        2 => new().prop_map(|NewTopic { topic, retention }| Command::SetRetention { topic, retention }),
        6 => (small_topic(), id, 0_u64..15, 0_u64..30).prop_map(
            |(topic, topic_id, before, bytes)| Command::Trim {
                topic, topic_id, before: Offset(before), bytes: ByteCount(bytes),
            }
        ),
        1 => any::<u64>().prop_map(|id| Command::Barrier { id }),
    ]
}

/// What happens between two groups.
#[derive(Debug, Clone, Copy)]
enum Between {
    Nothing,
    Reopen,
    Install,
    Sweep(usize),
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        4 => Just(Between::Nothing),
        1 => Just(Between::Reopen),
        1 => Just(Between::Install),
        1 => (1_usize..5).prop_map(Between::Sweep),
    ]
}

type Group = (usize, Between);

pub(super) fn log(commands: &[Command]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (number, command) in commands.iter().enumerate() {
        let next = entries.len() as u64;
        let bytes = match number % 11 {
            3 => Some(Bytes::from_static(b"\x01\xff")),
            7 => None,
            _ => Some(command.encode()),
        };
        entries.push((position(next), bytes));
    }
    entries
}

/// Applies the log in the groups given, and opens the store anew with `open` where asked.
fn run(
    entries: &[Entry],
    groups: &[Group],
    mut open: impl FnMut(Option<Arc<dyn TopicStore>>) -> Arc<dyn TopicStore>,
) -> (Vec<Option<Outcome>>, Machine) {
    let mut machine = Machine::open(shard(), open(None)).unwrap();
    let mut outcomes = Vec::new();
    let mut rest = entries;
    let mut groups = groups.iter().cycle();
    while !rest.is_empty() {
        let (size, between) = groups.next().copied().unwrap_or((1, Between::Nothing));
        let (group, later) = rest.split_at(size.min(rest.len()));
        rest = later;
        let applied = machine.apply(group.to_vec(), Bytes::new()).unwrap();
        outcomes.extend(applied.outcomes);
        match between {
            Between::Nothing => {}
            Between::Reopen => {
                let store = Arc::clone(machine.store());
                drop(machine);
                machine = Machine::open(shard(), open(Some(store))).unwrap();
                // What was not flushed is applied again, with the same outcomes.
                let kept = machine.applied().map_or(0, |last| last.index.next().0);
                let lost = usize::try_from(kept).unwrap()..outcomes.len();
                let again = machine.apply(entries[lost.clone()].to_vec(), Bytes::new());
                assert_eq!(again.unwrap().outcomes, outcomes[lost]);
                let again = machine.apply(group.to_vec(), Bytes::new());
                assert!(matches!(again, Err(Error::OutOfOrder { .. })) || group.is_empty());
            }
            Between::Install => {
                let chunks = super::snapshot::chunks(&machine);
                let state = (machine.applied(), machine.mark().cloned());
                let store = Arc::clone(machine.store());
                if let (Some(applied), Some(mark)) = state {
                    let chunks = &mut chunks.into_iter().map(Ok);
                    machine = Machine::install(shard(), store, chunks, (applied, mark)).unwrap();
                    assert_eq!(machine.durable_applied().unwrap(), Some(applied));
                }
            }
            Between::Sweep(limit) => {
                machine.store().sweep(limit).unwrap();
            }
        }
    }
    (outcomes, machine)
}

/// All that queries can tell.
pub(super) fn seen(view: &View) -> Vec<String> {
    let mut seen = vec![view.digest().unwrap().to_string()];
    for topic in &view.topics(TopicFilter::default(), None, 100).unwrap() {
        let digest = view.topic_digest(topic).unwrap();
        let batches = view.batches(topic, Offset(0), u32::MAX, ByteCount(u64::MAX));
        let subscriptions = view.subscriptions_of_topic(topic, None, 100).unwrap();
        let due = view.due(topic, Timestamp(15));
        seen.push(format!(
            "{topic:?} {digest} {batches:?} {subscriptions:?} {due:?}"
        ));
    }
    for name in ["p", "q"] {
        let filter = TopicFilter {
            creator: Some(&publisher(name)),
            ..TopicFilter::default()
        };
        seen.push(format!("{:?}", view.topics(filter, None, 100).unwrap()));
    }
    for name in ["s", "t"] {
        seen.push(format!("{:?}", subscriptions(view, &subscriber(name))));
    }
    seen.push(format!("{:?}", view.retained_topics(None, 100).unwrap()));
    seen.push(format!("{:?}", view.topic_count().unwrap()));
    seen.push(format!("{:?}", view.publishers(None, 100).unwrap()));
    seen.push(format!("{:?}", view.subscribers(None, 100).unwrap()));
    seen
}

/// At once and one by one.
fn subscriptions(view: &View, subscriber: &SubscriberId) -> Vec<Subscription> {
    let page = |after: Option<&TopicName>, limit| {
        let page = view.subscriptions_of_subscriber(subscriber, after, limit);
        page.unwrap()
    };
    let mut paged: Vec<Subscription> = Vec::new();
    loop {
        let after = paged.last().map(|last| last.topic.clone());
        match page(after.as_ref(), 1) {
            next if next.is_empty() => break,
            next => paged.extend(next),
        }
    }
    assert_eq!(page(None, 100), paged);
    paged
}

fn in_memory(store: Option<Arc<dyn TopicStore>>) -> Arc<dyn TopicStore> {
    store.unwrap_or_else(|| Arc::new(MemoryStore::new()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn groups_restarts_and_sweeps_leave_no_trace_in_memory(
        commands in prop::collection::vec(command(), 1..150),
        groups in prop::collection::vec((0_usize..20, between()), 1..12),
    ) {
        let entries = log(&commands);
        let groups: Vec<Group> = groups.into_iter().chain([(1, Between::Nothing)]).collect();
        let (expected, one) = run(&entries, &[(1, Between::Nothing)], in_memory);
        let (outcomes, grouped) = run(&entries, &groups, in_memory);
        prop_assert_eq!(outcomes, expected);
        prop_assert_eq!(seen(&grouped.view()), seen(&one.view()));
        while grouped.store().sweep(3).unwrap() > 0 {}
        prop_assert_eq!(seen(&grouped.view()), seen(&one.view()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn groups_restarts_and_sweeps_leave_no_trace_on_disk(
        commands in prop::collection::vec(command(), 1..150),
        groups in prop::collection::vec((10_usize..30, between()), 1..6),
    ) {
        let entries = log(&commands);
        let (expected, one) = run(&entries, &[(1, Between::Nothing)], in_memory);
        let folder = tempfile::tempdir().unwrap();
        let (outcomes, grouped) = run(&entries, &groups, |store| {
            drop(store);
            Arc::new(FjallStore::open(folder.path(), Options::default()).unwrap())
        });
        prop_assert_eq!(outcomes, expected);
        prop_assert_eq!(seen(&grouped.view()), seen(&one.view()));
        while grouped.store().sweep(3).unwrap() > 0 {}
        prop_assert_eq!(seen(&grouped.view()), seen(&one.view()));
    }
}
