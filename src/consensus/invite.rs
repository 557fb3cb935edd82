//! What a peer that begins anew asks the others: who it was, and whether it is let in.

use std::time::Duration;

use tonic::metadata::MetadataMap;

use super::admission::LEAVE_MAX;
use super::types::peer_of;
use crate::link::{self, Channel, Peers};
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::admit_response::Verdict;
use crate::proto::peer::v1::raft_service_client::RaftServiceClient;
use crate::types::{Incarnation, PeerId, Vertex};

/// A peer that is up answers within milliseconds.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// A change of the members takes two rounds; a leader that has not answered then is asked again.
pub(super) const ADMISSION_TIMEOUT: Duration = Duration::from_secs(5);

/// What another peer knows of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// The data directory and incarnation that it had when it was last let in; `None` when it never was.
    pub known: Option<link::Acquaintance>,
    /// The greatest of its incarnations in the memberships of shards that both hold.
    pub highest: Option<Incarnation>,
}

impl Greeting {
    /// The latest life of this peer that the other one knows of.
    pub fn latest(&self) -> Option<Incarnation> {
        let known = self.known.map(|known| known.incarnation);
        known.max(self.highest)
    }
}

/// What a replica wants of its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// To be let in.
    Joining,
    /// To drop what it holds.
    Leaving,
}

/// What the leader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The replica is in the group.
    Member,
    /// The replica is on its way into the group: ask again.
    CatchingUp,
    /// The replica may drop what it holds.
    MayLeave,
    /// The replica must keep what it holds: ask again.
    CannotSpare {
        /// What stands in the way.
        why: String,
    },
    /// Ask another peer.
    NotLeader {
        /// The leader, when known.
        leader: Option<PeerId>,
    },
    /// It did not work this time: ask again.
    TryAgain {
        /// Why.
        why: String,
    },
    /// The replica is never let in under this Raft id.
    Refused {
        /// Why.
        why: String,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// The configuration knows no such other peer.
    #[error("the configuration knows no peer {peer}")]
    Unknown {
        /// The peer.
        peer: PeerId,
    },
    /// The peer did not answer, or not with an answer.
    #[error("peer {peer} did not answer: {reason}")]
    NoAnswer {
        /// The peer.
        peer: PeerId,
        /// What the transport or the peer says.
        reason: String,
    },
    /// Somebody else answered, or a life of the peer that is not let in.
    #[error(transparent)]
    Link(#[from] link::Error),
}

/// Asks another peer who it thinks this one is. Nothing changes at either of them.
///
/// # Errors
/// [`InviteError`] when it cannot be asked or does not answer.
pub async fn greet(peers: &Peers, peer: PeerId) -> Result<Greeting, InviteError> {
    let mut client = client(peers, peer)?;
    let call = client.greet(peers.request(proto::GreetRequest {}));
    let (metadata, answer) = within(GREETING_TIMEOUT, peer, call).await?;
    // Not remembered: the other one may be about to begin anew as well.
    let found = peers.glimpse(&metadata)?.peer;
    if found != peer {
        return Err(link::Error::Mistaken { asked: peer, found }.into());
    }
    let directory: Result<[u8; 16], _> = answer.known_directory.as_ref().try_into();
    let known = directory.ok().zip(answer.known_incarnation);
    Ok(Greeting {
        known: known.map(|(directory, incarnation)| link::Acquaintance {
            directory: u128::from_be_bytes(directory),
            incarnation: Incarnation(incarnation),
        }),
        highest: answer.highest_incarnation.map(Incarnation),
    })
}

/// Asks a peer, as the leader of a shard, to let this peer's replica in or to let it go.
///
/// # Errors
/// [`InviteError`] when it cannot be asked or does not answer.
pub async fn ask_admission(
    peers: &Peers,
    peer: PeerId,
    shard: Vertex,
    node: u64,
    intent: Intent,
) -> Result<Answer, InviteError> {
    let mut client = client(peers, peer)?;
    let request = peers.request(proto::AdmitRequest {
        shard: u32::from(shard.index()),
        node,
        leaving: intent == Intent::Leaving,
    });
    let (metadata, answer) = within(LEAVE_MAX, peer, client.admit(request)).await?;
    peers.recognise_answer(peer, &metadata)?;
    let why = answer.why.clone();
    Ok(match answer.verdict() {
        Verdict::Member => Answer::Member,
        Verdict::CatchingUp => Answer::CatchingUp,
        Verdict::MayLeave => Answer::MayLeave,
        Verdict::CannotSpare => Answer::CannotSpare { why },
        Verdict::NotLeader => {
            let leader = answer.leader.and_then(|leader| u16::try_from(leader).ok());
            Answer::NotLeader {
                leader: leader.map(PeerId),
            }
        }
        Verdict::Refused => Answer::Refused { why },
        Verdict::Unspecified | Verdict::TryAgain => Answer::TryAgain { why },
    })
}

fn client(peers: &Peers, peer: PeerId) -> Result<RaftServiceClient<Channel>, InviteError> {
    let channel = peers.channel(peer).ok_or(InviteError::Unknown { peer })?;
    Ok(RaftServiceClient::new(channel))
}

async fn within<T, E: ToString>(
    time: Duration,
    peer: PeerId,
    call: impl Future<Output = Result<tonic::Response<T>, E>>,
) -> Result<(MetadataMap, T), InviteError> {
    let no_answer = |reason: String| InviteError::NoAnswer { peer, reason };
    let answer = tokio::time::timeout(time, call)
        .await
        .map_err(|_| no_answer(format!("not within {time:?}")))?
        .map_err(|error| no_answer(error.to_string()))?;
    let (metadata, message, _) = answer.into_parts();
    Ok((metadata, message))
}

/// What the leader's group said, as the caller is told it.
pub(super) fn answer_to_proto(answer: Result<Answer, super::Error>) -> proto::AdmitResponse {
    let answer = answer.unwrap_or_else(|error| {
        let why = error.to_string();
        match error {
            super::Error::NotLeader { leader, .. } => Answer::NotLeader { leader },
            super::Error::CannotSpare { .. } => Answer::CannotSpare { why },
            super::Error::NotAdmitted { .. } => Answer::Refused { why },
            _ => Answer::TryAgain { why },
        }
    });
    let (verdict, why, leader) = match answer {
        Answer::Member => (Verdict::Member, String::new(), None),
        Answer::CatchingUp => (Verdict::CatchingUp, String::new(), None),
        Answer::MayLeave => (Verdict::MayLeave, String::new(), None),
        Answer::CannotSpare { why } => (Verdict::CannotSpare, why, None),
        Answer::NotLeader { leader } => (Verdict::NotLeader, String::new(), leader),
        Answer::TryAgain { why } => (Verdict::TryAgain, why, None),
        Answer::Refused { why } => (Verdict::Refused, why, None),
    };
    proto::AdmitResponse {
        verdict: verdict.into(),
        why,
        leader: leader.map(|peer| u32::from(peer.0)),
    }
}

/// Whether a replica is of the peer that speaks for it.
pub(super) fn speaks_for_itself(caller: PeerId, node: u64) -> bool {
    peer_of(node) == caller
}
