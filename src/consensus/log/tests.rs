use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt;
use openraft::EmptyNode;

use super::super::snapshot::Mark;
use super::super::types::{Membership, StoredMembership};
use super::*;
use crate::types::LogPosition;

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

/// A log that takes everything and finishes nothing.
#[derive(Default)]
struct Endless(std::sync::Mutex<Vec<(Op, wal::Completion)>>);

impl Endless {
    /// Finishes what was submitted first, if anything was.
    fn finish(&self) -> Option<Op> {
        let mut taken = self.0.lock().unwrap();
        let (op, done) = (!taken.is_empty()).then(|| taken.remove(0))?;
        done(Ok(()));
        Some(op)
    }
}

impl RaftLog for Endless {
    fn submit(&self, ops: Vec<Op>, done: wal::Completion) -> Result<(), wal::Error> {
        let [op] = ops.try_into().unwrap();
        self.0.lock().unwrap().push((op, done));
        Ok(())
    }

    fn is_crowded(&self) -> bool {
        false
    }

    fn entries(
        &self,
        _: Vertex,
        _: Range<LogIndex>,
        _: ByteCount,
    ) -> Result<Vec<wal::Entry>, wal::Error> {
        Ok(Vec::new())
    }

    fn bounds(&self, _: Vertex) -> wal::Bounds {
        wal::Bounds::default()
    }

    fn durable(&self, _: Vertex) -> Option<LogPosition> {
        None
    }

    fn aged(&self, _: Vertex, _: ByteCount) -> Option<LogIndex> {
        None
    }

    fn failed(&self) -> watch::Receiver<Option<Arc<wal::Error>>> {
        watch::channel(None).1
    }

    fn figures(&self) -> wal::Figures {
        wal::Figures::default()
    }

    fn shutdown(&self) {}
}

/// Raft, section 5.1: a vote is on disk before anything is said that depends on it. That it has won is not part of it.
#[test]
fn vote_waits_for_the_disk_and_its_victory_does_not() {
    let shard = "000".parse().unwrap();
    let disk = Arc::new(Endless::default());
    let given_up = CancellationToken::new();
    let mut log = ShardLog::new(shard, Arc::<Endless>::clone(&disk), given_up);
    let vote = |term, committed| {
        convert::vote_from_proto(&proto::Vote {
            term,
            node: 9,
            committed,
        })
    };
    // Of a leader that this replica did not vote for, of a candidate, and of another leader.
    for vote in [vote(3, true), vote(8, false), vote(9, true)] {
        let mut saving = Box::pin(log.save_vote(&vote));
        assert!((&mut saving).now_or_never().is_none(), "{vote}");
        assert!(matches!(disk.finish(), Some(Op::HardState { .. })));
        saving.now_or_never().unwrap().unwrap();
        if vote.committed {
            continue;
        }
        let won = convert::vote_from_proto(&proto::Vote {
            committed: true,
            ..convert::vote_to_proto(&vote)
        });
        log.save_vote(&won).now_or_never().unwrap().unwrap();
        let Some(Op::HardState { state, .. }) = disk.finish() else {
            panic!("it is not written");
        };
        let written = proto::Vote::decode(state).unwrap();
        assert_eq!(convert::vote_from_proto(&written), won);
    }
}
