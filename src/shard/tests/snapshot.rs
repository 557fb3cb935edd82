//! A shard taken to another replica.

use proptest::prelude::*;

use super::property::{command, log, seen};
use super::*;
use crate::shard::snapshot::export_in;
use crate::store::{self, BoxError, Doom, FullStore, RowRange, Table, Writes};
use crate::types::{ByteCount, Offset, RequestId, TopicId};

fn frozen(machine: &Machine) -> View {
    machine.store().checkpoint().unwrap();
    View::new(shard(), machine.store().snapshot().unwrap())
}

/// The shard as it is now.
pub(super) fn chunks(machine: &Machine) -> Vec<Bytes> {
    export(frozen(machine)).collect::<Result<_, _>>().unwrap()
}

fn small_chunks(machine: &Machine) -> Vec<Bytes> {
    let chunks = export_in(frozen(machine), 150);
    chunks.collect::<Result<_, _>>().unwrap()
}

fn check(chunks: &[Bytes]) -> Result<(), ChunkError> {
    let mut checker = Checker::new(shard());
    for chunk in chunks {
        checker.take(chunk)?;
    }
    checker.finish()
}

fn install(store: Arc<dyn TopicStore>, chunks: Vec<Bytes>) -> Result<Machine, Error> {
    let state = (position(500), Bytes::from_static(b"members"));
    Machine::install(shard(), store, &mut chunks.into_iter().map(Ok), state)
}

/// A shard with a row of each table.
fn example() -> Single {
    let mut single = Single::new();
    let request_id = Some(RequestId([7; 16]));
    single.done(&Command::CreatePublisher {
        publisher: publisher("alice"),
        request_id,
        at: Timestamp(1),
    });
    single.done(&Command::CreateSubscriber {
        subscriber: subscriber("bob"),
        request_id: None,
        at: Timestamp(2),
    });
    let new = |name| NewTopic {
        topic: topic(name),
        retention: Retention {
            messages: Some(9),
            ..Retention::FOR_EVER
        },
    };
    single.done(&Command::CreateTopics {
        topics: vec![new("news"), new("gone")],
        creator: Some(publisher("alice")),
        request_id,
        at: Timestamp(3),
    });
    for (name, sequence) in [("news", 0), ("gone", 0), ("news", 1), ("news", 2)] {
        single.done(&append(name, Some(("alice", 1, sequence)), 2));
    }
    for name in ["news", "gone"] {
        single.done(&Command::Subscribe {
            topic: topic(name),
            subscriber: subscriber("bob"),
            start: Start::Earliest,
            at: Timestamp(4),
        });
    }
    single.done(&Command::Trim {
        topic: topic("news"),
        topic_id: TopicId::new(shard().index(), 1),
        before: Offset(2),
        bytes: ByteCount(6),
    });
    single.done(&append("news", None, 1));
    single.done(&Command::DeleteTopic {
        topic: topic("gone"),
    });
    single
}

#[test]
fn store_that_fails_is_not_the_fault_of_the_snapshot() {
    let store = Arc::new(FullStore::default());
    store.fill();
    let error = install(store, chunks(&example().machine)).map(drop);
    assert!(
        matches!(error, Err(Error::Store(store::Error::Full(_)))),
        "{error:?}"
    );
}

#[test]
fn snapshots_of_version_1_have_these_bytes() {
    let chunks = small_chunks(&example().machine);
    let byte = |byte: &u8| format!("{byte:02x}");
    let hex = |bytes: &Bytes| bytes.iter().map(byte).collect::<Vec<_>>().concat();
    let lines: Vec<String> = chunks.iter().map(hex).collect();
    expect_test::expect_file!["../testdata/snapshot_v1.hex"].assert_eq(&(lines.join("\n") + "\n"));
    let read: Vec<Bytes> = lines
        .iter()
        .map(|line| super::codec::from_hex(line))
        .collect();
    assert_eq!(check(&read), Ok(()));
}

