//! What each domain error becomes for a caller, and for the loop that may ask another replica instead.
//!
//! The codes are in [`super::status`]; here each error finds its reason and its facts. Begin with [`failure`].

use cubecast_sdk::proto::v1::ErrorReason as Reason;
use tonic::Status;

use super::forward::Failure;
use super::status::Fault;
use crate::broker::Error;
use crate::consensus;
use crate::link;
use crate::replica;
use crate::router::Leader;
use crate::shard::{self, Refusal};
use crate::types::{PeerId, Vertex};

/// Why this peer's own replica gave no answer.
pub fn failure(error: Error, this: PeerId) -> Failure {
    let fault = match error {
        Error::Refused(refusal) => from_refusal(&refusal),
        Error::Replica(error) => return from_replica(&error, this),
        Error::Rows { shard, source } => return from_rows(shard, &source, this),
        Error::TopicDeleted { ref topic } => {
            Fault::new(Reason::TopicDeleted, error.to_string()).with("topic", topic)
        }
        Error::CursorContended {
            ref topic,
            ref subscriber,
            ..
        } => Fault::new(Reason::CursorMoved, error.to_string())
            .with("topic", topic)
            .with("subscriber", subscriber),
        Error::Superseded {
            ref topic,
            ref subscriber,
        } => Fault::new(Reason::LeaseLost, error.to_string())
            .with("topic", topic)
            .with("subscriber", subscriber),
        Error::Unresolved(unresolved) => {
            let status = unresolved.source.downcast_ref::<Status>().cloned();
            return Failure::Final(status.unwrap_or_else(|| internal(&unresolved).into_status()));
        }
        Error::Defect { .. } => internal(&error),
    };
    Failure::Final(fault.into_status())
}

/// This peer stops, and takes nothing new.
pub fn stopping(this: PeerId) -> Status {
    Fault::new(Reason::ShuttingDown, "this peer stops")
        .with("peer", this)
        .into_status()
}

/// Why a replica did not do what it was asked.
pub fn from_replica(error: &replica::Error, this: PeerId) -> Failure {
    let text = error.to_string();
    let fault = match error {
        replica::Error::Consensus(error) => return from_consensus(error, this),
        replica::Error::OutcomeUnknown { .. } => return Failure::Unknown,
        replica::Error::Deadline { .. } => {
            return Failure::Elsewhere(Fault::new(Reason::DeadlineExceeded, text).into_status());
        }
        replica::Error::TooLarge { bytes, limit } => Fault::new(Reason::RequestTooLarge, text)
            .with("limit", limit)
            .with("actual", bytes),
        replica::Error::Starting { .. } => {
            let fault = Fault::new(Reason::Starting, text).with("peer", this);
            return Failure::Elsewhere(fault.into_status());
        }
        replica::Error::Damaged { shard, .. } => return damaged(*shard, text, this),
        replica::Error::Unreadable { .. } => {
            let fault = Fault::new(Reason::StorageFailed, text).with("peer", this);
            return Failure::Elsewhere(fault.into_status());
        }
        replica::Error::StorageFull { free, limit } => Fault::new(Reason::StorageFull, text)
            .with("peer", this)
            .with("limit", limit)
            .with("free", free),
    };
    Failure::Final(fault.into_status())
}

fn from_consensus(error: &consensus::Error, this: PeerId) -> Failure {
    let text = error.to_string();
    match error {
        consensus::Error::NotLeader { leader, term, .. } => {
            Failure::NotLeader(leader.map(|peer| Leader { peer, term: *term }))
        }
        consensus::Error::OutcomeUnknown { .. } => Failure::Unknown,
        // Another majority may have another leader by now.
        consensus::Error::NoQuorum {
            shard,
            voters,
            reachable,
        } => Failure::NoQuorum(
            Fault::new(Reason::NoQuorum, text)
                .with("shard", shard)
                .with("voters", voters)
                .with("reachable", reachable)
                .into_status(),
        ),
        consensus::Error::Stopped { .. } => Failure::Elsewhere(
            Fault::new(Reason::ShuttingDown, text)
                .with("peer", this)
                .into_status(),
        ),
        // Only peers are told these, not callers.
        _ => Failure::Final(internal(error).into_status()),
    }
}

