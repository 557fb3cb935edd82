//! Whether, where and when a failed attempt is tried again.
//!
//! It decides by reason, code and what is known about the effect; it never waits and never calls. A write whose fate is unknown is repeated only
//! when the call is repeatable. Begin with [`decide`].

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Code, Failure, Fate, Reason};

/// What repeating a call may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing.
    Read,
    /// It changes something, and done twice does the same as once.
    Write,
    /// As `Write`; and the second time it may find nothing, which then is success.
    Delete,
    /// Done twice it may do twice as much.
    Never,
}

/// Where to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Wherever the call would go first.
    Any,
    /// At another peer.
    Elsewhere,
    /// At the peer with this address, at once.
    Leader(String),
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The failure shows that an earlier attempt was a success.
    Done,
    /// Give up: the call cannot work, or may not be repeated.
    Fail,
    /// Try again.
    Again(Place),
}

/// Decides about an attempt that failed; `was_unknown` when the fate of an earlier attempt of the same call is unknown.
pub(crate) fn decide(failure: &Failure, repeat: Repeat, was_unknown: bool) -> Verdict {
    if repeat == Repeat::Delete && was_unknown && failure.code == Code::NotFound {
        return Verdict::Done;
    }
    match failure.fate {
        Fate::NotSent => Verdict::Again(Place::Elsewhere),
        Fate::Unknown if repeat == Repeat::Never => Verdict::Fail,
        Fate::Unknown => decide_unknown(failure),
        Fate::Nothing => decide_refusal(failure),
    }
}

/// A repeatable attempt whose fate is unknown. What says that the peer or this SDK is broken is not repeated for ever: the deadline ends it.
fn decide_unknown(failure: &Failure) -> Verdict {
    match (failure.reason, failure.code) {
        // The answer is too large for this client, or a defect that another attempt would only meet again.
        (Reason::Unspecified, Code::OutOfRange | Code::DataLoss) => Verdict::Fail,
        (Reason::OutcomeUnknown, _) => Verdict::Again(Place::Any),
        _ => Verdict::Again(Place::Elsewhere),
    }
}

/// An attempt that a peer refused, so that it had no effect.
fn decide_refusal(failure: &Failure) -> Verdict {
    match failure.reason {
        Reason::NotLeader => match failure.facts.get("leader_address") {
            Some(address) if !address.is_empty() => Verdict::Again(Place::Leader(address.clone())),
            _ => Verdict::Again(Place::Elsewhere),
        },
        Reason::NoLeader
        | Reason::StorageFull
        | Reason::CursorMoved
        | Reason::LeaseHeld
        | Reason::ChangeInProgress => Verdict::Again(Place::Any),
        // A peer says what it sees itself; another may see a majority.
        Reason::NoQuorum
        | Reason::PeerUnreachable
        | Reason::Starting
        | Reason::ShuttingDown
        | Reason::Overloaded
        | Reason::ConnectionsExhausted
        | Reason::StorageFailed
        | Reason::ReplicaDamaged
        | Reason::DeadlineExceeded => Verdict::Again(Place::Elsewhere),
        // SequenceGap too: this SDK sends a sequence only when the one before it is answered, so that waiting fills no gap.
        // A reason of a newer version: go by what every version says.
        Reason::Unspecified
            if failure.retry_after.is_some() || failure.code == Code::Unavailable =>
        {
            Verdict::Again(Place::Elsewhere)
        }
        _ => Verdict::Fail,
    }
}

/// Whether a peer that was not asked yet is asked without a pause. One that asks for a pause is itself full or busy, and so may others be; but that a peer
/// sees no majority says nothing of what another sees.
pub(crate) fn is_at_once(place: &Place, failure: &Failure) -> bool {
    *place != Place::Any && (failure.retry_after.is_none() || failure.reason == Reason::NoQuorum)
}

/// A refusal for what the request is, which every attempt meets, so that an earlier one of unknown fate met it too.
pub(crate) fn is_refused_always(failure: &Failure) -> bool {
    failure.code == Code::InvalidArgument || failure.reason == Reason::RequestTooLarge
}

/// Whether there was a majority when a call was last refused.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Majority {
    lost_since: Option<Instant>,
}

impl Majority {
    /// Takes note of a failure. For how long peers have said that there is no majority, when this one says so; peers that say nothing do not
    /// speak against it.
    pub(crate) fn lost_for(&mut self, failure: &Failure, now: Instant) -> Option<Duration> {
        if failure.reason == Reason::NoQuorum {
            let since = *self.lost_since.get_or_insert(now);
            return Some(now.saturating_duration_since(since));
        }
        if failure.fate == Fate::Nothing {
            self.lost_since = None;
        }
        None
    }
}

/// Pauses between attempts: exponential with full jitter, so that callers that failed together do not come back together
/// (Brooker, "Exponential Backoff And Jitter").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// Upper bound of the first pause; doubled for each further one.
    pub(crate) first: Duration,
    /// Upper bound of every pause.
    pub(crate) max: Duration,
}

