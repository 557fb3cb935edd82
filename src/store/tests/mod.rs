//! One conformance suite for both stores, and what only one of them can show.

mod beside;
mod damage;
mod faulty;
mod model;
mod replace;
mod version;

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use beside::{
    frozen_reader_sees_what_is_swept_later, hole_between_batches_is_missing,
    trim_spares_the_batch_that_straddles, trims_go_on_where_a_step_ended,
};
use replace::{broken_off_replacement_leaves_nothing, shard_is_replaced_as_a_whole};

use super::engine::{Change, Durability, Engine, Space};
use super::kv::KvStore;
use super::*;
use crate::types::{Batch, LogIndex, LogPosition, PublisherId, Sequence, SessionId, Term};

fn shard(bits: &str) -> Vertex {
    bits.parse().unwrap()
}

fn batch(messages: &[&[u8]]) -> Batch {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend_from_slice(&[0x22, u8::try_from(message.len()).unwrap()]);
        bytes.extend_from_slice(message);
    }
    Batch::new(bytes.into()).unwrap()
}

fn stored(base: u64, time: u64, batch: Batch) -> StoredBatch {
    let publisher = PublisherId::new("alice").unwrap();
    StoredBatch {
        base_offset: Offset(base),
        append_time: Timestamp(time),
        origin: base
            .is_multiple_of(2)
            .then_some((publisher, SessionId(7), Sequence(base))),
        log_position: LogPosition {
            term: Term(1),
            index: LogIndex(base + 10),
        },
        batch,
    }
}

/// Five batches: offsets 0..2, 2..3, 3..6, 6..7, 7..9 at times 10, 20, 20, 40, 50.
fn five() -> Vec<StoredBatch> {
    vec![
        stored(0, 10, batch(&[b"a", b"bb"])),
        stored(2, 20, batch(&[b"ccc"])),
        stored(3, 20, batch(&[b"dddd", b"", b"ffffff"])),
        stored(6, 40, batch(&[b"g"])),
        stored(7, 50, batch(&[b"h", &[b'i'; 120]])),
    ]
}

fn topic() -> TopicId {
    TopicId::new(4, 1)
}

fn with_five(store: &dyn TopicStore) {
    let writes = Writes {
        batches: five().into_iter().map(|batch| (topic(), batch)).collect(),
        ..Writes::default()
    };
    store
        .commit(shard("100"), writes, Bytes::from_static(b"m"))
        .unwrap();
}

fn rows(rows: &[(Table, &str, Option<&str>)]) -> Writes {
    let owned = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let rows = rows.iter();
    Writes {
        rows: rows
            .map(|(table, key, row)| ((*table, owned(key)), row.map(owned)))
            .collect(),
        ..Writes::default()
    }
}

fn keys(store: &dyn TopicStore, table: Table, range: RowRange<'_>, limit: usize) -> Vec<String> {
    let rows = store.rows(shard("100"), table, range, limit).unwrap();
    let text = |key: &Bytes| String::from_utf8(key.to_vec()).unwrap();
    rows.iter().map(|(key, _)| text(key)).collect()
}

fn commit_sets_rows_and_mark_of_its_shard_only(store: &dyn TopicStore) {
    let (one, other) = (shard("100"), shard("101"));
    assert_eq!(store.mark(one).unwrap(), None);
    let writes = rows(&[
        (Table::Topic, "news", Some("1")),
        (Table::Publisher, "news", Some("")),
    ]);
    store
        .commit(one, writes, Bytes::from_static(b"m1"))
        .unwrap();
    assert_eq!(store.mark(one).unwrap().unwrap(), "m1");
    assert_eq!(store.mark(other).unwrap(), None);
    assert_eq!(store.row(one, Table::Topic, b"news").unwrap().unwrap(), "1");
    assert_eq!(
        store.row(one, Table::Publisher, b"news").unwrap().unwrap(),
        ""
    );
    assert_eq!(store.row(other, Table::Topic, b"news").unwrap(), None);
    let writes = rows(&[(Table::Topic, "news", None)]);
    store
        .commit(one, writes, Bytes::from_static(b"m2"))
        .unwrap();
    assert_eq!(store.row(one, Table::Topic, b"news").unwrap(), None);
    assert_eq!(store.mark(one).unwrap().unwrap(), "m2");
}

