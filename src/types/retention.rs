//! How long a topic keeps its messages.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ByteCount;

/// Which messages a topic may drop, oldest first. A message goes as soon as one of the bounds lets it go; without a bound it stays for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Those appended longer ago than this.
    pub age: Option<Duration>,
    /// Those without which the payloads still have this many bytes.
    pub bytes: Option<ByteCount>,
    /// Those that have this many messages after them.
    pub messages: Option<u64>,
}

impl Retention {
    /// Everything stays.
    pub const FOR_EVER: Self = Self {
        age: None,
        bytes: None,
        messages: None,
    };

    /// Whether everything stays.
    pub fn is_for_ever(&self) -> bool {
        *self == Self::FOR_EVER
    }
}

impl fmt::Display for Retention {
    /// `for ever`, or all bounds: `for 7days, up to 1024 bytes, up to 10 messages`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = self.age.map(humantime::format_duration);
        let bounds = [
            age.map(|age| format!("for {age}")),
            self.bytes.map(|bytes| format!("up to {bytes} bytes")),
            self.messages.map(|count| format!("up to {count} messages")),
        ];
        match bounds.into_iter().flatten().collect::<Vec<_>>() {
            bounds if bounds.is_empty() => f.write_str("for ever"),
            bounds => f.write_str(&bounds.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_tells_its_bounds() {
        assert_eq!(Retention::default().to_string(), "for ever");
        assert!(Retention::default().is_for_ever());
        let retention = Retention {
            age: Some(Duration::from_secs(604_800)),
            bytes: Some(ByteCount(1024)),
            messages: None,
        };
        assert_eq!(retention.to_string(), "for 7days, up to 1024 bytes");
        assert!(!retention.is_for_ever());
    }
}