impl Backoff {
    /// The pause before attempt `attempt` (1 is the first repetition). `share` is random, 0 to 1. Not shorter than what the peer asks for.
    pub(crate) fn pause(self, attempt: u32, share: f64, asked: Option<Duration>) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1 << attempt.saturating_sub(1).min(16));
        let jitter = doubled.min(self.max).mul_f64(share.clamp(0.0, 1.0));
        asked.unwrap_or_default().saturating_add(jitter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::address::Address;

    fn failure(reason: Reason, code: Code, fate: Fate) -> Failure {
        Failure {
            code,
            reason,
            message: String::new(),
            facts: BTreeMap::new(),
            retry_after: None,
            served_by: None,
            address: Address::parse("http://127.0.0.1:1").unwrap(),
            fate,
        }
    }

    fn reset() -> Failure {
        failure(Reason::Unspecified, Code::Unavailable, Fate::Unknown)
    }

    #[test]
    fn unknown_fate_is_repeated_only_when_repeatable() {
        assert_eq!(decide(&reset(), Repeat::Never, false), Verdict::Fail);
        for repeat in [Repeat::Read, Repeat::Write, Repeat::Delete] {
            assert_eq!(
                decide(&reset(), repeat, false),
                Verdict::Again(Place::Elsewhere)
            );
        }
    }

    #[test]
    fn request_that_never_left_is_repeated_always() {
        let refused = failure(Reason::Unspecified, Code::Unavailable, Fate::NotSent);
        assert_eq!(
            decide(&refused, Repeat::Never, false),
            Verdict::Again(Place::Elsewhere)
        );
    }

    #[test]
    fn refusal_with_hope_is_repeated_always() {
        let no_leader = failure(Reason::NoLeader, Code::Unavailable, Fate::Nothing);
        assert_eq!(
            decide(&no_leader, Repeat::Never, false),
            Verdict::Again(Place::Any)
        );
        let full = failure(Reason::StorageFull, Code::ResourceExhausted, Fate::Nothing);
        assert_eq!(
            decide(&full, Repeat::Never, false),
            Verdict::Again(Place::Any)
        );
        let stopping = failure(Reason::ShuttingDown, Code::Unavailable, Fate::Nothing);
        assert_eq!(
            decide(&stopping, Repeat::Never, false),
            Verdict::Again(Place::Elsewhere)
        );
    }

    #[test]
    fn who_sees_no_majority_is_left_for_another_at_once_though_it_asks_for_a_pause() {
        let mut lost = failure(Reason::NoQuorum, Code::Unavailable, Fate::Nothing);
        lost.retry_after = Some(Duration::from_millis(500));
        let Verdict::Again(place) = decide(&lost, Repeat::Never, false) else {
            panic!("it is tried again");
        };
        assert_eq!(place, Place::Elsewhere);
        assert!(is_at_once(&place, &lost));
        lost.reason = Reason::Overloaded;
        assert!(!is_at_once(&place, &lost));
    }

    #[test]
    fn refusal_without_hope_is_final() {
        for (reason, code) in [
            (Reason::TopicNotFound, Code::NotFound),
            (Reason::TopicAlreadyExists, Code::AlreadyExists),
            (Reason::MessageTooLarge, Code::InvalidArgument),
            (Reason::SessionUnknown, Code::FailedPrecondition),
            (Reason::SequenceGap, Code::FailedPrecondition),
            (Reason::SequenceForgotten, Code::FailedPrecondition),
            (Reason::DataLost, Code::DataLoss),
        ] {
            assert_eq!(
                decide(&failure(reason, code, Fate::Nothing), Repeat::Read, false),
                Verdict::Fail,
                "{reason:?}"
            );
        }
    }

    #[test]
    fn not_leader_leads_to_the_leader() {
        let mut not_leader = failure(Reason::NotLeader, Code::FailedPrecondition, Fate::Nothing);
        assert_eq!(
            decide(&not_leader, Repeat::Never, false),
            Verdict::Again(Place::Elsewhere)
        );
        not_leader.facts.insert(
            "leader_address".to_owned(),
            "http://127.0.0.1:8004".to_owned(),
        );
        assert_eq!(
            decide(&not_leader, Repeat::Never, false),
            Verdict::Again(Place::Leader("http://127.0.0.1:8004".to_owned()))
        );
    }

    #[test]
    fn deleting_what_is_gone_is_success_only_after_an_unknown_fate() {
        let gone = failure(Reason::TopicNotFound, Code::NotFound, Fate::Nothing);
        assert_eq!(decide(&gone, Repeat::Delete, true), Verdict::Done);
        assert_eq!(decide(&gone, Repeat::Delete, false), Verdict::Fail);
        assert_eq!(decide(&gone, Repeat::Write, true), Verdict::Fail);
    }

    #[test]
    fn majority_is_lost_from_the_first_word_of_it_until_another_is_heard() {
        let (mut majority, begun) = (Majority::default(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        let lost = failure(Reason::NoQuorum, Code::Unavailable, Fate::Nothing);
        assert_eq!(majority.lost_for(&lost, after(1)), Some(Duration::ZERO));
        assert_eq!(majority.lost_for(&reset(), after(2)), None);
        let two = Duration::from_secs(2);
        assert_eq!(majority.lost_for(&lost, after(3)), Some(two));
        let between = failure(Reason::NoLeader, Code::Unavailable, Fate::Nothing);
        assert_eq!(majority.lost_for(&between, after(4)), None);
        assert_eq!(majority.lost_for(&lost, after(5)), Some(Duration::ZERO));
    }

    #[test]
    fn pause_doubles_up_to_its_bound_and_honours_the_peer() {
        let backoff = Backoff {
            first: Duration::from_millis(10),
            max: Duration::from_millis(50),
        };
        let pauses: Vec<_> = (1..5)
            .map(|attempt| backoff.pause(attempt, 1.0, None).as_millis())
            .collect();
        assert_eq!(pauses, [10, 20, 40, 50]);
        assert_eq!(backoff.pause(1000, 0.0, None), Duration::ZERO);
        assert_eq!(
            backoff.pause(1, 0.5, Some(Duration::from_millis(100))),
            Duration::from_millis(105)
        );
    }
}
