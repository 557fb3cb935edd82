//! One round: harm the leader of a topic, see the topic go on, heal it, see it come back.
//!
//! It never judges. Begin with [`Bench::round`].

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;

use crate::load::Load;
use crate::system::{Harm, Level, System, TOPICS};

/// Before a harm, so that the loops look at the topic and run steadily.
const SETTLE: Duration = Duration::from_millis(300);
/// After the topic goes on: what is set right then, such as another voter, must not stop it either.
const AFTER: Duration = Duration::from_millis(700);
/// The topic goes on when so many publishes were acknowledged.
const GOES_ON: usize = 20;
/// A topic that stands still for longer is a failure of the run.
const GAP_MAX: Duration = Duration::from_secs(60);
/// How long a process may take to be back.
const BACK_MAX: Duration = Duration::from_secs(30);
/// How often conditions are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How often a process that starts is asked whether it is back: each look costs it something.
const LOOK_BACK: Duration = Duration::from_millis(50);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    KillWrite,
    KillWriteElsewhere,
    KillReadEventual,
    KillReadLinearizable,
    PauseWrite,
    PauseReadEventual,
    PauseReadLinearizable,
    StopWrite,
    StopReadEventual,
    StopReadLinearizable,
    ReturnWrite,
    ReturnTime,
}

impl Case {
    /// In words, and how long it may be in milliseconds: p50 and p99.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::KillWrite => ("SIGKILL of the leader: writes", "p50 50, p99 100"),
            Self::KillWriteElsewhere => ("SIGKILL: writes of the other topics", ""),
            Self::KillReadEventual => ("SIGKILL of the leader: EVENTUAL reads", "p99 50"),
            Self::KillReadLinearizable => ("SIGKILL of the leader: LINEARIZABLE reads", "p99 100"),
            Self::PauseWrite => ("SIGSTOP of the leader: writes", "1500"),
            Self::PauseReadEventual => ("SIGSTOP of the leader: EVENTUAL reads", ""),
            Self::PauseReadLinearizable => ("SIGSTOP of the leader: LINEARIZABLE reads", "1500"),
            Self::StopWrite => ("SIGTERM of the leader: writes", "20"),
            Self::StopReadEventual => ("SIGTERM of the leader: EVENTUAL reads", ""),
            Self::StopReadLinearizable => ("SIGTERM of the leader: LINEARIZABLE reads", ""),
            Self::ReturnWrite => ("leadership goes back: writes", "50"),
            Self::ReturnTime => ("start or SIGCONT until it leads again", ""),
        }
    }

    fn of(harm: Harm) -> [Self; 3] {
        match harm {
            Harm::Kill => [
                Self::KillWrite,
                Self::KillReadEventual,
                Self::KillReadLinearizable,
            ],
            Harm::Pause => [
                Self::PauseWrite,
                Self::PauseReadEventual,
                Self::PauseReadLinearizable,
            ],
            Harm::Stop => [
                Self::StopWrite,
                Self::StopReadEventual,
                Self::StopReadLinearizable,
            ],
        }
    }
}

/// All that was measured.
pub type Times = BTreeMap<Case, Vec<Duration>>;

/// A system under load.
pub struct Bench<'a, S> {
    pub system: &'a mut S,
    pub load: &'a Load,
    pub times: Times,
    /// Processes that were not back in time.
    pub late: u32,
}

impl<S: System> Bench<'_, S> {
    /// Harms whoever leads the topic, and waits until all is as before.
    pub async fn round(&mut self, topic: usize, harm: Harm) -> anyhow::Result<()> {
        self.load.focus(topic);
        tokio::time::sleep(SETTLE).await;
        let leader = self.system.leader(topic).await?;
        let begun = Instant::now();
        self.system.harm(leader, harm)?;
        self.goes_on(topic, begun).await?;
        if harm == Harm::Stop {
            self.ended(leader).await?;
        }
        tokio::time::sleep(AFTER).await;
        self.take_gaps(topic, harm, begun);
        self.heal(leader).await
    }

    /// Waits until the topic goes on.
    async fn goes_on(&self, topic: usize, since: Instant) -> anyhow::Result<()> {
        let writes = self.load.writes(topic).context("a topic of ours")?;
        while writes.count_since(since) < GOES_ON {
            if since.elapsed() > GAP_MAX {
                bail!("topic {topic} stands still for {GAP_MAX:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn ended(&mut self, process: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !self.system.has_ended(process)? {
            if begun.elapsed() > BACK_MAX {
                bail!("process {process} does not end");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn take_gaps(&mut self, topic: usize, harm: Harm, begun: Instant) {
        let now = Instant::now();
        let [write, eventual, linearizable] = Case::of(harm);
        let load = self.load;
        let mut gaps = vec![
            (
                write,
                load.writes(topic).and_then(|writes| writes.gap(begun, now)),
            ),
            (eventual, load.reads(Level::Eventual).gap(begun, now)),
            (
                linearizable,
                load.reads(Level::Linearizable).gap(begun, now),
            ),
        ];
        if harm == Harm::Kill {
            let others = (0..TOPICS).filter(|other| *other != topic);
            gaps.extend(others.map(|other| {
                let gap = load.writes(other).and_then(|writes| writes.gap(begun, now));
                (Case::KillWriteElsewhere, gap)
            }));
        }
        for (case, gap) in gaps {
            // A loop that has had no answer at all by now: its gap is at least so long.
            let gap = gap.unwrap_or(now - begun);
            self.times.entry(case).or_default().push(gap);
        }
    }

    /// Starts the process again and waits until it is back.
    async fn heal(&mut self, process: usize) -> anyhow::Result<()> {
        let home = self.system.home(process);
        if let Some(home) = home {
            self.load.focus(home);
            tokio::time::sleep(SETTLE).await;
        }
        let begun = Instant::now();
        self.system.heal(process)?;
        while !self.system.is_back(process).await {
            if begun.elapsed() > BACK_MAX {
                self.late += 1;
                return Ok(());
            }
            tokio::time::sleep(LOOK_BACK).await;
        }
        let took = begun.elapsed();
        tokio::time::sleep(AFTER).await;
        let Some(writes) = home.and_then(|home| self.load.writes(home)) else {
            return Ok(());
        };
        let gap = writes.gap(begun, Instant::now()).unwrap_or(begun.elapsed());
        self.times.entry(Case::ReturnWrite).or_default().push(gap);
        self.times.entry(Case::ReturnTime).or_default().push(took);
        Ok(())
    }
}