/// The example with what version 1 cannot say.
fn shared_example() -> Single {
    let mut single = example();
    single.done(&Command::SubscribeShared {
        topic: topic("news"),
        subscriber: subscriber("eve"),
        start: Start::Earliest,
        at: Timestamp(5),
        sharing: Sharing {
            lease: std::time::Duration::from_secs(30),
            dead_letters: Some(DeadLetters {
                max_deliveries: 5,
                topic: topic("dead"),
            }),
        },
    });
    single.done(&Command::Settle {
        topic: topic("news"),
        topic_id: TopicId::new(shard().index(), 1),
        subscriber: subscriber("eve"),
        era: position(single.next - 1).index,
        settlement: Settlement {
            acknowledged: vec![(Offset(4), Offset(6))],
            deliveries: vec![(Offset(3), 5)],
            condemned: vec![Offset(3)],
            letter: None,
        },
    });
    single
}

#[test]
fn snapshots_of_version_2_have_these_bytes_and_are_read() {
    let single = shared_example();
    let chunks = chunks(&single.machine);
    let byte = |byte: &u8| format!("{byte:02x}");
    let hex = |bytes: &Bytes| bytes.iter().map(byte).collect::<Vec<_>>().concat();
    let lines: Vec<String> = chunks.iter().map(hex).collect();
    expect_test::expect_file!["../testdata/snapshot_v2.hex"].assert_eq(&(lines.join("\n") + "\n"));
    let read = lines.iter().map(|line| super::codec::from_hex(line));
    let machine = install(Arc::new(MemoryStore::new()), read.collect()).unwrap();
    let view = machine.view();
    assert_eq!(seen(&view), seen(&single.machine.view()));
    let news = view.topic(&topic("news")).unwrap().unwrap();
    let eve = view.subscription(&news, &subscriber("eve")).unwrap();
    assert_eq!(
        eve.unwrap()
            .sharing
            .unwrap()
            .dead_letters
            .unwrap()
            .max_deliveries,
        5
    );
    let share = view.share(&news, &subscriber("eve")).unwrap().unwrap();
    assert_eq!(share.letters.waiting, [Offset(3)]);
    assert_eq!(share.acknowledged.count(), 2);
    let bob = view.subscription(&news, &subscriber("bob")).unwrap();
    assert_eq!(bob.unwrap().sharing, None);
}

#[test]
fn snapshot_has_each_table_and_nothing_that_is_doomed() {
    let single = example();
    let mut tables = std::collections::BTreeMap::new();
    for chunk in small_chunks(&single.machine) {
        for ((table, _), _) in decode_chunk(&chunk).unwrap().rows {
            *tables.entry(table as u8).or_insert(0) += 1;
        }
    }
    let expected = [1, 1, 1, 1, 1, 1, 3, 1, 1, 1];
    let expected: Vec<(u8, i32)> = (1..=10).zip(expected).collect();
    assert_eq!(tables.into_iter().collect::<Vec<_>>(), expected);
    let before = small_chunks(&single.machine);
    while single.machine.store().sweep(100).unwrap() > 0 {}
    assert_eq!(small_chunks(&single.machine), before);
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let whole = small_chunks(&example().machine);
    assert!(whole.len() > 3, "{}", whole.len());
    assert_eq!(check(&whole), Ok(()));
    for (number, chunk) in whole.iter().enumerate() {
        for bit in 0..chunk.len() * 8 {
            let mut damaged = chunk.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let damaged = Bytes::from(damaged);
            assert!(decode_chunk(&damaged).is_err(), "bit {bit} of {number}");
        }
        for length in 0..chunk.len() {
            assert!(
                decode_chunk(&chunk.slice(..length)).is_err(),
                "{length} bytes of {number}"
            );
        }
        let cut = ChunkError::Cut {
            chunks: number as u64,
        };
        assert_eq!(check(&whole[..number]), Err(cut));
    }
}

