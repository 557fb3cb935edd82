//! Where a stream is opened next: the search for a peer that serves it, over all attempts since one did.
//!
//! It decides by what was heard; it never waits and never calls. Begin with [`Pursuit::choose`].

use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::client::Shared;
use crate::connect::{Chosen, PeerKey};
use crate::error::{Failure, Fate};
use crate::retry::{self, Place};

/// How often the word of a peer that another leads is followed without a pause.
const REDIRECTS_MAX: u32 = 4;

/// What failed since something was heard.
#[derive(Debug, Default)]
pub(crate) struct Pursuit {
    failures: u32,
    redirects: u32,
    tried: Vec<PeerKey>,
    /// Whom a peer named.
    leader: Option<PeerKey>,
}

impl Pursuit {
    /// How long the next attempt may take: so long that a slow answer arrives in the end.
    pub(crate) fn patience(&self, first: Duration) -> Duration {
        first.saturating_mul(1 << self.failures.min(3))
    }

    /// Whom to ask about a topic.
    pub(crate) fn choose(&mut self, shared: &Shared, topic: &str) -> Option<Chosen> {
        let named = self.leader.take().and_then(|key| shared.peers.get(key));
        let chosen = named.or_else(|| shared.peers.choose(Some(topic), &self.tried))?;
        if !self.tried.contains(&chosen.key) {
            self.tried.push(chosen.key);
        }
        Some(chosen)
    }

    /// Another peer leads: it may be asked, whoever was asked before.
    pub(crate) fn follow(&mut self) {
        self.tried.clear();
    }

    /// A peer serves.
    pub(crate) fn succeed(&mut self) {
        if self.failures > 0 || self.tried.len() > 1 {
            *self = Self::default();
        }
    }

    /// A peer failed. Whoever does not answer is looked after.
    pub(crate) fn fail(
        &mut self,
        shared: &Arc<Shared>,
        topic: &str,
        key: Option<PeerKey>,
        failure: &Failure,
    ) {
        self.failures = self.failures.saturating_add(1);
        shared.peers.doubt(topic);
        let is_silent = failure.fate == Fate::Unknown && failure.reason().is_none();
        let Some(key) = key else { return };
        if failure.fate == Fate::NotSent || is_silent {
            shared.suspect(key);
        }
        if !self.tried.contains(&key) {
            self.tried.push(key);
        }
    }

    /// How long to wait before the next attempt, which goes to `place`.
    pub(crate) fn pause(&mut self, shared: &Shared, place: &Place, failure: &Failure) -> Duration {
        if let Place::Leader(address) = place
            && self.redirects < REDIRECTS_MAX
            && let Ok(key) = Address::parse(address).and_then(|address| shared.peers.add(&address))
        {
            self.redirects += 1;
            self.leader = Some(key);
            return Duration::ZERO;
        }
        let has_other = shared.peers.has_other(&self.tried);
        if has_other && retry::is_at_once(place, failure) {
            return Duration::ZERO;
        }
        if !has_other {
            self.tried.clear();
        }
        // Another peer need not be spared because this one asks for it.
        let asked = failure
            .retry_after
            .filter(|_| *place == Place::Any || !has_other);
        let backoff = shared.options.backoff;
        backoff.pause(self.failures, rand::random(), asked)
    }
}
