//! What version 1 of the store's keys and values looks like, and what becomes of a newer one.

use super::*;
use crate::store::engine::Source;
use crate::store::{memory::Memory, replace};

const SPACES: [Space; 2] = [Space::Messages, Space::Meta];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

fn dooms() -> Vec<Doom> {
    let prefix = Bytes::from_static(b"old");
    vec![
        Doom::Batches(TopicId::new(4, 2)),
        Doom::BatchesBefore(topic(), Offset(0)..Offset(3)),
        Doom::Rows {
            table: Table::Session,
            prefix: prefix.clone(),
            twin: None,
        },
        Doom::Rows {
            table: Table::Subscription,
            prefix,
            twin: Some(Twin {
                table: Table::SubscriptionBySubscriber,
                suffix: Bytes::from_static(b"twin"),
            }),
        },
    ]
}

/// A key and a value of every kind: batches with and without an origin, rows, a mark, dooms, and a shard whose replacement was broken off.
fn every_kind() -> MemoryStore {
    let store = MemoryStore::new();
    let mut writes = rows(&[
        (Table::Shard, "", Some("counts")),
        (Table::Topic, "news", Some("row")),
        (Table::TopicByCreator, "alice", Some("")),
    ]);
    writes.batches = five().into_iter().map(|batch| (topic(), batch)).collect();
    writes.dooms = dooms();
    let mark = Bytes::from_static(b"mark");
    store.commit(shard("100"), writes, mark).unwrap();
    store.checkpoint().unwrap();
    replace::begin(&store.shared, 5).unwrap();
    store
}

fn lines(store: &MemoryStore) -> String {
    let mut text = String::new();
    let (start, end): (&[u8], &[u8]) = (&[], &[0xff; 4]);
    for space in SPACES {
        for pair in store.shared.engine.scan(space, start..end) {
            let (key, value) = pair.unwrap();
            text += &format!("{} {} {}\n", space.name(), hex(&key), hex(&value));
        }
    }
    text
}

/// A store with what a file says.
fn store_of(text: &str) -> MemoryStore {
    let changes = text.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let space = SPACES.into_iter().find(|space| space.name() == words[0]);
        Change {
            space: space.unwrap(),
            key: from_hex(words[1]),
            value: Some(from_hex(words[2])),
        }
    });
    let engine = Memory::default();
    engine.write(changes.collect(), Durability::Power).unwrap();
    KvStore::unattended(engine, ByteCount(1 << 20))
}

#[test]
fn store_of_version_1_has_these_bytes_and_is_read() {
    let fixture = expect_test::expect_file!["../testdata/store_v1.hex"];
    fixture.assert_eq(&lines(&every_kind()));
    let store = store_of(include_str!("../testdata/store_v1.hex"));
    let everything = BatchRange {
        from: Offset(0),
        until: Offset(9),
        count_max: 99,
        bytes_max: ByteCount(10_000),
    };
    assert_eq!(store.batches(topic(), everything).unwrap(), five());
    assert_eq!(store.mark(shard("100")).unwrap().unwrap(), "mark");
    let row = |table, key: &[u8]| store.row(shard("100"), table, key).unwrap().unwrap();
    assert_eq!(row(Table::Shard, b""), "counts");
    assert_eq!(row(Table::Topic, b"news"), "row");
    assert_eq!(row(Table::TopicByCreator, b"alice"), "");
    // Two batches end at or before what is trimmed; each doom goes too.
    assert_eq!(store.sweep(99).unwrap(), 2 + dooms().len());
    let marker = key::wipe(5);
    assert!(
        store
            .shared
            .engine
            .get(Space::Meta, &marker)
            .unwrap()
            .is_some()
    );
    replace::finish_wipes(&store.shared).unwrap();
    assert!(
        store
            .shared
            .engine
            .get(Space::Meta, &marker)
            .unwrap()
            .is_none()
    );
    assert!(store.damaged().borrow().is_empty());
}

// A program that is older than its data says so, and does not take for damage what it does not know: damage is made again from the others.
#[test]
fn newer_version_is_named_and_is_no_damage() {
    let store = MemoryStore::new();
    with_five(&store);
    store.checkpoint().unwrap();
    let key = key::batch(topic(), Offset(2));
    let mut value = value::encode_batch(&key, &five()[1]);
    value[1] = 2;
    let sum = crc32c::crc32c_append(crc32c::crc32c(&key), &value[..4]);
    let sum = crc32c::crc32c_append(sum, &value[8..]);
    value[4..8].copy_from_slice(&sum.to_be_bytes());
    let change = Change {
        space: Space::Messages,
        key: key.to_vec(),
        value: Some(value),
    };
    let engine = &store.shared.engine;
    engine.write(vec![change], Durability::Power).unwrap();
    let error = store.batch_at(topic(), Offset(2)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "value in keyspace messages at key {} has version 2, this program knows up to 1",
            key::hex(&key)
        )
    );
    assert!(!error.is_damage());
    assert!(store.damaged().borrow().is_empty());
}
