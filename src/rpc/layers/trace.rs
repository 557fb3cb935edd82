//! A span for each call, in the trace that the caller named or in a new one (W11).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use tracing::{Span, debug, debug_span};

use crate::rpc::context::{FORWARDED_BY, TRACE_PARENT};
use crate::types::PeerId;

/// Spreads numbers over all bits (Steele et al., "Fast splittable pseudorandom number generators", 2014).
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes ids for traces that begin here.
#[derive(Debug)]
pub(super) struct Traces {
    seed: u128,
    count: AtomicU64,
}

impl Traces {
    pub(super) fn new(seed: u128) -> Self {
        Self {
            seed,
            count: AtomicU64::new(1),
        }
    }

    /// Gives the call a trace when it has none, or none that can be passed on.
    pub(super) fn ensure(&self, headers: &mut HeaderMap) {
        if headers.get(TRACE_PARENT).and_then(trace_id).is_some() {
            return;
        }
        let count = self
            .count
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(GAMMA);
        let trace =
            (self.seed ^ (u128::from(count) << 64 | u128::from(count.rotate_left(32)))).max(1);
        let span = count.max(1);
        if let Ok(value) = HeaderValue::try_from(format!("00-{trace:032x}-{span:016x}-00")) {
            headers.insert(TRACE_PARENT, value);
        }
    }
}

/// The id in `00-<32 digits>-<16 digits>-<2 digits>` (W3C Trace Context). `None`: it is not one.
fn trace_id(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    let parts: Vec<&str> = text.split('-').collect();
    let &[version, trace, span, flags] = parts.as_slice() else {
        return None;
    };
    let is_hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    let is_whole = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    (is_whole && trace.bytes().any(|digit| digit != b'0')).then_some(trace)
}

/// The span of a call.
pub(super) fn span<B>(peer: PeerId, request: &Request<B>) -> Span {
    let header = |name| request.headers().get(name);
    debug_span!(
        "call",
        %peer,
        method = request.uri().path(),
        trace_id = header(TRACE_PARENT).and_then(trace_id).unwrap_or_default(),
        forwarded_by = header(FORWARDED_BY).and_then(|peer| peer.to_str().ok()).unwrap_or_default(),
    )
}

/// Tells how a call ended.
pub(super) fn answered<B>(response: &Response<B>, took: Duration) {
    // Success is told after the body, an error at once.
    let code = response
        .headers()
        .get("grpc-status")
        .and_then(|code| code.to_str().ok())
        .unwrap_or("0");
    debug!(code, ?took, "answered");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_of_the_caller_is_kept_and_a_broken_one_replaced() {
        let traces = Traces::new(7);
        let mut headers = HeaderMap::new();
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert(TRACE_PARENT, HeaderValue::from_static(given));
        traces.ensure(&mut headers);
        assert_eq!(headers[TRACE_PARENT], given);
        headers.insert(
            TRACE_PARENT,
            HeaderValue::from_static("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
        );
        traces.ensure(&mut headers);
        let first = trace_id(&headers[TRACE_PARENT]).unwrap().to_owned();
        headers.clear();
        traces.ensure(&mut headers);
        assert_ne!(trace_id(&headers[TRACE_PARENT]).unwrap(), first);
    }
}
