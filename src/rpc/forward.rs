//! The loop that brings a call to the replica that can answer it, and its answer back.
//!
//! A call is asked of one replica after another until one answers or the deadline comes; between rounds it waits a little for a new
//! leader, as long as there may be one: two rounds in which nobody could be part of a majority end the call (G6: at once). A call that was forwarded here already is answered here or not at all, so no call goes in a circle. A write whose fate is
//! unknown is repeated only when it is repeatable (G8). Knows no messages: those are behind [`Attempt`]. Begin with [`run`].

use std::future::Future;
use std::time::Duration;

use cubecast_sdk::proto::v1::ErrorReason;
use tokio::time::Instant;
use tonic::Status;
use tracing::debug;

use super::status::Fault;
use crate::router::{Aim, Leader, Router, Step};
use crate::types::{PeerId, Vertex};

/// The wait between two rounds at first: a leader that died is replaced within a few of these.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// After so long it doubles each time, …
const QUICK: Duration = Duration::from_millis(300);
/// … up to this: a shard that has no leader for long is not asked more often.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// After so many rounds without hope for a majority nobody waits any longer (G6: at once). The second look is for a link that was just made again.
const HOPELESS_ROUNDS_MAX: u32 = 2;
/// So many, when it is not certain that the replicas that did not answer are gone: a peer that starts is not listening yet.
const UNREACHED_ROUNDS_MAX: u32 = 4;

/// What a call wants of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The shard that answers.
    pub vertex: Vertex,
    /// Which of its replicas may.
    pub aim: Aim,
    /// Whether doing it twice is as good as doing it once.
    pub fate: Fate,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The peer that forwarded the call to this one.
    pub forwarded_by: Option<PeerId>,
}

/// What happens when it is not known whether a call was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It changes nothing: it is tried again.
    Read,
    /// Doing it again changes nothing more: it is tried again.
    Repeatable,
    /// It must not be done twice: the caller is told that the fate is unknown.
    Single,
}

/// One way to have a call answered.
pub trait Attempt: Sync {
    /// What a success gives.
    type Answer: Send;

    /// This peer's own replica answers.
    fn here(&self) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;

    /// Another peer answers.
    fn there(&self, peer: PeerId) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;

    /// Waits so long, or until this peer hears of a new leader.
    fn pause(&self, delay: Duration) -> impl Future<Output = ()> + Send;
}

/// Why one attempt gave no answer.
#[derive(Debug)]
pub enum Failure {
    /// An error that no other replica would better.
    Final(Status),
    /// The replica does not lead, so it did nothing. It may know who does.
    NotLeader(Option<Leader>),
    /// The peer cannot be reached, so nothing was done.
    Unreached,
    /// The replica knows that no majority of the voters is within its reach, so nothing was done.
    NoQuorum(Status),
    /// Nothing was done there, but another replica or a later attempt may succeed.
    Elsewhere(Status),
    /// Nothing was done there, because the replica is damaged. Another one may be whole (G7).
    Damaged(Status),
    /// It may have been done.
    Unknown,
}

impl Failure {
    /// In a word, for the log.
    fn kind(&self) -> &'static str {
        match self {
            Self::Final(_) => "refused",
            Self::NotLeader(Some(_)) => "names another leader",
            Self::NotLeader(None) => "does not lead",
            Self::Unreached => "unreached",
            Self::NoQuorum(_) => "without a majority",
            Self::Elsewhere(_) => "unable",
            Self::Damaged(_) => "damaged",
            Self::Unknown => "outcome unknown",
        }
    }
}

/// An answer and the peer that gave it.
#[derive(Debug)]
pub struct Answered<A> {
    /// The answer.
    pub answer: A,
    /// Who gave it.
    pub peer: PeerId,
    /// The home of the vertex was asked and could not be reached.
    pub is_owner_unreached: bool,
}

/// An error and the peer that gave it, when it was one.
#[derive(Debug)]
pub struct Failed {
    /// What the caller is told.
    pub status: Status,
    /// Who said so.
    pub peer: Option<PeerId>,
}

