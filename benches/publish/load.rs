//! Closed-loop load: so many callers, each calling again when it has its answer.
//!
//! It knows nothing of what is called. Begin with [`drive`].

use std::future::Future;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::shared::{histogram, machine, micros};

/// Something that can be called again and again.
pub trait Caller: Send + 'static {
    /// One call. An error ends the run.
    fn call(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// How long to load.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Before anything counts.
    pub warm_up: Duration,
    /// What counts.
    pub measured: Duration,
}

/// What a round of one case gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Calls per second.
    pub rate: f64,
    /// Half of the calls took at most so many microseconds.
    pub p50: f64,
    /// 99 of 100 calls took at most so many microseconds.
    pub p99: f64,
    /// Microseconds of processor time per call: of this process.
    pub cpu_here: f64,
    /// Microseconds of processor time per call: of the processes that answer.
    pub cpu_there: f64,
}

/// Lets all callers call at once. `servers` are the processes that answer.
pub async fn drive<C: Caller>(
    callers: Vec<C>,
    round: Round,
    servers: &[u32],
) -> anyhow::Result<Sample> {
    let start = Instant::now() + round.warm_up;
    let end = start + round.measured;
    let mut tasks = JoinSet::new();
    for caller in callers {
        tasks.spawn(repeat(caller, start, end));
    }
    let here = [std::process::id()];
    let cpu = || anyhow::Ok((machine::cpu_time(&here)?, machine::cpu_time(servers)?));
    tokio::time::sleep_until(start).await;
    let before = cpu()?;
    tokio::time::sleep_until(end).await;
    let after = cpu()?;

    let mut times = histogram()?;
    while let Some(part) = tasks.join_next().await {
        times.add(part??)?;
    }
    let calls = f64::from(u32::try_from(times.len())?);
    anyhow::ensure!(calls > 0.0, "no call was answered in {:?}", round.measured);
    let per_call =
        |after: Duration, before| after.saturating_sub(before).as_secs_f64() * 1e6 / calls;
    Ok(Sample {
        rate: calls / round.measured.as_secs_f64(),
        p50: micros(&times, 0.5),
        p99: micros(&times, 0.99),
        cpu_here: per_call(after.0, before.0),
        cpu_there: per_call(after.1, before.1),
    })
}

/// The times of the calls that were answered between start and end.
async fn repeat<C: Caller>(
    mut caller: C,
    start: Instant,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut times = histogram()?;
    loop {
        let begun = Instant::now();
        if begun >= end {
            return Ok(times);
        }
        caller.call().await?;
        let answered = Instant::now();
        if answered >= start && answered < end {
            times.saturating_record(u64::try_from((answered - begun).as_nanos())?);
        }
    }
}
