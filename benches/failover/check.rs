//! Whether every promise was kept.
//!
//! Each acknowledged message is at its offset, once, in the order of its publisher; and nothing is there that nobody published. Begin with
//! [`Check::add`].

use std::collections::BTreeSet;

use crate::load::{Acknowledged, Promises};

/// What became of the messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Check {
    pub acknowledged: u64,
    /// Acknowledged, and not at its offset.
    pub lost: u64,
    /// There more than once.
    pub doubled: u64,
    /// Before one that was published earlier.
    pub disordered: u64,
    /// There, and never published, or published with a definite error.
    pub phantom: u64,
    /// Published with an error that leaves the outcome open, and there.
    pub found: u64,
}

impl Check {
    /// Takes in a topic: what was promised, and the numbers that it holds in the order of their offsets.
    pub fn add(&mut self, promises: &Promises, numbers: &[u64]) {
        for Acknowledged { number, offset } in &promises.acknowledged {
            self.acknowledged += 1;
            let place = usize::try_from(*offset).ok();
            let held = place.and_then(|place| numbers.get(place));
            self.lost += u64::from(held != Some(number));
        }
        let published: BTreeSet<u64> = promises.acknowledged.iter().map(|one| one.number).collect();
        let failed: BTreeSet<u64> = promises.failed.iter().copied().collect();
        let mut seen = BTreeSet::new();
        let mut last = None;
        for number in numbers {
            let is_failed = failed.contains(number);
            self.doubled += u64::from(!seen.insert(*number));
            self.found += u64::from(is_failed);
            self.phantom += u64::from(!is_failed && !published.contains(number));
            // One that failed may arrive late, which its publisher was told.
            if !is_failed {
                self.disordered += u64::from(last.is_some_and(|last| last >= *number));
                last = Some(*number);
            }
        }
    }

    /// Nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.lost + self.doubled + self.disordered + self.phantom == 0
    }
}
