//! When a call that has no answer yet is sent to a second peer as well, and how often that may happen.
//!
//! A peer that was paused or cut off refuses nothing: only time tells. Both attempts may succeed, so only what may be repeated is hedged. A budget
//! keeps hedges a small part of all calls, so that they do not double the load of a cluster that is merely slow (Dean and Barroso, "The Tail at
//! Scale"; the throttling of gRPC's retries, proposal A6). It never sends. Begin with [`Budget`].

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Attempts of one call that are under way at once.
/// A peer that was asked second may itself wait for the one that is silent, until the peers have noticed and elected.
pub(crate) const ATTEMPTS_MAX: usize = 5;
/// Hedges in a row, when nothing is answered: as many calls as one client may have at a peer that falls silent.
const TOKENS_MAX: u32 = 256;
/// What a call with an answer earns, in parts of a token: one hedge in ten calls.
const PARTS: u32 = 10;

/// How long a call waits before it is sent to another peer, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Hedge {
    /// Longer than an answer takes unless something is wrong.
    #[default]
    Usual,
    /// Any replica may answer, so a slow one need not be waited for.
    Soon,
    /// It waits for the slowest of several peers, and so would a second one: none is asked as long as the first answers a probe.
    Watch,
    /// It has much to do: never.
    Never,
}

/// The delays before a first hedge. Each further one of a call waits twice as long as the one before, at most `usual`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delays {
    pub(crate) usual: Duration,
    pub(crate) soon: Duration,
}

impl Delays {
    /// How long after the latest attempt the next hedge is due. `hedged`: how many there were.
    pub(crate) fn of(self, hedge: Hedge, hedged: u32) -> Option<Duration> {
        let first = match hedge {
            Hedge::Usual | Hedge::Watch => self.usual,
            Hedge::Soon => self.soon,
            Hedge::Never => return None,
        };
        Some(first.saturating_mul(1 << hedged.min(8)).min(self.usual))
    }
}

/// How many hedges are left.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(TOKENS_MAX * PARTS))
    }
}

impl Budget {
    /// A call had its answer.
    pub(crate) fn earn(&self) {
        // What is lost between reading and writing is one part of a token.
        let parts = self.0.load(Ordering::Relaxed);
        if parts < TOKENS_MAX * PARTS {
            self.0.store(parts + 1, Ordering::Relaxed);
        }
    }

    /// One hedge, if there is one left.
    pub(crate) fn spend(&self) -> bool {
        let spent = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |parts| {
                parts.checked_sub(PARTS)
            });
        spent.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_ends_and_is_earned_again_by_ten_answers() {
        let budget = Budget::default();
        let spent = (0..TOKENS_MAX + 5).filter(|_| budget.spend()).count();
        assert_eq!(spent, TOKENS_MAX as usize);
        for _ in 0..9 {
            budget.earn();
        }
        assert!(!budget.spend());
        budget.earn();
        assert!(budget.spend());
        for _ in 0..TOKENS_MAX * PARTS * 2 {
            budget.earn();
        }
        let spent = (0..TOKENS_MAX + 5).filter(|_| budget.spend()).count();
        assert_eq!(spent, TOKENS_MAX as usize, "it does not grow without bound");
    }

    #[test]
    fn each_further_hedge_waits_twice_as_long_up_to_the_usual_delay() {
        let delays = Delays {
            usual: Duration::from_millis(300),
            soon: Duration::from_millis(25),
        };
        let millis = |hedge| {
            let delays = (0..5).filter_map(|hedged| delays.of(hedge, hedged));
            delays.map(|delay| delay.as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(millis(Hedge::Usual), [300; 5]);
        assert_eq!(millis(Hedge::Soon), [25, 50, 100, 200, 300]);
        assert_eq!(delays.of(Hedge::Never, 0), None);
    }
}
