//! Damaged, torn, foreign and missing files.

use super::*;
use crate::wal::inspect::{Inspected, inspect};
use crate::wal::record::{Kind, Record, checksum, record_bytes};

fn segment(number: u32) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{number:010}.wal"))
}

/// A disk that has these files only.
fn copy(files: &[(PathBuf, Vec<u8>)]) -> FaultyDisk {
    let disk = FaultyDisk::new(1);
    for (path, bytes) in files {
        disk.set_contents(path, bytes);
    }
    disk
}

fn contents(disk: &FaultyDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = files(disk)
        .into_iter()
        .map(|name| Path::new(DIRECTORY).join(name));
    paths
        .map(|path| (path.clone(), disk.contents(&path).unwrap()))
        .collect()
}

fn small() -> Options {
    Options {
        segment_bytes: ByteCount(1024),
        ..options()
    }
}

fn reopen(disk: &FaultyDisk) -> Result<Wal, Error> {
    open_as(disk, small())
}

/// Eight groups in three segments; `finish` ends the process.
fn example(finish: fn(&FaultyDisk, Wal)) -> Vec<(PathBuf, Vec<u8>)> {
    let disk = FaultyDisk::new(1);
    let wal = reopen(&disk).unwrap();
    let state = Bytes::from_static(b"vote");
    write(
        &wal,
        vec![Op::HardState {
            shard: shard(3),
            state,
        }],
    );
    for index in 0..8 {
        write(
            &wal,
            vec![
                append(1, run(index, index + 1)),
                append(2, run(index, index + 1)),
            ],
        );
    }
    finish(&disk, wal);
    contents(&disk)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "one signature for all ways to end"
)]
fn shut_down(_: &FaultyDisk, wal: Wal) {
    wal.shutdown();
}

fn kill(disk: &FaultyDisk, wal: Wal) {
    disk.reboot(Survival::Nothing);
    drop(wal);
}

fn is_whole(wal: &Wal, count: u64) -> bool {
    all(wal, 1) == run(0, count)
        && all(wal, 2) == run(0, count)
        && wal.bounds(shard(3)).hard_state.is_some()
}

#[test]
fn flipped_byte_is_refused_or_harms_nothing() {
    let files = example(shut_down);
    assert!(files.len() >= 3);
    let mut refused = 0;
    for (path, bytes) in &files {
        for at in 0..bytes.len() {
            let disk = copy(&files);
            disk.flip(path, at, 1 << (at % 8));
            match reopen(&disk) {
                Ok(wal) => assert!(is_whole(&wal, 8), "{path:?} at {at} lost something"),
                Err(Error::Damaged { .. } | Error::NewerVersion { .. }) => refused += 1,
                Err(other) => panic!("{path:?} at {at}: {other}"),
            }
        }
    }
    assert!(refused > 1800, "{refused}");
}

#[test]
fn flipped_byte_after_a_kill_costs_at_most_the_last_group() {
    let files = example(kill);
    for (path, bytes) in &files {
        for at in 0..bytes.len() {
            let disk = copy(&files);
            disk.flip(path, at, 0x10);
            if let Ok(wal) = reopen(&disk) {
                let counts = (all(&wal, 1).len() as u64, all(&wal, 2).len() as u64);
                assert!(
                    matches!(counts, (7 | 8, 7 | 8)),
                    "{path:?} at {at}: {counts:?}"
                );
            }
        }
    }
}

#[test]
fn torn_tail_at_every_byte_of_the_last_record_is_cut_off() {
    let files = example(kill);
    let (path, bytes) = files
        .iter()
        .rfind(|(_, bytes)| bytes[64..].iter().any(|byte| *byte != 0))
        .unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let end = end.next_multiple_of(8);
    let start = end - usize::try_from(record_bytes(100)).unwrap();
    for cut in start..end {
        for filler in [0, 0xff] {
            let disk = copy(&files);
            let mut torn = bytes.clone();
            torn[cut..end].fill(filler);
            disk.set_contents(path, &torn);
            let wal = reopen(&disk).unwrap();
            let is_padding = filler == 0 && cut >= end - 4;
            assert_eq!(all(&wal, 1), run(0, 8));
            assert_eq!(
                all(&wal, 2),
                run(0, if is_padding { 8 } else { 7 }),
                "cut at {cut}"
            );
            let next = all(&wal, 2).len() as u64;
            write(&wal, vec![append(2, run(next, 9))]);
            kill(&disk, wal);
            assert_eq!(all(&reopen(&disk).unwrap(), 2), run(0, 9), "cut at {cut}");
        }
    }
}

