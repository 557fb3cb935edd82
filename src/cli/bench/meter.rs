//! Counts what happens, and cuts it into samples while it happens.
//!
//! Each task has a meter of its own, which nobody else waits for but the one that takes a sample. Begin with [`observe`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::time::{Instant, MissedTickBehavior};

use super::Publishing;
use super::progress::Progress;

/// Between two samples.
const SAMPLE: Duration = Duration::from_millis(250);
/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// What happened since somebody looked.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    pub(super) messages: u64,
    pub(super) failed: u64,
    /// Why the first one failed.
    pub(super) problem: Option<String>,
    /// In microseconds.
    latencies: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        #[expect(clippy::expect_used, reason = "the bounds are constants")]
        let latencies = Histogram::new_with_bounds(1, micros(LATENCY_MAX), DIGITS)
            .expect("the bounds are in order, and there are at most five digits");
        Self {
            messages: 0,
            failed: 0,
            problem: None,
            latencies,
        }
    }

    fn add(&mut self, other: &Self) {
        self.messages = self.messages.saturating_add(other.messages);
        self.failed = self.failed.saturating_add(other.failed);
        self.problem = self.problem.take().or_else(|| other.problem.clone());
        // All have the same bounds.
        let _same = self.latencies.add(&other.latencies);
    }

    /// The latency that this part of all does not exceed; 0 when there is none.
    pub(super) fn micros_at(&self, part: f64) -> u64 {
        self.latencies.value_at_quantile(part)
    }

    /// The longest latency.
    pub(super) fn micros_max(&self) -> u64 {
        self.latencies.max()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Where one task counts.
#[derive(Debug, Clone)]
pub(super) struct Meter(Arc<Mutex<Tally>>);

impl Meter {
    /// Messages arrived where they should, each after such a time, if that is known.
    pub(super) fn count(&self, messages: u64, latencies: &[Duration]) {
        let mut tally = lock(&self.0);
        tally.messages = tally.messages.saturating_add(messages);
        for latency in latencies {
            tally.latencies.saturating_record(micros(*latency).max(1));
        }
    }

    /// A message did not.
    pub(super) fn fail(&self, problem: &dyn std::fmt::Display) {
        let mut tally = lock(&self.0);
        tally.failed = tally.failed.saturating_add(1);
        if tally.problem.is_none() {
            tally.problem = Some(problem.to_string());
        }
    }
}

/// The meters of all tasks that do the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Meters {
    meters: Arc<Mutex<Vec<Meter>>>,
}

impl Meters {
    /// One more.
    pub(super) fn add(&self) -> Meter {
        let meter = Meter(Arc::new(Mutex::new(Tally::new())));
        lock(&self.meters).push(meter.clone());
        meter
    }

    /// Takes what was counted.
    fn drain(&self) -> Tally {
        let mut all = Tally::new();
        for meter in lock(&self.meters).iter() {
            let mut tally = lock(&meter.0);
            all.add(&tally);
            (tally.messages, tally.failed) = (0, 0);
            tally.latencies.reset();
        }
        all
    }
}

/// Leaf data.
fn lock<T>(data: &Mutex<T>) -> MutexGuard<'_, T> {
    data.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A piece of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Its end, since the load began.
    pub(super) at: Duration,
    pub(super) rate: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

/// What came of one side of a load.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) samples: Vec<Sample>,
    /// Everything after the warm-up.
    pub(super) total: Tally,
    /// Messages per second in the time that was to be measured.
    pub(super) rate: f64,
    /// How long that was.
    pub(super) measured: Duration,
}

/// Watches one side of a load.
#[derive(Debug)]
pub(super) struct Watch {
    meters: Meters,
    from: Duration,
    /// `None`: until it is done.
    to: Option<Duration>,
    name: &'static str,
    samples: Vec<Sample>,
    total: Tally,
    /// Messages in whole samples between `from` and `to`, and how long these were.
    counted: u64,
    measured: Duration,
    seen: Duration,
}