fn rows_come_in_order_within_prefix_after_and_limit(store: &dyn TopicStore) {
    let names = ["", "a", "a.b", "a.c", "ab", "b", "\u{7f}"];
    let all: Vec<_> = names
        .iter()
        .map(|name| (Table::Topic, *name, Some("x")))
        .collect();
    store
        .commit(shard("100"), rows(&all), Bytes::new())
        .unwrap();
    let other = rows(&[(Table::TopicByCreator, "a", Some("x"))]);
    store.commit(shard("100"), other, Bytes::new()).unwrap();
    let range = |prefix, after| RowRange { prefix, after };
    let list = |prefix: &'static str, after: Option<&'static str>, limit| {
        let range = range(prefix.as_bytes(), after.map(str::as_bytes));
        keys(store, Table::Topic, range, limit)
    };
    assert_eq!(list("", None, usize::MAX), names);
    assert_eq!(list("a", None, 9), ["a", "a.b", "a.c", "ab"]);
    assert_eq!(list("a.", None, 9), ["a.b", "a.c"]);
    assert_eq!(list("a", Some("a.b"), 9), ["a.c", "ab"]);
    assert_eq!(list("a", Some("a.b"), 1), ["a.c"]);
    assert_eq!(list("b", Some("a"), 9), ["b"]);
    assert_eq!(list("a", Some("b"), 9), [""; 0]);
    assert_eq!(list("", None, 0), [""; 0]);
}

fn batches_are_cut_exactly_at_range_and_limits(store: &dyn TopicStore) {
    with_five(store);
    let neighbour = (TopicId::new(4, 2), stored(0, 1, batch(&[b"z"])));
    let writes = Writes {
        batches: vec![neighbour],
        ..Writes::default()
    };
    store.commit(shard("100"), writes, Bytes::new()).unwrap();
    for from in 0..=10 {
        for until in 0..=10 {
            for count_max in [0, 1, 2, 3, 5, 100] {
                for bytes_max in [0, 1, 7, 20, 10_000] {
                    check_cut(store, (from, until), count_max, bytes_max);
                }
            }
        }
    }
    assert_eq!(
        store.batch_at(topic(), Offset(5)).unwrap().unwrap(),
        five()[2]
    );
    assert_eq!(store.batch_at(TopicId::new(4, 3), Offset(5)).unwrap(), None);
}

/// Compares with messages taken one by one from the list.
fn check_cut(store: &dyn Reader, (from, until): (u64, u64), count_max: u32, bytes_max: u64) {
    let mut expected: Vec<StoredBatch> = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    'all: for whole in five() {
        let mut slice: Option<StoredBatch> = None;
        for skip in 0..whole.batch.count() {
            let offset = whole.base_offset.0 + u64::from(skip);
            if offset < from || offset >= until {
                continue;
            }
            let one = whole.batch.slice(skip, 1, ByteCount(0)).unwrap();
            let fits = count == 0 || bytes + one.bytes().0 <= bytes_max;
            if count == count_max || !fits {
                expected.extend(slice);
                break 'all;
            }
            count += 1;
            bytes += one.bytes().0;
            let payload = slice.map_or(Vec::new(), |slice| slice.batch.payload().to_vec());
            let length = u32::try_from(offset - from.max(whole.base_offset.0)).unwrap();
            slice = Some(StoredBatch {
                base_offset: Offset(offset - u64::from(length)),
                batch: Batch::new([&payload, &one.payload()[..]].concat().into()).unwrap(),
                ..whole.clone()
            });
        }
        expected.extend(slice);
    }
    let range = BatchRange {
        from: Offset(from),
        until: Offset(until),
        count_max,
        bytes_max: ByteCount(bytes_max),
    };
    assert_eq!(
        store.batches(topic(), range).unwrap(),
        expected,
        "{range:?}"
    );
}

fn time_finds_the_first_batch_not_older(store: &dyn TopicStore) {
    with_five(store);
    let at = |first: u64, next: u64, time| {
        let messages = Offset(first)..Offset(next);
        store
            .offset_at(topic(), messages, Timestamp(time))
            .unwrap()
            .0
    };
    let found: Vec<_> = [0, 10, 11, 20, 21, 40, 50, 51]
        .map(|time| at(0, 9, time))
        .into();
    assert_eq!(found, [0, 0, 2, 2, 6, 6, 7, 9]);
    assert_eq!(at(4, 9, 20), 4);
    assert_eq!(at(0, 0, 20), 0);
    let missing = store.offset_at(topic(), Offset(0)..Offset(30), Timestamp(60));
    assert!(matches!(missing, Err(Error::Missing { .. })), "{missing:?}");
}

