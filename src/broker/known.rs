//! Publishers that were found lately, so that not every publish asks another shard.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::PublisherId;

/// How long a publisher that was found is taken to exist. After it was deleted elsewhere its publishes are taken for so long.
const AGE_MAX: Duration = Duration::from_secs(10);
/// Publishers remembered at once: about 3 MiB of the longest names. Beyond it all are forgotten, which only costs asking again.
const COUNT_MAX: usize = 10_000;

/// Which publishers exist, as far as it was asked lately. Only found ones are remembered, so that a new one may publish at once.
#[derive(Debug, Default)]
pub(super) struct Known {
    found: Mutex<HashMap<PublisherId, Instant>>,
}

impl Known {
    /// Whether it was found lately.
    pub(super) fn contains(&self, publisher: &PublisherId) -> bool {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found
            .get(publisher)
            .is_some_and(|at| at.elapsed() < AGE_MAX)
    }

    /// It was found now.
    pub(super) fn insert(&self, publisher: PublisherId) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() >= COUNT_MAX {
            found.retain(|_, at| at.elapsed() < AGE_MAX);
        }
        if found.len() >= COUNT_MAX {
            found.clear();
        }
        found.insert(publisher, Instant::now());
    }

    /// It was deleted.
    pub(super) fn remove(&self, publisher: &PublisherId) {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(publisher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_remembered_is_bounded() {
        let known = Known::default();
        for number in 0..=COUNT_MAX {
            known.insert(PublisherId::new(&format!("p{number}")).unwrap());
        }
        assert!(known.found.lock().unwrap().len() <= COUNT_MAX);
        let last = PublisherId::new(&format!("p{COUNT_MAX}")).unwrap();
        assert!(known.contains(&last));
        known.remove(&last);
        assert!(!known.contains(&last));
    }
}
