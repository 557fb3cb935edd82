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
            Self::AppendGrowing | Self::AppendReserved | Self::BareOne | Self::PublishOne | Self::ForwardOne | Self::CreateTopic => 1,
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
            rss_idle: Vec::new(),
            rss_loaded: Vec::new(),
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let mut lines = self.machine.clone();
        lines.push(("measured", format!("{ROUNDS} turns of {}, medians", seconds(self.round.measured))));
        lines.push(("start, eight processes", seconds(self.started_in)));
        lines.push(("start, one process", seconds(self.dev_started_in)));
        lines.push(("idle, eight peers", format!("{:.1} % of one core", self.idle_cpu * 100.0)));
        lines.push(("memory per peer, idle", mebibytes(&self.rss_idle)));
        lines.push(("memory per peer, loaded", mebibytes(&self.rss_loaded)));
        lines
    }
}

/// `17 to 19 MiB`.
fn mebibytes(bytes: &[u64]) -> String {
    let mebibytes = |bytes: Option<&u64>| bytes.map_or(0, |bytes| bytes >> 20);
    format!("{} to {} MiB", mebibytes(bytes.iter().min()), mebibytes(bytes.iter().max()))
}

/// A ratio with what it should be.
struct Ratio {
    name: &'static str,
    value: f64,
    target: &'static str,
    is_met: bool,
}

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

    fn median(&self, case: Case) -> anyhow::Result<Sample> {
        let samples = self.samples.get(&case).with_context(|| format!("{case:?} was not measured"))?;
        let median = |field: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(field).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Ok(Sample {
            rate: median(|sample| sample.rate),
            p50: median(|sample| sample.p50),
            p99: median(|sample| sample.p99),
            cpu_here: median(|sample| sample.cpu_here),
            cpu_there: median(|sample| sample.cpu_there),
        })
    }

    fn ratios(&self) -> anyhow::Result<Vec<Ratio>> {
        let p50 = |case| anyhow::Ok(self.median(case)?.p50);
        let rate = |case| anyhow::Ok(self.median(case)?.rate);
        let at_most = |name, value, most: f64, target| Ratio { name, value, target, is_met: value <= most };
        let at_least = |name, value, least: f64, target| Ratio { name, value, target, is_met: value >= least };
        let (publish, create) = (p50(Case::PublishOne)?, p50(Case::CreateTopic)?);
        let (call, bare) = (p50(Case::BareOne)?, rate(Case::BareMany)?);
        let growing = publish / (call + p50(Case::AppendGrowing)?);
        let reserved = publish / (call + p50(Case::AppendReserved)?);
        let one_topic = rate(Case::PublishersMany)? / bare;
        let eight_topics = rate(Case::TopicsMany)? / bare;
        Ok(vec![
            at_most("publish p50 ÷ (bare call + append to a growing file), 1 in flight", growing, 2.0, "≤ 2"),
            at_most("publish p50 ÷ (bare call + append to a reserved file), 1 in flight", reserved, 2.0, "≤ 2"),
            at_least("publish rate ÷ bare rate, 64 in flight, one topic", one_topic, 0.5, "≥ 0.5"),
            at_least("publish rate ÷ bare rate, 64 in flight, eight topics", eight_topics, 0.5, "≥ 0.5"),
            at_most("create a topic p50 ÷ publish p50", create / publish, 2.0, "≤ 2"),
            at_most("create a topic p50 ÷ forwarded publish p50", create / p50(Case::ForwardOne)?, 2.0, "≤ 2"),
        ])
    }

    /// Prints everything, and writes it to the file that `CUBECAST_BENCH_JSON` names.
    pub fn print(&self, facts: &Facts) -> anyhow::Result<()> {
        for (name, value) in facts.lines() {
            println!("{name:<24} {value}");
        }
        println!();
        println!(
            "{:<40} {:>9} {:>9} {:>9} {:>9} {:>11} {:>11}",
            "case", "in flight", "calls/s", "p50 µs", "p99 µs", "CPU here µs", "CPU there µs"
        );
        for case in Case::ALL {
            let Sample { rate, p50, p99, cpu_here, cpu_there } = self.median(case)?;
            let (name, in_flight) = (case.name(), case.in_flight());
            println!("{name:<40} {in_flight:>9} {rate:>9.0} {p50:>9.0} {p99:>9.0} {cpu_here:>11.0} {cpu_there:>12.0}");
        }
        println!();
        for Ratio { name, value, target, is_met } in self.ratios()? {
            let word = if is_met { "met" } else { "missed" };
            println!("{name:<80} {value:>6.2}  target {target:<6} {word}");
        }
        let Some(path) = std::env::var_os("CUBECAST_BENCH_JSON") else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(&self.json(facts)?)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn json(&self, facts: &Facts) -> anyhow::Result<Value> {
        let mut cases = Vec::new();
        for (case, rounds) in &self.samples {
            let rounds: Vec<Value> = rounds.iter().map(sample_json).collect();
            cases.push(json!({
                "case": format!("{case:?}"),
                "name": case.name(),
                "in_flight": case.in_flight(),
                "median": sample_json(&self.median(*case)?),
                "rounds": rounds,
            }));
        }
        let ratios = self.ratios()?;
        let ratios = ratios.iter().map(|ratio| json!({ "name": ratio.name, "value": ratio.value, "target": ratio.target }));
        Ok(json!({
            "machine": facts.machine.iter().cloned().collect::<BTreeMap<_, _>>(),
            "measured_seconds": facts.round.measured.as_secs_f64(),
            "start_seconds": { "processes": facts.started_in.as_secs_f64(), "one_process": facts.dev_started_in.as_secs_f64() },
            "idle_cpu_cores": facts.idle_cpu,
            "rss_bytes": { "idle": facts.rss_idle, "loaded": facts.rss_loaded },
            "cases": cases,
            "ratios": ratios.collect::<Vec<_>>(),
        }))
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
