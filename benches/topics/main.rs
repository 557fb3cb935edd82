//! A million topics with one message each, on eight processes of the real binary.
//!
//! It creates them in batches, publishes to each, kills all peers, starts them again, looks topics up with several clients at once, and lists all. It measures and
//! never judges: a missed target is printed, a topic that is missing ends the run. Begin with [`run`]; the method and the figures are in
//! `benches/README.md`.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]
#![expect(
    clippy::cast_precision_loss,
    reason = "no figure here has more than 52 bits"
)]

mod query;
#[path = "../shared/mod.rs"]
mod shared;
mod work;

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::Instant;

use shared::process::Processes;
use shared::{connect, device, largest_rss as rss, machine, mebibytes};

/// Topics, unless `CUBECAST_BENCH_TOPICS` says otherwise.
const TOPICS: u64 = 1_000_000;
const PEERS: u64 = shared::PEERS as u64;
/// Each topic lives on so many peers.
const COPIES: u64 = 4;
/// Clients that look topics up at once.
const CLIENTS: [usize; 3] = [2, 4, 8];
/// Far more than a slow machine needs for a million.
const LONGEST: Duration = Duration::from_secs(1800);

fn main() -> anyhow::Result<()> {
    let topics = topics()?;
    shared::run(LONGEST, run(topics))
}

fn topics() -> anyhow::Result<u64> {
    let Ok(text) = std::env::var("CUBECAST_BENCH_TOPICS") else {
        return Ok(TOPICS);
    };
    let number = text.parse().ok().filter(|number| *number > 0);
    number.with_context(|| format!("CUBECAST_BENCH_TOPICS is {text:?}, not a number of topics"))
}

async fn run(topics: u64) -> anyhow::Result<()> {
    let folder = shared::folder()?;
    for (name, value) in machine::facts(folder.path()) {
        println!("{name:<44} {value}");
    }
    let mut processes = Processes::start(folder.path()).await;
    let idle = rss(&processes)?;
    line("memory of a peer, no topics", mebibytes(idle), "MiB");
    let measured = Measured {
        topics,
        replicas: topics * COPIES / PEERS,
        idle,
    };
    measured.fill(&processes).await?;
    let disk = device::folder_bytes(folder.path())?;
    line("disk of all peers", mebibytes(disk), "MiB");
    let each = disk as f64 / (topics * COPIES) as f64;
    line("  for each replica of a topic", each, "B");
    measured.restart(&mut processes).await?;
    measured.query(&processes).await?;
    line(
        "memory of a peer, in the end",
        mebibytes(rss(&processes)?),
        "MiB",
    );
    Ok(())
}

/// What the figures refer to.
struct Measured {
    topics: u64,
    /// Of each peer.
    replicas: u64,
    /// Memory of a peer without topics.
    idle: u64,
}

impl Measured {
    fn rate(&self, begun: Instant) -> f64 {
        self.topics as f64 / begun.elapsed().as_secs_f64()
    }

    /// Bytes of memory for each replica of a topic.
    fn each(&self, rss: u64) -> f64 {
        rss.saturating_sub(self.idle) as f64 / self.replicas as f64
    }

    /// Creates them and publishes to each.
    async fn fill(&self, processes: &Processes) -> anyhow::Result<()> {
        let client = connect(processes).await?;
        let begun = Instant::now();
        work::create(&client, self.topics).await?;
        line("topics created", self.rate(begun), "/s (target ≥ 20000)");
        let created = mebibytes(rss(processes)?);
        line("memory of a peer, topics created", created, "MiB");
        let begun = Instant::now();
        work::publish(&client, self.topics).await?;
        line("first messages published", self.rate(begun), "/s");
        let warm = rss(processes)?;
        line("memory of a peer, after that", mebibytes(warm), "MiB");
        let each = self.each(warm);
        line("  for each replica of a topic", each, "B (target ≤ 1024)");
        Ok(())
    }

    /// Kills all and starts them again.
    async fn restart(&self, processes: &mut Processes) -> anyhow::Result<()> {
        processes.kill_all();
        device::drop_caches();
        let begun = Instant::now();
        processes.restart_all().await;
        let seconds = begun.elapsed().as_secs_f64();
        line(
            "restart of all eight after a kill",
            seconds,
            "s (target ≤ 5)",
        );
        let cold = rss(processes)?;
        line("memory of a peer, cold", mebibytes(cold), "MiB");
        let each = self.each(cold);
        line("  for each replica of a topic", each, "B (target ≤ 200)");
        Ok(())
    }

    /// Looks some up and lists all.
    async fn query(&self, processes: &Processes) -> anyhow::Result<()> {
        for clients in CLIENTS {
            let times = query::drive(processes, clients, self.topics).await?;
            println!(
                "{:<44} mean {:.0} µs, p99 {:.0} µs (target ≤ 2000), {:.0} queries/s",
                format!("{clients} clients, {} queries each", query::QUERIES),
                times.mean_us,
                times.p99_us,
                times.rate,
            );
        }
        let (begun, client) = (Instant::now(), connect(processes).await?);
        let listed = work::list(&client).await?;
        let expected = self.topics;
        ensure!(
            listed == expected,
            "{listed} of {expected} topics are listed"
        );
        line("topics listed, pages of 1000", self.rate(begun), "/s");
        Ok(())
    }
}

fn line(name: &str, value: f64, unit: &str) {
    println!("{name:<44} {value:>10.1} {unit}");
}
