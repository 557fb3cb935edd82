//! One call to another peer, and what its end means for the loop that made it.
//!
//! Begin with [`ask`].

use cubecast_sdk::proto::v1::{ErrorReason, StreamError};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use super::context::{Context, FORWARDED_BY, TRACE_PARENT};
use super::forward::Failure;
use super::layers::RELAY_FACT;
use super::status::{self, Fault, reason};
use crate::link::{self, Peers};
use crate::router::Leader;
use crate::types::{PeerId, Term};

/// An answer holds at most the messages of one request, with their envelopes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Forwards a call to a peer. One that is gone is not dialled: that could take as long as the caller waits.
///
/// # Errors
/// [`Failure`] says whether it may have been done.
pub async fn ask<Q, A>(
    (peers, this, peer): (&Peers, PeerId, PeerId),
    path: &'static str,
    request: Q,
    context: &Context,
) -> Result<A, Failure>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let Some(channel) = peers.channel(peer) else {
        return Err(Failure::Unreached);
    };
    if peers.links().now().is_gone(peer) {
        return Err(Failure::Unreached);
    }
    let mut request = peers.request(request);
    forward(request.metadata_mut(), this, context);
    request.set_timeout(context.deadline.saturating_duration_since(Instant::now()));
    let mut client = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    if !matches!(
        tokio::time::timeout_at(context.deadline, client.ready()).await,
        Ok(Ok(()))
    ) {
        // Nothing was sent.
        return Err(Failure::Unreached);
    }
    let codec = ProstCodec::<Q, A>::default();
    let call = client.unary(request, PathAndQuery::from_static(path), codec);
    match tokio::time::timeout_at(context.deadline, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(classify_at(Some(this), status)),
        Err(_) => Err(Failure::Unknown),
    }
}

/// Says of a call that this peer forwards it, and to which trace it belongs.
pub fn forward(metadata: &mut MetadataMap, this: PeerId, context: &Context) {
    metadata.insert(FORWARDED_BY, this.0.into());
    if let Some(trace_parent) = &context.trace_parent {
        metadata.insert(TRACE_PARENT, trace_parent.clone());
    }
}

/// What the error of one part of a forwarded stream means.
pub fn classify_part(part: StreamError) -> Failure {
    classify(status::of_part(part))
}

/// What the error of a forwarded call means.
pub fn classify(status: Status) -> Failure {
    classify_at(None, status)
}

/// What it means to the peer that forwarded the call.
fn classify_at(this: Option<PeerId>, status: Status) -> Failure {
    match reason(&status) {
        Some(ErrorReason::NotLeader) => Failure::NotLeader(hint(&status)),
        Some(ErrorReason::OutcomeUnknown) => Failure::Unknown,
        Some(ErrorReason::ReplicaDamaged) => Failure::Damaged(status),
        Some(ErrorReason::NoQuorum) => Failure::NoQuorum(status),
        // A peer on the road says that it could not pass the call on.
        Some(ErrorReason::PeerUnreachable) if has_fact(&status, RELAY_FACT) => Failure::Unreached,
        // This peer has begun anew, and that one has not heard of it yet: nothing is wrong with the call.
        Some(ErrorReason::NotAPeer) => Failure::Elsewhere(not_let_in(this, &status)),
        Some(
            ErrorReason::NoLeader
            | ErrorReason::Starting
            | ErrorReason::ShuttingDown
            | ErrorReason::StorageFailed,
        ) => Failure::Elsewhere(status),
        Some(_) => Failure::Final(status),
        None if link::is_refused(&status) => Failure::Unreached,
        None => match status.code() {
            // No method was reached.
            Code::Unimplemented | Code::Unauthenticated => Failure::Final(status),
            // Without a reason the error comes from between, as a reset connection does (RESOURCE_EXHAUSTED too, when it had too many resets):
            // the request may have arrived.
            _ => Failure::Unknown,
        },
    }
}

/// What the caller is told, who was not refused himself.
fn not_let_in(this: Option<PeerId>, refused: &Status) -> Status {
    let why = refused.message();
    let text = format!("the others do not let the peer that was asked take part yet: {why}");
    let fault = Fault::new(ErrorReason::Starting, text);
    match this {
        Some(this) => fault.with("peer", this).into_status(),
        None => fault.into_status(),
    }
}

fn has_fact(status: &Status, key: &str) -> bool {
    let info = status.get_details_error_info();
    info.is_some_and(|info| info.metadata.contains_key(key))
}

/// The leader that a peer named.
fn hint(status: &Status) -> Option<Leader> {
    let info = status.get_details_error_info()?;
    let peer = info.metadata.get("leader")?.parse().ok()?;
    let term = info.metadata.get("term")?.parse().ok()?;
    Some(Leader {
        peer: PeerId(peer),
        term: Term(term),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_of_a_peer_is_read_back() {
        let fault = Fault::new(ErrorReason::NotLeader, "no")
            .with("leader", 6)
            .with("term", 3);
        let Failure::NotLeader(leader) = classify(fault.into_status()) else {
            panic!("it does not lead")
        };
        assert_eq!(
            leader,
            Some(Leader {
                peer: PeerId(6),
                term: Term(3)
            })
        );
        let fault = Fault::new(ErrorReason::NotLeader, "no");
        assert!(matches!(
            classify(fault.into_status()),
            Failure::NotLeader(None)
        ));
    }

    #[test]
    fn broken_connection_leaves_the_fate_unknown() {
        assert!(matches!(
            classify(Status::unavailable("reset")),
            Failure::Unknown
        ));
        assert!(matches!(
            classify(Status::cancelled("timeout")),
            Failure::Unknown
        ));
        assert!(matches!(
            classify(Status::resource_exhausted(
                "h2 protocol error: enhance your calm"
            )),
            Failure::Unknown
        ));
        assert!(matches!(
            classify(Status::out_of_range("the answer is too long")),
            Failure::Unknown
        ));
        assert!(matches!(
            classify(Status::unimplemented("older")),
            Failure::Final(_)
        ));
    }

    #[test]
    fn road_that_ends_early_has_done_nothing() {
        let fault = Fault::new(ErrorReason::PeerUnreachable, "its link is down");
        let said_by_a_relay = fault.clone().with(RELAY_FACT, 2).into_status();
        assert!(matches!(classify(said_by_a_relay), Failure::Unreached));
        assert!(matches!(classify(fault.into_status()), Failure::Final(_)));
    }

    #[test]
    fn peer_that_is_not_let_in_yet_asks_again() {
        let refused = Fault::new(ErrorReason::NotAPeer, "peer 5 is forgetful").into_status();
        let Failure::Elsewhere(status) = classify(refused) else {
            panic!("nobody is asked again");
        };
        assert_eq!(reason(&status), Some(ErrorReason::Starting));
        assert_eq!(status.code(), Code::Unavailable);
    }

    #[test]
    fn refusal_is_final_and_a_stopping_peer_is_not() {
        let status = |reason| Fault::new(reason, "x").into_status();
        assert!(matches!(
            classify(status(ErrorReason::TopicNotFound)),
            Failure::Final(_)
        ));
        assert!(matches!(
            classify(status(ErrorReason::ShuttingDown)),
            Failure::Elsewhere(_)
        ));
        assert!(matches!(
            classify(status(ErrorReason::OutcomeUnknown)),
            Failure::Unknown
        ));
    }
}