#[test]
fn chunks_left_out_mixed_repeated_or_of_another_shard_are_refused() {
    let whole = small_chunks(&example().machine);
    let order = |expected, found| Err(ChunkError::Order { expected, found });
    for number in 0..whole.len() - 1 {
        let at = number as u64;
        let mut left_out = whole.clone();
        left_out.remove(number);
        assert_eq!(check(&left_out), order(at, at + 1));
        let mut mixed = whole.clone();
        mixed.swap(number, number + 1);
        assert_eq!(check(&mixed), order(at, at + 1));
        let mut repeated = whole.clone();
        repeated.insert(number, whole[number].clone());
        assert_eq!(check(&repeated), order(at + 1, at));
    }
    let mut other = example();
    other.done(&append("news", None, 1));
    let mut mixed = small_chunks(&other.machine);
    let differs = (0..whole.len()).find(|number| mixed[*number] != whole[*number]);
    mixed[differs.unwrap()].clone_from(&whole[differs.unwrap()]);
    assert!(matches!(check(&mixed), Err(ChunkError::Whole { .. })));
    let mut checker = Checker::new("101".parse().unwrap());
    let error = checker.take(&whole[0]).unwrap_err();
    let (expected, found) = (5, 4);
    assert_eq!(error, ChunkError::Shard { expected, found });
    // A chunk whose number would fit, after the end.
    let mut checker = Checker::new(shard());
    let mut beyond = small_chunks(&Single::new().machine);
    beyond.push(whole[1].clone());
    let results: Vec<_> = beyond.iter().map(|chunk| checker.take(chunk)).collect();
    assert!(matches!(
        results[..],
        [Ok(_), Err(ChunkError::Beyond { found: 1 })]
    ));
}

#[test]
fn chunks_are_bounded_unless_one_record_is_longer() {
    let mut single = Single::new();
    single.done(&create("news"));
    let sizes = [60_000, 60_000, 400_000, 1, 200_000, 200_000, 3];
    for count in sizes {
        single.done(&append("news", None, count / 3 + 1));
    }
    let chunks = chunks(&single.machine);
    let lengths: Vec<usize> = chunks.iter().map(|chunk| chunk.len() / 1000).collect();
    assert_eq!(lengths, [120, 400, 200, 200, 0]);
    let batches = |chunk| decode_chunk(chunk).unwrap().batches.len();
    assert_eq!(chunks.iter().map(batches).sum::<usize>(), sizes.len());
}

#[test]
fn broken_snapshot_leaves_the_shard_empty_and_says_why() {
    let whole = small_chunks(&example().machine);
    let store: Arc<dyn TopicStore> = Arc::new(MemoryStore::new());
    let machine = install(Arc::clone(&store), whole.clone()).unwrap();
    assert_eq!(machine.applied(), Some(position(500)));
    assert_eq!(machine.mark().unwrap(), "members");
    let cut = whole[..whole.len() - 1].to_vec();
    let error = install(Arc::clone(&store), cut).err().unwrap();
    assert!(matches!(error, Error::Snapshot(ChunkError::Cut { .. })));
    assert!(!error.is_damage());
    assert_eq!(mark_of(&*store, shard()).unwrap(), None);
    let rows = store.rows(shard(), Table::Topic, RowRange::default(), 9);
    assert_eq!(rows.unwrap(), []);
    let source: Box<dyn Iterator<Item = Result<Bytes, BoxError>>> =
        Box::new([Ok(whole[0].clone()), Err("cut off".into())].into_iter());
    let state = (position(1), Bytes::new());
    let error = Machine::install(shard(), store, &mut { source }, state).err();
    assert!(matches!(error, Some(Error::Transfer(_))));
}

#[test]
fn missing_batch_is_an_error_of_export_and_digest() {
    let mut single = Single::new();
    single.done(&create("news"));
    single.done(&append("news", None, 1));
    let store = single.machine.store();
    let writes = Writes {
        dooms: vec![Doom::Batches(TopicId::new(shard().index(), 1))],
        ..Writes::default()
    };
    store.commit(shard(), writes, Bytes::new()).unwrap();
    store.checkpoint().unwrap();
    while store.sweep(100).unwrap() > 0 {}
    let mut results = export(frozen(&single.machine));
    assert!(results.next().unwrap().unwrap_err().is_damage());
    assert!(results.next().is_none());
    let error = single.machine.view().digest().unwrap_err();
    assert!(error.is_damage(), "{error}");
}

