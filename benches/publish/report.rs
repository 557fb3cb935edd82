//! The table, the ratios and the file for machines.
//!
//! What is printed of a case is the median of its rounds, each figure for itself. Begin with [`Report::print`].

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::load::{Round, Sample};
use crate::{MANY, ROUNDS, machine};

/// What is compared, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    AppendGrowing,
    AppendReserved,
    BareOne,
    BareMany,
    PublishOne,
    PublishersMany,
    TopicsMany,
    ForwardOne,
    ForwardMany,
    CreateTopic,
}

impl Case {
    pub const ALL: [Self; 10] = [
        Self::AppendGrowing,
        Self::AppendReserved,
        Self::BareOne,
        Self::BareMany,
        Self::PublishOne,
        Self::PublishersMany,
        Self::TopicsMany,
        Self::ForwardOne,
        Self::ForwardMany,
        Self::CreateTopic,
    ];

    /// What `CUBECAST_BENCH_CASES` names, separated by commas; all when it is not set.
    pub fn wanted() -> anyhow::Result<Vec<Self>> {
        let Ok(names) = std::env::var("CUBECAST_BENCH_CASES") else {
            return Ok(Self::ALL.to_vec());
        };
        let known = |name: &str| {
            Self::ALL
                .into_iter()
                .find(|case| format!("{case:?}") == name)
        };
        let case = |name| {
            known(name).with_context(|| format!("no case is {name:?}; there are {:?}", Self::ALL))
        };
        names.split(',').map(case).collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::AppendGrowing => "append + fdatasync, growing file",
            Self::AppendReserved => "append + fdatasync, reserved file",
            Self::BareOne | Self::BareMany => "bare tonic call, one connection",
            Self::PublishOne => "publish, SDK, to the leader",
            Self::PublishersMany => "publish, SDK, 64 publishers, one topic",
            Self::TopicsMany => "publish, SDK, unnumbered, eight topics",
            Self::ForwardOne | Self::ForwardMany => "publish, generated client, forwarded",
            Self::CreateTopic => "create a topic, SDK",
        }
    }

    fn in_flight(self) -> usize {
        match self {
            Self::AppendGrowing
            | Self::AppendReserved
            | Self::BareOne
            | Self::PublishOne
            | Self::ForwardOne
            | Self::CreateTopic => 1,
            Self::BareMany | Self::PublishersMany | Self::TopicsMany | Self::ForwardMany => MANY,
        }
    }
}

/// What is told beside the cases.
pub struct Facts {
    machine: Vec<(&'static str, String)>,
    round: Round,
    pub started_in: Duration,
    pub dev_started_in: Duration,
    /// Part of one core, all peers together.
    pub idle_cpu: f64,
    /// Cores that had other work while the cases were measured.
    pub others_cpu: f64,
    pub rss_idle: Vec<u64>,
    pub rss_loaded: Vec<u64>,
}

impl Facts {
    /// What the machine is; the rest is filled in as it is measured.
    pub fn about(folder: &Path, round: Round) -> Self {
        Self {
            machine: machine::facts(folder),
            round,
            started_in: Duration::ZERO,
            dev_started_in: Duration::ZERO,
            idle_cpu: 0.0,
            others_cpu: 0.0,
            rss_idle: Vec::new(),
            rss_loaded: Vec::new(),
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let mut lines = self.machine.clone();
        lines.push((
            "measured",
            format!(
                "{ROUNDS} turns of {}, medians",
                seconds(self.round.measured)
            ),
        ));
        let others = format!("{:.1} cores had other work", self.others_cpu);
        lines.push(("disturbed", others));
        lines.push(("start, eight processes", seconds(self.started_in)));
        lines.push(("start, one process", seconds(self.dev_started_in)));
        lines.push((
            "idle, eight peers",
            format!("{:.1} % of one core", self.idle_cpu * 100.0),
        ));
        lines.push(("memory per peer, idle", mebibytes(&self.rss_idle)));
        lines.push(("memory per peer, loaded", mebibytes(&self.rss_loaded)));
        lines
    }
}

/// `17 to 19 MiB`.
fn mebibytes(bytes: &[u64]) -> String {
    let mebibytes = |bytes: Option<&u64>| bytes.map_or(0, |bytes| bytes >> 20);
    format!(
        "{} to {} MiB",
        mebibytes(bytes.iter().min()),
        mebibytes(bytes.iter().max())
    )
}

/// A ratio with what it should be.
struct Ratio {
    name: &'static str,
    value: f64,
    target: Target,
}

/// What a ratio should be.
#[derive(Clone, Copy)]
struct Target {
    text: &'static str,
    is_met: fn(f64) -> bool,
}

const AT_MOST_TWICE: Target = Target {
    text: "≤ 2",
    is_met: |value| value <= 2.0,
};
const AT_LEAST_HALF: Target = Target {
    text: "≥ 0.5",
    is_met: |value| value >= 0.5,
};

/// The samples of all cases.
#[derive(Default)]
pub struct Report {
    samples: BTreeMap<Case, Vec<Sample>>,
}

impl Report {
    /// Adds a round of a case.
    pub fn add(&mut self, case: Case, sample: Sample) {
        self.samples.entry(case).or_default().push(sample);
    }

