//! Bits flipped in, and ends cut off, the files of a real store: what is read is what was written, or an error; never anything else.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::*;

const COMMITS: u64 = 60;
const FLUSH_EVERY: u64 = 12;
/// Damages tried by one run.
const DAMAGES: u64 = 120;

/// A plain generator (SplitMix64), so that a failure says its seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// Batch number `base` of a topic of small ones, which stay with their keys.
fn nth(base: u64) -> StoredBatch {
    let length = if base.is_multiple_of(3) { 9 } else { 120 };
    let message = vec![u8::try_from(base % 256).unwrap(); length];
    stored(base, base, batch(&[&message]))
}

fn shards() -> [(Vertex, TopicId); 2] {
    [
        (shard("100"), TopicId::new(4, 1)),
        (shard("101"), TopicId::new(5, 1)),
    ]
}

fn build(folder: &Path) {
    let store = FjallStore::open(folder, Options::default()).unwrap();
    for number in 0..COMMITS {
        for (shard, topic) in shards() {
            let name = format!("row-{}", number % 20);
            let text = format!("{number}");
            let mut writes = rows(&[(Table::Topic, &name, Some(&text))]);
            let large = stored(number, 1, batch(&[&[7; 127]]));
            writes.batches = vec![
                (topic, nth(number)),
                (TopicId::new(shard.index(), 2), large),
            ];
            let many: Vec<&[u8]> = vec![&[9; 100]; 9];
            let kept_apart = stored(number * 9, 1, batch(&many));
            writes
                .batches
                .push((TopicId::new(shard.index(), 3), kept_apart));
            let mark = Bytes::from((number + 1).to_string());
            store.commit(shard, writes, mark).unwrap();
        }
        if (number + 1).is_multiple_of(FLUSH_EVERY) {
            store.checkpoint().unwrap();
        }
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The bytes of a file without the zeros at its end: the engine's journal is made long beforehand.
fn body(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    let length = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    bytes.truncate(length);
    bytes
}

fn copy(from: &Path, bodies: &[(PathBuf, Vec<u8>, u64)], to: &Path) {
    for (path, body, length) in bodies {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(&target, body).unwrap();
        let file = fs::OpenOptions::new().write(true).open(target).unwrap();
        file.set_len(*length).unwrap();
    }
}

/// Reads all of a shard; `false` when something was reported.
fn is_whole(reader: &dyn Reader, shard: Vertex, topic: TopicId) -> bool {
    let Ok(mark) = reader.mark(shard) else {
        return false;
    };
    // The engine may take damage in its journal for the journal's end: then the mark is an earlier one, and the log tells the gap.
    let count: u64 = mark.map_or(0, |mark| {
        std::str::from_utf8(&mark).unwrap().parse().unwrap()
    });
    assert!(count.is_multiple_of(FLUSH_EVERY) && count <= COMMITS);
    let mut is_whole = count == COMMITS;
    for name in 0..20 {
        let key = format!("row-{name}");
        let last = (0..count).rev().find(|number| number % 20 == name);
        match reader.row(shard, Table::Topic, key.as_bytes()) {
            Ok(row) => {
                let expected = last.map(|number| Bytes::from(number.to_string()));
                assert_eq!(row, expected, "{key} at mark {count}");
            }
            Err(error) => {
                assert!(error.is_damage(), "{error:?}");
                is_whole = false;
            }
        }
    }
    for number in 0..count {
        match reader.batch_at(topic, Offset(number)) {
            Ok(batch) => assert_eq!(batch, Some(nth(number))),
            Err(error) => {
                assert!(error.is_damage(), "{error:?}");
                is_whole = false;
            }
        }
    }
    for (number, until) in [(2, count), (3, count * 9)] {
        let topic = TopicId::new(shard.index(), number);
        let range = BatchRange {
            from: Offset(0),
            until: Offset(until),
            count_max: u32::MAX,
            bytes_max: ByteCount(u64::MAX),
        };
        match reader.batches(topic, range) {
            Ok(found) => {
                let messages: u32 = found.iter().map(|batch| batch.batch.count()).sum();
                assert_eq!(u64::from(messages), until);
            }
            Err(error) => {
                assert!(error.is_damage(), "{error:?}");
                is_whole = false;
            }
        }
    }
    is_whole
}

/// Damage in the tables stops the engine when it merges them. The store finds the reason and says that all of it is damaged.
#[test]
fn damage_met_by_a_compaction_is_told() {
    let folder = tempfile::tempdir().unwrap();
    build(folder.path());
    let mut paths = Vec::new();
    files(folder.path(), &mut paths);
    let is_table = |path: &PathBuf| path.parent().unwrap().ends_with("keyspaces/1/tables");
    let tables: Vec<_> = paths.into_iter().filter(is_table).collect();
    assert!(!tables.is_empty());
    for table in tables {
        let byte = fs::read(&table).unwrap()[100] ^ 1;
        let file = fs::OpenOptions::new().write(true).open(table).unwrap();
        file.write_all_at(&[byte], 100).unwrap();
    }
    let store = FjallStore::open(folder.path(), Options::default()).unwrap();
    let mut failed = None;
    for number in COMMITS..COMMITS + 200 {
        let writes = Writes {
            batches: vec![(topic(), nth(number))],
            ..Writes::default()
        };
        let mark = Bytes::from((number + 1).to_string());
        let committed = store.commit(shard("100"), writes, mark);
        if let Err(error) = committed.and_then(|()| store.checkpoint()) {
            failed = Some(error);
            break;
        }
    }
    let failed = failed.expect("the engine has merged damaged tables");
    assert!(failed.is_damage(), "{failed:?}");
    assert!(store.failed().borrow().as_ref().unwrap().is_damage());
    assert!(!store.damaged().borrow().is_empty());
}

/// What became of one damage.
#[derive(Debug, Default)]
struct Tally {
    refused: u32,
    reported: u32,
    harmless: u32,
}

fn try_one(folder: &Path, tally: &mut Tally) {
    let mut findings = 0;
    let inspected = inspect(folder, &mut |finding| {
        assert!(finding.error.is_damage());
        findings += 1;
    });
    let Ok(store) = FjallStore::open(folder, Options::default()) else {
        tally.refused += 1;
        return;
    };
    let frozen = store.snapshot().unwrap();
    let mut whole = 0;
    for (shard, topic) in shards() {
        let live = is_whole(&store, shard, topic);
        assert_eq!(is_whole(&*frozen, shard, topic), live);
        let is_known = store.damaged().borrow().contains_key(&shard.index());
        let is_behind = store
            .durable_mark(shard)
            .is_none_or(|mark| mark != COMMITS.to_string());
        assert_eq!(
            is_known || is_behind,
            !live,
            "{:?}",
            store.damaged().borrow()
        );
        whole += u32::from(live);
        assert!(
            !is_known || findings > 0,
            "what is met is found offline too"
        );
    }
    assert_eq!(inspected.unwrap().finding_count, findings);
    if whole == 2 {
        tally.harmless += 1;
        return;
    }
    tally.reported += 1;
    // A damaged shard can be emptied, or the store says that it cannot, or its engine has met the damage first while it merged files.
    match store.erase(shard("100")) {
        Ok(()) => assert_eq!(store.mark(shard("100")).unwrap(), None),
        Err(error) => assert!(
            error.is_damage() || matches!(error, Error::Stopped(_)),
            "{error:?}"
        ),
    }
}

fn damage(is_cut: impl Fn(&mut Chance) -> bool, seed: u64) -> Tally {
    let original = tempfile::tempdir().unwrap();
    build(original.path());
    let mut paths = Vec::new();
    files(original.path(), &mut paths);
    paths.sort();
    let bodies: Vec<_> = paths
        .into_iter()
        .map(|path| {
            let (body, length) = (body(&path), fs::metadata(&path).unwrap().len());
            (path, body, length)
        })
        .collect();
    let mut chance = Chance(seed);
    let mut tally = Tally::default();
    let with_bytes: Vec<_> = bodies
        .iter()
        .filter(|(_, body, _)| !body.is_empty())
        .collect();
    for number in 0..DAMAGES {
        let folder = tempfile::tempdir().unwrap();
        copy(original.path(), &bodies, folder.path());
        let (path, body, _) =
            with_bytes[usize::try_from(chance.next(with_bytes.len() as u64)).unwrap()];
        let place = chance.next(body.len() as u64);
        let target = folder
            .path()
            .join(path.strip_prefix(original.path()).unwrap());
        let file = fs::OpenOptions::new().write(true).open(&target).unwrap();
        let what = if is_cut(&mut chance) {
            file.set_len(place).unwrap();
            "cut"
        } else {
            let byte = body[usize::try_from(place).unwrap()] ^ (1 << chance.next(8));
            file.write_all_at(&[byte], place).unwrap();
            "flip"
        };
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            try_one(folder.path(), &mut tally);
        }));
        let name = path.strip_prefix(original.path()).unwrap().display();
        assert!(
            tried.is_ok(),
            "seed {seed}, number {number}: {what} at {place} of {name}"
        );
    }
    tally
}

#[test]
fn flipped_bits_are_never_served() {
    let tally = damage(|_| false, 7);
    println!("flips: {tally:?}");
    assert!(tally.refused > 0 && tally.reported > 0, "{tally:?}");
}

#[test]
fn cut_files_are_never_served() {
    let tally = damage(|_| true, 8);
    println!("cuts: {tally:?}");
    assert!(tally.refused + tally.reported > 0, "{tally:?}");
}