/// Has a call answered by whichever peer can.
///
/// # Errors
/// [`Failed`] when a replica refuses the call for good, when no majority can be reached, or at the deadline.
pub async fn run<A: Attempt>(
    router: &Router,
    places: Places,
    ask: &Ask,
    attempt: &A,
) -> Result<Answered<A::Answer>, Failed> {
    if ask.forwarded_by.is_some() {
        return answer_forwarded(router, places.this, ask, attempt).await;
    }
    let mut search = router.search(ask.vertex, ask.aim);
    let this = places.this;
    let mut round = Round::new(router, places, *ask);
    loop {
        if Instant::now() >= ask.deadline {
            return Err(Failed {
                status: round.timed_out(),
                peer: None,
            });
        }
        let (peer, result) = match search.step() {
            Step::Here => (this, attempt.here().await),
            Step::Peer(peer) => (peer, attempt.there(peer).await),
            Step::Wait => {
                let delay = round
                    .next()
                    .map_err(|status| Failed { status, peer: None })?;
                attempt.pause(delay).await;
                continue;
            }
        };
        let failure = match result {
            Ok(answer) => {
                if ask.aim == Aim::Leader {
                    router.confirm(ask.vertex, peer);
                }
                return Ok(Answered {
                    answer,
                    peer,
                    is_owner_unreached: round.is_owner_unreached,
                });
            }
            Err(failure) => failure,
        };
        debug!(vertex = %ask.vertex, asked = %peer, failure = failure.kind(), "another replica is tried, or the call fails");
        learn(router, ask.vertex, peer, &failure);
        round.fail(peer, failure).map_err(|status| Failed {
            status,
            peer: Some(peer),
        })?;
    }
}

/// Where the call is and where it belongs.
#[derive(Debug, Clone)]
pub struct Places {
    /// This peer.
    pub this: PeerId,
    /// The home of the call's vertex.
    pub owner: PeerId,
    /// How many replicas make a majority of those that vote, whichever those are at the moment.
    pub quorum: usize,
    /// How many replicas there are, the standbys too.
    pub replicas: usize,
}

/// A forwarded call is answered by this peer's own replica or refused.
async fn answer_forwarded<A: Attempt>(
    router: &Router,
    this: PeerId,
    ask: &Ask,
    attempt: &A,
) -> Result<Answered<A::Answer>, Failed> {
    match attempt.here().await {
        Ok(answer) => Ok(Answered {
            answer,
            peer: this,
            is_owner_unreached: false,
        }),
        Err(failure) => Err(Failed {
            status: told_to_peer(router, ask.vertex, failure),
            peer: Some(this),
        }),
    }
}

/// What the peer that forwarded a call is told when this one's replica gave no answer.
pub fn told_to_peer(router: &Router, vertex: Vertex, failure: Failure) -> Status {
    match failure {
        Failure::Final(status)
        | Failure::Elsewhere(status)
        | Failure::NoQuorum(status)
        | Failure::Damaged(status) => status,
        Failure::NotLeader(leader) => not_leader(router, vertex, leader),
        Failure::Unreached => not_leader(router, vertex, None),
        Failure::Unknown => outcome_unknown(vertex),
    }
}

/// What the caller is told of an attempt that no other may follow.
pub fn told_to_caller(vertex: Vertex, failure: Failure) -> Status {
    match failure {
        Failure::Final(status)
        | Failure::Elsewhere(status)
        | Failure::NoQuorum(status)
        | Failure::Damaged(status) => status,
        Failure::NotLeader(_) | Failure::Unreached => no_leader(vertex),
        Failure::Unknown => outcome_unknown(vertex),
    }
}

/// What the router remembers of a failure.
pub fn learn(router: &Router, vertex: Vertex, peer: PeerId, failure: &Failure) {
    match failure {
        Failure::Final(_) => {}
        Failure::NotLeader(Some(leader)) if leader.peer != peer => router.learn(vertex, *leader),
        Failure::NotLeader(_)
        | Failure::Unreached
        | Failure::NoQuorum(_)
        | Failure::Elsewhere(_)
        | Failure::Damaged(_)
        | Failure::Unknown => router.forget(vertex, peer),
    }
}

