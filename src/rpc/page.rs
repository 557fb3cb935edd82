//! Page tokens: where a list goes on (AIP-158).
//!
//! ```text
//! <hash of the list and its filters, 8 hexadecimal digits>~<vertex>~<name>~<second name>
//! ```
//! A name may be empty: from the beginning of the vertex. `~` is in no name. Opaque to clients, and checked like everything that comes
//! from them.

use cubecast_sdk::proto::v1::ErrorReason;

use super::convert;
use super::status::Fault;
use crate::types::{Dimension, Name, Vertex};

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// In this shard …
    pub vertex: Vertex,
    /// … after this name; from the beginning when there is none.
    pub after: Option<Name>,
    /// For a list with two names in order.
    pub after_second: Option<Name>,
}

/// The text of a place in the list with these filters.
pub fn token(list: &[&str], place: &Place) -> String {
    let name = |name: &Option<Name>| name.as_ref().map_or_else(String::new, ToString::to_string);
    format!(
        "{:08x}~{}~{}~{}",
        hash(list),
        place.vertex,
        name(&place.after),
        name(&place.after_second)
    )
}

/// The place that a token names; `None` for an empty one: from the beginning.
///
/// # Errors
/// `PAGE_TOKEN_INVALID` when it did not come from this list with these filters.
pub fn place(list: &[&str], token: &str, dimension: Dimension) -> Result<Option<Place>, Fault> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong = || {
        Fault::new(
            ErrorReason::PageTokenInvalid,
            "the page token is not of this list",
        )
        .in_field("page_token")
    };
    let parts: Vec<&str> = token.split('~').collect();
    let &[hash_text, vertex, after, after_second] = parts.as_slice() else {
        return Err(wrong());
    };
    let vertex: Vertex = vertex.parse().map_err(|_| wrong())?;
    if hash_text != format!("{:08x}", hash(list)) || vertex.dimension() != dimension {
        return Err(wrong());
    }
    let name = |text| convert::optional_name(text, "page_token").map_err(|_| wrong());
    Ok(Some(Place {
        vertex,
        after: name(after)?,
        after_second: name(after_second)?,
    }))
}

/// FNV-1a: tells lists apart, protects nothing.
fn hash(list: &[&str]) -> u32 {
    let bytes = list.iter().flat_map(|part| part.bytes().chain([b'~']));
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_leads_back_to_its_place_and_only_in_its_list() {
        let dimension = Dimension::new(3).unwrap();
        let place_of = |token: &str, list: &[&str]| {
            place(list, token, dimension).map_err(|fault| fault.reason)
        };
        for (after, after_second) in [
            (None, None),
            (Some("news"), None),
            (Some("a-b"), Some("c.d")),
        ] {
            let name = |text: Option<&str>| text.map(|text| Name::new(text).unwrap());
            let there = Place {
                vertex: "101".parse().unwrap(),
                after: name(after),
                after_second: name(after_second),
            };
            let text = token(&["topics", "p"], &there);
            assert_eq!(place_of(&text, &["topics", "p"]), Ok(Some(there)));
            assert_eq!(
                place_of(&text, &["topics", "q"]),
                Err(ErrorReason::PageTokenInvalid)
            );
        }
        assert_eq!(place_of("", &["topics"]), Ok(None));
        for wrong in ["x", "~~~", "00000000~101~~", "811c9dc5~1~~", "~", "é~101~~"] {
            assert_eq!(
                place_of(wrong, &["topics"]),
                Err(ErrorReason::PageTokenInvalid),
                "{wrong}"
            );
        }
    }
}
