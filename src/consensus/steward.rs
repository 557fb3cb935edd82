//! What a leader looks after besides its log: that those vote who can, and that the owner leads when it can.
//!
//! One task for each group does one thing at a time. It sleeps as long as everything is in its place. Begin with [`Group::steward`].

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{RaftMetrics, ServerState};
use tokio::time::Instant;

use super::candidacy::until;
use super::group::Group;
use super::homecoming::Homecoming;
use super::quorum::is_superseded;
use super::types::{Membership, Types, peer_of};
use super::vigil::Vigil;
use super::voters::plan;
use crate::types::PeerId;

/// How soon a leader looks again while something is not in its place, …
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// … and each time later than before, up to this, as long as nothing changes.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);

impl Group {
    /// Goes on until the group stops. Only a leader acts; the others watch, so that they know since when each peer has been as it is.
    pub(super) async fn steward(self) {
        let mut links = self.parts.links.watch();
        let mut members = self.raft.server_metrics();
        let mut vigil = Vigil::default();
        let mut homecoming = Homecoming::new();
        let (mut interval, mut next) = (LOOK_INTERVAL_MIN, None);
        loop {
            let (now, holders) = (Instant::now(), self.parts.options.holders());
            let moved = vigil.observe(&links.borrow_and_update(), holders, now);
            if !moved.is_empty() {
                interval = LOOK_INTERVAL_MIN;
                next = Some(now);
            }
            if next.is_some_and(|next| next <= now) {
                next = self
                    .look(&mut vigil, &mut homecoming)
                    .await
                    .then(|| Instant::now() + interval);
                interval = (interval * 2).min(LOOK_INTERVAL_MAX);
            }
            let changed = tokio::select! {
                changed = links.changed() => changed.is_ok(),
                changed = members.changed() => {
                    interval = LOOK_INTERVAL_MIN;
                    next = Some(Instant::now());
                    changed.is_ok()
                }
                () = until(next) => true,
            };
            if !changed {
                return;
            }
        }
    }

    /// Does what is due, when this replica leads. True: there is or may be more to do.
    async fn look(&self, vigil: &mut Vigil, homecoming: &mut Homecoming) -> bool {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        vigil.observe_lives(membership, Instant::now());
        if metrics.state != ServerState::Leader || self.is_in_place(membership) {
            return false;
        }
        self.look_after(&metrics, vigil, homecoming).await;
        true
    }

    /// Does the next thing that is due, if there is one.
    async fn look_after(
        &self,
        metrics: &RaftMetrics<Types>,
        vigil: &Vigil,
        homecoming: &mut Homecoming,
    ) {
        let membership = metrics.membership_config.membership();
        let order: Vec<PeerId> = self.parts.options.holders().collect();
        let conditions = self.conditions(metrics, vigil);
        if let Some(change) = plan(membership, &order, self.node, &conditions) {
            self.change_voters(&change, metrics).await;
        } else if let Some(heir) = self.heir(metrics, vigil) {
            self.go_home(heir, (metrics, vigil), homecoming).await;
        }
    }

    /// Whether nothing is left to do: the voters are there, and the owner leads when it is.
    fn is_in_place(&self, membership: &Membership) -> bool {
        let [voters] = membership.get_joint_config().as_slice() else {
            return membership.get_joint_config().is_empty();
        };
        let links = self.parts.links.now();
        let owner = self.parts.options.owner();
        let owner_is_gone = owner.is_some_and(|owner| links.is_gone(owner));
        let owner_leads = owner == Some(peer_of(self.node));
        let is_there =
            |node: &u64| !links.is_gone(peer_of(*node)) && !is_superseded(membership, *node);
        (owner_leads || owner_is_gone) && voters.iter().all(is_there)
    }
}
