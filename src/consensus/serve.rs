//! What the other replicas of a shard ask of this one, as messages of `cubecast.peer.v1`.
//!
//! Nothing is answered before what the answer depends on is on disk: openraft waits for the log's completion.

use futures::{Stream, StreamExt};
use openraft::raft::TransferLeaderRequest;
use tracing::warn;

use super::group::Group;
use super::types::{LogId, Vote};
use super::{Error, convert};
use crate::proto::peer::v1 as proto;

impl Group {
    /// Appends what a leader streams. Each answer is sent after the entries are on disk; the stream ends after the first that is not a success.
    pub fn append(
        &self,
        requests: impl Stream<Item = proto::AppendRequest> + Send + 'static,
    ) -> impl Stream<Item = Result<proto::AppendResponse, Error>> + Send + 'static {
        let shard = self.shard;
        // A message that does not parse ends the stream, as if the leader had stopped sending.
        let requests = requests
            .map(convert::append_from_proto)
            .take_while(move |request| {
                if let Err(error) = request {
                    warn!(%shard, %error, "a leader sent what is not an append");
                }
                std::future::ready(request.is_ok())
            })
            .filter_map(|request| std::future::ready(request.ok()));
        self.raft
            .stream_append(requests)
            .map(move |answer| match answer {
                Ok(result) => Ok(convert::stored_to_proto(&result)),
                Err(_) => Err(Error::Stopped { shard }),
            })
    }

    /// One append outside the stream: a heartbeat.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Stopped`].
    pub async fn heartbeat(
        &self,
        request: proto::HeartbeatRequest,
    ) -> Result<proto::HeartbeatResponse, Error> {
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
        let answer = convert::stored_to_proto(&response.into_stream_result(previous, last));
        Ok(proto::HeartbeatResponse {
            append: Some(answer),
        })
    }

    /// Answers a candidate.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Stopped`].
    pub async fn vote(&self, request: proto::VoteRequest) -> Result<proto::VoteResponse, Error> {
        let parsed = convert::vote_request_from_proto(&request)?;
        let response = if request.pre_vote {
            self.raft.pre_vote(parsed).await
        } else {
            self.raft.vote(parsed).await
        };
        let response = response.map_err(|_| Error::Stopped { shard: self.shard })?;
        Ok(convert::vote_response_to_proto(&response))
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
}
