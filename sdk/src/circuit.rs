//! Whether a peer is worth asking: closed, open, or half open while it is probed.
//!
//! A call that a peer fails opens its circuit, and others are asked from then on. Only a probe closes it again, so that no caller pays for finding
//! out; a peer is told of as down when a probe has failed, too. Pure: the caller tells what happened. Begin with [`Circuit::trip`].

use std::time::Duration;

/// The pause after the first probe that failed; doubled after each further one. A peer that is started again is found soon.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause between two probes: a peer that is down for long costs one small call in this time.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Circuit {
    state: State,
    /// Which opening this is: the probes of an earlier one are not listened to.
    round: Round,
}

/// Numbers the openings of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Round(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Calls go there.
    #[default]
    Closed,
    /// Calls go elsewhere while there is an elsewhere; so many probes have failed.
    Open { failures: u32 },
    /// As `Open`, and a probe is under way.
    HalfOpen { failures: u32 },
}

/// What a failed probe changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// Now it is certain that the peer cannot be reached.
    Now,
    /// It was before.
    Already,
}

impl Circuit {
    pub(crate) fn is_closed(self) -> bool {
        self.state == State::Closed
    }

    /// The peer failed a call. Gives the round to probe it in, unless that is being done.
    pub(crate) fn trip(&mut self) -> Option<Round> {
        if !self.is_closed() {
            return None;
        }
        self.state = State::Open { failures: 0 };
        self.round = Round(self.round.0.wrapping_add(1));
        Some(self.round)
    }

    /// How long to wait before the next probe of this round. `None`: it has ended, the peer answers.
    pub(crate) fn pause(self, round: Round) -> Option<Duration> {
        let (State::Open { failures } | State::HalfOpen { failures }) = self.state else {
            return None;
        };
        if self.round != round {
            return None;
        }
        let Some(doublings) = failures.checked_sub(1) else {
            return Some(Duration::ZERO);
        };
        let doubled = PAUSE_MIN.saturating_mul(1 << doublings.min(16));
        Some(doubled.min(PAUSE_MAX))
    }

    /// A probe begins.
    pub(crate) fn probe(&mut self) {
        if let State::Open { failures } = self.state {
            self.state = State::HalfOpen { failures };
        }
    }

    /// A probe had no answer.
    pub(crate) fn fail(&mut self) -> Confirmed {
        let (State::Open { failures } | State::HalfOpen { failures }) = self.state else {
            return Confirmed::Already;
        };
        self.state = State::Open {
            failures: failures.saturating_add(1),
        };
        if failures == 0 {
            Confirmed::Now
        } else {
            Confirmed::Already
        }
    }

    /// The peer answered. `true`: it had been told of as down.
    pub(crate) fn close(&mut self) -> bool {
        let before = std::mem::take(&mut self.state);
        matches!(
            before,
            State::Open { failures } | State::HalfOpen { failures } if failures > 0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_call_opens_and_only_an_answer_closes() {
        let mut circuit = Circuit::default();
        assert!(circuit.is_closed());
        let round = circuit.trip().unwrap();
        assert_eq!(circuit.trip(), None, "one probe at a time");
        assert_eq!(circuit.pause(round), Some(Duration::ZERO));
        circuit.probe();
        assert!(!circuit.is_closed());
        assert!(!circuit.close(), "nobody was told that it is down");
        assert!(circuit.is_closed());
        assert_eq!(circuit.pause(round), None);
    }

    #[test]
    fn peer_is_down_when_a_probe_failed_and_told_of_once() {
        let mut circuit = Circuit::default();
        let round = circuit.trip().unwrap();
        circuit.probe();
        assert_eq!(circuit.fail(), Confirmed::Now);
        circuit.probe();
        assert_eq!(circuit.fail(), Confirmed::Already);
        assert_eq!(circuit.pause(round), Some(PAUSE_MIN * 2));
        assert!(circuit.close());
    }

    #[test]
    fn pauses_double_up_to_their_bound() {
        let mut circuit = Circuit::default();
        let round = circuit.trip().unwrap();
        for _ in 0..40 {
            circuit.fail();
        }
        assert_eq!(circuit.pause(round), Some(PAUSE_MAX));
    }

    #[test]
    fn probes_of_an_earlier_round_end() {
        let mut circuit = Circuit::default();
        let first = circuit.trip().unwrap();
        circuit.close();
        let second = circuit.trip().unwrap();
        assert_eq!(circuit.pause(first), None);
        assert_eq!(circuit.pause(second), Some(Duration::ZERO));
    }
}
