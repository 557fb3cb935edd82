//! Leadership returns to the owner.
//!
//! Whoever leads in the owner's absence gives leadership back when the owner votes, holds practically everything, says that it may lead, and the
//! link to it has been up for some time. A transfer that failed is not tried again at once: a few milliseconds without writes are the price of each.

use std::time::Duration;

use openraft::RaftMetrics;
use tokio::time::Instant;

use super::group::Group;
use super::types::{Types, peer_of};
use super::vigil::{Presence, Vigil};

/// The pause after a transfer that failed, …
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// … which doubles each time up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// When leadership may be given back.
#[derive(Debug)]
pub(super) struct Homecoming {
    not_before: Instant,
    pause: Duration,
}

impl Homecoming {
    pub(super) fn new() -> Self {
        Self {
            not_before: Instant::now(),
            pause: PAUSE_MIN,
        }
    }

    fn failed(&mut self) {
        self.not_before = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

impl Group {
    /// The owner's replica, when it could lead but does not: it votes, and its peer is there.
    pub(super) fn heir(&self, metrics: &RaftMetrics<Types>, vigil: &Vigil) -> Option<u64> {
        let owner = self.parts.options.owner()?;
        if owner == peer_of(self.node) {
            return None;
        }
        vigil.lasting(owner, Presence::Up, Instant::now())?;
        let membership = metrics.membership_config.membership();
        let is_settled = membership.get_joint_config().len() == 1;
        let mut voters = membership.voter_ids();
        let heir = voters.find(|node| peer_of(*node) == owner);
        heir.filter(|_| is_settled)
    }

    /// Gives leadership back to the owner, if it is time to.
    pub(super) async fn go_home(
        &self,
        heir: u64,
        (metrics, vigil): (&RaftMetrics<Types>, &Vigil),
        homecoming: &mut Homecoming,
    ) {
        let now = Instant::now();
        let up = vigil.lasting(peer_of(heir), Presence::Up, now);
        let is_due = up.is_some_and(|up| up >= self.parts.options.return_after);
        if now < homecoming.not_before || !is_due || !self.is_whole(metrics, heir) {
            return;
        }
        if self.able(std::iter::once(heir)).await.is_empty() {
            homecoming.not_before = Instant::now() + PAUSE_MIN;
            return;
        }
        // Should it not take over, the others may.
        let others = metrics.membership_config.membership().voter_ids();
        let others = others
            .filter(|node| *node != heir && *node != self.node && self.is_whole(metrics, *node));
        let successors: Vec<u64> = std::iter::once(heir).chain(others).collect();
        if self.transfer(&successors).await {
            homecoming.pause = PAUSE_MIN;
        } else {
            homecoming.failed();
        }
    }
}