/// What has become of the call so far.
struct Round<'a> {
    router: &'a Router,
    places: Places,
    ask: Ask,
    begun: Instant,
    pause: Duration,
    heard: Heard,
    /// Rounds in a row without hope.
    hopeless_rounds: u32,
    /// An attempt ended with its fate unknown.
    is_unknown: bool,
    is_owner_unreached: bool,
    /// What the caller is told if nothing better comes.
    last: Option<Status>,
}

/// What the replicas said in one round. Each is asked once.
#[derive(Debug, Default)]
struct Heard {
    /// Those that may lead before long.
    hopeful: usize,
    /// Those that follow another one, or nobody.
    followers: Vec<Option<PeerId>>,
    /// Those that know of no majority within their reach.
    without_quorum: Vec<PeerId>,
    /// What one of them said.
    no_quorum: Option<Status>,
    /// Those that are damaged.
    damaged: usize,
    /// Those that did not answer, although they are not known to be gone.
    missed: usize,
}

impl Heard {
    /// How many may serve before long. Whoever follows a leader that has no majority itself only has not heard of that yet.
    fn hopeful(&self) -> usize {
        let is_led_in_vain = |leader: &Option<PeerId>| {
            leader.is_some_and(|peer| self.without_quorum.contains(&peer))
        };
        let followers = self.followers.iter();
        self.hopeful + followers.filter(|leader| !is_led_in_vain(leader)).count()
    }

    /// How many are there.
    fn reached(&self) -> usize {
        self.hopeful + self.followers.len() + self.without_quorum.len()
    }
}

impl<'a> Round<'a> {
    fn new(router: &'a Router, places: Places, ask: Ask) -> Self {
        Self {
            router,
            places,
            ask,
            begun: Instant::now(),
            pause: PAUSE_MIN,
            heard: Heard::default(),
            hopeless_rounds: 0,
            is_unknown: false,
            is_owner_unreached: false,
            last: None,
        }
    }

    /// Takes note of a failure; an error ends the call.
    fn fail(&mut self, peer: PeerId, failure: Failure) -> Result<(), Status> {
        let vertex = self.ask.vertex;
        match failure {
            // This attempt did nothing, but an earlier one may have.
            Failure::Final(_) if self.is_write_unknown() => return Err(outcome_unknown(vertex)),
            Failure::Final(status) => return Err(status),
            Failure::NotLeader(leader) => {
                self.heard.followers.push(leader.map(|leader| leader.peer));
                self.last = Some(no_leader(vertex));
            }
            Failure::Unreached => {
                self.is_owner_unreached |= peer == self.places.owner;
                self.heard.missed += usize::from(!self.router.is_gone(peer));
                self.last
                    .get_or_insert_with(|| unreachable_peer(vertex, peer));
            }
            Failure::NoQuorum(status) => {
                self.heard.without_quorum.push(peer);
                self.heard.no_quorum = Some(status.clone());
                self.last = Some(status);
            }
            Failure::Elsewhere(status) => {
                self.heard.hopeful += 1;
                self.last = Some(status);
            }
            // It is no part of a majority.
            Failure::Damaged(status) => {
                self.heard.damaged += 1;
                self.last = Some(status);
            }
            Failure::Unknown if self.ask.fate == Fate::Single => {
                return Err(outcome_unknown(vertex));
            }
            Failure::Unknown => {
                self.heard.hopeful += 1;
                self.is_unknown = true;
            }
        }
        Ok(())
    }

    /// Whether an attempt may have written something.
    fn is_write_unknown(&self) -> bool {
        self.is_unknown && self.ask.fate != Fate::Read
    }