fn sweep_removes_only_what_is_doomed_in_bounded_steps(store: &dyn TopicStore) {
    with_five(store);
    let id = topic().to_bits().to_be_bytes();
    let row = |name: &str| Bytes::from([&id, name.as_bytes()].concat());
    let twin = |name: &str, suffix: &str| Bytes::from(format!("{name}{suffix}"));
    let mut writes = rows(&[(Table::Topic, "news", Some("1"))]);
    for name in ["bob", "eve"] {
        let twin_table = Table::SubscriptionBySubscriber;
        let mut put = |table, key| writes.rows.insert((table, key), Some(Bytes::new()));
        put(Table::Subscription, row(name));
        put(twin_table, twin(name, "/1"));
        put(twin_table, twin(name, "/2"));
    }
    store.commit(shard("100"), writes, Bytes::new()).unwrap();
    let dooms = vec![
        Doom::Batches(topic()),
        Doom::Rows {
            table: Table::Subscription,
            prefix: Bytes::copy_from_slice(&id),
            twin: Some(Twin {
                table: Table::SubscriptionBySubscriber,
                suffix: Bytes::from_static(b"/1"),
            }),
        },
    ];
    let writes = Writes {
        dooms,
        ..Writes::default()
    };
    store.checkpoint().unwrap();
    store.commit(shard("100"), writes, Bytes::new()).unwrap();
    assert_eq!(store.sweep(2).unwrap(), 0, "the doom is not durable");
    store.checkpoint().unwrap();
    let mut steps = 0;
    loop {
        match store.sweep(2).unwrap() {
            0 => break,
            removed => assert!(removed <= 5, "{removed}"),
        }
        steps += 1;
    }
    assert!(steps >= 4, "{steps}");
    assert_eq!(store.batch_at(topic(), Offset(9)).unwrap(), None);
    let all = RowRange::default();
    assert_eq!(keys(store, Table::Subscription, all, 9), [""; 0]);
    let twins = keys(store, Table::SubscriptionBySubscriber, all, 9);
    assert_eq!(twins, ["bob/2", "eve/2"]);
    assert_eq!(keys(store, Table::Topic, all, 9), ["news"]);
}

fn damage_is_reported_with_its_place<E: Engine>(store: &KvStore<E>) {
    with_five(store);
    let writes = rows(&[(Table::Topic, "news", Some("1"))]);
    store.commit(shard("100"), writes, Bytes::new()).unwrap();
    store.checkpoint().unwrap();
    assert!(store.damaged().borrow().is_empty());
    let batch_key = key::batch(topic(), Offset(2)).to_vec();
    let row_key = key::row(shard("100"), Table::Topic, b"news");
    for (space, key) in [(Space::Messages, batch_key), (Space::Meta, row_key)] {
        let mut value = store
            .shared
            .engine
            .get(space, &key)
            .unwrap()
            .unwrap()
            .to_vec();
        *value.last_mut().unwrap() ^= 1;
        let change = Change {
            space,
            key,
            value: Some(value),
        };
        let engine = &store.shared.engine;
        engine.write(vec![change], Durability::Process).unwrap();
    }
    let error = store.batch_at(topic(), Offset(2)).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Corrupt { .. }));
    assert!(
        text.contains("messages at key 00040000000000010000000000000002"),
        "{text}"
    );
    let error = store.row(shard("100"), Table::Topic, b"news").unwrap_err();
    assert!(matches!(error, Error::Corrupt { space: "meta", .. }));
    assert!(store.batch_at(topic(), Offset(0)).is_ok());
    let damaged = store.damaged().borrow().clone();
    assert_eq!(damaged.keys().collect::<Vec<_>>(), [&4]);
    assert_eq!(damaged[&4].to_string(), text, "the first one is kept");
    store.erase(shard("100")).unwrap();
    assert!(store.damaged().borrow().is_empty());
    assert_eq!(store.batch_at(topic(), Offset(2)).unwrap(), None);
}

macro_rules! conformance {
    ($($name:ident)*) => {
        mod memory_store {
            $(#[test] fn $name() { super::$name(&super::MemoryStore::new()); })*
        }
        mod fjall_store {
            $(#[test] fn $name() {
                let folder = tempfile::tempdir().unwrap();
                let options = super::Options::default();
                super::$name(&super::FjallStore::open(folder.path(), options).unwrap());
            })*
        }
    };
}

