//! Places in a topic, in a log and in time.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! position {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

position! {
    /// A message's position in its topic: dense from 0, given once, never reused.
    Offset
}
position! {
    /// A number of bytes.
    ByteCount
}
position! {
    /// An entry's position in its shard's Raft log, from 0.
    LogIndex
}
position! {
    /// A Raft term.
    Term
}
position! {
    /// Nanoseconds since 1970-01-01T00:00:00Z, as the shard's leader read them when it proposed.
    Timestamp
}

impl Offset {
    /// The offset `count` messages further on; stays at the greatest offset there is.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The term and index of an entry of a shard's Raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// The term in which a leader appended it.
    pub term: Term,
    /// Where it is.
    pub index: LogIndex,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}