/// A chunk with its length and checksum made right again.
fn sealed(mut chunk: Vec<u8>) -> Bytes {
    let length = u32::try_from(chunk.len() - 24).unwrap();
    chunk[16..20].copy_from_slice(&length.to_be_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&chunk[..20]), &chunk[24..]);
    chunk[20..24].copy_from_slice(&checksum.to_be_bytes());
    chunk.into()
}

#[test]
fn record_of_another_shard_or_form_is_refused() {
    let chunk = chunks(&example().machine)[0].to_vec();
    assert!(decode_chunk(&sealed(chunk.clone())).is_ok());
    let form = |chunk: Vec<u8>| match decode_chunk(&sealed(chunk)) {
        Err(ChunkError::Form { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let changed = |at: usize, byte: u8| {
        let mut chunk = chunk.clone();
        chunk[at] = byte;
        chunk
    };
    assert_eq!(form(changed(7, 5)), "a batch of another shard");
    assert_eq!(form(changed(24, 9)), "unknown record");
    assert_eq!(form(changed(25, 12)), "not a row");
    assert_eq!(form(changed(5, 3)), "unknown kind");
    assert_eq!(form(changed(5, 2)), "not the totals");
    let twice = [&chunk[..], &chunk[24..]].concat();
    assert_eq!(form(twice), "a row that came before");
    let version = ChunkError::Version { found: 2 };
    assert_eq!(decode_chunk(&changed(4, 2).into()).unwrap_err(), version);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the store held before: afterwards all queries answer alike, and the log goes on alike.
    #[test]
    fn installed_shard_is_the_one_exported(
        commands in prop::collection::vec(command(), 1..150),
        others in prop::collection::vec(command(), 0..60),
        later in prop::collection::vec(command(), 1..40),
        chunk_bytes in 100_usize..2000,
    ) {
        let open = || Machine::open(shard(), Arc::new(MemoryStore::new())).unwrap();
        let (mut old, mut new) = (open(), open());
        old.apply(log(&commands), Bytes::new()).unwrap();
        new.apply(log(&others), Bytes::new()).unwrap();
        let chunks: Vec<Bytes> = export_in(frozen(&old), chunk_bytes).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(check(&chunks), Ok(()));
        let state = (old.applied().unwrap(), Bytes::new());
        let store = Arc::clone(new.store());
        drop(new);
        let mut new = Machine::install(shard(), store, &mut chunks.into_iter().map(Ok), state).unwrap();
        prop_assert_eq!(seen(&new.view()), seen(&old.view()));
        let first = old.applied().unwrap().index.0 + 1;
        let entries: Vec<Entry> = log(&later).into_iter().enumerate()
            .map(|(number, (_, bytes))| (position(first + number as u64), bytes)).collect();
        let expected = old.apply(entries.clone(), Bytes::new()).unwrap();
        prop_assert_eq!(new.apply(entries, Bytes::new()).unwrap(), expected);
        while new.store().sweep(10).unwrap() > 0 {}
        prop_assert_eq!(seen(&new.view()), seen(&old.view()));
    }

    #[test]
    fn any_bytes_are_a_chunk_or_refused(
        bytes: Vec<u8>,
        commands in prop::collection::vec(command(), 1..40),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let _ = decode_chunk(&bytes.clone().into());
        let mut machine = Machine::open(shard(), Arc::new(MemoryStore::new())).unwrap();
        machine.apply(log(&commands), Bytes::new()).unwrap();
        let mut chunk = chunks(&machine)[0].to_vec();
        let at = at.index(chunk.len() - 24) + 24;
        chunk[at] = byte;
        let _ = decode_chunk(&sealed(chunk.clone()));
        chunk.truncate(at);
        chunk.extend(bytes);
        let _ = decode_chunk(&sealed(chunk));
    }
}
