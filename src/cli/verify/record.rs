//! What `verify` prints as data; the rules are those of `cli/record.rs`.

use serde::Serialize;

/// One thing in the directory of a peer: `verify`.
#[derive(Debug, Serialize)]
pub(super) struct Finding<'a> {
    /// Of the peer.
    pub(super) directory: &'a str,
    /// `identity`, `acquaintances`, `log`, `store`, `topics` or `leftover`.
    pub(super) thing: &'static str,
    /// The number of the vertex; absent when the thing is the whole peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shard: Option<u16>,
    /// `whole`, `noted` (no damage, but worth a word) or `damaged`.
    pub(super) verdict: &'static str,
    pub(super) text: &'a str,
    /// Where damage is, when it is at one place of one file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expected: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) found: Option<&'a str>,
}
