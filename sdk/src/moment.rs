//! Moments to come: a span of time that an application gives may be as long as can be written, and is never too long to be added.
//!
//! Begin with [`after`].

use std::time::Duration;

use tokio::time::Instant;

/// Longer than anything runs, and short enough for every clock, timer and header: 30 years.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3_600);

/// So long after it, or as good as never.
pub(crate) fn after(begin: Instant, span: Duration) -> Instant {
    begin.checked_add(span.min(FAR)).unwrap_or(begin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_span_is_far_away_and_does_not_overflow() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(after(now, second), now + second);
        assert_eq!(after(now, Duration::MAX), now + FAR);
        assert!(after(after(now, Duration::MAX), Duration::MAX) > now + FAR);
    }
}
