//! What the benchmarks share: where they work and for how long, eight processes of the real binary, what the machine tells, and how times are kept.
#![expect(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "no benchmark uses all of it, and some of it is shared with the crash tests"
)]

pub mod device;
pub mod machine;
#[path = "../../tests/crash/process.rs"]
pub mod process;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use cubecast_sdk::Client;
use hdrhistogram::Histogram;
use tempfile::TempDir;

use process::Processes;

/// As many as [`Processes`] starts.
pub const PEERS: usize = 8;
/// Longer than any call that does not fail.
const CALL_MAX: Duration = Duration::from_secs(60);

/// Runs a benchmark, but not for ever.
pub fn run(
    longest: Duration,
    bench: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let bench = tokio::time::timeout(longest, Box::pin(bench));
        bench
            .await
            .with_context(|| format!("not done after {longest:?}"))?
    })
}

/// Where data is kept. Not the system's folder for temporary files, which may be memory: then a sync would cost nothing.
pub fn place() -> PathBuf {
    std::env::var_os("CUBECAST_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

/// A folder there that is gone with the run.
pub fn folder() -> anyhow::Result<TempDir> {
    Ok(tempfile::tempdir_in(place())?)
}

/// A client that knows all peers.
pub async fn connect(processes: &Processes) -> anyhow::Result<Client> {
    let addresses = (0..PEERS).map(|peer| processes.address(peer));
    Ok(Client::connect(addresses).await?)
}

/// Names of topics that are not there yet, one for each owner: they are tried until each vertex has one.
pub async fn names_of_all_owners(client: &Client, prefix: &str) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut owners = BTreeSet::new();
    for number in 0_u32.. {
        let name = format!("{prefix}-{number}");
        let location = client.locate_topic(&name).await?;
        if owners.insert(location.placement.owner) {
            names.push(name);
        }
        if names.len() == PEERS {
            break;
        }
    }
    Ok(names)
}

/// The memory of the peer that has most.
pub fn largest_rss(processes: &Processes) -> anyhow::Result<u64> {
    let all = machine::rss_bytes(&processes.pids())?;
    all.into_iter().max().context("there are no peers")
}

/// Bytes as MiB.
#[expect(
    clippy::cast_precision_loss,
    reason = "no figure here has more than 52 bits"
)]
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Of nanoseconds, from 1 ns to 60 s with three digits.
pub fn histogram() -> anyhow::Result<Histogram<u64>> {
    let longest = u64::try_from(CALL_MAX.as_nanos())?;
    Histogram::new_with_bounds(1, longest, 3).context("the bounds of the histogram")
}

/// A quantile of such times, in microseconds.
pub fn micros(times: &Histogram<u64>, quantile: f64) -> f64 {
    Duration::from_nanos(times.value_at_quantile(quantile)).as_secs_f64() * 1e6
}
