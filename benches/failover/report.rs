//! The table, and the file with every figure.

use std::collections::BTreeMap;

use serde_json::json;

use crate::Outcome;
use crate::series::{Summary, millis};

/// One table for each system, and what became of the messages.
pub fn print(outcomes: &[Outcome]) {
    for outcome in outcomes {
        println!(
            "\n{:<44} {:>5} {:>8} {:>8} {:>8} {:>8}   target",
            outcome.name, "count", "p50 ms", "p90 ms", "p99 ms", "max ms"
        );
        for (case, times) in &outcome.times {
            let (words, target) = case.words();
            let Some(summary) = Summary::of(times) else {
                continue;
            };
            let Summary {
                count,
                p50,
                p90,
                p99,
                max,
            } = summary;
            println!(
                "{words:<44} {count:>5} {p50:>8.1} {p90:>8.1} {p99:>8.1} {max:>8.1}   {target}"
            );
        }
        print_facts(outcome);
    }
}

fn print_facts(outcome: &Outcome) {
    let (check, errors) = (&outcome.check, &outcome.errors);
    println!(
        "acknowledged {}: lost {}, doubled {}, out of order {}, never published {}; {} without an answer are there",
        check.acknowledged, check.lost, check.doubled, check.disordered, check.phantom, check.found
    );
    println!(
        "errors that callers saw: {} of publishes, {} of reads; stale linearizable reads {}; processes not back in time {}",
        errors.writes, errors.reads, errors.stale, outcome.late
    );
    for words in &errors.words {
        println!("    {words}");
    }
    if let Some(disagreement) = &outcome.disagreement {
        println!("replicas differ: {disagreement}");
    }
}

/// Every time of every case, in milliseconds, where `CUBECAST_BENCH_JSON` says.
pub fn write_json(outcomes: &[Outcome]) -> anyhow::Result<()> {
    let Some(path) = std::env::var_os("CUBECAST_BENCH_JSON") else {
        return Ok(());
    };
    let systems: Vec<_> = outcomes.iter().map(of_system).collect();
    let text = serde_json::to_string_pretty(&json!({ "systems": systems }))?;
    std::fs::write(path, text)?;
    Ok(())
}

fn of_system(outcome: &Outcome) -> serde_json::Value {
    let times: BTreeMap<_, Vec<f64>> = outcome
        .times
        .iter()
        .map(|(case, times)| {
            let times = times.iter().map(|time| millis(*time));
            (format!("{case:?}"), times.collect())
        })
        .collect();
    let (check, errors) = (&outcome.check, &outcome.errors);
    json!({
        "name": outcome.name,
        "times_ms": times,
        "acknowledged": check.acknowledged,
        "lost": check.lost,
        "doubled": check.doubled,
        "disordered": check.disordered,
        "phantom": check.phantom,
        "errors": { "writes": errors.writes, "reads": errors.reads, "stale": errors.stale },
        "late": outcome.late,
    })
}
