//! One call with all its attempts: choose a peer, send, wait, judge; and again, or at a second peer meanwhile.
//!
//! The request is encoded once and sent as bytes, so that a repetition costs nothing and the clone of ten thousand messages is never made. It never
//! decides what may be repeated: that is `retry`. Begin with [`run`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;
use tracing::debug;

use crate::address::Address;
use crate::attempt::{self, Answer, Parcel};
use crate::call::{Call, Target};
use crate::client::Shared;
use crate::connect::{Chosen, PeerKey};
use crate::error::{Code, Error, Failure, Fate};
use crate::hedge::{ATTEMPTS_MAX, Hedge};
use crate::moment;
use crate::retry::{self, Majority, Place, Repeat, Verdict};

/// How often a call follows the word of a peer that another leads, without a pause.
const REDIRECTS_MAX: u32 = 4;

/// Makes a call.
pub(crate) async fn run<A>(
    shared: &Arc<Shared>,
    call: Call<'_>,
    request: Bytes,
) -> Result<Answer<A>, Error>
where
    A: prost::Message + Default + 'static,
{
    let mut course = Course::new(shared, call);
    let mut under_way = FuturesUnordered::new();
    under_way.push(send(course.begin()?, course.parcel(&request)));
    loop {
        let next = course.next();
        tokio::select! {
            Some((key, result)) = under_way.next() => {
                let failure = match result {
                    Ok(answer) => {
                        course.succeed(key);
                        return Ok(answer);
                    }
                    Err(failure) => failure,
                };
                debug!(method = call.method.name(), attempts = course.attempts, %failure, "attempt failed");
                let address = failure.address.clone();
                if course.judge(key, failure)? == Next::Done {
                    return Ok(Answer {
                        message: A::default(),
                        served_by: None,
                        address,
                    });
                }
            }
            () = tokio::time::sleep_until(next.unwrap_or(course.ends)), if next.is_some() => {
                if course.may_begin() {
                    under_way.push(send(course.begin()?, course.parcel(&request)));
                }
            }
            // A failed attempt ends the call or says when the next one begins.
            else => return Err(Error::Answer { field: "attempt" }),
        }
    }
}

/// One attempt. It is left early when it becomes certain that its peer cannot be reached, unless it must not be repeated.
async fn send<A>(chosen: Chosen, parcel: Parcel) -> (PeerKey, Result<Answer<A>, Failure>)
where
    A: prost::Message + Default + 'static,
{
    let (key, address, mut lost) = (chosen.key, chosen.address.clone(), chosen.lost.clone());
    let begun = Instant::now();
    let is_repeatable = parcel.repeat != Repeat::Never;
    let result = tokio::select! {
        result = attempt::send(chosen, parcel) => result,
        Ok(()) = lost.changed(), if is_repeatable => Err(Failure::no_answer(address, begun.elapsed())),
    };
    (key, result)
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The failure shows that the call was a success.
    Done,
    /// The call goes on.
    Wait,
}

/// Where a call stands.
struct Course<'a> {
    shared: &'a Arc<Shared>,
    call: Call<'a>,
    deadline: Duration,
    ends: Instant,
    trace: Arc<str>,
    attempts: u32,
    redirects: u32,
    /// How often a further attempt was due while another was under way.
    hedges: u32,
    /// When the last attempt began, or a further one was due and did not begin.
    looked_at: Instant,
    /// Attempts without an answer, with the time when they began.
    under_way: Vec<(PeerKey, Instant)>,
    tried: Vec<PeerKey>,
    leader: Option<PeerKey>,
    /// When the next attempt begins after one that failed.
    again_at: Option<Instant>,
    /// The fate of an earlier attempt is unknown.
    was_unknown: bool,
    majority: Majority,
    /// What the call ends with unless an attempt that is still under way succeeds.
    last: Option<Failure>,
}

