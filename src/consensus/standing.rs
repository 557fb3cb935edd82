//! What a replica thinks of the leader, and how far its log goes: asked of the others before anybody stands for election.
//!
//! Several candidates at once take the votes from each other and may do so again and again, so the survivors of a leader first find out which
//! of them would win. Nothing is promised by an answer, and nothing depends on it being true: the vote that follows is Raft's own.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::RPCError;
use tokio::time::Instant;

use super::group::Group;
use super::network::Connection;
use super::types::{LogId, Types, Vote, peer_of};
use super::{Error, convert};
use crate::proto::peer::v1 as proto;

/// How long those that have not answered are waited for when the others are enough.
const MOMENT: Duration = Duration::from_millis(15);

/// Where a replica stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// Its Raft id.
    pub(super) node: u64,
    /// The greatest vote that it has granted.
    pub(super) vote: Vote,
    /// The last entry of its log.
    pub(super) last: Option<LogId>,
    /// What it thinks of the leader.
    pub(super) view: View,
    /// Whether it may lead: it votes, what it holds is whole, and its peer is not stopping.
    pub(super) may_lead: bool,
}

/// What a replica thinks of the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// It follows this one, or is it.
    Led(u64),
    /// It knows none, or finds it gone.
    Headless,
}

impl Group {
    /// Where this replica stands.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub(super) async fn standing(&self) -> Result<Standing, Error> {
        let node = self.node;
        let state = self.raft.with_raft_state(move |state| {
            let membership = state.membership_state.effective().membership();
            let votes = membership.voter_ids().any(|voter| voter == node);
            // The entry that a vote is asked with, not the one that metrics will tell of.
            let last = state.log_ids.last().copied();
            (*state.vote_ref(), last, votes)
        });
        let (vote, last, votes) = state
            .await
            .map_err(|_| Error::Stopped { shard: self.shard })?;
        let leader = vote.committed.then_some(vote.leader_id.node_id);
        // A leader that was started again does not lead, whatever it led before.
        let leads = || {
            let metrics = self.raft.server_metrics();
            metrics.borrow_watched().state == ServerState::Leader
        };
        let is_there = |leader: &u64| match *leader == self.node {
            true => leads(),
            false => !self.is_lost(*leader),
        };
        let view = match leader.filter(is_there) {
            Some(leader) => View::Led(leader),
            None => View::Headless,
        };
        let may_lead = votes && self.may_lead();
        Ok(Standing {
            node,
            vote,
            last,
            view,
            may_lead,
        })
    }

    /// Answers another replica that asks.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn tell_standing(&self) -> Result<proto::StandingResponse, Error> {
        let standing = self.standing().await?;
        match standing.view {
            // Whoever asks has found it gone.
            View::Led(leader) => self.parts.links.suspect(peer_of(leader)),
            // Whoever asks finds so, too: together they may be enough now.
            View::Headless => self.parts.canvassed.notify_one(),
        }
        let vote = &standing.vote;
        Ok(proto::StandingResponse {
            vote: Some(convert::vote_to_proto(vote)),
            last_log_id: standing.last.as_ref().map(convert::log_id_to_proto),
            leader: vote.committed.then_some(vote.leader_id.node_id),
            leader_gone: vote.committed && standing.view == View::Headless,
            may_lead: standing.may_lead,
        })
    }

    /// Asks replicas at the same time. Those that do not answer within this time are left out, and those that are gone are not asked. When the answers
    /// are enough, the others get only a moment more.
    pub(super) async fn ask_standings(
        &self,
        nodes: impl Iterator<Item = u64>,
        patience: Duration,
        are_enough: impl Fn(&[Standing]) -> bool,
    ) -> Vec<Standing> {
        let others = nodes.filter(|node| *node != self.node && !self.is_gone(*node));
        let ask = |node: u64| async move { self.reach(node).ask_standing().await };
        let mut asked: FuturesUnordered<_> = others.map(ask).collect();
        let mut answers = Vec::new();
        let mut end = Instant::now() + patience;
        // What has come by then is kept.
        while let Ok(Some(answer)) = tokio::time::timeout_at(end, asked.next()).await {
            answers.extend(answer.ok());
            if are_enough(&answers) {
                end = end.min(Instant::now() + MOMENT);
            }
        }
        answers
    }

    /// Whether this peer's own links say that a Raft id's peer cannot lead: it has ended, or it is gone.
    pub(super) fn is_lost(&self, node: u64) -> bool {
        self.parts.links.now().is_lost(peer_of(node))
    }

    /// Whether this peer's own links say that nobody is at a Raft id's peer, and no way through others leads there.
    pub(super) fn is_gone(&self, node: u64) -> bool {
        self.parts.links.now().is_gone(peer_of(node))
    }
}

impl Connection {
    async fn ask_standing(&self) -> Result<Standing, RPCError<Types>> {
        let message = proto::StandingRequest {
            shard: u32::from(self.shard.index()),
        };
        let mut client = self.client()?;
        let response = client.standing(self.request(message)).await;
        let response = response.map_err(super::network::unreachable)?;
        self.recognise(response.metadata())
            .map_err(super::network::unreachable)?;
        standing_from_proto(self.target, response.get_ref()).map_err(super::network::unreachable)
    }
}

fn standing_from_proto(node: u64, answer: &proto::StandingResponse) -> Result<Standing, Error> {
    let vote = answer.vote.as_ref().map(convert::vote_from_proto);
    let view = match answer.leader {
        Some(leader) if !answer.leader_gone => View::Led(leader),
        _ => View::Headless,
    };
    Ok(Standing {
        node,
        vote: vote.ok_or(Error::Malformed { field: "vote" })?,
        last: answer.last_log_id.as_ref().map(convert::log_id_from_proto),
        view,
        may_lead: answer.may_lead,
    })
}
