//! What the log refuses, and how it fails.

use std::sync::mpsc::channel;

use super::*;

fn refused(wal: &Wal, ops: Vec<Op>) -> Error {
    submit(wal, ops).unwrap_err()
}

#[test]
fn operations_that_do_not_fit_are_refused_as_a_whole() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    write(&wal, vec![append(1, run(0, 3))]);
    let gap = refused(&wal, vec![append(1, run(3, 4)), append(1, run(5, 6))]);
    assert!(
        matches!(
            gap,
            Error::Gap {
                expected: LogIndex(4),
                found: LogIndex(5),
                ..
            }
        ),
        "{gap}"
    );
    let purged = Purged {
        position: position(1, 0),
        state: Bytes::new(),
    };
    wal.purge(shard(1), purged).unwrap();
    let old = refused(&wal, vec![append(1, run(0, 1))]);
    assert!(
        matches!(
            old,
            Error::Purged {
                first: LogIndex(1),
                ..
            }
        ),
        "{old}"
    );
    let large = refused(&wal, vec![append(1, vec![entry(1, 3, 2000)])]);
    assert!(
        matches!(
            large,
            Error::TooLarge {
                bytes: 2040,
                limit: 2016
            }
        ),
        "{large}"
    );
    assert_eq!(all(&wal, 1), run(1, 3), "nothing was taken");
    write(&wal, vec![append(1, vec![entry(1, 3, 1976)])]);
}

#[test]
fn failed_sync_fails_the_log_for_good() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    write(&wal, vec![append(1, run(0, 1))]);
    disk.fail_sync_at(disk.syncs());
    let failed = wal.failed();
    assert!(failed.borrow().is_none());
    let result = submit(&wal, vec![append(1, run(1, 2))])
        .unwrap()
        .recv()
        .unwrap();
    assert!(matches!(result, Err(Error::Failed { .. })));
    assert!(failed.borrow().is_some());
    assert!(matches!(
        refused(&wal, vec![append(1, run(2, 3))]),
        Error::Failed { .. }
    ));
    assert_eq!(wal.durable(shard(1)), Some(position(1, 0)));
    disk.reboot(Survival::Everything);
    drop(wal);
    let wal = open(&disk);
    let found = all(&wal, 1);
    assert_eq!(found[..1], run(0, 1));
    disk.reboot(Survival::Nothing);
    drop(wal);
    assert_eq!(all(&open(&disk), 1), found, "what a start shows is durable");
}

#[test]
fn submitter_waits_for_room_but_not_for_ever() {
    let disk = FaultyDisk::new(1);
    let options = Options {
        queue_bytes_max: ByteCount(1000),
        queue_wait_max: Duration::from_millis(20),
        ..options()
    };
    let wal = open_as(&disk, options).unwrap();
    let (go, gate) = channel::<()>();
    let done = move |_| {
        let _ = gate.recv();
    };
    wal.submit(vec![append(1, run(0, 1))], Box::new(done))
        .unwrap();
    let mut next = 1;
    let error = loop {
        match submit(&wal, vec![append(1, run(next, next + 1))]) {
            Ok(_) => next += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::Overloaded { limit: 1000, .. }),
        "{error}"
    );
    assert_eq!(all(&wal, 1), run(0, next), "the refused one was not taken");
    go.send(()).unwrap();
    write(&wal, vec![append(1, run(next, next + 1))]);
}

#[test]
fn shutdown_writes_what_was_submitted_and_frees_the_directory() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    assert!(
        matches!(open_as(&disk, options()), Err(Error::Disk(_))),
        "locked"
    );
    for index in 0..50 {
        submit(&wal, vec![append(1, run(index, index + 1))]).unwrap();
    }
    wal.shutdown();
    assert!(matches!(
        refused(&wal, vec![append(1, run(50, 51))]),
        Error::Closed
    ));
    disk.reboot(Survival::Nothing);
    assert_eq!(all(&open(&disk), 1), run(0, 50));
}

#[test]
fn completion_may_submit() {
    let disk = FaultyDisk::new(1);
    let wal = Arc::new(open(&disk));
    let (sender, receiver) = channel();
    let again = Arc::clone(&wal);
    let done = move |_| {
        let result = submit(&again, vec![append(1, run(1, 2))]);
        sender.send(result.unwrap()).unwrap();
    };
    wal.submit(vec![append(1, run(0, 1))], Box::new(done))
        .unwrap();
    receiver.recv().unwrap().recv().unwrap().unwrap();
    assert_eq!(all(&wal, 1), run(0, 2));
}

#[test]
fn commit_hint_is_written_when_the_log_is_idle() {
    let disk = FaultyDisk::new(1);
    let options = Options {
        idle_after: Duration::from_millis(1),
        ..options()
    };
    let wal = open_as(&disk, options).unwrap();
    write(&wal, vec![append(1, run(0, 1))]);
    let state = Bytes::from_static(b"hint");
    submit(
        &wal,
        vec![Op::Committed {
            shard: shard(1),
            state: state.clone(),
        }],
    )
    .unwrap();
    let is_written = || {
        let bytes = disk.contents(Path::new("/wal/0000000001.wal")).unwrap();
        bytes.windows(4).any(|four| four == b"hint")
    };
    while !is_written() {
        std::thread::yield_now();
    }
    disk.reboot(Survival::Everything);
    wal.shutdown();
    assert_eq!(open(&disk).bounds(shard(1)).committed, Some(state));
}

#[test]
fn bad_settings_are_refused() {
    for bytes in [0, 1000, 1025, (256 << 20) + 8] {
        let options = Options {
            segment_bytes: ByteCount(bytes),
            ..options()
        };
        let result = open_as(&FaultyDisk::new(1), options);
        assert!(matches!(result, Err(Error::Setting { .. })), "{bytes}");
    }
}
