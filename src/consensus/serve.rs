//! What the other replicas of a shard ask of this one, as messages of `cubecast.peer.v1`.
//!
//! Nothing is answered before what the answer depends on is on disk: openraft waits for the log's completion.

use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{StreamAppendError, StreamAppendResult, TransferLeaderRequest};
use tokio::time::Instant;
use tracing::warn;

use super::group::Group;
use super::invite::{ADMISSION_TIMEOUT, Answer, answer_to_proto, speaks_for_itself};
use super::types::{LogId, Types, Vote};
use super::{Admission, Error, convert};
use crate::env::disk::Level;
use crate::proto::peer::v1 as proto;
use crate::types::PeerId;

impl Group {
    /// Whether a call is for this life of the replica. What another one is asked, this one must not answer.
    ///
    /// # Errors
    /// [`Error::OtherLife`].
    pub fn check_target(&self, target: u64) -> Result<(), Error> {
        if target == self.node {
            return Ok(());
        }
        Err(Error::OtherLife {
            shard: self.shard,
            node: self.node,
            target,
        })
    }

    /// Whether there is room for more of the log. A leader takes a follower that refuses for one that cannot be reached, and goes on with the others.
    ///
    /// # Errors
    /// [`Error::NoRoom`].
    pub fn check_room(&self) -> Result<(), Error> {
        match self.parts.room.level() {
            Level::Critical => Err(Error::NoRoom { shard: self.shard }),
            Level::Ample | Level::Low => Ok(()),
        }
    }

    /// Appends what a leader streams. Each answer is sent after the entries are on disk; the stream ends after the first that is not a success,
    /// and when the disk is nearly full.
    pub fn append(
        &self,
        requests: impl Stream<Item = proto::AppendRequest> + Send + 'static,
    ) -> impl Stream<Item = Result<proto::AppendResponse, Error>> + Send + 'static {
        let (shard, room) = (self.shard, std::sync::Arc::clone(&self.parts.room));
        // A message that does not parse ends the stream, as if the leader had stopped sending.
        let requests = requests
            .take_while(move |_| std::future::ready(room.level() != Level::Critical))
            .map(convert::append_from_proto)
            .take_while(move |request| {
                if let Err(error) = request {
                    warn!(%shard, %error, "a leader sent what is not an append");
                }
                std::future::ready(request.is_ok())
            })
            .filter_map(|request| std::future::ready(request.ok()));
        let group = self.clone();
        self.raft
            .stream_append(requests)
            .map(move |answer| match answer {
                Ok(result) => {
                    group.hear(&result);
                    Ok(convert::stored_to_proto(&result))
                }
                Err(_) => Err(Error::Stopped { shard }),
            })
    }

    /// Takes note that a leader was heard, unless it is refused as an earlier one.
    fn hear(&self, result: &StreamAppendResult<Types>) {
        if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
            self.parts.heard.notify_one();
        }
    }

    /// One append outside the stream: a heartbeat.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::NoRoom`] or [`Error::Stopped`].
    pub async fn heartbeat(
        &self,
        request: proto::HeartbeatRequest,
    ) -> Result<proto::HeartbeatResponse, Error> {
        self.check_room()?;
        let append = request.append.ok_or(Error::Malformed { field: "append" })?;
        let append = convert::append_from_proto(append)?;
        let previous = append.prev_log_id;
        let last = append.entries.last().map(|entry| entry.log_id).or(previous);
        let response = self
            .raft
            .append_entries(append)
            .await
            .map_err(|_| Error::Stopped { shard: self.shard })?;
        if response.is_conflict() && previous.is_none() {
            return Err(Error::Malformed { field: "previous" });
        }
        let result = response.into_stream_result(previous, last);
        self.hear(&result);
        Ok(proto::HeartbeatResponse {
            append: Some(convert::stored_to_proto(&result)),
        })
    }

    /// Answers a candidate.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Stopped`].
    pub async fn vote(&self, request: proto::VoteRequest) -> Result<proto::VoteResponse, Error> {
        let mut parsed = convert::vote_request_from_proto(&request)?;
        // By what this voter sees itself, never by what a candidate says of others. See `finds_leader_gone` for why this is safe.
        let candidate = parsed.vote.leader_id.node_id;
        parsed.leadership_transfer |= self.finds_leader_gone() || self.is_led_by(candidate);
        let response = if request.pre_vote {
            // openraft lets no pre-vote through a lease. It is only asked by the timers, which begin when leases have ended.
            self.raft.pre_vote(parsed).await
        } else {
            self.raft.vote(parsed).await
        };
        let response = response.map_err(|_| Error::Stopped { shard: self.shard })?;
        Ok(convert::vote_response_to_proto(&response))
    }

    /// Whether this replica follows the one that asks for its vote: then that one was started again and says itself that it does not lead.
    fn is_led_by(&self, candidate: u64) -> bool {
        let metrics = self.raft.server_metrics();
        metrics.borrow_watched().current_leader == Some(candidate) && candidate != self.node
    }

    /// Takes over from the leader that asks for it.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Stopped`].
    pub async fn take_over(
        &self,
        request: proto::TransferLeaderRequest,
    ) -> Result<proto::TransferLeaderResponse, Error> {
        let from: Vote = request
            .from_leader
            .as_ref()
            .map(convert::vote_from_proto)
            .ok_or(Error::Malformed {
                field: "from_leader",
            })?;
        let last: Option<LogId> = request.last_log_id.as_ref().map(convert::log_id_from_proto);
        let request = TransferLeaderRequest::new(from, request.to_node, last);
        let answer = self
            .raft
            .handle_transfer_leader(request)
            .await
            .map_err(|_| Error::Stopped { shard: self.shard })?;
        Ok(proto::TransferLeaderResponse {
            accepted: answer.is_ok(),
        })
    }

    /// Answers a replica that asks to be let in, or whether it may go.
    pub async fn answer_admission(
        &self,
        request: proto::AdmitRequest,
        caller: PeerId,
    ) -> proto::AdmitResponse {
        let node = request.node;
        let answer = if !speaks_for_itself(caller, node) {
            Err(Error::NotAdmitted {
                shard: self.shard,
                node,
                reason: "it is not the caller's".to_owned(),
            })
        } else if request.leaving {
            let deadline = Instant::now() + ADMISSION_TIMEOUT;
            self.spare(node, deadline).await.map(|()| Answer::MayLeave)
        } else {
            let deadline = Instant::now() + ADMISSION_TIMEOUT;
            self.admit(node, deadline).await.map(|now| match now {
                Admission::Member => Answer::Member,
                Admission::CatchingUp => Answer::CatchingUp,
            })
        };
        answer_to_proto(answer)
    }
}
