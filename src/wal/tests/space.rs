//! Room on the disk: what purging and resetting give back, and what happens when there is none.

use super::*;

fn purge(wal: &Wal, shard_index: u16, upto: u64) {
    let purged = Purged {
        position: position(1, upto),
        state: Bytes::new(),
    };
    wal.purge(shard(shard_index), purged).unwrap();
}

fn append_to(wal: &Wal, shard_index: u16, indices: std::ops::Range<u64>) {
    for index in indices {
        write(wal, vec![append(shard_index, run(index, index + 1))]);
    }
}

#[test]
fn disk_stays_bounded_under_endless_load_and_idle_shards_pin_nothing() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    append_to(&wal, 2, 0..3);
    append_to(&wal, 3, 0..1);
    let keep = ByteCount(3 * 4096);
    let mut most = 0;
    for index in 0..2_000 {
        append_to(&wal, 1, index..index + 1);
        for idle in 1..4 {
            if let Some(aged) = wal.aged(shard(idle), keep) {
                purge(&wal, idle, aged.0);
            }
        }
        most = most.max(wal.figures().bytes.0);
    }
    assert!(most <= 5 * 4096, "{most}");
    assert_eq!(wal.bounds(shard(2)).first, None, "all its entries were old");
    wal.shutdown();
    assert!(files(&disk).len() <= 6, "{:?}", files(&disk));
    let wal = open(&disk);
    assert_eq!(
        wal.bounds(shard(2)).purged.unwrap().position,
        position(1, 2)
    );
    assert_eq!(wal.bounds(shard(1)).last, Some(position(1, 1_999)));
    append_to(&wal, 2, 3..4);
    assert_eq!(all(&wal, 2), run(3, 4));
}

/// How many segments are left of a log of a hundred entries when those up to the aged one are purged, or up to the one before.
fn left(keep: u64, before: u64) -> u32 {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    append_to(&wal, 1, 0..100);
    let aged = wal.aged(shard(1), ByteCount(keep)).unwrap();
    purge(&wal, 1, aged.0 - before);
    wal.shutdown();
    wal.figures().segments
}

#[test]
fn aged_is_the_last_entry_outside_the_newest_segments() {
    for kept in 1..4 {
        for bytes in [u64::from(kept) * 4096, u64::from(kept) * 4096 - 4095] {
            assert_eq!(left(bytes, 0), kept, "{bytes}");
            assert_eq!(left(bytes, 1), kept + 1, "{bytes}");
        }
    }
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    let aged = |keep| wal.aged(shard(1), ByteCount(keep));
    assert_eq!(aged(0), None, "never written to");
    append_to(&wal, 1, 0..100);
    assert_eq!(aged(0), Some(LogIndex(99)));
    assert_eq!(aged(wal.figures().bytes.0), None);
    assert_eq!(aged(u64::MAX), None);
    purge(&wal, 1, 99);
    assert_eq!(aged(0), None, "purged");
}

#[test]
fn reset_shard_is_as_never_written_before_and_after_a_start() {
    for purges_others in [true, false] {
        let disk = FaultyDisk::new(1);
        let wal = open(&disk);
        let state = Bytes::from_static(b"old");
        for op in [
            Op::HardState {
                shard: shard(1),
                state: state.clone(),
            },
            Op::Committed {
                shard: shard(1),
                state,
            },
        ] {
            submit(&wal, vec![op]).unwrap();
        }
        append_to(&wal, 2, 0..60);
        append_to(&wal, 1, 0..60);
        purge(&wal, 1, 9);
        submit(&wal, vec![append(1, run(60, 61))]).unwrap();
        let reset = Op::Reset { shard: shard(1) };
        let done = submit(&wal, vec![reset, append(1, vec![entry(7, 0, 10)])]).unwrap();
        assert_eq!(all(&wal, 1), [entry(7, 0, 10)], "visible at once");
        done.recv().unwrap().unwrap();
        let bounds = wal.bounds(shard(1));
        assert_eq!((bounds.purged, bounds.hard_state), (None, None));
        assert_eq!(bounds.committed, None);
        assert_eq!(wal.durable(shard(1)), Some(position(7, 0)));
        if purges_others {
            purge(&wal, 2, 59);
        }
        // Through a new head, which must not know the old states.
        append_to(&wal, 2, 60..120);
        let expected = wal.bounds(shard(1));
        wal.shutdown();
        let is_first_left = files(&disk)[0] == "0000000001.wal";
        assert_eq!(is_first_left, !purges_others, "{:?}", files(&disk));
        let wal = open(&disk);
        assert_eq!(wal.bounds(shard(1)), expected);
        assert_eq!(all(&wal, 1), [entry(7, 0, 10)]);
        write(&wal, vec![Op::Reset { shard: shard(1) }]);
        assert_eq!(wal.bounds(shard(1)), super::super::Bounds::default());
    }
}

#[test]
fn reset_gives_segments_back_once_it_is_durable() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    append_to(&wal, 1, 0..100);
    write(&wal, vec![Op::Reset { shard: shard(1) }]);
    wal.shutdown();
    assert!(files(&disk).len() <= 2, "{:?}", files(&disk));
    assert_eq!(all(&open(&disk), 1), []);
}

/// A log on a disk that has become full, how many entries of shard 1 are durable, and the one that waits.
fn full(disk: &FaultyDisk) -> (Wal, u64, Receiver<Result<(), Error>>) {
    let options = Options {
        room_retry_interval: Duration::from_millis(1),
        ..options()
    };
    let wal = open_as(disk, options).unwrap();
    disk.limit(20_000);
    for index in 0.. {
        let done = submit(&wal, vec![append(1, run(index, index + 1))]).unwrap();
        loop {
            match done.try_recv() {
                Ok(result) => break result.unwrap(),
                Err(_) if wal.figures().is_waiting_for_room => return (wal, index, done),
                Err(_) => std::thread::yield_now(),
            }
        }
    }
    unreachable!()
}

#[test]
fn log_on_a_full_disk_waits_for_room_and_goes_on() {
    let disk = FaultyDisk::new(1);
    let (wal, count, waiting) = full(&disk);
    assert_eq!(all(&wal, 1), run(0, count + 1), "reads go on");
    assert_eq!(wal.durable(shard(1)), Some(position(1, count - 1)));
    assert!(waiting.try_recv().is_err());
    disk.limit(u64::MAX);
    waiting.recv().unwrap().unwrap();
    assert!(!wal.figures().is_waiting_for_room);
    assert!(wal.failed().borrow().is_none());
    append_to(&wal, 1, count + 1..count + 100);
    disk.reboot(Survival::Nothing);
    drop(wal);
    assert_eq!(all(&open(&disk), 1), run(0, count + 100));
}

#[test]
fn log_that_waits_for_room_ends_when_it_is_shut_down() {
    let disk = FaultyDisk::new(1);
    let (wal, count, waiting) = full(&disk);
    let queued = submit(&wal, vec![append(1, run(count + 1, count + 2))]).unwrap();
    wal.shutdown();
    for done in [waiting, queued] {
        assert!(matches!(done.recv().unwrap(), Err(Error::Closed)));
    }
    assert_eq!(all(&open(&disk), 1), run(0, count));
}
