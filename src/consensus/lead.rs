//! What only a leader does for its callers: it orders a command, and it finds out whether it still leads.

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{Instant as _, ReadPolicy};
use tokio::time::Instant;

use super::Error;
use super::group::Group;
use super::status::Leadership;
use super::transfer::TRANSFER_MAX;
use super::types::{Proposal, peer_of, position};
use crate::shard;
use crate::types::LogPosition;

impl Group {
    /// Proposes a command and waits until it is applied here. Between leaders it waits a little for the next one, which may be this replica.
    ///
    /// # Errors
    /// [`Error::NotLeader`] and [`Error::NoQuorum`] when it was certainly not proposed, [`Error::OutcomeUnknown`] when it may still be applied.
    pub async fn propose(
        &self,
        command: Bytes,
    ) -> Result<(LogPosition, Option<shard::Outcome>), Error> {
        let end = Instant::now() + TRANSFER_MAX;
        loop {
            match self.propose_once(command.clone()).await {
                Err(Error::NotLeader { .. }) if self.leads_soon(end).await => {}
                Err(Error::NotLeader { .. }) => return Err(self.not_leader()),
                result => return result,
            }
        }
    }

    async fn propose_once(
        &self,
        command: Bytes,
    ) -> Result<(LogPosition, Option<shard::Outcome>), Error> {
        self.check_quorum()?;
        if self.has_lost_quorum() {
            return Err(self.no_quorum());
        }
        let written = tokio::select! {
            biased;
            written = self.raft.client_write(Proposal(command)) => written,
            // It may be on some disks, and committed when the others are back.
            () = self.quorum_lost() => return Err(Error::OutcomeUnknown { shard: self.shard }),
        };
        match written {
            Ok(response) => Ok((position(&response.log_id), response.data.0)),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(self.not_leader())
            }
            Err(_) => Err(Error::OutcomeUnknown { shard: self.shard }),
        }
    }

    /// Waits for a leader that is there, which while a transfer or an election runs is a matter of milliseconds; whoever asks need not look for it
    /// then. Ends at the latest at the deadline, or after as long as a transfer may take. True: this replica leads.
    pub async fn leads_soon(&self, deadline: Instant) -> bool {
        let end = deadline.min(Instant::now() + TRANSFER_MAX);
        let this = peer_of(self.node);
        let mut leadership = self.parts.leadership.clone();
        let is_there = |now: &Leadership| {
            let is_other = |leader| leader != this && !self.parts.links.now().is_lost(leader);
            now.is_ready || now.leader.is_some_and(is_other)
        };
        let found = async {
            // A leader that takes nothing is about to hand over, or has been deposed.
            leadership.wait_for(|now| now.leader != Some(this)).await?;
            leadership.wait_for(is_there).await.map(|now| now.is_ready)
        };
        matches!(tokio::time::timeout_at(end, found).await, Ok(Ok(true)))
    }

    /// Whether this replica leads and has heard from no majority for as long as a lease lasts. What it took now could only wait, its fate
    /// unknown; a caller that is told so at once may ask others.
    fn has_lost_quorum(&self) -> bool {
        let metrics = self.raft.data_metrics();
        let heard = metrics.borrow_watched().last_quorum_acked;
        self.quorum().voters > 1
            && heard.is_some_and(|heard| heard.elapsed() > self.parts.options.election_timeout_max)
    }

    /// Waits until everything that was committed before the call is applied here (ReadIndex: Ongaro's thesis, section 6.4).
    ///
    /// # Errors
    /// [`Error::NotLeader`] when this replica does not lead, [`Error::NoQuorum`] when no majority confirms that it does.
    pub async fn confirm_leadership(&self) -> Result<(), Error> {
        let end = Instant::now() + TRANSFER_MAX;
        loop {
            match self.confirm_once().await {
                Err(Error::NotLeader { .. }) if self.leads_soon(end).await => {}
                Err(Error::NotLeader { .. }) => return Err(self.not_leader()),
                result => return result,
            }
        }
    }

    async fn confirm_once(&self) -> Result<(), Error> {
        self.check_quorum()?;
        let confirmed = tokio::select! {
            biased;
            confirmed = self.raft.ensure_linearizable(ReadPolicy::ReadIndex) => confirmed,
            () = self.quorum_lost() => return Err(self.no_quorum()),
        };
        match confirmed {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                Err(self.not_leader())
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(self.no_quorum())
            }
            Err(RaftError::Fatal(_)) => Err(Error::Stopped { shard: self.shard }),
        }
    }
}
