//! Replacing and erasing a shard, cut off at each step.

use super::*;
use crate::store::{replace, sweep};

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
            let mark = store.mark(shard("100"));
            assert!(matches!(mark, Err(Error::Replaced { .. })), "{mark:?}");
            assert!(!store.epoch(shard("100")).is_settled());
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

/// Reads with a lease on the old content, and without one, while parts come in and afterwards.
fn look(store: &Arc<dyn TopicStore>, lease: &Lease) {
    let range = BatchRange {
        from: Offset(0),
        until: Offset(9),
        count_max: 99,
        bytes_max: ByteCount(100_000),
    };
    for reader in [lease as &dyn Reader, &**store] {
        let row = reader.row(shard("100"), Table::Topic, b"news");
        let batches = reader.batches(topic(), range);
        let rows = reader.rows(shard("100"), Table::Topic, RowRange::default(), 9);
        let mark = reader.mark(shard("100"));
        let errors = [row.err(), batches.err(), rows.err(), mark.err()];
        for error in errors {
            assert!(
                matches!(error, Some(Error::Replaced { shard: 4 })),
                "{error:?}"
            );
        }
    }
}

// A read never sees some of the old content and some of the new one, and the holes that it meets in between are no damage.
fn reader_sees_one_content_or_is_told(store: &Arc<dyn TopicStore>) {
    fill(&**store);
    let old = Lease::new(Arc::clone(store), shard("100"));
    assert!(
        old.row(shard("100"), Table::Topic, b"gone")
            .unwrap()
            .is_some()
    );
    let mut given = parts().into_iter();
    let mut looked = 0;
    let mut watched = std::iter::from_fn(|| {
        look(store, &old);
        let half = store.snapshot().unwrap();
        let half = half.row(shard("100"), Table::Topic, b"news");
        assert!(
            matches!(half, Err(Error::Replaced { shard: 4 })),
            "{half:?}"
        );
        looked += 1;
        given.next()
    });
    let mark = Bytes::from_static(b"new");
    store.replace(shard("100"), &mut watched, mark).unwrap();
    assert_eq!(looked, 3);
    let late = old.row(shard("100"), Table::Topic, b"gone");
    assert!(matches!(late, Err(Error::Replaced { .. })), "{late:?}");
    let new_lease = Lease::new(Arc::clone(store), shard("100"));
    assert_eq!(content(&new_lease, "100"), new());
    assert!(store.damaged().borrow().is_empty());
    store.erase(shard("100")).unwrap();
    let late = new_lease.mark(shard("100"));
    assert!(matches!(late, Err(Error::Replaced { .. })), "{late:?}");
    assert_eq!(content(&**store, "100"), nothing());
}

#[test]
fn reader_in_memory_sees_one_content_or_is_told() {
    reader_sees_one_content_or_is_told(&(Arc::new(MemoryStore::new()) as Arc<dyn TopicStore>));
}

#[test]
fn reader_on_disk_sees_one_content_or_is_told() {
    let folder = tempfile::tempdir().unwrap();
    reader_sees_one_content_or_is_told(&(Arc::new(open(folder.path())) as Arc<dyn TopicStore>));
}

// What an old reader meets in content that is gone is not held against the content that came in its place.
#[test]
fn damage_of_what_was_replaced_is_forgotten() {
    let store = MemoryStore::new();
    fill(&store);
    let key = key::row(shard("100"), Table::Topic, b"news");
    let bent = Change {
        space: Space::Meta,
        key,
        value: Some(b"bent".to_vec()),
    };
    store
        .shared
        .engine
        .write(vec![bent], Durability::Power)
        .unwrap();
    let frozen = store.snapshot().unwrap();
    let read = |reader: &dyn Reader| reader.row(shard("100"), Table::Topic, b"news");
    assert!(read(&store).unwrap_err().is_damage());
    assert!(store.damaged().borrow().contains_key(&4));
    let mark = Bytes::from_static(b"new");
    store
        .replace(shard("100"), &mut parts().into_iter(), mark)
        .unwrap();
    assert!(store.damaged().borrow().is_empty());
    assert!(read(&*frozen).unwrap_err().is_damage());
    assert!(store.damaged().borrow().is_empty());
    store.blame(shard("100"), Arc::new(std::io::Error::other("no sense")));
    assert!(store.damaged().borrow().contains_key(&4));
}

// The dooms of a shard are listed, then the shard is filled anew: what it holds now stays.
#[test]
fn sweep_spares_what_came_in_the_place_of_what_was_doomed() {
    let store = MemoryStore::new();
    fill(&store);
    let mark = Bytes::from_static(b"new");
    let doom = key::doom(4, &Doom::Batches(topic()).to_bytes());
    store
        .replace(shard("100"), &mut parts().into_iter(), mark)
        .unwrap();
    let swept = sweep::sweep_one(
        &store.shared,
        (4, &Doom::Batches(topic()).to_bytes()),
        &doom,
        9,
    );
    assert_eq!(swept.unwrap(), 0);
    assert_eq!(content(&store, "100"), new());
}
