//! What a call says of its road: the peers that it still has to pass, and those that it has passed.
//!
//! Only metadata; who passes calls on is `rpc/layers/relay.rs`. The sender chooses the whole road, so a call ends even when the peers on the
//! way know other links. Begin with [`take`].

use http::{HeaderMap, HeaderValue};

use crate::types::PeerId;

/// Names the peers that a call still has to pass, the one that it is for last: `6,4`.
pub const RELAY: &str = "cubecast-relay";
/// Names the peers that have passed a call on, the first one first.
pub const RELAYED_BY: &str = "cubecast-relayed-by";

/// Roads may be longer than the cube's dimension by so many peers: one for each that is dead, and then some.
const DETOUR_MAX: usize = 8;

/// What a peer does with a call that it is to pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Who gets it next.
    pub next: PeerId,
}

/// Writes into a call which peers it has to pass after the first one. None: it ends there.
pub(super) fn write(headers: &mut HeaderMap, rest: &[PeerId]) {
    match value(rest) {
        Some(value) => headers.insert(RELAY, value),
        None => headers.remove(RELAY),
    };
}

/// The peer that this call came from over the link: the last one that passed it on. `None`: nobody did.
pub fn passed_on_by(headers: &HeaderMap) -> Option<PeerId> {
    list(headers, RELAYED_BY).ok()?.last().copied()
}

/// Takes the next peer off a call that is to be passed on by `this`, and adds `this` to those that did. `None`: it is for this peer.
///
/// # Errors
/// [`RelayError`] when the list is not as it must be. The call is not changed then.
pub fn take(
    headers: &mut HeaderMap,
    this: PeerId,
    dimension: u8,
) -> Result<Option<Hop>, RelayError> {
    if !headers.contains_key(RELAY) {
        return Ok(None);
    }
    let ahead = list(headers, RELAY)?;
    let mut passed = list(headers, RELAYED_BY)?;
    let limit = usize::from(dimension) + DETOUR_MAX;
    if ahead.len() + passed.len() > limit {
        return Err(RelayError::Length { limit });
    }
    let Some((next, rest)) = ahead.split_first() else {
        return Err(RelayError::Malformed { key: RELAY });
    };
    if *next == this || passed.contains(&this) {
        return Err(RelayError::Circle { peer: this });
    }
    write(headers, rest);
    passed.push(this);
    if let Some(value) = value(&passed) {
        headers.insert(RELAYED_BY, value);
    }
    Ok(Some(Hop { next: *next }))
}

fn list(headers: &HeaderMap, key: &'static str) -> Result<Vec<PeerId>, RelayError> {
    let Some(value) = headers.get(key) else {
        return Ok(Vec::new());
    };
    let text = value.to_str().map_err(|_| RelayError::Malformed { key })?;
    let numbers = text.split(',').map(|number| number.parse().map(PeerId));
    numbers
        .collect::<Result<_, _>>()
        .map_err(|_| RelayError::Malformed { key })
}

fn value(peers: &[PeerId]) -> Option<HeaderValue> {
    if peers.is_empty() {
        return None;
    }
    let numbers: Vec<String> = peers.iter().map(PeerId::to_string).collect();
    // Digits and commas are always a header value.
    numbers.join(",").parse().ok()
}

/// Why a call cannot be passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// A list of peers that is none.
    #[error("{key} is not a list of the numbers of peers such as 6,4")]
    Malformed {
        /// The entry of the metadata.
        key: &'static str,
    },
    /// The road is longer than any way around what may be broken.
    #[error("the road passes more than {limit} peers")]
    Length {
        /// How many it may be.
        limit: usize,
    },
    /// The road leads to this peer again.
    #[error("the road passes peer {peer} twice")]
    Circle {
        /// This peer.
        peer: PeerId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(relay: &str, relayed_by: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (key, value) in [(RELAY, relay), (RELAYED_BY, relayed_by)] {
            if !value.is_empty() {
                headers.insert(key, value.parse().unwrap());
            }
        }
        headers
    }

    #[test]
    fn each_peer_takes_one_off_and_adds_itself() {
        let mut call = HeaderMap::new();
        write(&mut call, &[PeerId(6), PeerId(4)]);
        assert_eq!(call[RELAY], "6,4");
        let hop = take(&mut call, PeerId(2), 3).unwrap().unwrap();
        assert_eq!(hop.next, PeerId(6));
        assert_eq!(call[RELAY], "4");
        assert_eq!(passed_on_by(&call), Some(PeerId(2)));
        let hop = take(&mut call, PeerId(6), 3).unwrap().unwrap();
        assert_eq!((hop.next, call.get(RELAY)), (PeerId(4), None));
        assert_eq!(call[RELAYED_BY], "2,6");
        assert_eq!(take(&mut call, PeerId(4), 3), Ok(None));
    }

    #[test]
    fn road_that_is_none_is_refused() {
        for (relay, relayed_by) in [("x", ""), ("", "1"), ("1,", ""), ("70000", ""), ("1", "-")] {
            let mut call = headers(relay, relayed_by);
            let result = take(&mut call, PeerId(0), 3);
            if relay.is_empty() {
                assert_eq!(result, Ok(None));
            } else {
                assert!(matches!(result, Err(RelayError::Malformed { .. })));
            }
        }
        let circle = Err(RelayError::Circle { peer: PeerId(3) });
        assert_eq!(take(&mut headers("3", ""), PeerId(3), 3), circle);
        assert_eq!(take(&mut headers("4", "1,3,2"), PeerId(3), 3), circle);
        let long = take(&mut headers("1,2,4,5,6,7,0", "8,9,10,11,12"), PeerId(3), 3);
        assert_eq!(long, Err(RelayError::Length { limit: 11 }));
    }
}
