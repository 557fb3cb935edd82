//! What a connection is told that comes when there is no room for it.

use cubecast_sdk::proto::v1::ErrorReason;

use super::context::FORWARDED_BY;
use super::status::Fault;

/// Paths of the calls that peers make to each other begin so.
const PEER_PACKAGE: &str = "/cubecast.peer.v1.";

/// Whether this is a call between peers, which clients must not be able to shut out: one of their own, or one that a peer passes on.
pub fn is_peer_call<B>(request: &http::Request<B>) -> bool {
    request.uri().path().starts_with(PEER_PACKAGE) || request.headers().contains_key(FORWARDED_BY)
}

/// The answer to any call on a connection beyond the limit.
pub fn connections_exhausted(connections_max: u32) -> http::Response<tonic::body::Body> {
    let message = format!("this peer serves {connections_max} connections, and has them");
    Fault::new(ErrorReason::ConnectionsExhausted, message)
        .with("limit", connections_max)
        .into_status()
        .into_http()
}
