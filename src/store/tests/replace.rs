//! Replacing and erasing a shard, cut off at each step.

use super::*;
use crate::store::replace;

fn open(folder: &std::path::Path) -> FjallStore {
    FjallStore::open(folder, Options::default()).unwrap()
}

/// Fills two shards alike: five batches, rows, a doom.
fn fill(store: &dyn TopicStore) {
    for (number, bits) in [(4, "100"), (5, "101")] {
        let mut writes = rows(&[
            (Table::Topic, "news", Some("old")),
            (Table::Topic, "gone", Some("old")),
        ]);
        let id = TopicId::new(number, 1);
        writes.batches = five().into_iter().map(|batch| (id, batch)).collect();
        writes.dooms = vec![Doom::Batches(TopicId::new(number, 7))];
        let mark = Bytes::from_static(b"old");
        store.commit(shard(bits), writes, mark).unwrap();
    }
    store.checkpoint().unwrap();
}

fn parts() -> Vec<Result<Writes, BoxError>> {
    let mut first = rows(&[(Table::Topic, "news", Some("new"))]);
    first.batches = vec![(topic(), five().remove(0))];
    let second = Writes {
        batches: vec![(
            TopicId::new(4, 2),
            stored(0, 1, batch(&[&[7; 100][..]; 90])),
        )],
        ..Writes::default()
    };
    vec![Ok(first), Ok(second)]
}

fn content(store: &dyn Reader, bits: &str) -> (Option<Bytes>, Vec<String>, usize) {
    let shard = shard(bits);
    let rows = store.rows(shard, Table::Topic, RowRange::default(), 9);
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let rows = rows.unwrap();
    let rows = rows
        .iter()
        .map(|(key, row)| format!("{}={}", text(key), text(row)))
        .collect();
    let range = BatchRange {
        from: Offset(0),
        until: Offset(9),
        count_max: 99,
        bytes_max: ByteCount(100_000),
    };
    let topics = (1..3).map(|number| TopicId::new(shard.index(), number));
    let batches = topics.map(|topic| store.batches(topic, range).unwrap().len());
    (store.mark(shard).unwrap(), rows, batches.sum())
}

type Content = (Option<Bytes>, Vec<String>, usize);

fn old() -> Content {
    let rows = vec!["gone=old".to_owned(), "news=old".to_owned()];
    (Some(Bytes::from_static(b"old")), rows, 5)
}

fn new() -> Content {
    let mark = Bytes::from_static(b"new");
    (Some(mark), vec!["news=new".to_owned()], 2)
}

fn nothing() -> Content {
    (None, Vec::new(), 0)
}

pub(super) fn shard_is_replaced_as_a_whole(store: &dyn TopicStore) {
    fill(store);
    let frozen = store.snapshot().unwrap();
    let in_memory = rows(&[(Table::Topic, "late", Some("old"))]);
    store.commit(shard("100"), in_memory, Bytes::new()).unwrap();
    let mark = Bytes::from_static(b"new");
    let mut given = parts().into_iter();
    store.replace(shard("100"), &mut given, mark).unwrap();
    assert_eq!(content(store, "100"), new());
    assert_eq!(content(store, "101"), old());
    assert_eq!(store.durable_mark(shard("100")).unwrap(), "new");
    assert_eq!(content(&*frozen, "100"), old());
    let late = rows(&[(Table::Topic, "gone", Some("old"))]);
    store.commit(shard("100"), late, Bytes::new()).unwrap();
    store.erase(shard("100")).unwrap();
    assert_eq!(content(store, "100"), nothing());
    assert_eq!(store.durable_mark(shard("100")), None);
    assert_eq!(content(store, "101"), old());
    assert_eq!(content(&*frozen, "100"), old());
}

pub(super) fn broken_off_replacement_leaves_nothing(store: &dyn TopicStore) {
    fill(store);
    let mut given = parts();
    given.push(Err("the stream ended".into()));
    let mark = Bytes::from_static(b"new");
    let result = store.replace(shard("100"), &mut given.into_iter(), mark);
    assert!(matches!(result, Err(Error::Part(_))), "{result:?}");
    assert_eq!(content(store, "100"), nothing());
    assert_eq!(content(store, "101"), old());
}

#[test]
fn replacement_and_erasure_survive_the_end_of_the_process() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = open(folder.path());
        fill(&store);
        let mark = Bytes::from_static(b"new");
        let mut given = parts().into_iter();
        store.replace(shard("100"), &mut given, mark).unwrap();
    }
    {
        let store = open(folder.path());
        assert_eq!(content(&store, "100"), new());
        assert_eq!(store.durable_mark(shard("100")).unwrap(), "new");
        store.erase(shard("100")).unwrap();
    }
    let store = open(folder.path());
    assert_eq!(content(&store, "100"), nothing());
    assert_eq!(content(&store, "101"), old());
    assert_eq!(store.sweep(9).unwrap(), 1, "the other shard's doom is left");
}

/// The process ends while parts are asked for: the shard is empty afterwards, never mixed.
#[test]
fn replacement_cut_off_anywhere_leaves_the_shard_empty() {
    for asked in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        {
            let store = open(folder.path());
            fill(&store);
            let mut given = parts().into_iter().take(asked).enumerate();
            let mut cut = std::iter::from_fn(|| {
                let (_, part) = given.next()?;
                // What came so far goes to disk, as it does when there is more of it.
                let group = crate::store::memtable::Memtable::default();
                group.insert(shard("100"), part.unwrap(), None);
                store.shared.flush(&group).unwrap();
                Some(Ok(Writes::default()))
            });
            replace::begin(&store.shared, 4).unwrap();
            replace::fill(&store.shared, shard("100"), &mut cut).unwrap();
            assert_eq!(store.mark(shard("100")).unwrap(), None);
        }
        let store = open(folder.path());
        assert_eq!(content(&store, "100"), nothing(), "cut after {asked}");
        assert_eq!(content(&store, "101"), old());
        drop(store);
        let inspected = inspect(folder.path(), &mut |finding| panic!("{finding:?}")).unwrap();
        assert!(!inspected.shards.contains_key(&4), "{inspected:?}");
        assert_eq!(inspected.shards[&5].batch_count, 5);
    }
}

#[test]
fn unfinished_replacement_is_seen_by_an_inspection() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = open(folder.path());
        fill(&store);
        replace::begin(&store.shared, 4).unwrap();
    }
    let inspected = inspect(folder.path(), &mut |finding| panic!("{finding:?}")).unwrap();
    assert!(inspected.shards[&4].is_unfinished);
    let five = &inspected.shards[&5];
    assert_eq!(five.mark.as_deref(), Some(&b"old"[..]));
    assert_eq!(
        (five.row_count, five.batch_count, five.doom_count),
        (2, 5, 1)
    );
    assert_eq!((five.message_count, five.is_unfinished), (9, false));
    // Looking has changed nothing.
    assert_eq!(content(&open(folder.path()), "100"), nothing());
}
