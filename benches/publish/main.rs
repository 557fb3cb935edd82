//! What a publish costs beside a bare gRPC call and a bare write to the disk, in one run on one machine.
//!
//! Eight processes of the real binary, their disks and the calls between them; what is compared runs in turns, so that a busy machine disturbs
//! all alike. It measures and never judges: a missed target is printed, a failed publish ends the run. Begin with [`run`]; the
//! method and the figures are in `benches/README.md`.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

mod bare;
mod caller;
mod cluster;
mod load;
mod report;
#[path = "../shared/mod.rs"]
mod shared;

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;

use bare::BareServer;
use caller::{AppendFile, Create, Generated, Named, Plain};
use cluster::Cluster;
use load::{Round, Sample, drive};
use report::{Case, Facts, Report};
use shared::machine;

/// Turns of all cases; what is reported is the median of a case's turns.
const ROUNDS: u32 = 5;
/// How long each case of a round is measured, unless `CUBECAST_BENCH_SECONDS` says otherwise.
const MEASURED: Duration = Duration::from_millis(800);
const WARM_UP: Duration = Duration::from_millis(200);
/// How long the cluster is watched while it has nothing to do.
const IDLE: Duration = Duration::from_secs(10);
/// Start-up, creation of topics and publishers, and the end; far more than they need.
const OTHER_WORK_MAX: Duration = Duration::from_secs(150);
const MANY: usize = 64;

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some(bare::SERVE) {
        return bare::serve();
    }
    let round = Round {
        warm_up: WARM_UP,
        measured: measured()?,
    };
    let cases = Case::wanted()?;
    let turn = (round.warm_up + round.measured) * u32::try_from(cases.len())?;
    let longest = turn * ROUNDS + IDLE + OTHER_WORK_MAX;
    shared::run(longest, run(round, cases))
}

fn measured() -> anyhow::Result<Duration> {
    let Ok(seconds) = std::env::var("CUBECAST_BENCH_SECONDS") else {
        return Ok(MEASURED);
    };
    let parsed = seconds.parse().ok().filter(|seconds| *seconds > 0.0);
    let Some(duration) = parsed.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    else {
        bail!("CUBECAST_BENCH_SECONDS is {seconds:?}, not a number of seconds");
    };
    Ok(duration)
}

/// Starts everything, measures, prints.
async fn run(round: Round, cases: Vec<Case>) -> anyhow::Result<()> {
    let folder = shared::folder()?;
    let parties = Parties {
        bare: BareServer::start().await?,
        cluster: Cluster::start(folder.path()).await?,
        growing: AppendFile::growing(&folder.path().join("growing"))?,
        reserved: AppendFile::reserved(&folder.path().join("reserved"))?,
    };
    let cluster = &parties.cluster;

    let mut facts = Facts::about(folder.path(), round);
    facts.started_in = cluster.started_in;
    facts.idle_cpu = idle_cpu(cluster).await?;
    facts.rss_idle = machine::rss_bytes(&cluster.pids())?;

    let others = Others::watch(&parties)?;
    let mut report = Report::default();
    for turn in 0..ROUNDS {
        for case in &cases {
            let sample = parties.measure(*case, round).await;
            report.add(
                *case,
                sample.with_context(|| format!("{case:?} in turn {turn}"))?,
            );
        }
    }
    facts.others_cpu = others.used(&parties)?;
    facts.rss_loaded = machine::rss_bytes(&cluster.pids())?;
    drop(parties);
    facts.dev_started_in = dev_start(&folder.path().join("dev")).await?;
    report.print(&facts)
}

/// Who calls and who answers.
struct Parties {
    bare: BareServer,
    cluster: Cluster,
    growing: AppendFile,
    reserved: AppendFile,
}

impl Parties {
    /// All processes of this run.
    fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let mut pids = self.cluster.pids();
        pids.extend([std::process::id(), self.bare.pid()?]);
        Ok(pids)
    }

    /// One round of one case.
    async fn measure(&self, case: Case, round: Round) -> anyhow::Result<Sample> {
        let (cluster, topic) = (&self.cluster, self.cluster.topic());
        let (server, peers) = ([self.bare.pid()?], cluster.pids());
        let bare = |count| vec![Generated::new(self.bare.client(), topic); count];
        let forwarded = |count| vec![Generated::new(cluster.distant(), topic); count];
        let named = |count| {
            cluster
                .publishers(count)
                .map(|publisher| Named::new(publisher, topic))
                .collect()
        };
        let topics = || cluster.topics().iter().cycle().take(MANY);
        match case {
            Case::AppendGrowing => drive(vec![self.growing.clone()], round, &[]).await,
            Case::AppendReserved => drive(vec![self.reserved.clone()], round, &[]).await,
            Case::BareOne => drive(bare(1), round, &server).await,
            Case::BareMany => drive(bare(MANY), round, &server).await,
            Case::PublishOne => drive(named(1), round, &peers).await,
            Case::PublishersMany => drive(named(MANY), round, &peers).await,
            Case::TopicsMany => {
                let plain = topics().map(|topic| Plain::new(cluster.client(), topic));
                drive(plain.collect(), round, &peers).await
            }
            Case::ForwardOne => drive(forwarded(1), round, &peers).await,
            Case::ForwardMany => drive(forwarded(MANY), round, &peers).await,
            Case::CreateTopic => drive(vec![Create::new(cluster.client())], round, &peers).await,
        }
    }
}

/// What else the machine did, which makes all figures worse.
struct Others {
    begun: Instant,
    busy: Duration,
    own: Duration,
}

impl Others {
    fn watch(parties: &Parties) -> anyhow::Result<Self> {
        let (busy, own) = (machine::busy_time()?, machine::cpu_time(&parties.pids()?)?);
        let begun = Instant::now();
        Ok(Self { begun, busy, own })
    }

    /// In cores.
    fn used(&self, parties: &Parties) -> anyhow::Result<f64> {
        let now = Self::watch(parties)?;
        let busy = now.busy.saturating_sub(self.busy);
        let own = now.own.saturating_sub(self.own);
        Ok(busy.saturating_sub(own).as_secs_f64() / (now.begun - self.begun).as_secs_f64())
    }
}

/// The part of one core that all peers together use while nobody calls them.
async fn idle_cpu(cluster: &Cluster) -> anyhow::Result<f64> {
    let pids = cluster.pids();
    let before = machine::cpu_time(&pids)?;
    tokio::time::sleep(IDLE).await;
    let used = machine::cpu_time(&pids)?.saturating_sub(before);
    Ok(used.as_secs_f64() / IDLE.as_secs_f64())
}

/// How long eight peers in one process take until all their shards have leaders.
async fn dev_start(folder: &std::path::Path) -> anyhow::Result<Duration> {
    std::fs::create_dir(folder)?;
    let begun = Instant::now();
    let mut cluster = cubecast::testing::TestCluster::reopen(folder, &[]).await;
    let started_in = begun.elapsed();
    cluster.stop().await;
    Ok(started_in)
}
