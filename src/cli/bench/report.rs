//! What came of a load: a table for people, one object for programs.
//!
//! Begin with [`Report`].

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value};

use super::meter::{Sample, Series};
use super::plot::{self, Form};
use crate::cli::exit::Failure;
use crate::cli::output::{Format, Output, Row, aligned};

/// Bytes of a mebibyte.
const MEBIBYTE: f64 = 1_048_576.0;

/// A load and what came of it.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) name: &'static str,
    pub(super) settings: Map<String, Value>,
    /// Bytes of a payload.
    pub(super) size: u32,
    pub(super) series: Vec<Series>,
}

/// The object for programs. Times are seconds since the load began, latencies are microseconds, bytes are those of payloads.
#[derive(Debug, Serialize)]
struct Record<'a> {
    bench: &'static str,
    settings: &'a Map<String, Value>,
    results: Vec<Outcome>,
}

/// One side of a load.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    name: &'static str,
    messages: u64,
    failed: u64,
    seconds: f64,
    messages_per_second: f64,
    mebibytes_per_second: f64,
    /// `null`: not measured.
    latency_us: Option<Latency>,
    samples: Vec<Point>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Point {
    at_seconds: f64,
    messages_per_second: f64,
    p50_us: u64,
    p99_us: u64,
}

impl From<&Sample> for Point {
    fn from(sample: &Sample) -> Self {
        Self {
            at_seconds: sample.at.as_secs_f64(),
            messages_per_second: sample.rate,
            p50_us: sample.p50_us,
            p99_us: sample.p99_us,
        }
    }
}

impl Outcome {
    fn new(series: &Series, size: u32) -> Self {
        let total = &series.total;
        let latency = Latency {
            p50: total.micros_at(0.5),
            p90: total.micros_at(0.9),
            p99: total.micros_at(0.99),
            p999: total.micros_at(0.999),
            max: total.micros_max(),
        };
        Self {
            name: series.name,
            messages: total.messages,
            failed: total.failed,
            seconds: series.measured.as_secs_f64(),
            messages_per_second: series.rate,
            mebibytes_per_second: series.rate * f64::from(size) / MEBIBYTE,
            latency_us: (latency.max > 0).then_some(latency),
            samples: series.samples.iter().map(Point::from).collect(),
        }
    }
}

impl Row for Outcome {
    const HEADER: &'static [&'static str] = &[
        "LOAD",
        "MESSAGES",
        "MESSAGES/S",
        "MIB/S",
        "P50 MS",
        "P90 MS",
        "P99 MS",
        "P99.9 MS",
        "MAX MS",
        "FAILED",
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.name.to_owned(),
            self.messages.to_string(),
            format!("{:.0}", self.messages_per_second),
            format!("{:.1}", self.mebibytes_per_second),
        ];
        let latencies = self
            .latency_us
            .map(|us| [us.p50, us.p90, us.p99, us.p999, us.max]);
        cells.extend(match latencies {
            Some(all) => all.map(milliseconds),
            None => ["-"; 5].map(str::to_owned),
        });
        cells.push(self.failed.to_string());
        cells
    }
}

fn milliseconds(micros: u64) -> String {
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

impl Report {
    /// One for each side.
    pub(super) fn outcomes(&self) -> Vec<Outcome> {
        let outcome = |series| Outcome::new(series, self.size);
        self.series.iter().map(outcome).collect()
    }

    /// Prints it.
    pub(super) fn print(&self, form: Option<Form>, output: &mut Output) -> Result<()> {
        let results = self.outcomes();
        if let Some(form) = form {
            let table = aligned(Some(Outcome::HEADER), &results);
            output.bytes(plot::render(self, form)?.as_bytes())?;
            output.word(table.trim_end())?;
            return Ok(());
        }
        match output.format() {
            Format::Text => output.table(Some(Outcome::HEADER), &results)?,
            Format::Json => {
                let record = Record {
                    bench: self.name,
                    settings: &self.settings,
                    results,
                };
                output.line("", &record)?;
            }
        }
        Ok(output.flush()?)
    }

    /// A load with failures is one.
    pub(super) fn verdict(&self) -> Result<()> {
        for series in &self.series {
            let total = &series.total;
            if total.failed > 0 {
                let problem = total.problem.as_deref().unwrap_or("not known");
                let failed = total.failed;
                return Err(Failure::Failed(format!(
                    "{failed} messages of {} failed, the first one: {problem}",
                    series.name
                ))
                .into());
            }
        }
        Ok(())
    }
}
