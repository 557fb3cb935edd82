//! How long callers wait when a leader dies, falls silent, stops or comes back; beside a JetStream of three servers under the same loops.
//!
//! Processes of the real binary, one of which is harmed in each round while others publish and read; in the end every acknowledged message is looked for. It
//! measures and never judges: a missed target is printed, a broken promise ends the run with an error. Begin with [`run`]; the method and the
//! figures are in `benches/README.md`.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

mod check;
mod cube;
mod load;
mod nats;
mod plot;
mod report;
mod round;
mod series;
#[path = "../shared/mod.rs"]
mod shared;
mod system;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use check::Check;
use cube::Cube;
use load::{Errors, Load};
use nats::Nats;
use round::{Bench, Times};
use system::{Harm, System, TOPICS};

/// Leaders that are killed, unless `CUBECAST_BENCH_KILLS` says otherwise.
const KILLS: usize = 100;
/// One leader in so many is paused, and one stopped, unless `CUBECAST_BENCH_PAUSES` and `CUBECAST_BENCH_STOPS` say otherwise.
const KILLS_PER_OTHER: usize = 4;
/// Far more than a round takes.
const ROUND_MAX: Duration = Duration::from_secs(120);
/// Start, check and end of a system.
const OTHER_WORK_MAX: Duration = Duration::from_secs(300);

/// What is to be done.
#[derive(Debug, Clone)]
struct Plan {
    kills: usize,
    pauses: usize,
    stops: usize,
    /// Of JetStream; 0: it is left out.
    nats_kills: usize,
}

impl Plan {
    fn from_settings() -> anyhow::Result<Self> {
        let kills = count("CUBECAST_BENCH_KILLS", KILLS)?;
        let others = kills.div_ceil(KILLS_PER_OTHER);
        Ok(Self {
            kills,
            pauses: count("CUBECAST_BENCH_PAUSES", others)?,
            stops: count("CUBECAST_BENCH_STOPS", others)?,
            nats_kills: count("CUBECAST_BENCH_NATS_KILLS", kills)?,
        })
    }

    /// The rounds of cubecast.
    fn rounds(&self) -> Vec<(Harm, usize)> {
        vec![
            (Harm::Kill, self.kills),
            (Harm::Pause, self.pauses),
            (Harm::Stop, self.stops),
        ]
    }
}

fn count(name: &str, default: usize) -> anyhow::Result<usize> {
    let Ok(text) = std::env::var(name) else {
        return Ok(default);
    };
    text.parse()
        .with_context(|| format!("{name} is {text:?}, not a number"))
}

/// What a system gave.
struct Outcome {
    name: String,
    times: Times,
    /// Processes that were not back in time.
    late: u32,
    errors: Errors,
    check: Check,
    disagreement: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let plan = Plan::from_settings()?;
    let rounds = plan.kills + plan.pauses + plan.stops + plan.nats_kills;
    let longest = ROUND_MAX * u32::try_from(rounds)? + OTHER_WORK_MAX;
    tokio::runtime::Runtime::new()?.block_on(async {
        let run = tokio::time::timeout(longest, Box::pin(run(&plan)));
        run.await
            .with_context(|| format!("not done after {longest:?}"))?
    })
}

async fn run(plan: &Plan) -> anyhow::Result<()> {
    // Not the system's folder for temporary files, which may be memory: then a sync would cost nothing.
    let place = std::env::var_os("CUBECAST_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let folder = tempfile::tempdir_in(place)?;
    for (name, value) in shared::machine::facts(folder.path()) {
        println!("{name:<12} {value}");
    }
    let mut outcomes = Vec::new();
    let rounds = plan.rounds();
    if rounds.iter().any(|(_, count)| *count > 0) {
        let mut cube = Cube::start(&own_folder(folder.path(), "cubecast")?).await?;
        outcomes.push(measure(&mut cube, &rounds).await?);
    }
    if plan.nats_kills > 0 {
        let folder = own_folder(folder.path(), "nats")?;
        match Nats::start(&folder).await? {
            Some(mut nats) => {
                outcomes.push(measure(&mut nats, &[(Harm::Kill, plan.nats_kills)]).await?);
            }
            None => println!("there is no nats-server on this machine: nothing to compare with"),
        }
    }
    report::print(&outcomes);
    report::write_json(&outcomes)?;
    let path = std::env::var_os("CUBECAST_BENCH_SVG").map_or_else(
        || PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("failover.svg"),
        PathBuf::from,
    );
    plot::draw(&outcomes, &path)?;
    println!("\ndrawn in {}", path.display());
    verdict(&outcomes)
}

fn own_folder(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let own = folder.join(name);
    std::fs::create_dir(&own)?;
    Ok(own)
}

/// All rounds with a system, under load, and what it holds in the end.
async fn measure<S: System>(system: &mut S, rounds: &[(Harm, usize)]) -> anyhow::Result<Outcome> {
    let (publishing, reading) = (system.client().await?, system.client().await?);
    let load = Load::start(&publishing, &reading);
    let mut bench = Bench {
        system: &mut *system,
        load: &load,
        times: Times::new(),
        late: 0,
    };
    for (harm, count) in rounds {
        for round in 0..*count {
            let done = bench.round(round % TOPICS, *harm).await;
            done.with_context(|| format!("{harm:?}, round {round}"))?;
        }
    }
    let (times, late) = (bench.times, bench.late);
    let (promises, errors) = load.stop().await?;
    let mut check = Check::default();
    for (topic, promises) in promises.iter().enumerate() {
        check.add(promises, &system.numbers(topic).await?);
    }
    Ok(Outcome {
        name: system.name().to_owned(),
        times,
        late,
        errors,
        check,
        disagreement: system.disagreement().await?,
    })
}

/// An error when a promise of cubecast was broken; what the other system does is only told.
fn verdict(outcomes: &[Outcome]) -> anyhow::Result<()> {
    for outcome in outcomes {
        if !outcome.name.starts_with("cubecast") {
            continue;
        }
        ensure!(
            outcome.check.is_good(),
            "promises were broken: {:?}",
            outcome.check
        );
        ensure!(
            outcome.errors.stale == 0,
            "reads missed what was acknowledged"
        );
        if let Some(disagreement) = &outcome.disagreement {
            bail!("replicas differ: {disagreement}");
        }
    }
    Ok(())
}
