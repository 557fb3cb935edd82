//! A bar on standard error, while there is somebody to look at it.
//!
//! Begin with [`Progress::show`].

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How far a load is.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    is_timed: bool,
}

impl Progress {
    /// Of a load that takes so long.
    pub(super) fn timed(length: Duration) -> Self {
        let millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let bar = Self::bar("{bar:32} {percent:>3} %  {msg}", millis);
        Self {
            bar,
            is_timed: true,
        }
    }

    /// Of a load of so many messages.
    pub(super) fn counted(messages: u64) -> Self {
        let bar = Self::bar("{bar:32} {pos} of {len} messages  {msg}", messages);
        Self {
            bar,
            is_timed: false,
        }
    }

    fn bar(template: &str, length: u64) -> ProgressBar {
        let bar = ProgressBar::new(length);
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }

    /// So many messages more, at such a rate, so long after the begin.
    pub(super) fn show(&self, at: Duration, messages: u64, rate: f64) {
        self.bar.set_message(format!("{rate:.0} messages/s"));
        if self.is_timed {
            let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            self.bar
                .set_position(millis.min(self.bar.length().unwrap_or(millis)));
        } else {
            self.bar.inc(messages);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_follows_time_or_messages() {
        let timed = Progress::timed(Duration::from_secs(2));
        timed.show(Duration::from_secs(1), 5, 5.0);
        assert_eq!(timed.bar.position(), 1000);
        timed.show(Duration::from_secs(9), 5, 5.0);
        assert_eq!(timed.bar.position(), 2000);
        let counted = Progress::counted(10);
        counted.show(Duration::from_secs(1), 5, 5.0);
        counted.show(Duration::from_secs(2), 3, 3.0);
        assert_eq!(counted.bar.position(), 8);
    }
}