    /// The median of a case's rounds, each figure for itself. `None`: it was not measured.
    fn median(&self, case: Case) -> Option<Sample> {
        let samples = self.samples.get(&case)?;
        let median = |field: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(field).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Some(Sample {
            rate: median(|sample| sample.rate),
            p50: median(|sample| sample.p50),
            p99: median(|sample| sample.p99),
            cpu_here: median(|sample| sample.cpu_here),
            cpu_there: median(|sample| sample.cpu_there),
        })
    }

    /// Those whose cases were measured.
    fn ratios(&self) -> Vec<Ratio> {
        let p50 = |case| Some(self.median(case)?.p50);
        let rate = |case| Some(self.median(case)?.rate);
        let durable = |append| Some(p50(Case::PublishOne)? / (p50(Case::BareOne)? + p50(append)?));
        let of_bare = |case| Some(rate(case)? / rate(Case::BareMany)?);
        let create = |publish| Some(p50(Case::CreateTopic)? / p50(publish)?);
        let ratios = [
            (
                "publish p50 ÷ (bare call + append to a growing file), 1 in flight",
                durable(Case::AppendGrowing),
                AT_MOST_TWICE,
            ),
            (
                "publish p50 ÷ (bare call + append to a reserved file), 1 in flight",
                durable(Case::AppendReserved),
                AT_MOST_TWICE,
            ),
            (
                "publish rate ÷ bare rate, 64 in flight, one topic",
                of_bare(Case::PublishersMany),
                AT_LEAST_HALF,
            ),
            (
                "publish rate ÷ bare rate, 64 in flight, eight topics",
                of_bare(Case::TopicsMany),
                AT_LEAST_HALF,
            ),
            (
                "create a topic p50 ÷ publish p50, 1 in flight",
                create(Case::PublishOne),
                AT_MOST_TWICE,
            ),
            (
                "create a topic p50 ÷ forwarded publish p50, 1 in flight",
                create(Case::ForwardOne),
                AT_MOST_TWICE,
            ),
        ];
        let measured = ratios.into_iter();
        measured
            .filter_map(|(name, value, target)| {
                Some(Ratio {
                    name,
                    value: value?,
                    target,
                })
            })
            .collect()
    }

    /// Prints everything, and writes it to the file that `CUBECAST_BENCH_JSON` names.
    pub fn print(&self, facts: &Facts) -> anyhow::Result<()> {
        for (name, value) in facts.lines() {
            println!("{name:<24} {value}");
        }
        println!();
        println!(
            "{:<40} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "case", "in flight", "calls/s", "p50 µs", "p99 µs", "CPU here", "CPU there"
        );
        for case in Case::ALL {
            let Some(Sample {
                rate,
                p50,
                p99,
                cpu_here,
                cpu_there,
            }) = self.median(case)
            else {
                continue;
            };
            let (name, in_flight) = (case.name(), case.in_flight());
            println!(
                "{name:<40} {in_flight:>9} {rate:>9.0} {p50:>9.0} {p99:>9.0} {cpu_here:>9.0} {cpu_there:>9.0}"
            );
        }
        println!(
            "\nCPU: µs of processor time per call, here in the clients, there in the processes that answer\n"
        );
        for Ratio {
            name,
            value,
            target,
        } in self.ratios()
        {
            let word = if (target.is_met)(value) {
                "met"
            } else {
                "missed"
            };
            println!("{name:<68} {value:>6.2}  target {:<6} {word}", target.text);
        }
        let Some(path) = std::env::var_os("CUBECAST_BENCH_JSON") else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(&self.json(facts))?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn json(&self, facts: &Facts) -> Value {
        let mut cases = Vec::new();
        for (case, rounds) in &self.samples {
            let rounds: Vec<Value> = rounds.iter().map(sample_json).collect();
            cases.push(json!({
                "case": format!("{case:?}"),
                "name": case.name(),
                "in_flight": case.in_flight(),
                "median": self.median(*case).as_ref().map(sample_json),
                "rounds": rounds,
            }));
        }
        let ratios = self.ratios();
        let ratios = ratios.iter().map(|ratio| json!({ "name": ratio.name, "value": ratio.value, "target": ratio.target.text }));
        json!({
            "machine": facts.machine.iter().cloned().collect::<BTreeMap<_, _>>(),
            "measured_seconds": facts.round.measured.as_secs_f64(),
            "start_seconds": { "processes": facts.started_in.as_secs_f64(), "one_process": facts.dev_started_in.as_secs_f64() },
            "idle_cpu_cores": facts.idle_cpu,
            "others_cpu_cores": facts.others_cpu,
            "rss_bytes": { "idle": facts.rss_idle, "loaded": facts.rss_loaded },
            "cases": cases,
            "ratios": ratios.collect::<Vec<_>>(),
        })
    }
}

fn sample_json(sample: &Sample) -> Value {
    json!({
        "calls_per_second": sample.rate,
        "p50_us": sample.p50,
        "p99_us": sample.p99,
        "cpu_here_us_per_call": sample.cpu_here,
        "cpu_there_us_per_call": sample.cpu_there,
    })
}
