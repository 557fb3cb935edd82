//! What version 1 of a shard's rows and mark looks like, and what becomes of a newer one.

use super::codec::from_hex;
use super::*;
use crate::store::{Lease, Reader, Table, Writes};
use crate::types::{ByteCount, Offset};

/// A store with the rows of the snapshot's fixture, which has one of each table.
fn of_version_1() -> Machine {
    let text = include_str!("../testdata/snapshot_v1.hex");
    let mut chunks = text.lines().map(|line| Ok(from_hex(line)));
    let store: Arc<dyn TopicStore> = Arc::new(MemoryStore::new());
    let state = (position(500), Bytes::from_static(b"members"));
    Machine::install(shard(), store, &mut chunks, state).unwrap()
}

#[test]
fn rows_of_version_1_are_read() {
    let mut machine = of_version_1();
    let view = machine.view();
    let news = view.topic(&topic("news")).unwrap().unwrap();
    assert_eq!(
        (news.first_offset, news.next_offset),
        (Offset(2), Offset(7))
    );
    assert_eq!(news.retention.messages, Some(9));
    let topics = view.topics(TopicFilter::default(), None, 9).unwrap();
    let of_alice = TopicFilter {
        creator: Some(&publisher("alice")),
        ..TopicFilter::default()
    };
    assert_eq!(topics, std::slice::from_ref(&news));
    assert_eq!(view.topics(of_alice, None, 9).unwrap(), topics);
    assert_eq!(view.retained_topics(None, 9).unwrap(), topics);
    assert_eq!(view.topic_count().unwrap(), 1);
    assert_eq!(view.publishers(None, 9).unwrap()[0].0, publisher("alice"));
    assert_eq!(view.subscribers(None, 9).unwrap()[0].0, subscriber("bob"));
    let cursor = view.subscription(&news, &subscriber("bob")).unwrap();
    assert_eq!(cursor.unwrap().missed, 2);
    let followed = view.subscriptions_of_subscriber(&subscriber("bob"), None, 9);
    assert_eq!(followed.unwrap().len(), 1);
    let all = view.batches(&news, Offset(2), 99, ByteCount(999)).unwrap();
    assert_eq!(all.iter().map(|batch| batch.batch.count()).sum::<u32>(), 5);
    // A repetition of the last publish of the session is known for one: session and sequence rows are read.
    let again = Some(append("news", Some(("alice", 1, 2)), 2).encode());
    let applied = machine.apply(vec![(position(501), again)], Bytes::new());
    let outcome = applied.unwrap().outcomes.pop().unwrap().unwrap();
    let Ok(Response::Appended { first_offset, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(first_offset, Offset(4));
}

#[test]
fn mark_of_version_1_has_these_bytes() {
    let machine = of_version_1();
    let mark = machine.store().mark(shard()).unwrap().unwrap();
    let version_1 = from_hex("01000000000000000600000000000001f46d656d62657273");
    assert_eq!(mark, version_1);
    assert_eq!(machine.applied(), Some(position(500)));
    assert_eq!(machine.mark().unwrap(), "members");
}

/// The store with this row in the place of the topic's, and this mark.
fn with(row: &[u8], mark: &[u8]) -> Arc<dyn TopicStore> {
    let store = Arc::clone(of_version_1().store());
    let key = (Table::Topic, Bytes::from_static(b"news"));
    let writes = Writes {
        rows: [(key, Some(Bytes::copy_from_slice(row)))].into(),
        ..Writes::default()
    };
    let mark = Bytes::copy_from_slice(mark);
    store.commit(shard(), writes, mark).unwrap();
    store
}

// Damage is made again from the others; what a newer program wrote must be left as it is.
#[test]
fn newer_version_is_named_and_is_no_damage() {
    let store = with(&[2, 7, 7], &[2, 1]);
    let reader: Arc<dyn Reader> = Arc::new(Lease::new(Arc::clone(&store), shard()));
    let error = View::new(shard(), reader)
        .topic(&topic("news"))
        .unwrap_err();
    let text = "a row of table Topic has version 2, this program knows up to 1";
    assert_eq!(error.to_string(), text);
    assert!(!error.is_damage());
    let error = Machine::open(shard(), store).err().unwrap();
    let text = "the mark of shard 100 has version 2, this program knows up to 1";
    assert_eq!(error.to_string(), text);
    assert!(!error.is_damage());
    for row in [&[][..], &[0, 1], &[1]] {
        let store = with(row, &[]);
        let machine = Machine::open(shard(), store);
        assert!(machine.err().unwrap().is_damage(), "an empty mark");
        let reader: Arc<dyn Reader> = with(row, &[2]);
        let error = View::new(shard(), reader).topic(&topic("news"));
        assert!(error.unwrap_err().is_damage(), "{row:?}");
    }
}

// Replicas of the next version apply it: this one must not go on as if it had been refused.
#[test]
fn newer_command_ends_the_machine() {
    let mut single = Single::new();
    single.done(&create("news"));
    let newer = vec![(position(1), Some(Bytes::from_static(&[3, 99])))];
    let error = single.machine.apply(newer, Bytes::new()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::CommandVersion {
                found: 3,
                known: 2,
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.is_damage());
    let later = vec![(position(1), None)];
    assert!(single.machine.apply(later, Bytes::new()).is_err());
}

// A subscriber would wait for ever for messages that the topic's row speaks of and that are not there.
#[test]
fn batches_that_are_lost_at_the_end_are_damage() {
    let mut single = Single::new();
    single.done(&create("news"));
    single.done(&append("news", None, 2));
    let view = single.machine.view();
    let mut row = view.topic(&topic("news")).unwrap().unwrap();
    row.next_offset = Offset(9);
    single
        .machine
        .store()
        .commit(shard(), with_topic(&row), Bytes::new())
        .unwrap();
    let all = view.batches(&row, Offset(0), 9, ByteCount(99)).unwrap();
    assert_eq!(all.len(), 1);
    let error = view.batches(&row, Offset(2), 9, ByteCount(99)).unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert_eq!(view.batches(&row, Offset(2), 0, ByteCount(99)).unwrap(), []);
}

fn with_topic(topic: &TopicRow) -> Writes {
    let key = (
        Table::Topic,
        Bytes::copy_from_slice(topic.name.as_str().as_bytes()),
    );
    Writes {
        rows: [(key, Some(crate::shard::row::encode(topic)))].into(),
        ..Writes::default()
    }
}
