//! Between openraft's types and the messages of `cubecast.peer.v1`, which the wire and the disk share.

use std::collections::BTreeSet;

use openraft::alias::CommittedLeaderIdOf;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, EntryPayload};

use super::Error;
use super::types::{Entry, LogId, Membership, Proposal, Types, Vote};
use crate::proto::peer::v1 as proto;

fn missing(field: &'static str) -> Error {
    Error::Malformed { field }
}

pub(super) fn log_id_to_proto(id: &LogId) -> proto::LogId {
    proto::LogId {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

pub(super) fn log_id_from_proto(id: &proto::LogId) -> LogId {
    LogId::new(
        CommittedLeaderIdOf::<Types> {
            term: id.term,
            node_id: id.node,
        },
        id.index,
    )
}

pub(super) fn vote_to_proto(vote: &Vote) -> proto::Vote {
    proto::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(super) fn vote_from_proto(vote: &proto::Vote) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node)
    } else {
        Vote::new(vote.term, vote.node)
    }
}

fn required_vote(vote: Option<&proto::Vote>) -> Result<Vote, Error> {
    vote.map(vote_from_proto).ok_or_else(|| missing("vote"))
}

pub(super) fn membership_to_proto(membership: &Membership) -> proto::Membership {
    let configurations = membership
        .get_joint_config()
        .iter()
        .map(|voters| proto::Configuration {
            voters: voters.iter().copied().collect(),
        })
        .collect();
    proto::Membership {
        configurations,
        nodes: membership.nodes().map(|(node, _)| *node).collect(),
    }
}

pub(super) fn membership_from_proto(membership: &proto::Membership) -> Result<Membership, Error> {
    let configurations: Vec<BTreeSet<u64>> = membership
        .configurations
        .iter()
        .map(|configuration| configuration.voters.iter().copied().collect())
        .collect();
    let nodes = membership
        .nodes
        .iter()
        .map(|node| (*node, EmptyNode {}))
        .collect::<std::collections::BTreeMap<_, _>>();
    if configurations.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configurations, nodes).map_err(|_| missing("membership.configurations"))
}

fn entry_to_proto(entry: Entry) -> proto::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(proposal) => Some(proto::entry::Payload::Command(proposal.0)),
        EntryPayload::Membership(membership) => Some(proto::entry::Payload::Membership(
            membership_to_proto(&membership),
        )),
    };
    proto::Entry {
        id: Some(log_id_to_proto(&entry.log_id)),
        payload,
    }
}

fn entry_from_proto(entry: proto::Entry) -> Result<Entry, Error> {
    let log_id = entry
        .id
        .as_ref()
        .map(log_id_from_proto)
        .ok_or_else(|| missing("entry.id"))?;
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(proto::entry::Payload::Command(command)) => EntryPayload::Normal(Proposal(command)),
        Some(proto::entry::Payload::Membership(membership)) => {
            EntryPayload::Membership(membership_from_proto(&membership)?)
        }
    };
    Ok(Entry { log_id, payload })
}

pub(super) fn append_to_proto(
    shard: u16,
    request: AppendEntriesRequest<Types>,
) -> proto::AppendRequest {
    proto::AppendRequest {
        shard: u32::from(shard),
        vote: Some(vote_to_proto(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_proto),
        entries: request.entries.into_iter().map(entry_to_proto).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_proto),
    }
}

pub(super) fn append_from_proto(
    request: proto::AppendRequest,
) -> Result<AppendEntriesRequest<Types>, Error> {
    let vote = required_vote(request.vote.as_ref())?;
    // Only leaders append; openraft would follow a candidate as if it had been elected.
    if !vote.committed {
        return Err(missing("vote.committed"));
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id: request.previous.as_ref().map(log_id_from_proto),
        entries: request
            .entries
            .into_iter()
            .map(entry_from_proto)
            .collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.as_ref().map(log_id_from_proto),
    })
}

pub(super) fn stored_to_proto(result: &StreamAppendResult<Types>) -> proto::AppendResponse {
    use proto::append_response::Result as Answer;
    let answer = match result {
        Ok(last) => Answer::Stored(proto::Stored {
            last: last.as_ref().map(log_id_to_proto),
        }),
        Err(StreamAppendError::Conflict(at)) => Answer::Conflict(log_id_to_proto(at)),
        Err(StreamAppendError::HigherVote(vote)) => Answer::HigherVote(vote_to_proto(vote)),
    };
    proto::AppendResponse {
        result: Some(answer),
    }
}