#[test]
fn stale_record_behind_a_torn_one_stays_dead() {
    let disk = FaultyDisk::new(1);
    let wal = reopen(&disk).unwrap();
    write(&wal, vec![append(1, run(0, 2))]);
    kill(&disk, wal);
    // Of one group the second record reached the disk, the first did not.
    let mut bytes = disk.contents(&segment(1)).unwrap();
    bytes[104..104 + 144].fill(0);
    disk.set_contents(&segment(1), &bytes);
    let wal = reopen(&disk).unwrap();
    assert_eq!(all(&wal, 1), []);
    write(&wal, vec![append(2, run(0, 1))]);
    kill(&disk, wal);
    let wal = reopen(&disk).unwrap();
    assert_eq!((all(&wal, 1), all(&wal, 2)), (vec![], run(0, 1)));
}

#[test]
fn damage_before_a_proof_names_file_and_position() {
    let files = example(shut_down);
    let disk = copy(&files);
    disk.flip(&segment(1), 64 + 40, 1);
    let Err(Error::Damaged {
        file,
        position,
        expected,
        found,
    }) = reopen(&disk)
    else {
        panic!("not refused");
    };
    assert_eq!(
        (file, position),
        (segment(1), 104),
        "the record after the first mark"
    );
    assert!(
        expected.starts_with("record 2, as segment 2 begins with record"),
        "{expected}"
    );
    assert!(found.starts_with("checksum"), "{found}");
}

#[test]
fn damage_found_when_read_is_an_error() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    write(&wal, vec![append(1, run(0, 3))]);
    disk.flip(&segment(1), 64 + 40 + 144 + 50, 1);
    let read = |index| wal.entries(shard(1), LogIndex(index)..LogIndex(index + 1), ByteCount(0));
    assert_eq!(read(0).unwrap(), run(0, 1));
    assert!(matches!(read(1), Err(Error::Damaged { position: 248, .. })));
    assert_eq!(read(2).unwrap(), run(2, 3));
}

#[test]
fn missing_segments_are_refused() {
    let files = example(shut_down);
    let middle: Vec<_> = files
        .iter()
        .filter(|(path, _)| *path != segment(2))
        .cloned()
        .collect();
    let error = reopen(&copy(&middle)).unwrap_err();
    assert!(
        matches!(error, Error::SegmentMissing { number: 2, .. }),
        "{error}"
    );
    let error = reopen(&copy(&files[1..])).unwrap_err();
    assert!(matches!(error, Error::EntriesMissing { .. }), "{error}");
}

