//! The directory of a peer with one topic, whole and then damaged in each way.

use bytes::Bytes;

use super::*;
use crate::env::entropy::SystemEntropy;
use crate::shard::{Command, Entry, Machine};
use crate::store::{FjallStore, TopicStore};
use crate::types::{Batch, LogIndex, LogPosition, Retention, Term, Timestamp, TopicName, Vertex};
use crate::wal::{Op, Purged, RaftLog, Wal};

const ENTRIES: u64 = 20;

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: Term(1),
        index: LogIndex(index),
    }
}

fn shard() -> Vertex {
    Vertex::new(5, Dimension::new(3).unwrap()).unwrap()
}

fn commands() -> Vec<Command> {
    let topic = TopicName::new("news").unwrap();
    let at = Timestamp::default();
    let create = Command::CreateTopic {
        topic: topic.clone(),
        creator: None,
        request_id: None,
        at,
        retention: Retention::default(),
    };
    let append = |index: u64| Command::Append {
        topic: topic.clone(),
        origin: None,
        at,
        batch: Batch::new(Bytes::from(vec![0x22, 1, u8::try_from(index).unwrap()])).unwrap(),
    };
    let appends = (1..ENTRIES).map(append);
    std::iter::once(create).chain(appends).collect()
}

fn open_store(peer: &Path) -> Arc<dyn TopicStore> {
    Arc::new(FjallStore::open(&peer.join(STORE), store::Options::default()).unwrap())
}

fn open_log(peer: &Path) -> Wal {
    let text = std::fs::read_to_string(peer.join(IDENTITY)).unwrap();
    let options = wal::Options {
        segment_bytes: crate::types::ByteCount(4096),
        ..wal::Options::new(peer.join(LOG), parse(&text).unwrap().log)
    };
    Wal::open(options, Arc::new(SystemDisk), Arc::new(SystemEntropy)).unwrap()
}

/// A peer whose store has applied `applied` of the entries in its log.
fn example(applied: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let peer = folder.path();
    let body = format!(
        "{IDENTITY_HEADER}\ncluster demo\ndimension 3\npeer 4\nincarnation 1\nlog 1\ndirectory 0f\n"
    );
    let checksum = crc32c::crc32c(body.as_bytes());
    std::fs::write(
        peer.join(IDENTITY),
        format!("{body}crc32c {checksum:08x}\n"),
    )
    .unwrap();
    let entries: Vec<Entry> = (0..)
        .zip(commands())
        .map(|(index, command)| (position(index), Some(command.encode())))
        .collect();
    let log = open_log(peer);
    let records = entries.iter().map(|(position, command)| wal::Entry {
        position: *position,
        payload: command.clone().unwrap(),
    });
    let append = Op::Append {
        shard: shard(),
        entries: records.collect(),
    };
    log.submit(vec![append], Box::new(|_| ())).unwrap();
    log.shutdown();
    let store = open_store(peer);
    let mut machine = Machine::open(shard(), Arc::clone(&store)).unwrap();
    let count = usize::try_from(applied).unwrap();
    let entries: Vec<Entry> = entries.into_iter().take(count).collect();
    machine.apply(entries, Bytes::new()).unwrap();
    store.checkpoint().unwrap();
    folder
}

/// What is damaged, each in words.
fn damage(peer: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    inspect(peer, &mut |finding| found.push(finding)).unwrap();
    assert!(found.iter().any(|finding| finding.thing == "identity"));
    found.retain(|finding| finding.verdict == Verdict::Damaged);
    found
}

fn purge(peer: &Path, upto: u64) {
    let log = open_log(peer);
    let purged = Purged {
        position: position(upto),
        state: Bytes::new(),
    };
    log.purge(shard(), purged).unwrap();
    log.shutdown();
}

#[test]
fn peer_that_stopped_is_whole_however_far_its_store_is() {
    for applied in [1, 7, ENTRIES] {
        let folder = example(applied);
        assert_eq!(damage(folder.path()), [], "{applied}");
        purge(folder.path(), applied - 1);
        assert_eq!(damage(folder.path()), [], "{applied}, purged");
    }
}

#[test]
fn entries_that_neither_log_nor_store_has_are_damage() {
    let folder = example(7);
    purge(folder.path(), 9);
    let found = damage(folder.path());
    assert_eq!((found.len(), found[0].shard), (1, Some(5)), "{found:?}");
    assert!(found[0].text.ends_with("the entries between are missing"));
    let folder = example(7);
    std::fs::remove_dir_all(folder.path().join(LOG)).unwrap();
    let found = damage(folder.path());
    assert!(
        found[0].text.ends_with("but the log ends at nothing"),
        "{found:?}"
    );
}

#[test]
fn flipped_byte_of_the_log_is_told_with_its_place() {
    let folder = example(7);
    let file = folder.path().join(LOG).join("0000000001.wal");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[64 + 40 + 45] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let found = damage(folder.path());
    let place = found[0].place.clone().unwrap();
    assert_eq!((place.file, place.position), (file, 104), "{found:?}");
    assert!(place.found.starts_with("checksum"), "{}", place.found);
}

#[test]
fn missing_messages_of_a_topic_are_told() {
    let folder = example(ENTRIES);
    {
        let store = open_store(folder.path());
        let mark = store.mark(shard()).unwrap().unwrap();
        let mut writes = store::Writes::default();
        let topic = crate::shard::View::new(shard(), Arc::clone(&store) as _);
        let topic = topic
            .topic(&TopicName::new("news").unwrap())
            .unwrap()
            .unwrap();
        let before = crate::types::Offset(3);
        writes.dooms.push(store::Doom::BatchesBefore(
            topic.id,
            crate::types::Offset(0)..before,
        ));
        store.commit(shard(), writes, mark).unwrap();
        store.checkpoint().unwrap();
        while store.sweep(100).unwrap() > 0 {}
        store.checkpoint().unwrap();
    }
    let found = damage(folder.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].text.starts_with("topic news: "),
        "{}",
        found[0].text
    );
}

#[test]
fn flipped_bytes_of_the_store_are_told() {
    let folder = example(ENTRIES);
    let mut told = 0;
    let mut flip = |path: &Path| {
        let whole = std::fs::read(path).unwrap();
        if whole.is_empty() {
            return;
        }
        let mut bytes = whole.clone();
        let at = bytes.len() / 2;
        bytes[at] ^= 4;
        std::fs::write(path, bytes).unwrap();
        told += usize::from(!damage(folder.path()).is_empty());
        std::fs::write(path, whole).unwrap();
    };
    let tables = folder.path().join(STORE);
    let mut folders = vec![tables];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.path().to_string_lossy().contains("tables") {
                flip(&entry.path());
            }
        }
    }
    assert!(told > 0);
}
