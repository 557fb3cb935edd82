//! The limits that a caller can meet, each a setting.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a peer accepts. Passing a limit is an error that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one message, its key and headers included.
    pub message_bytes_max: u64,
    /// Bytes of one request as it is on the wire, and of the messages in one answer.
    pub request_bytes_max: u64,
    /// Messages in one publish.
    pub publish_messages_max: u32,
    /// Messages in one answer to a pull.
    pub pull_messages_max: u32,
    /// How long a pull may wait for something new.
    #[serde(with = "humantime_serde")]
    pub pull_wait_max: Duration,
    /// Entries of one page of a list.
    pub page_size_max: u32,
    /// Client connections that one peer holds at once.
    pub connections_max: u32,
    /// Calls that one peer works on at once; more are refused at once, not queued.
    pub calls_max: u32,
}

impl Limits {
    /// Sessions that a topic remembers; beyond it the one unused longest is forgotten. The same on every replica, so not a setting yet.
    pub const SESSIONS_PER_TOPIC_MAX: u32 = 1024;
    /// Entries of a page of a list when the caller names no size.
    pub const PAGE_SIZE_DEFAULT: u32 = 100;
    /// Messages in an answer to a pull when the caller names no number.
    pub const PULL_MESSAGES_DEFAULT: u32 = 1000;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 1 << 20,
            request_bytes_max: 4 << 20,
            publish_messages_max: 10_000,
            pull_messages_max: 10_000,
            pull_wait_max: Duration::from_secs(60),
            page_size_max: 1000,
            connections_max: 1024,
            calls_max: 4096,
        }
    }
}
