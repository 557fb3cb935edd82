//! Wall time.
//!
//! It orders nothing between peers: a leader reads it once per proposal, and the log carries what it read. Begin with [`Clock`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::types::Timestamp;

/// Tells the time. What one clock tells never decreases.
pub trait Clock: Send + Sync {
    /// Nanoseconds since 1970.
    fn now(&self) -> Timestamp;
}

/// The machine's clock; stands still while the machine's goes backwards.
#[derive(Debug, Default)]
pub struct SystemClock {
    /// The greatest time told so far.
    latest: AtomicU64,
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that all others are to use"
    )]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        Timestamp(self.latest.fetch_max(now, Ordering::Relaxed).max(now))
    }
}

/// A clock that moves only when it is told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: AtomicU64,
}

impl ManualClock {
    /// Moves on to `now`; an earlier time is ignored.
    pub fn set(&self, now: Timestamp) {
        self.now.fetch_max(now.0, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_never_goes_back() {
        let clock = SystemClock::default();
        let first = clock.now();
        assert!(first > Timestamp(1_600_000_000_000_000_000));
        clock.latest.store(u64::MAX - 1, Ordering::Relaxed);
        assert_eq!(clock.now(), Timestamp(u64::MAX - 1));
    }

    #[test]
    fn manual_clock_ignores_the_past() {
        let clock = ManualClock::default();
        clock.set(Timestamp(7));
        clock.set(Timestamp(3));
        assert_eq!(clock.now(), Timestamp(7));
    }
}
