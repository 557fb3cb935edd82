//! What the log and the store of one peer do beside a bare file, in one run on one machine.
//!
//! A child process fills them with 64 KiB batches on four shards, as four groups of a peer do, and is killed; this process opens what it left, reads all,
//! and does the same with a bare file. No network, no consensus. It measures and never judges: a missed target is printed, a lost or wrong byte ends
//! the run. Begin with [`run`]; the method and the figures are in `benches/README.md`.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]
#![expect(
    clippy::cast_precision_loss,
    reason = "no figure here has more than 52 bits"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "what is measured here is real time"
)]

mod fill;
mod raw;
mod reopen;
mod report;
#[path = "../shared/mod.rs"]
mod shared;

use std::path::Path;

use anyhow::Context;

use report::{Report, Turn};
use shared::{device, machine, place};

/// Turns; what is reported is the median of each figure.
const TURNS: u32 = 3;
/// Payload of one turn, unless `CUBECAST_BENCH_MIB` says otherwise.
const MIB: u64 = 1024;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let payload_bytes = mebibytes()? << 20;
    if let [_, word, folder] = arguments.as_slice()
        && word == fill::CHILD
    {
        return fill::serve(Path::new(folder), payload_bytes);
    }
    run(payload_bytes)
}

fn mebibytes() -> anyhow::Result<u64> {
    let Ok(text) = std::env::var("CUBECAST_BENCH_MIB") else {
        return Ok(MIB);
    };
    let number = text.parse().ok().filter(|number| *number > 0);
    number.with_context(|| format!("CUBECAST_BENCH_MIB is {text:?}, not a number of MiB"))
}

fn run(payload_bytes: u64) -> anyhow::Result<()> {
    let place = place();
    let mut report = Report::about(&place, payload_bytes);
    for number in 0..TURNS {
        let folder = tempfile::tempdir_in(&place)?;
        let turn = turn(folder.path(), payload_bytes);
        report.add(turn.with_context(|| format!("turn {number}"))?);
    }
    report.print()
}

/// Everything once. The order keeps the writes of one thing out of the figures of another.
fn turn(folder: &Path, payload_bytes: u64) -> anyhow::Result<Turn> {
    let device = device::Device::of(folder)?;
    let before = device.bytes_written()?;
    let filled = fill::run(&folder.join("peer"), payload_bytes)?;
    let reopened = reopen::run(&folder.join("peer"))?;
    let written = device.bytes_written()? - before;
    let is_cold = device::drop_caches();
    let read = reopened.read(payload_bytes)?;
    drop(reopened.peer);
    let raw = folder.join("raw");
    let raw_write = raw::write(&raw, payload_bytes, filled.group_bytes)?;
    let is_cold = is_cold && device::drop_caches();
    let raw_read = raw::read(&raw)?;
    Ok(Turn {
        ingest: payload_bytes as f64 / filled.seconds,
        group_bytes: filled.group_bytes,
        rss_bytes: filled.rss_bytes,
        raw_write,
        amplification: written as f64 / payload_bytes as f64,
        read,
        raw_read,
        restart: reopened.seconds,
        replayed: reopened.replayed,
        disk_bytes: reopened.disk_bytes,
        is_cold,
    })
}
