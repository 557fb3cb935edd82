//! What each heartbeat moves: when a peer was heard, and how long the way there and back takes.
//!
//! Figures alone, without a lock, so that a heartbeat wakes nobody who waits for changes of the map.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Moments are counted from here, so that they fit into a word; one second back, so that no moment is 0.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(1)).unwrap_or(now)
});

/// Microseconds since the first time that anybody asked; never 0.
pub(super) fn micros(at: Instant) -> u64 {
    let since = at.saturating_duration_since(*EPOCH).as_micros();
    u64::try_from(since).unwrap_or(u64::MAX).max(1)
}

/// The figures of one link.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// 0: never.
    heard: AtomicU64,
    /// 0: not known.
    round_trip: AtomicU64,
    /// What the other peer's clock said in the last heartbeat that came.
    their_clock: AtomicU64,
}

impl Pulse {
    pub(super) fn heard(&self) -> Option<Instant> {
        match self.heard.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(*EPOCH + Duration::from_micros(micros)),
        }
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        match self.round_trip.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// A heartbeat came that says what the other peer's clock said, which clock of ours it had last seen, and how long ago.
    pub(super) fn beat(&self, now: Instant, their_clock: u64, echo: u64, held: u64) {
        let now = micros(now);
        self.heard.store(now, Ordering::Relaxed);
        self.their_clock.store(their_clock, Ordering::Relaxed);
        if echo != 0 {
            let round_trip = now.saturating_sub(echo).saturating_sub(held);
            self.round_trip.store(round_trip.max(1), Ordering::Relaxed);
        }
    }

    /// What the next heartbeat to the other peer says: our clock, the last of its clock, and how long ago that came.
    pub(super) fn reply(&self, now: Instant) -> (u64, u64, u64) {
        let now = micros(now);
        let heard = self.heard.load(Ordering::Relaxed);
        let echo = self.their_clock.load(Ordering::Relaxed);
        (now, echo, now.saturating_sub(heard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_leaves_out_how_long_the_other_one_waited() {
        let (ours, begun) = (Pulse::default(), Instant::now());
        assert_eq!((ours.heard(), ours.round_trip()), (None, None));
        let (sent, _, _) = ours.reply(begun);
        let theirs = Pulse::default();
        theirs.beat(begun + Duration::from_millis(3), sent, 0, 0);
        let back = begun + Duration::from_millis(203);
        let (clock, echo, held) = theirs.reply(back);
        ours.beat(back + Duration::from_millis(4), clock, echo, held);
        let round_trip = ours.round_trip().unwrap();
        assert!(round_trip >= Duration::from_millis(6) && round_trip < Duration::from_millis(9));
        assert!(ours.heard().unwrap() > begun);
    }
}