    /// Begins the next round after the time returned; an error ends the call.
    fn next(&mut self) -> Result<Duration, Status> {
        let heard = std::mem::take(&mut self.heard);
        if heard.damaged >= self.places.replicas && !self.is_write_unknown() {
            return Err(data_lost(self.ask.vertex));
        }
        if self.has_hope(&heard) {
            self.hopeless_rounds = 0;
        } else {
            self.hopeless_rounds += 1;
        }
        let rounds_max = if heard.missed == 0 {
            HOPELESS_ROUNDS_MAX
        } else {
            UNREACHED_ROUNDS_MAX
        };
        if self.hopeless_rounds >= rounds_max {
            return Err(self.without_quorum(heard));
        }
        let left = self.ask.deadline.saturating_duration_since(Instant::now());
        let delay = self.pause.min(left);
        if self.begun.elapsed() > QUICK {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        Ok(delay)
    }

    /// How many replicas have to be there.
    fn needed(&self) -> usize {
        match self.ask.aim {
            Aim::Leader => self.places.quorum,
            Aim::Replica => 1,
        }
    }

    /// Whether those who were asked may soon answer. Which replicas vote changes, and is known to them; fewer than a majority needs are never enough, and
    /// when each says that there is no majority there is none.
    fn has_hope(&self, heard: &Heard) -> bool {
        heard.hopeful() > 0 && heard.reached() >= self.needed()
    }

    /// What the caller is told when there is no majority.
    fn without_quorum(&self, heard: Heard) -> Status {
        if self.is_write_unknown() {
            return outcome_unknown(self.ask.vertex);
        }
        let reached = heard.reached();
        heard
            .no_quorum
            .unwrap_or_else(|| no_quorum(self.ask.vertex, self.needed(), reached))
    }

    /// What the caller is told at the deadline.
    fn timed_out(&mut self) -> Status {
        match self.last.take() {
            _ if self.is_write_unknown() => outcome_unknown(self.ask.vertex),
            Some(status) => status,
            None => Fault::new(
                ErrorReason::DeadlineExceeded,
                "the deadline has passed before anything was done",
            )
            .into_status(),
        }
    }
}

/// This peer does not lead the shard and may not pass the call on.
fn not_leader(router: &Router, vertex: Vertex, leader: Option<Leader>) -> Status {
    let fault = Fault::new(
        ErrorReason::NotLeader,
        format!("this peer does not lead shard {vertex}"),
    )
    .with("shard", vertex);
    match leader {
        Some(Leader { peer, term }) => {
            let address = router.cluster().address(peer).unwrap_or_default();
            fault
                .with("leader", peer)
                .with("leader_address", address)
                .with("term", term)
                .into_status()
        }
        None => fault.into_status(),
    }
}

fn no_leader(vertex: Vertex) -> Status {
    Fault::new(
        ErrorReason::NoLeader,
        format!("shard {vertex} has no leader at the moment"),
    )
    .with("shard", vertex)
    .into_status()
}

fn no_quorum(vertex: Vertex, needed: usize, reachable: usize) -> Status {
    let text =
        format!("{reachable} of the {needed} replicas that shard {vertex} needs can be reached");
    let fault = Fault::new(ErrorReason::NoQuorum, text).with("shard", vertex);
    fault
        .with("voters", 2 * needed - 1)
        .with("reachable", reachable)
        .into_status()
}

fn data_lost(vertex: Vertex) -> Status {
    let text = format!("every replica of shard {vertex} is damaged");
    Fault::new(ErrorReason::DataLost, text)
        .with("shard", vertex)
        .into_status()
}

fn unreachable_peer(vertex: Vertex, peer: PeerId) -> Status {
    let fault = Fault::new(
        ErrorReason::PeerUnreachable,
        format!("peer {peer} cannot be reached for shard {vertex}"),
    );
    fault.with("shard", vertex).with("peer", peer).into_status()
}

/// It is not known what became of a write.
pub fn outcome_unknown(vertex: Vertex) -> Status {
    let text = format!("the write to shard {vertex} may have happened or may yet happen");
    Fault::new(ErrorReason::OutcomeUnknown, text)
        .with("shard", vertex)
        .into_status()
}

#[cfg(test)]
mod tests;
