//! How a subscription is shared. Begin with [`Sharing`].

use std::time::Duration;

/// How many consumers share a subscription. The default: a lease of 30 s, and what nobody acknowledges comes again and again.
///
/// ```
/// use std::time::Duration;
///
/// let sharing = cubecast_sdk::Sharing::new().lease(Duration::from_secs(60)).dead_letters(5, "failed-jobs");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Sharing {
    /// How long a consumer has for a message, unless it says something else.
    pub lease: Duration,
    /// After so many deliveries without an acknowledgement a message becomes a dead letter; 0: never.
    pub max_deliveries: u32,
    /// The topic of the dead letters.
    pub dead_letter_topic: Option<String>,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            max_deliveries: 0,
            dead_letter_topic: None,
        }
    }
}

impl Sharing {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a consumer has for a message, unless it says something else. 100 ms to 12 h.
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// After so many deliveries without an acknowledgement a message is published to this topic, which must exist, and is done. 1 to 1,000.
    pub fn dead_letters(self, max_deliveries: u32, topic: impl Into<String>) -> Self {
        Self {
            max_deliveries,
            dead_letter_topic: Some(topic.into()),
            ..self
        }
    }
}