impl Watch {
    /// From the end of the warm-up, as long as is to be measured.
    pub(super) fn timed(name: &'static str, meters: Meters, options: &Publishing) -> Self {
        Self {
            from: options.warm_up,
            to: Some(options.warm_up + options.duration),
            ..Self::whole(name, meters)
        }
    }

    /// From begin to end.
    pub(super) fn whole(name: &'static str, meters: Meters) -> Self {
        Self {
            meters,
            from: Duration::ZERO,
            to: None,
            name,
            samples: Vec::new(),
            total: Tally::new(),
            counted: 0,
            measured: Duration::ZERO,
            seen: Duration::ZERO,
        }
    }

    /// Takes a sample that ends now. Gives its messages and its rate.
    fn sample(&mut self, at: Duration) -> (u64, f64) {
        let tally = self.meters.drain();
        let length = at.saturating_sub(self.seen);
        let rate = rate(tally.messages, length);
        self.samples.push(Sample {
            at,
            rate,
            p50_us: tally.micros_at(0.5),
            p99_us: tally.micros_at(0.99),
        });
        if self.seen >= self.from {
            self.total.add(&tally);
            if self.to.is_none_or(|to| at <= to + SAMPLE / 2) {
                self.counted = self.counted.saturating_add(tally.messages);
                self.measured += length;
            }
        } else {
            // A failure counts whenever it comes.
            self.total.failed = self.total.failed.saturating_add(tally.failed);
            self.total.problem = self.total.problem.take().or(tally.problem);
        }
        self.seen = at;
        (tally.messages, rate)
    }

    fn end(self) -> Series {
        Series {
            name: self.name,
            rate: rate(self.counted, self.measured),
            measured: self.measured,
            samples: self.samples,
            total: self.total,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no load has more than 2^52 messages"
)]
fn rate(messages: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 {
        messages as f64 / seconds
    } else {
        0.0
    }
}

/// Waits for the work and takes samples meanwhile. The progress is that of the first watch.
pub(super) async fn observe<T>(
    work: impl Future<Output = Result<T>>,
    mut watches: Vec<Watch>,
    progress: Progress,
) -> Result<(T, Vec<Series>)> {
    let begun = Instant::now();
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval_at(begun + SAMPLE, SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = ticks.tick() => {
                let at = begun.elapsed();
                let seen: Vec<_> = watches.iter_mut().map(|watch| watch.sample(at)).collect();
                if let Some((messages, rate)) = seen.first() {
                    progress.show(at, *messages, *rate);
                }
            }
        }
    };
    let at = begun.elapsed();
    for watch in &mut watches {
        watch.sample(at);
    }
    Ok((done?, watches.into_iter().map(Watch::end).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn warm_up_and_tail_do_not_count_for_the_rate() {
        let meters = Meters::default();
        let meter = meters.add();
        let watch = Watch {
            from: Duration::from_secs(1),
            to: Some(Duration::from_secs(3)),
            ..Watch::whole("test", meters)
        };
        let work = async {
            for second in 0..4 {
                // 100 in the first second, 1 in each of the next two, 100 in the last.
                let count = if matches!(second, 1 | 2) { 1 } else { 100 };
                tokio::time::sleep(Duration::from_millis(900)).await;
                meter.count(count, &[Duration::from_millis(count)]);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            meter.fail(&"lost");
            Ok(7)
        };
        let progress = Progress::timed(Duration::from_secs(3));
        let (done, series) = observe(work, vec![watch], progress).await.unwrap();
        let [series] = series.try_into().unwrap();
        assert_eq!(done, 7);
        assert_eq!(series.measured, Duration::from_secs(2));
        assert!((series.rate - 1.0).abs() < 1e-9, "{}", series.rate);
        assert_eq!(series.total.messages, 102);
        assert_eq!(series.total.failed, 1);
        assert_eq!(series.total.problem.as_deref(), Some("lost"));
        assert_eq!(series.total.micros_at(0.5), 1000);
        assert!(series.total.micros_max() >= 100_000);
        // The last one ends with the load.
        assert!((16..=17).contains(&series.samples.len()));
    }
}
