//! What a store on disk must withstand: an older state of it, and readers beside the writer.

use std::path::Path;

use super::*;
use crate::store::{FjallStore, Options};
use crate::types::{ByteCount, Offset, TopicId};

fn open(folder: &Path) -> Arc<dyn TopicStore> {
    Arc::new(FjallStore::open(folder, Options::default()).unwrap())
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn log() -> Vec<Entry> {
    let commands = (0..400_u64).map(|number| match number % 50 {
        0 => create("news"),
        49 if number < 350 => Command::DeleteTopic {
            topic: topic("news"),
        },
        25 => Command::Trim {
            topic: topic("news"),
            topic_id: TopicId::new(shard().index(), number / 50 + 1),
            before: Offset(30),
            bytes: ByteCount(90),
        },
        within => {
            let trims = u64::from(within > 25);
            append("news", Some(("alice", number / 50, within - 1 - trims)), 3)
        }
    });
    let entries = commands.enumerate();
    entries
        .map(|(index, command)| (position(index as u64), Some(command.encode())))
        .collect()
}

/// After a power cut the store is as it was at an earlier commit; the log is applied again from its mark.
#[test]
fn older_store_is_made_equal_by_the_rest_of_the_log() {
    let (new, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let entries = log();
    let mut machine = Machine::open(shard(), open(new.path())).unwrap();
    let mut answers = Vec::new();
    for (number, group) in entries.chunks(7).enumerate() {
        answers.extend(
            machine
                .apply(group.to_vec(), Bytes::new())
                .unwrap()
                .outcomes,
        );
        if number == 20 {
            machine.store().checkpoint().unwrap();
            copy(new.path(), old.path());
        }
        machine.store().sweep(5).unwrap();
    }
    assert!(answers.iter().all(|outcome| matches!(outcome, Some(Ok(_)))));
    let mut behind = Machine::open(shard(), open(old.path())).unwrap();
    let applied = behind.applied().unwrap();
    assert_eq!(applied, position(146));
    assert_eq!(behind.durable_applied().unwrap(), Some(applied));
    let rest: Vec<Entry> = entries.into_iter().skip(147).collect();
    let again = behind.apply(rest, Bytes::new()).unwrap().outcomes;
    assert_eq!(Some(&again[..]), answers.get(147..));
    let digest = |machine: &Machine| machine.view().digest().unwrap();
    assert_eq!(digest(&behind), digest(&machine));
}

#[test]
fn reader_beside_the_writer_finds_all_that_a_topic_row_speaks_of() {
    let folder = tempfile::tempdir().unwrap();
    let mut single = Single::on(open(folder.path()));
    single.done(&create("news"));
    let view = single.machine.view();
    let reader = std::thread::spawn(move || {
        let mut from = Offset(0);
        while from < Offset(6000) {
            let row = view.topic(&topic("news")).unwrap().unwrap();
            let batches = view
                .batches(&row, from, u32::MAX, ByteCount(1 << 30))
                .unwrap();
            for batch in &batches {
                assert_eq!(batch.base_offset, from);
                from = batch.next_offset();
            }
            assert_eq!(from, row.next_offset);
        }
    });
    for sequence in 0..2000 {
        single.done(&append("news", Some(("alice", 1, sequence)), 3));
    }
    reader.join().unwrap();
}
