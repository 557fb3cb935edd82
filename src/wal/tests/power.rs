//! Any operations, power cuts anywhere: what was completed is there, and what is there is a state that the operations passed through.

use proptest::prelude::*;
use proptest::sample::Index;

use super::model::Model;
use super::*;

const SHARDS: u16 = 3;

/// An operation whose numbers are made to fit the log when it is its turn.
#[derive(Debug, Clone)]
enum Plan {
    Append {
        back: Option<Index>,
        count: u64,
        bytes: usize,
    },
    Truncate {
        keep: Index,
    },
    HardState(u8),
    Committed,
    Purge {
        ahead: bool,
        upto: Index,
    },
    /// Purges what a small bound of the log's size asks for.
    PurgeAged,
    Reset,
}

fn plan() -> impl Strategy<Value = Plan> {
    let append = |back| {
        (back, 1..6u64, 0..300usize).prop_map(|(back, count, bytes)| Plan::Append {
            back,
            count,
            bytes,
        })
    };
    prop_oneof![
        8 => append(Just(None).boxed()),
        2 => append(any::<Index>().prop_map(Some).boxed()),
        1 => any::<Index>().prop_map(|keep| Plan::Truncate { keep }),
        2 => any::<u8>().prop_map(Plan::HardState),
        2 => Just(Plan::Committed),
        2 => any::<Index>().prop_map(|upto| Plan::Purge { ahead: false, upto }),
        1 => any::<Index>().prop_map(|upto| Plan::Purge { ahead: true, upto }),
        2 => Just(Plan::PurgeAged),
        1 => Just(Plan::Reset),
    ]
}

fn within(index: Index, from: u64, to: u64) -> u64 {
    from + index.index(usize::try_from(to - from).unwrap() + 1) as u64
}

/// The operation as it fits the model; `number` makes terms and hints ascend.
fn fit(wal: &Wal, model: &Model, (shard_index, plan): &(u16, Plan), number: u64) -> Op {
    let shard_index = *shard_index;
    let (first, next) = (model.first(shard_index), model.next(shard_index));
    let shard = shard(shard_index);
    match plan {
        Plan::Append { back, count, bytes } => {
            let from = back.map_or(next, |back| within(back, first, next));
            let entries = (from..from + count)
                .map(|index| entry(number, index, *bytes))
                .collect();
            Op::Append { shard, entries }
        }
        Plan::Truncate { keep } => {
            let last = within(*keep, first, next).checked_sub(1).map(LogIndex);
            Op::TruncateAfter { shard, last }
        }
        Plan::HardState(byte) => {
            let state = Bytes::from(vec![*byte; usize::from(byte % 32)]);
            Op::HardState { shard, state }
        }
        Plan::Committed => {
            let state = Bytes::copy_from_slice(&number.to_be_bytes());
            Op::Committed { shard, state }
        }
        Plan::Purge { ahead, upto } => {
            let upto = within(*upto, first, next) + if *ahead { 5 } else { 0 };
            purge(model, shard, upto, number)
        }
        Plan::PurgeAged => {
            let aged = wal.aged(shard, ByteCount(2 * 2048));
            purge(model, shard, aged.map_or(0, |aged| aged.0), number)
        }
        Plan::Reset => Op::Reset { shard },
    }
}

fn purge(model: &Model, shard: Vertex, upto: u64, number: u64) -> Op {
    let state = model.shards.get(&shard.index());
    let last = state.and_then(|shard| shard.entries.get(&upto));
    let position = last.map_or(position(number, upto), |entry| entry.position);
    let state = Bytes::from_static(b"why");
    let purged = Purged { position, state };
    Op::Purge { shard, purged }
}

#[derive(Debug, Clone)]
struct Round {
    jobs: Vec<Vec<(u16, Plan)>>,
    /// Operations of the disk until the power goes; `None`: when all jobs are submitted.
    cut: Option<u64>,
    survival: Survival,
    waits: bool,
}

fn round() -> impl Strategy<Value = Round> {
    let job = prop::collection::vec((0..SHARDS, plan()), 1..4);
    let survival = prop_oneof![
        1 => Just(Survival::Nothing),
        1 => Just(Survival::Everything),
        4 => Just(Survival::Chance)
    ];
    let jobs = prop::collection::vec(job, 1..25);
    (jobs, prop::option::of(0..60u64), survival, any::<bool>()).prop_map(
        |(jobs, cut, survival, waits)| Round {
            jobs,
            cut,
            survival,
            waits,
        },
    )
}

/// All states passed through, and how many of them are known to be behind us.
struct History {
    states: Vec<Model>,
    completed: usize,
    number: u64,
}

fn small() -> Options {
    Options {
        segment_bytes: ByteCount(2048),
        ..options()
    }
}

fn play(disk: &FaultyDisk, round: &Round, history: &mut History) {
    if let Some(cut) = round.cut {
        disk.cut_power_at(disk.operations() + cut);
    }
    // The power may go during the start.
    let wal = open_as(disk, small());
    let mut waiting = Vec::new();
    if let Ok(wal) = &wal {
        for job in &round.jobs {
            let mut model = history.states.last().unwrap().clone();
            let mut states = Vec::new();
            let mut ops = Vec::new();
            for planned in job {
                history.number += 1;
                let op = fit(wal, &model, planned, history.number);
                states.extend(model.apply(&op));
                ops.push(op);
            }
            let needs_sync = ops.iter().any(|op| !matches!(op, Op::Committed { .. }));
            let Ok(done) = submit(wal, ops) else { break };
            history.states.extend(states);
            assert_eq!(Model::of(wal, SHARDS), model, "visible at once");
            let behind = history.states.len();
            if round.waits && needs_sync && done.recv().unwrap().is_ok() {
                history.completed = behind;
            } else if needs_sync {
                waiting.push((done, behind));
            }
        }
    }
    disk.reboot(round.survival);
    drop(wal);
    for (done, behind) in waiting {
        if matches!(done.try_recv(), Ok(Ok(()))) {
            history.completed = history.completed.max(behind);
        }
    }
}

fn check(disk: &FaultyDisk, history: &mut History) {
    let wal = open_as(disk, small()).unwrap();
    let found = Model::of(&wal, SHARDS);
    let possible = &history.states[history.completed.saturating_sub(1)..];
    assert!(
        possible.contains(&found),
        "found {found:#?}\nbut completed was {:#?}",
        possible[0]
    );
    for index in 0..SHARDS {
        if let Some(committed) = wal.bounds(shard(index)).committed {
            assert!(u64::from_be_bytes(committed[..].try_into().unwrap()) <= history.number);
        }
        let last = found
            .shards
            .get(&index)
            .and_then(|shard| shard.entries.values().next_back());
        assert_eq!(wal.durable(shard(index)), last.map(|entry| entry.position));
    }
    disk.reboot(Survival::Nothing);
    drop(wal);
    let again = open_as(disk, small()).unwrap();
    assert_eq!(
        Model::of(&again, SHARDS),
        found,
        "what a start shows is durable"
    );
    history.states = vec![found];
    history.completed = 1;
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_completed_is_lost_by_a_power_cut(seed: u64, rounds in prop::collection::vec(round(), 1..4)) {
        let disk = FaultyDisk::new(seed);
        let states = vec![Model::default()];
        let mut history = History { states, completed: 1, number: 0 };
        for round in &rounds {
            play(&disk, round, &mut history);
            check(&disk, &mut history);
        }
    }
}
