//! What a call brings with it besides its request: its deadline, its trace, and whether a peer forwarded it; and what its answer takes back.
//!
//! Begin with [`Context`].

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::convert;
use super::status::Fault;
use crate::cluster::Cluster;
use crate::types::PeerId;

/// Names the peer that forwarded a call; such a call is not forwarded again.
pub const FORWARDED_BY: &str = "cubecast-forwarded-by";
/// Tells the bits of the vertex of the peer that answered.
pub const SERVED_BY: &str = "cubecast-served-by";
/// Tells the way of a call: `011>100`, with those between that passed it on: `011>010>100`.
pub const ROUTE: &str = "cubecast-route";
/// Carries the trace (W3C Trace Context).
pub const TRACE_PARENT: &str = "traceparent";

/// How long a call without a deadline may take.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// A typed answer must leave before the transport gives up on its own: this part of the time is kept for it, …
const MARGIN_SHARE: u32 = 20;
/// … but no more than this.
const MARGIN_MAX: Duration = Duration::from_millis(20);

/// When a call came and how long it may take, as its head said. Put into the request by the layer that reads it.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// When it came.
    pub at: Instant,
    /// What `grpc-timeout` said.
    pub timeout: Option<Duration>,
}

/// What a call brings with it.
#[derive(Debug, Clone)]
pub struct Context {
    /// When the caller stops waiting, less what the answer takes.
    pub deadline: Instant,
    /// The peer that forwarded it.
    pub forwarded_by: Option<PeerId>,
    /// The trace that it belongs to.
    pub trace_parent: Option<AsciiMetadataValue>,
}

impl Context {
    /// Reads it from a request. A call without a deadline gets the default and `patience` more.
    ///
    /// # Errors
    /// `FIELD_INVALID` when the metadata names a peer that cannot be.
    pub fn read<T>(request: &tonic::Request<T>, patience: Duration) -> Result<Self, Fault> {
        let arrival = request.extensions().get::<Arrival>().copied();
        let arrival = arrival.unwrap_or_else(|| Arrival {
            at: Instant::now(),
            timeout: None,
        });
        let deadline = match arrival.timeout {
            Some(timeout) => arrival.at + timeout - (timeout / MARGIN_SHARE).min(MARGIN_MAX),
            None => arrival.at + TIMEOUT_DEFAULT + patience,
        };
        let metadata = request.metadata();
        Ok(Self {
            deadline,
            forwarded_by: forwarded_by(metadata)?,
            trace_parent: metadata.get(TRACE_PARENT).cloned(),
        })
    }

    /// That of a call that this peer makes by itself.
    pub fn own(deadline: Instant) -> Self {
        Self {
            deadline,
            forwarded_by: None,
            trace_parent: None,
        }
    }
}

fn forwarded_by(metadata: &MetadataMap) -> Result<Option<PeerId>, Fault> {
    let Some(value) = metadata.get(FORWARDED_BY) else {
        return Ok(None);
    };
    let peer = value.to_str().ok().and_then(|text| text.parse().ok());
    match peer {
        Some(peer) => Ok(Some(PeerId(peer))),
        None => Err(convert::invalid(
            FORWARDED_BY,
            format!("{FORWARDED_BY} is not the number of a peer"),
        )),
    }
}

/// Writes into the metadata of an answer who gave it, and by which way: the peers after this one, the one that gave it last.
pub fn tag(metadata: &mut MetadataMap, cluster: &Cluster, road: &[PeerId]) {
    let bits = |peer: &PeerId| cluster.vertex_of(*peer).map(|vertex| vertex.to_string());
    let here = cluster.this();
    let road: Option<Vec<String>> = std::iter::once(&here).chain(road).map(bits).collect();
    let Some(road) = road else { return };
    // Bits and `>` are always a header value.
    if let (Some(Ok(served_by)), Ok(route)) = (
        road.last().map(|served_by| served_by.parse()),
        road.join(">").parse(),
    ) {
        metadata.insert(SERVED_BY, served_by);
        metadata.insert(ROUTE, route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_leaves_time_for_the_answer() {
        let mut request = tonic::Request::new(());
        let at = Instant::now();
        request.extensions_mut().insert(Arrival {
            at,
            timeout: Some(Duration::from_millis(100)),
        });
        assert_eq!(
            Context::read(&request, Duration::ZERO).unwrap().deadline,
            at + Duration::from_millis(95)
        );
        request.extensions_mut().insert(Arrival {
            at,
            timeout: Some(Duration::from_secs(60)),
        });
        assert_eq!(
            Context::read(&request, Duration::ZERO).unwrap().deadline,
            at + Duration::from_millis(59_980)
        );
        request
            .extensions_mut()
            .insert(Arrival { at, timeout: None });
        let patience = Duration::from_secs(5);
        assert_eq!(
            Context::read(&request, patience).unwrap().deadline,
            at + TIMEOUT_DEFAULT + patience
        );
    }

    #[test]
    fn forwarding_peer_is_a_number() {
        let mut request = tonic::Request::new(());
        assert_eq!(
            Context::read(&request, Duration::ZERO)
                .unwrap()
                .forwarded_by,
            None
        );
        request
            .metadata_mut()
            .insert(FORWARDED_BY, "3".parse().unwrap());
        assert_eq!(
            Context::read(&request, Duration::ZERO)
                .unwrap()
                .forwarded_by,
            Some(PeerId(3))
        );
        request
            .metadata_mut()
            .insert(FORWARDED_BY, "x".parse().unwrap());
        assert!(Context::read(&request, Duration::ZERO).is_err());
    }
}