conformance! {
    commit_sets_rows_and_mark_of_its_shard_only
    rows_come_in_order_within_prefix_after_and_limit
    batches_are_cut_exactly_at_range_and_limits
    time_finds_the_first_batch_not_older
    sweep_removes_only_what_is_doomed_in_bounded_steps
    damage_is_reported_with_its_place
    frozen_reader_sees_what_is_swept_later
    trim_spares_the_batch_that_straddles
    trims_go_on_where_a_step_ended
    hole_between_batches_is_missing
    shard_is_replaced_as_a_whole
    broken_off_replacement_leaves_nothing
}

#[test]
fn reopened_store_has_all_and_its_marks_are_durable() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (shard("100"), shard("101"));
    {
        let store = FjallStore::open(folder.path(), Options::default()).unwrap();
        with_five(&store);
        assert_eq!(store.durable_mark(one), None);
        store.checkpoint().unwrap();
        assert_eq!(store.durable_mark(one).unwrap(), "m");
        for (shard, mark) in [(one, &b"n"[..]), (other, b"o")] {
            let mark = Bytes::from_static(mark);
            store.commit(shard, Writes::default(), mark).unwrap();
        }
        assert_eq!(store.durable_mark(one).unwrap(), "m");
        store.checkpoint().unwrap();
        let lost = Bytes::from_static(b"lost");
        store.commit(one, Writes::default(), lost).unwrap();
    }
    let store = FjallStore::open(folder.path(), Options::default()).unwrap();
    assert_eq!(store.durable_mark(one).unwrap(), "n");
    assert_eq!(store.durable_mark(other).unwrap(), "o");
    assert_eq!(store.mark(one).unwrap().unwrap(), "n");
    check_cut(&store, (1, 8), 100, 10_000);
    let figures = store.figures().unwrap();
    assert!(figures.disk_bytes > ByteCount(0) && figures.journal_count > 0);
}

#[test]
fn folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _store = FjallStore::open(folder.path(), Options::default()).unwrap();
    let second = FjallStore::open(folder.path(), Options::default());
    assert!(matches!(second, Err(Error::Engine(_))));
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_batch_is_noticed() {
    let key = key::batch(topic(), Offset(2));
    let value = value::encode_batch(&key, &five()[1]);
    for bit in 0..value.len() * 8 {
        let mut damaged = value.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(
            value::decode_batch(&key, &damaged.into()).is_err(),
            "bit {bit}"
        );
    }
    for length in 0..value.len() {
        let cut = Bytes::copy_from_slice(&value[..length]);
        assert!(value::decode_batch(&key, &cut).is_err(), "cut at {length}");
    }
    let elsewhere = key::batch(topic(), Offset(3));
    assert!(value::decode_batch(&elsewhere, &value.into()).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, key: [u8; 16]) {
        let _ = value::decode_batch(&key, &bytes.clone().into());
        let _ = value::decode_row(&key, &bytes.into());
    }

    #[test]
    fn prefix_ends_before_its_successor(prefix: Vec<u8>, rest: Vec<u8>) {
        let end = key::after_prefix(&prefix);
        let key = [prefix.clone(), rest].concat();
        prop_assert!(end.is_empty() || (key < end && !end.starts_with(&prefix)));
    }

    #[test]
    fn rows_are_those_of_an_ordered_map(
        names in prop::collection::btree_set("[ab]{1,4}", 0..20),
        removed in prop::collection::btree_set("[ab]{1,4}", 0..10),
        prefix in "[ab]{0,2}", after in "[ab]{1,4}", limit in 0_usize..8,
    ) {
        let store = MemoryStore::new();
        let put: Vec<_> = names.iter().map(|name| (Table::Topic, name.as_str(), Some("x"))).collect();
        store.commit(shard("100"), rows(&put), Bytes::new()).unwrap();
        let drop: Vec<_> = removed.iter().map(|name| (Table::Topic, name.as_str(), None)).collect();
        store.commit(shard("100"), rows(&drop), Bytes::new()).unwrap();
        let left: BTreeSet<_> = names.difference(&removed).cloned().collect();
        let expected: Vec<_> = left
            .into_iter()
            .filter(|name| name.starts_with(&prefix) && *name > after)
            .take(limit)
            .collect();
        let range = RowRange { prefix: prefix.as_bytes(), after: Some(after.as_bytes()) };
        prop_assert_eq!(keys(&store, Table::Topic, range, limit), expected);
    }
}