impl<'a> Course<'a> {
    fn new(shared: &'a Arc<Shared>, call: Call<'a>) -> Self {
        let deadline = call
            .deadline
            .unwrap_or(shared.options.deadline)
            .saturating_add(call.wait);
        let trace = format!(
            "00-{:032x}-{:016x}-01",
            rand::random::<u128>() | 1,
            rand::random::<u64>() | 1
        );
        Self {
            shared,
            call,
            deadline,
            ends: moment::after(Instant::now(), deadline),
            looked_at: Instant::now(),
            trace: trace.into(),
            attempts: 0,
            redirects: 0,
            hedges: 0,
            under_way: Vec::new(),
            tried: Vec::new(),
            leader: None,
            again_at: None,
            was_unknown: false,
            majority: Majority::default(),
            last: None,
        }
    }

    fn remaining(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// Chooses a peer for an attempt that begins now.
    fn begin(&mut self) -> Result<Chosen, Error> {
        self.attempts += 1;
        self.again_at = None;
        self.looked_at = Instant::now();
        let peers = &self.shared.peers;
        let chosen = match (self.call.target, self.leader.take()) {
            (Target::Only(key), _) | (Target::Any, Some(key)) => peers.get(key),
            (Target::Any, None) => peers.choose(self.call.topic, &self.tried),
        };
        let chosen = chosen.ok_or(Error::Answer { field: "peer" })?;
        self.under_way.push((chosen.key, Instant::now()));
        self.tried.push(chosen.key);
        Ok(chosen)
    }

    /// What is sent in the attempt that was begun last.
    fn parcel(&self, request: &Bytes) -> Parcel {
        Parcel {
            path: self.call.method.path(),
            request: request.clone(),
            trace: Some(Arc::clone(&self.trace)),
            timeout: self.attempt_timeout(),
            answer_bytes_max: self.shared.options.answer_bytes_max,
            repeat: self.call.method.repeat(),
        }
    }

    /// How long the next attempt may take: so long that a slow answer arrives, so short that a peer that hangs does not use up the deadline.
    /// An attempt that cannot be followed by another has all the time there is.
    fn attempt_timeout(&self) -> Duration {
        if self.call.method.repeat() == Repeat::Never {
            return self.remaining();
        }
        let factor = 1_u32 << self.attempts.saturating_sub(1).min(8);
        let patience = self
            .shared
            .options
            .attempt_timeout
            .saturating_mul(factor)
            .saturating_add(self.call.wait);
        patience.min(self.remaining())
    }

    /// When another attempt is due: again after a failure, or beside one that has no answer yet.
    fn next(&self) -> Option<Instant> {
        if self.again_at.is_some() || self.last.is_some() {
            return self.again_at;
        }
        let is_hedged = self.call.method.repeat() != Repeat::Never
            && self.call.target == Target::Any
            && self.under_way.len() < ATTEMPTS_MAX;
        if !is_hedged || self.under_way.is_empty() {
            return None;
        }
        let delay = self
            .shared
            .options
            .delays
            .of(self.call.hedge, self.hedges)?;
        let due = self
            .looked_at
            .checked_add(delay.saturating_add(self.call.wait))?;
        Some(due).filter(|due| *due < self.ends)
    }

    /// Whether the attempt that is due begins: a hedge needs another peer and costs a token. Peers that are slow by now are looked after.
    fn may_begin(&mut self) -> bool {
        if self.again_at.is_some() {
            return true;
        }
        self.hedges += 1;
        self.looked_at = Instant::now();
        let usual = self.shared.options.delays.usual;
        let patience = usual.saturating_add(self.call.wait);
        for (slow, begun) in &self.under_way {
            if begun.elapsed() >= patience {
                self.shared.suspect(*slow);
            }
        }
        self.call.hedge != Hedge::Watch
            && self.shared.peers.has_other(&self.tried)
            && self.shared.budget.spend()
    }

    /// An attempt succeeded. Peers that were asked before and have not answered are looked after.
    fn succeed(&self, key: PeerKey) {
        self.shared.peers.mark_up(key);
        self.shared.budget.earn();
        let winner = self.place_of(key).unwrap_or(0);
        for (slower, _) in self.under_way.iter().take(winner) {
            self.shared.suspect(*slower);
        }
    }

    fn place_of(&self, key: PeerKey) -> Option<usize> {
        self.under_way.iter().position(|(peer, _)| *peer == key)
    }

    /// Takes a failed attempt into account.
    fn judge(&mut self, key: PeerKey, failure: Failure) -> Result<Next, Error> {
        if let Some(place) = self.place_of(key) {
            self.under_way.remove(place);
        }
        self.note(key, &failure);
        let is_alone = self.under_way.is_empty();
        if let Some(last) = self.last.take() {
            self.was_unknown |= failure.fate == Fate::Unknown;
            return self.end_with(last);
        }
        // What is under way may have happened, too.
        let was_unknown = self.was_unknown || !is_alone;
        let verdict = retry::decide(&failure, self.call.method.repeat(), was_unknown);
        self.was_unknown |= failure.fate == Fate::Unknown;
        let place = match verdict {
            Verdict::Done => return Ok(Next::Done),
            Verdict::Fail => return self.end_with(failure),
            Verdict::Again(place) => place,
        };
        let pause = self.pause(&place, &failure);
        let lost_for = self.majority.lost_for(&failure, Instant::now());
        let is_lost = lost_for.is_some_and(|lost| lost >= self.shared.options.no_quorum_patience);
        if is_lost || pause >= self.remaining() {
            return self.end_with(failure);
        }
        self.again_at = Some(moment::after(Instant::now(), pause));
        Ok(Next::Wait)
    }

    /// The call fails with this, unless an attempt that is under way may still succeed.
    fn end_with(&mut self, last: Failure) -> Result<Next, Error> {
        let changes = self.call.method.repeat() != Repeat::Read;
        if self.under_way.is_empty() || !changes || retry::is_refused_always(&last) {
            return Err(self.give_up(last));
        }
        self.last = Some(last);
        Ok(Next::Wait)
    }

    /// Remembers who is not to be asked again soon.
    fn note(&self, key: PeerKey, failure: &Failure) {
        if failure.fate == Fate::NotSent
            || (failure.fate == Fate::Unknown && failure.reason().is_none())
        {
            self.shared.suspect(key);
        }
        if let Some(topic) = self.call.topic {
            self.shared.peers.doubt(topic);
        }
    }

    /// How long to wait before the next attempt, which goes to `place`.
    fn pause(&mut self, place: &Place, failure: &Failure) -> Duration {
        if let Place::Leader(address) = place
            && self.redirects < REDIRECTS_MAX
            && let Ok(key) =
                Address::parse(address).and_then(|address| self.shared.peers.add(&address))
        {
            self.redirects += 1;
            self.leader = Some(key);
            return Duration::ZERO;
        }
        let has_other = self.call.target == Target::Any && self.shared.peers.has_other(&self.tried);
        if has_other && retry::is_at_once(place, failure) {
            return Duration::ZERO;
        }
        if !has_other {
            self.tried.clear();
            self.tried
                .extend(self.under_way.iter().map(|(key, _)| *key));
        }
        // Another peer need not be spared because this one asks for it.
        let asked = failure
            .retry_after
            .filter(|_| *place == Place::Any || !has_other);
        self.shared
            .options
            .backoff
            .pause(self.attempts, rand::random(), asked)
    }

    /// The error of a call that is not tried again after this failure.
    fn give_up(&self, last: Failure) -> Error {
        let method = self.call.method.name();
        let last = Box::new(last);
        let changes = self.call.method.repeat() != Repeat::Read;
        if changes
            && (last.fate == Fate::Unknown
                || (self.was_unknown && !retry::is_refused_always(&last)))
        {
            return Error::OutcomeUnknown { method, last };
        }
        match last.fate {
            Fate::NotSent => Error::Unreachable { method, last },
            Fate::Unknown if last.code == Code::DeadlineExceeded => Error::DeadlineExceeded {
                method,
                deadline: self.deadline,
            },
            Fate::Unknown | Fate::Nothing => Error::Refused(last),
        }
    }
}
