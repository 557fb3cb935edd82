//! Numbers that name things.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A peer: one process of the cluster.
    PeerId(u16)
}
number! {
    /// Which life of a peer's disk this is: 1 at first, greater after the disk was lost.
    Incarnation(u32)
}
number! {
    /// A session of a publisher, chosen by the client at random when it starts.
    SessionId(u64)
}
number! {
    /// The number of a publish within its session and topic: 0, 1, 2, …
    Sequence(u64)
}

/// A topic's life: given when it is created, never given again, also not to a topic of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(u64);

impl TopicId {
    /// Topics that one shard can create in its life: 2^48 - 1.
    pub const NUMBER_MAX: u64 = (1 << 48) - 1;

    /// The id of the `number`th topic (from 1) that the shard at vertex index `shard` created; `number` is at most [`Self::NUMBER_MAX`].
    ///
    /// # Panics
    /// When the shard has created 2^48 topics.
    pub fn new(shard: u16, number: u64) -> Self {
        assert!(
            number <= Self::NUMBER_MAX,
            "a shard creates fewer than 2^48 topics"
        );
        Self(u64::from(shard) << 48 | number)
    }

    /// The id with these bits, as a key on disk holds it.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// All bits: the shard in the upper sixteen, so that keys of one shard are neighbours on disk.
    pub fn to_bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.0 >> 48, self.0 & Self::NUMBER_MAX)
    }
}

/// Names a create call, so that its repetition is known for one (AIP-155).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub [u8; 16]);

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}