#[test]
fn foreign_and_newer_files_are_refused() {
    let files = example(shut_down);
    let other = Options {
        identity: Identity {
            peer: PeerId(6),
            ..identity()
        },
        ..small()
    };
    let error = open_as(&copy(&files), other).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("belongs to peer 5 (incarnation 1) of cluster 636c"),
        "{text}"
    );

    let mut newer = files[0].1.clone();
    newer[8] = 2;
    let sum = checksum(&newer[..60]).to_le_bytes();
    newer[60..64].copy_from_slice(&sum);
    let disk = copy(&files);
    disk.set_contents(&files[0].0, &newer);
    let error = reopen(&disk).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NewerVersion {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn incomplete_last_segment_is_made_again() {
    let files = example(shut_down);
    let next = segment(u32::try_from(files.len()).unwrap() + 1);
    for incomplete in [
        vec![],
        vec![0; 10],
        vec![0; 1024],
        [vec![1; 30], vec![0; 994]].concat(),
    ] {
        let disk = copy(&files);
        disk.set_contents(&next, &incomplete);
        assert!(is_whole(&reopen(&disk).unwrap(), 8));
    }
    // The header was written, the length was not durable; or the setting has changed.
    for bytes in [64, 2048] {
        let disk = FaultyDisk::new(1);
        let settings = Options {
            segment_bytes: ByteCount(1024 + bytes),
            ..small()
        };
        drop(open_as(&disk, settings).unwrap());
        let mut spare = disk.contents(&segment(2)).unwrap();
        spare.truncate(usize::try_from(bytes).unwrap());
        let first = disk.contents(&segment(1)).unwrap();
        let disk = copy(&[(segment(1), first), (segment(2), spare)]);
        let wal = reopen(&disk).unwrap();
        for index in 0..20 {
            write(&wal, vec![append(1, run(index, index + 1))]);
        }
    }
    let disk = copy(&files);
    disk.set_contents(&next, &[1; 1024]);
    assert!(matches!(reopen(&disk), Err(Error::Damaged { .. })));
}

#[test]
fn record_inside_a_payload_proves_nothing() {
    let disk = FaultyDisk::new(1);
    let wal = reopen(&disk).unwrap();
    write(&wal, vec![append(1, run(0, 1))]);
    let mut forged = Vec::new();
    let record = Record {
        sequence: 4,
        index: 9,
        term: 1,
        synced: 1000,
        shard: 1,
        kind: Kind::Entry,
        payload: b"",
    };
    record.encode(0, &mut forged);
    let payload = forged.repeat(8).into();
    let position = position(1, 1);
    write(&wal, vec![append(1, vec![Entry { position, payload }])]);
    kill(&disk, wal);
    disk.flip(&segment(1), 64 + 40 + 144, 1);
    let wal = reopen(&disk).unwrap();
    assert_eq!(all(&wal, 1), run(0, 1), "a torn tail");
}

fn inspected(disk: &FaultyDisk) -> Inspected {
    let before = contents(disk);
    let operations = disk.operations();
    let found = inspect(disk, Path::new(DIRECTORY), Some(&identity())).unwrap();
    assert!(
        contents(disk) == before && disk.operations() == operations,
        "it changes nothing"
    );
    found
}

#[test]
fn inspection_of_a_whole_log_tells_what_the_log_holds() {
    for finish in [shut_down, kill] {
        let files = example(finish);
        let disk = copy(&files);
        let found = inspected(&disk);
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        assert_eq!(found.segments.len(), files.len());
        let wal = reopen(&disk).unwrap();
        for (index, bounds) in &found.shards {
            assert_eq!(*bounds, wal.bounds(shard(*index)));
        }
        assert_eq!(found.shards.len(), 3);
    }
    let nothing = inspect(&FaultyDisk::new(1), Path::new(DIRECTORY), None).unwrap();
    assert!(nothing.segments.is_empty() && nothing.problems.is_empty());
}

#[test]
fn inspection_finds_each_damage_that_a_start_refuses_and_reads_on() {
    let files = example(shut_down);
    let whole: u64 = inspected(&copy(&files))
        .segments
        .iter()
        .map(|segment| segment.records)
        .sum();
    for (path, bytes) in &files {
        for at in 0..bytes.len() {
            let disk = copy(&files);
            disk.flip(path, at, 1 << (at % 8));
            let found = inspected(&disk);
            let refusal = reopen(&disk).err();
            assert_eq!(
                found.problems.is_empty(),
                refusal.is_none(),
                "{path:?} at {at}"
            );
            if let (Some(Error::Damaged { file, position, .. }), Some(refusal)) =
                (found.problems.first(), refusal)
            {
                assert!(refusal.to_string().starts_with(&format!(
                    "{} is damaged at byte {position}:",
                    file.display()
                )));
            }
            let records: u64 = found.segments.iter().map(|segment| segment.records).sum();
            // What shares a group with the damaged one is read on only where this file proves the damage.
            let is_header = at < 64;
            assert!(
                records + 2 >= whole || is_header,
                "{path:?} at {at}: {records} of {whole}"
            );
        }
    }
}

#[test]
fn inspection_tells_missing_foreign_and_newer_files() {
    let files = example(shut_down);
    let mut some = files.clone();
    some.remove(1);
    let missing = inspected(&copy(&some));
    assert!(matches!(
        missing.problems[0],
        Error::SegmentMissing { number: 2, .. }
    ));
    let disk = copy(&files);
    let other = Identity {
        peer: PeerId(6),
        ..identity()
    };
    let foreign = inspect(&disk, Path::new(DIRECTORY), Some(&other)).unwrap();
    assert_eq!(foreign.problems.len(), files.len());
    assert!(matches!(foreign.problems[0], Error::Foreign { .. }));
    let anybody = inspect(&disk, Path::new(DIRECTORY), None).unwrap();
    assert!(anybody.problems.is_empty());
}

/// Writes the fixture anew with `UPDATE_EXPECT=1`, which only a new version may need.
#[test]
fn version_1_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wal/testdata/version-1.wal");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let disk = FaultyDisk::new(1);
        let wal = reopen(&disk).unwrap();
        let state = |text: &'static str| Bytes::from_static(text.as_bytes());
        let purged = Purged {
            position: position(1, 0),
            state: state("purged"),
        };
        let last = Some(LogIndex(2));
        write(&wal, vec![append(4, vec![entry(1, 0, 9)])]);
        write(&wal, vec![Op::Reset { shard: shard(4) }]);
        write(&wal, vec![append(4, run(0, 4))]);
        write(
            &wal,
            vec![
                Op::Purge {
                    shard: shard(4),
                    purged,
                },
                Op::TruncateAfter {
                    shard: shard(4),
                    last,
                },
            ],
        );
        write(
            &wal,
            vec![
                Op::HardState {
                    shard: shard(4),
                    state: state("vote"),
                },
                Op::Committed {
                    shard: shard(4),
                    state: state("committed"),
                },
            ],
        );
        wal.shutdown();
        std::fs::write(&path, disk.contents(&segment(1)).unwrap()).unwrap();
    }
    let disk = FaultyDisk::new(1);
    disk.set_contents(&segment(1), &std::fs::read(&path).unwrap());
    let wal = reopen(&disk).unwrap();
    assert_eq!(all(&wal, 4), run(1, 3));
    let bounds = wal.bounds(shard(4));
    assert_eq!(bounds.hard_state.unwrap(), "vote");
    assert_eq!(bounds.committed.unwrap(), "committed");
    assert_eq!(bounds.purged.unwrap().state, "purged");
}
