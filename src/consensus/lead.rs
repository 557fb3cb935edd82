//! What only a leader does for its callers: it orders a command, and it finds out whether it still leads.

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{Instant as _, ReadPolicy};

use super::Error;
use super::group::Group;
use super::types::{Proposal, position};
use crate::shard;
use crate::types::LogPosition;

impl Group {
    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// [`Error::NotLeader`] and [`Error::NoQuorum`] when it was certainly not proposed, [`Error::OutcomeUnknown`] when it may still be applied.
    pub async fn propose(
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
