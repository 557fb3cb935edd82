//! The table, the ratios and the file for machines.

use std::path::Path;

use anyhow::Context;
use serde_json::json;

use crate::{TURNS, machine};

/// What one turn gave. Rates are bytes a second.
pub struct Turn {
    pub ingest: f64,
    pub group_bytes: u64,
    pub rss_bytes: u64,
    pub raw_write: f64,
    pub amplification: f64,
    pub read: f64,
    pub raw_read: f64,
    pub restart: f64,
    pub replayed: u64,
    pub disk_bytes: u64,
    pub is_cold: bool,
}

/// All turns.
pub struct Report {
    machine: Vec<(&'static str, String)>,
    payload_bytes: u64,
    turns: Vec<Turn>,
}

/// A figure with what it should be.
struct Judged {
    name: &'static str,
    value: f64,
    target: f64,
    direction: Direction,
}

enum Direction {
    AtLeast,
    AtMost,
}

impl Report {
    /// No turn yet.
    pub fn about(folder: &Path, payload_bytes: u64) -> Self {
        Self {
            machine: machine::facts(folder),
            payload_bytes,
            turns: Vec::new(),
        }
    }

    pub fn add(&mut self, turn: Turn) {
        self.turns.push(turn);
    }

    fn median(&self, field: fn(&Turn) -> f64) -> f64 {
        let mut values: Vec<f64> = self.turns.iter().map(field).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn judged(&self) -> [Judged; 4] {
        let figure = |name, value, target, direction| Judged {
            name,
            value: self.median(value),
            target,
            direction,
        };
        [
            figure(
                "log + store ÷ bare write + fdatasync of the same groups",
                |turn| turn.ingest / turn.raw_write,
                0.5,
                Direction::AtLeast,
            ),
            figure(
                "bytes written to the device ÷ payload",
                |turn| turn.amplification,
                2.3,
                Direction::AtMost,
            ),
            figure(
                "sequential read of the store ÷ of a file",
                |turn| turn.read / turn.raw_read,
                0.5,
                Direction::AtLeast,
            ),
            figure(
                "restart after a kill, s",
                |turn| turn.restart,
                2.0,
                Direction::AtMost,
            ),
        ]
    }

    /// Prints everything, and writes it to the file that `CUBECAST_BENCH_JSON` names.
    pub fn print(&self) -> anyhow::Result<()> {
        self.print_facts();
        self.print_figures();
        println!();
        for Judged {
            name,
            value,
            target,
            direction,
        } in self.judged()
        {
            let (sign, is_met) = match direction {
                Direction::AtLeast => ("≥", value >= target),
                Direction::AtMost => ("≤", value <= target),
            };
            let word = if is_met { "met" } else { "missed" };
            println!("{name:<60} {value:>6.2}  target {sign} {target:<4} {word}");
        }
        self.write()
    }

    fn print_facts(&self) {
        for (name, value) in &self.machine {
            println!("{name:<24} {value}");
        }
        let caches = if self.turns.iter().all(|turn| turn.is_cold) {
            "dropped before each read"
        } else {
            "warm: only root may drop them"
        };
        println!("{:<24} {caches}", "caches");
        println!(
            "{:<24} {TURNS} turns of {} MiB, medians",
            "measured",
            self.payload_bytes >> 20
        );
    }

    fn print_figures(&self) {
        println!();
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let lines: [(&str, f64, &str); 9] = [
            (
                "log + store, 64 KiB batches",
                mib(self.median(|turn| turn.ingest)),
                "MiB/s",
            ),
            (
                "payload per sync",
                self.median(|turn| turn.group_bytes as f64) / 1024.0,
                "KiB",
            ),
            (
                "bare write + fdatasync",
                mib(self.median(|turn| turn.raw_write)),
                "MiB/s",
            ),
            (
                "read of the store",
                mib(self.median(|turn| turn.read)),
                "MiB/s",
            ),
            (
                "read of bare files",
                mib(self.median(|turn| turn.raw_read)),
                "MiB/s",
            ),
            (
                "memory after the fill",
                mib(self.median(|turn| turn.rss_bytes as f64)),
                "MiB",
            ),
            (
                "disk after the fill",
                mib(self.median(|turn| turn.disk_bytes as f64)),
                "MiB",
            ),
            ("restart", self.median(|turn| turn.restart), "s"),
            (
                "entries replayed by it",
                self.median(|turn| turn.replayed as f64),
                "",
            ),
        ];
        for (name, value, unit) in lines {
            println!("{name:<40} {value:>10.2} {unit}");
        }
    }

    fn write(&self) -> anyhow::Result<()> {
        let Some(path) = std::env::var_os("CUBECAST_BENCH_JSON") else {
            return Ok(());
        };
        let turns = self.turns.iter().map(|turn| {
            json!({
                "ingest_bytes_per_second": turn.ingest,
                "group_bytes": turn.group_bytes,
                "rss_bytes": turn.rss_bytes,
                "raw_write_bytes_per_second": turn.raw_write,
                "write_amplification": turn.amplification,
                "read_bytes_per_second": turn.read,
                "raw_read_bytes_per_second": turn.raw_read,
                "restart_seconds": turn.restart,
                "entries_replayed": turn.replayed,
                "disk_bytes": turn.disk_bytes,
                "caches_dropped": turn.is_cold,
            })
        });
        let all =
            json!({ "payload_bytes": self.payload_bytes, "turns": turns.collect::<Vec<_>>() });
        std::fs::write(&path, serde_json::to_string_pretty(&all)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
