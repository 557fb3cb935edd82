use std::collections::{BTreeMap, BTreeSet};

use openraft::EmptyNode;

use super::super::snapshot::Mark;
use super::super::types::{Membership, StoredMembership};
use super::*;

fn id(index: u64) -> LogId {
    let leader = CommittedLeaderIdOf::<Types> {
        term: 7,
        node_id: 65_539,
    };
    LogId::new(leader, index)
}

/// In the middle of a change of its voters, with a standby.
fn membership() -> Membership {
    let voters = [[1, 2, 3], [1, 2, 65_539]].map(BTreeSet::from);
    let nodes = [1, 2, 3, 4, 65_539].map(|node| (node, EmptyNode {}));
    Membership::new(voters.to_vec(), BTreeMap::from(nodes)).unwrap()
}

/// An entry of each kind.
fn entries() -> Vec<Entry> {
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(Proposal(Bytes::from_static(b"command"))),
        EntryPayload::Membership(membership()),
    ];
    let entries = (3..).zip(payloads);
    let entries = entries.map(|(index, payload)| Entry {
        log_id: id(index),
        payload,
    });
    entries.collect()
}

fn mark() -> Mark {
    Mark {
        applied: Some(id(5)),
        membership: StoredMembership::new(Some(id(5)), membership()),
        installed: Some(id(3)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Bytes {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

/// The payloads of entries, then what is kept with a commit of the store.
#[test]
fn entries_and_mark_of_version_1_have_these_bytes_and_are_read() {
    let mut lines: Vec<String> = entries()
        .iter()
        .map(|entry| hex(&encode(entry).payload))
        .collect();
    lines.push(hex(&mark().encode()));
    expect_test::expect_file!["../testdata/entry_v1.hex"].assert_eq(&(lines.join("\n") + "\n"));
    let mut lines = include_str!("../testdata/entry_v1.hex")
        .lines()
        .map(from_hex);
    for entry in entries() {
        let stored = wal::Entry {
            position: position(&entry.log_id),
            payload: lines.next().unwrap(),
        };
        let read = decode(stored).unwrap();
        assert_eq!(format!("{read:?}"), format!("{entry:?}"));
    }
    assert_eq!(Mark::decode(lines.next().unwrap()).unwrap(), mark());
}

#[test]
fn foreign_bytes_are_refused() {
    let at = position(&id(1));
    for payload in [&b""[..], b"12345678", b"12345678\x09"] {
        let entry = wal::Entry {
            position: at,
            payload: Bytes::copy_from_slice(payload),
        };
        assert_eq!(
            decode(entry).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
