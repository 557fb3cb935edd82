//! Points in time at which something succeeded, and the gaps between them.
//!
//! It knows nothing of what succeeded. Begin with [`Series::gap`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When something succeeded, in order. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Series(Arc<Mutex<Vec<Instant>>>);

impl Series {
    fn lock(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It succeeded now.
    pub fn add(&self) {
        let mut times = self.lock();
        times.push(Instant::now());
    }

    /// How often it succeeded since then.
    pub fn count_since(&self, from: Instant) -> usize {
        let times = self.lock();
        times.len() - times.partition_point(|time| *time < from)
    }

    /// The longest time between two successes that follow each other, of which the later came after `from` and the earlier before `to`.
    /// `None`: there was no success after `from`.
    pub fn gap(&self, from: Instant, to: Instant) -> Option<Duration> {
        let times = self.lock();
        let first = times.partition_point(|time| *time < from).saturating_sub(1);
        let pairs = times.get(first..)?.windows(2);
        pairs
            .filter_map(|pair| match pair {
                [before, after] if *after >= from && *before <= to => Some(*after - *before),
                _ => None,
            })
            .max()
    }
}

/// What a list of times comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    pub count: usize,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Summary {
    /// In milliseconds. A quantile is the smallest time that so many do not exceed: with 100 times, p99 is the second longest.
    pub fn of(times: &[Duration]) -> Option<Self> {
        let mut sorted: Vec<f64> = times.iter().map(|time| millis(*time)).collect();
        sorted.sort_by(f64::total_cmp);
        let quantile = |hundredth: usize| {
            let rank = (sorted.len() * hundredth).div_ceil(100);
            sorted.get(rank.saturating_sub(1)).copied()
        };
        Some(Self {
            count: sorted.len(),
            p50: quantile(50)?,
            p90: quantile(90)?,
            p99: quantile(99)?,
            max: quantile(100)?,
        })
    }
}

/// In milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
