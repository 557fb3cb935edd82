//! Since when each peer has been as it is.
//!
//! A link that comes and goes must not move voters or leadership about: both wait until a peer has been gone, or back, for some time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::quorum::is_superseded;
use super::types::{Membership, peer_of};
use crate::link::{LinkMap, LinkState};
use crate::types::PeerId;

/// How a peer is, as far as the others of its shard care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nobody is there, and no way through others leads to it.
    Gone,
    /// The own link to it works.
    Up,
    /// Neither: not heard of yet, or reached through others only.
    Vague,
}

/// The peers of a shard, and since when each is as it is.
#[derive(Debug, Default)]
pub(super) struct Vigil {
    since: BTreeMap<PeerId, (Presence, Instant)>,
    /// Raft ids whose peers have later ones in the group, and since when they do.
    superseded: BTreeMap<u64, Instant>,
}

impl Vigil {
    /// Looks at the links, and says which peers are otherwise than before.
    pub(super) fn observe(
        &mut self,
        links: &LinkMap,
        peers: impl Iterator<Item = PeerId>,
        now: Instant,
    ) -> Vec<PeerId> {
        let mut moved = Vec::new();
        for peer in peers {
            let presence = presence(links, peer);
            let before = self.since.get(&peer).map(|(before, _)| *before);
            if before != Some(presence) {
                self.since.insert(peer, (presence, now));
                moved.push(peer);
            }
        }
        moved
    }

    /// Looks at who is in the group.
    pub(super) fn observe_lives(&mut self, membership: &Membership, now: Instant) {
        let nodes = membership.nodes().map(|(node, _)| *node);
        let superseded: Vec<u64> = nodes
            .filter(|node| is_superseded(membership, *node))
            .collect();
        self.superseded.retain(|node, _| superseded.contains(node));
        for node in superseded {
            self.superseded.entry(node).or_insert(now);
        }
    }

    /// For how long nobody has been there under a Raft id, because its peer is gone or has another; `None` when somebody may be.
    pub(super) fn absence(&self, node: u64, now: Instant) -> Option<Duration> {
        let superseded = self.superseded.get(&node);
        let superseded = superseded.map(|since| now.saturating_duration_since(*since));
        superseded.max(self.lasting(peer_of(node), Presence::Gone, now))
    }

    /// For how long a peer has been so; `None` when it is not.
    pub(super) fn lasting(
        &self,
        peer: PeerId,
        presence: Presence,
        now: Instant,
    ) -> Option<Duration> {
        let (current, since) = self.since.get(&peer)?;
        (*current == presence).then(|| now.saturating_duration_since(*since))
    }
}

fn presence(links: &LinkMap, peer: PeerId) -> Presence {
    if links.is_gone(peer) {
        Presence::Gone
    } else if links.state(peer) == LinkState::Up {
        Presence::Up
    } else {
        Presence::Vague
    }
}

#[cfg(test)]
mod tests {
    use openraft::EmptyNode;

    use super::super::types::node_id;
    use super::*;
    use crate::types::Incarnation;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_counts_from_the_last_change() {
        let peer = PeerId(1);
        let unknown = LinkMap::new(PeerId(0), []);
        let (mut vigil, begun) = (Vigil::default(), Instant::now());
        let look = |vigil: &mut Vigil, links: &LinkMap, now| {
            vigil.observe(links, std::iter::once(peer), now)
        };
        assert_eq!(look(&mut vigil, &unknown, begun), [peer]);
        assert!(look(&mut vigil, &unknown, begun + SECOND).is_empty());
        let now = begun + 3 * SECOND;
        assert_eq!(vigil.lasting(peer, Presence::Vague, now), Some(3 * SECOND));
        assert_eq!(vigil.lasting(peer, Presence::Gone, now), None);
        assert_eq!(vigil.lasting(PeerId(2), Presence::Vague, now), None);
    }

    #[test]
    fn earlier_life_is_absent_since_the_later_one_came() {
        let (old, new) = (
            node_id(PeerId(1), Incarnation(1)),
            node_id(PeerId(1), Incarnation(7)),
        );
        let members = |nodes: &[u64]| {
            let nodes: BTreeMap<u64, EmptyNode> =
                nodes.iter().map(|node| (*node, EmptyNode {})).collect();
            Membership::new(vec![std::collections::BTreeSet::from([old])], nodes).unwrap()
        };
        let (mut vigil, begun) = (Vigil::default(), Instant::now());
        vigil.observe_lives(&members(&[old]), begun);
        assert_eq!(vigil.absence(old, begun), None);
        vigil.observe_lives(&members(&[old, new]), begun + SECOND);
        vigil.observe_lives(&members(&[old, new]), begun + 2 * SECOND);
        assert_eq!(vigil.absence(old, begun + 2 * SECOND), Some(SECOND));
        assert_eq!(vigil.absence(new, begun + 2 * SECOND), None);
    }
}