pub(super) fn stored_from_proto(
    response: &proto::AppendResponse,
) -> Result<StreamAppendResult<Types>, Error> {
    use proto::append_response::Result as Answer;
    match response.result.as_ref().ok_or_else(|| missing("result"))? {
        Answer::Stored(stored) => Ok(Ok(stored.last.as_ref().map(log_id_from_proto))),
        Answer::Conflict(at) => Ok(Err(StreamAppendError::Conflict(log_id_from_proto(at)))),
        Answer::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote_from_proto(vote)))),
    }
}

pub(super) fn vote_request_from_proto(
    request: &proto::VoteRequest,
) -> Result<VoteRequest<Types>, Error> {
    let vote = required_vote(request.vote.as_ref())?;
    // A candidate has not been elected; openraft would follow it as if it had.
    if vote.committed {
        return Err(missing("vote.committed"));
    }
    let mut parsed = VoteRequest::new(vote, request.last_log_id.as_ref().map(log_id_from_proto));
    parsed.leadership_transfer = request.leadership_transfer;
    Ok(parsed)
}

pub(super) fn vote_response_to_proto(response: &VoteResponse<Types>) -> proto::VoteResponse {
    proto::VoteResponse {
        vote: Some(vote_to_proto(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_proto),
    }
}

pub(super) fn vote_response_from_proto(
    response: &proto::VoteResponse,
) -> Result<VoteResponse<Types>, Error> {
    let vote = required_vote(response.vote.as_ref())?;
    Ok(VoteResponse::new(
        vote,
        response.last_log_id.as_ref().map(log_id_from_proto),
        response.granted,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn id(index: u64) -> LogId {
        log_id_from_proto(&proto::LogId {
            term: 3,
            node: 9,
            index,
        })
    }

    #[test]
    fn append_survives_the_wire() {
        let membership = Membership::new(
            vec![BTreeSet::from([1, 2, 3])],
            [1, 2, 3, 4]
                .map(|n| (n, EmptyNode {}))
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>(),
        )
        .unwrap();
        let request = AppendEntriesRequest::<Types> {
            vote: Vote::new_committed(3, 9),
            prev_log_id: Some(id(4)),
            entries: vec![
                Entry {
                    log_id: id(5),
                    payload: EntryPayload::Blank,
                },
                Entry {
                    log_id: id(6),
                    payload: EntryPayload::Normal(Proposal(Bytes::from_static(b"command"))),
                },
                Entry {
                    log_id: id(7),
                    payload: EntryPayload::Membership(membership),
                },
            ],
            leader_commit: None,
        };
        let back = append_from_proto(append_to_proto(2, request.clone())).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
    }

    #[test]
    fn answers_survive_the_wire() {
        let answers: [StreamAppendResult<Types>; 4] = [
            Ok(None),
            Ok(Some(id(1))),
            Err(StreamAppendError::Conflict(id(2))),
            Err(StreamAppendError::HigherVote(Vote::new(4, 1))),
        ];
        for answer in answers {
            assert_eq!(
                stored_from_proto(&stored_to_proto(&answer)).unwrap(),
                answer
            );
        }
    }

    #[test]
    fn candidate_is_no_leader_and_a_leader_no_candidate() {
        let vote = |committed| {
            Some(proto::Vote {
                term: 4,
                node: 1,
                committed,
            })
        };
        let asked = |committed| {
            vote_request_from_proto(&proto::VoteRequest {
                vote: vote(committed),
                ..Default::default()
            })
        };
        let appended = |committed| {
            append_from_proto(proto::AppendRequest {
                vote: vote(committed),
                ..Default::default()
            })
        };
        let field = "vote.committed";
        assert_eq!(asked(true).unwrap_err(), Error::Malformed { field });
        assert_eq!(appended(false).unwrap_err(), Error::Malformed { field });
        assert!(asked(false).is_ok() && appended(true).is_ok());
    }

    #[test]
    fn request_without_a_vote_is_malformed() {
        let error = append_from_proto(proto::AppendRequest::default()).unwrap_err();
        assert!(matches!(error, Error::Malformed { field: "vote" }));
    }
}
