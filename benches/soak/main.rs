//! Half load for a long time: memory, disk and latency must stay where they are.
//!
//! Eight processes of the real binary. First a closed loop tells what they can do at most, then half of that is published on a fixed schedule, to topics that keep a
//! bounded number of bytes, with a subscriber on each. It samples all the while, draws what it saw, and compares the beginning with the end. A failed
//! publish or a missed message ends the run. Begin with [`run`]; the method and the figures are in `benches/README.md`.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]
#![expect(
    clippy::cast_precision_loss,
    reason = "no figure here has more than 52 bits"
)]

mod load;
mod plot;
#[path = "../shared/mod.rs"]
mod shared;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cubecast_sdk::{Client, NewTopic, Retention};
use tokio::time::Instant;

use load::Load;
use shared::process::Processes;
use shared::{device, mebibytes, micros};

/// As long as the load lasts, unless `CUBECAST_BENCH_SECONDS` says otherwise.
const SOAK: Duration = Duration::from_secs(20 * 60);
/// What tells the greatest load.
const PROBE: Duration = Duration::from_secs(10);
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
/// What a topic keeps, in MiB, unless `CUBECAST_BENCH_KEPT_MIB` says otherwise: the less, the sooner as much goes as comes.
const KEPT_MIB: u64 = 32;
/// Start-up, topics and the end.
const OTHER_WORK_MAX: Duration = Duration::from_secs(180);

/// What was seen at a time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    /// Publishes a second since the sample before.
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    /// Of the peer that has most.
    rss_mib: f64,
    /// Of all peers.
    disk_mib: f64,
}

fn main() -> anyhow::Result<()> {
    let soak = duration()?;
    shared::run(soak + PROBE + OTHER_WORK_MAX, run(soak))
}

fn duration() -> anyhow::Result<Duration> {
    let Ok(seconds) = std::env::var("CUBECAST_BENCH_SECONDS") else {
        return Ok(SOAK);
    };
    let parsed = seconds.parse().ok().filter(|seconds| *seconds >= 60);
    let Some(seconds) = parsed else {
        bail!("CUBECAST_BENCH_SECONDS is {seconds:?}, not a number of seconds from 60 on");
    };
    Ok(Duration::from_secs(seconds))
}

async fn run(soak: Duration) -> anyhow::Result<()> {
    let folder = shared::folder()?;
    let processes = Processes::start(folder.path()).await;
    let client = shared::connect(&processes).await?;
    let topics = create_topics(&client).await?;
    let load = Load::new(client, topics).await?;
    let most = load.most(PROBE).await?;
    println!(
        "{:<32} {most:.0} publishes/s of {} bytes",
        "at most",
        load::PAYLOAD_BYTES
    );
    println!(
        "{:<32} {:.0} publishes/s for {soak:?}",
        "soaked with",
        most / 2.0
    );
    let running = load.start(most / 2.0)?;
    let mut samples = Vec::new();
    let (begun, mut last) = (Instant::now(), Instant::now());
    while begun.elapsed() < soak {
        tokio::time::sleep_until(last + SAMPLE_INTERVAL).await;
        let times = running.take()?;
        let now = Instant::now();
        samples.push(Sample {
            at: begun.elapsed(),
            rate: times.len() as f64 / (now - last).as_secs_f64(),
            p50_us: micros(&times, 0.5),
            p99_us: micros(&times, 0.99),
            rss_mib: mebibytes(shared::largest_rss(&processes)?),
            disk_mib: mebibytes(device::folder_bytes(folder.path())?),
        });
        last = now;
    }
    let (published, delivered) = running.stop().await?;
    println!("{:<32} {published}, delivered {delivered}", "published");
    report(&samples)?;
    ensure!(published == delivered, "messages are missing");
    Ok(())
}

/// One topic for each owner.
fn kept_bytes() -> anyhow::Result<u64> {
    let kept = match std::env::var("CUBECAST_BENCH_KEPT_MIB") {
        Ok(mib) => mib
            .parse()
            .context("CUBECAST_BENCH_KEPT_MIB is no number")?,
        Err(_) => KEPT_MIB,
    };
    Ok(kept << 20)
}

async fn create_topics(client: &Client) -> anyhow::Result<Vec<String>> {
    let kept = kept_bytes()?;
    let topics = shared::names_of_all_owners(client, "soak").await?;
    for topic in &topics {
        let retention = Retention::new().with_bytes(kept);
        client
            .create_topic(NewTopic::new(topic).with_retention(retention))
            .await?;
    }
    Ok(topics)
}

/// One figure of a sample.
type Field = fn(&Sample) -> f64;

/// The second fifth of the time beside the last: by then everything that fills up is full.
fn report(samples: &[Sample]) -> anyhow::Result<()> {
    let fifth = samples.len() / 5;
    let part = |from: usize| samples.iter().skip(from * fifth).take(fifth);
    println!(
        "\n{:<32} {:>12} {:>12} {:>8}",
        "", "second fifth", "last fifth", "ratio"
    );
    let fields: [(&str, Field); 5] = [
        ("publishes/s", |sample| sample.rate),
        ("p50 µs", |sample| sample.p50_us),
        ("p99 µs", |sample| sample.p99_us),
        ("memory of the largest peer, MiB", |sample| sample.rss_mib),
        ("disk of all peers, MiB", |sample| sample.disk_mib),
    ];
    for (name, field) in fields {
        let (early, late) = (median(part(1).map(field)), median(part(4).map(field)));
        println!(
            "{name:<32} {early:>12.0} {late:>12.0} {:>8.2}",
            late / early
        );
    }
    let path = std::env::var_os("CUBECAST_BENCH_SVG").map_or_else(
        || PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("soak.svg"),
        PathBuf::from,
    );
    plot::draw(samples, &path)?;
    println!("\ndrawn in {}", path.display());
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