/// What a shard's refusal is told as.
pub fn from_refusal(refusal: &Refusal) -> Fault {
    let fault = |reason| Fault::new(reason, refusal.to_string());
    match refusal {
        Refusal::TopicExists { topic } => fault(Reason::TopicAlreadyExists).with("topic", topic),
        Refusal::TopicNotFound { topic } => fault(Reason::TopicNotFound).with("topic", topic),
        Refusal::PublisherExists { publisher } => {
            fault(Reason::PublisherAlreadyExists).with("publisher", publisher)
        }
        Refusal::PublisherNotFound { publisher } => {
            fault(Reason::PublisherNotFound).with("publisher", publisher)
        }
        Refusal::SubscriberExists { subscriber } => {
            fault(Reason::SubscriberAlreadyExists).with("subscriber", subscriber)
        }
        Refusal::SubscriberNotFound { subscriber } => {
            fault(Reason::SubscriberNotFound).with("subscriber", subscriber)
        }
        Refusal::SubscriptionNotFound { topic, subscriber } => fault(Reason::SubscriptionNotFound)
            .with("topic", topic)
            .with("subscriber", subscriber),
        Refusal::SubscriptionShared { topic, subscriber } => fault(Reason::SubscriptionShared)
            .with("topic", topic)
            .with("subscriber", subscriber),
        Refusal::SequenceGap { expected, got, .. } => fault(Reason::SequenceGap)
            .with("expected", expected)
            .with("sequence", got),
        Refusal::SessionUnknown {
            publisher,
            session,
            got,
            ..
        } => fault(Reason::SessionUnknown)
            .with("publisher", publisher)
            .with("session", session)
            .with("sequence", got),
        Refusal::SequenceForgotten {
            publisher,
            session,
            sequence,
            ..
        } => fault(Reason::SequenceForgotten)
            .with("publisher", publisher)
            .with("session", session)
            .with("sequence", sequence),
        Refusal::OffsetOutOfRange {
            offset,
            first,
            next,
            ..
        } => fault(Reason::OffsetOutOfRange)
            .with("offset", offset)
            .with("first_offset", first)
            .with("next_offset", next),
        Refusal::CursorMoved {
            topic, subscriber, ..
        } => fault(Reason::CursorMoved)
            .with("topic", topic)
            .with("subscriber", subscriber),
        Refusal::Malformed(_) => fault(Reason::Internal),
    }
}

/// Rows that cannot be read: the storage has failed, or this replica is damaged. Another replica may have them whole (G7).
pub fn from_rows(shard: Vertex, error: &shard::Error, this: PeerId) -> Failure {
    let text = format!("the rows of shard {shard} cannot be read: {error}");
    if error.is_replaced() {
        // A snapshot came meanwhile: the next look sees what it brought.
        let fault = Fault::new(Reason::Starting, text).with("peer", this);
        return Failure::Elsewhere(fault.into_status());
    }
    if !error.is_damage() {
        let fault = Fault::new(Reason::StorageFailed, text).with("peer", this);
        return Failure::Elsewhere(fault.into_status());
    }
    damaged(shard, text, this)
}

/// This peer's replica of the shard is damaged.
fn damaged(shard: Vertex, text: String, this: PeerId) -> Failure {
    let fault = Fault::new(Reason::ReplicaDamaged, text).with("shard", shard);
    Failure::Damaged(fault.with("peer", this).into_status())
}

/// The call is for peers only.
pub fn not_a_peer(error: &link::Error) -> Status {
    Fault::new(
        Reason::NotAPeer,
        format!("this call is for peers of the cluster only: {error}"),
    )
    .into_status()
}

/// A peer asked for a shard that this one has no replica of, or that is none.
pub fn no_such_shard(shard: u32) -> Status {
    Fault::new(
        Reason::NotReplica,
        format!("this peer has no replica of shard {shard}"),
    )
    .with("shard", shard)
    .into_status()
}

/// What another peer is told when a replica of this one cannot do its part.
pub fn for_peer(error: &replica::Error, this: PeerId) -> Status {
    match from_replica(error, this) {
        Failure::Final(status)
        | Failure::Elsewhere(status)
        | Failure::NoQuorum(status)
        | Failure::Damaged(status) => status,
        Failure::NotLeader(_) => Fault::new(Reason::NotLeader, error.to_string()).into_status(),
        Failure::Unreached | Failure::Unknown => {
            Fault::new(Reason::OutcomeUnknown, error.to_string()).into_status()
        }
    }
}

/// What a caller is told who wanted this peer's replica and no other.
pub fn of_own_replica(failure: Failure, shard: Vertex) -> Status {
    match failure {
        Failure::Final(status)
        | Failure::Elsewhere(status)
        | Failure::NoQuorum(status)
        | Failure::Damaged(status) => status,
        Failure::NotLeader(_) | Failure::Unreached | Failure::Unknown => {
            let text = format!("the replica of shard {shard} has no leader at the moment");
            Fault::new(Reason::NoLeader, text)
                .with("shard", shard)
                .into_status()
        }
    }
}

/// This version does not do a call yet.
pub fn not_implemented(method: &str) -> Status {
    let text = format!("{method} is not done by this version of cubecast yet");
    Fault::new(Reason::NotImplemented, text)
        .with("method", method)
        .into_status()
}

fn internal(error: &dyn std::error::Error) -> Fault {
    Fault::new(Reason::Internal, format!("a defect of cubecast: {error}"))
}

#[cfg(test)]
mod tests;
