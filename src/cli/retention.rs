//! How long a topic keeps its messages: as flags, as a JSON object, in words. Begin with [`Bounds`].

use std::time::Duration;

use clap::Args;
use cubecast_sdk as sdk;
use serde::Serialize;

use super::text;

/// Bounds given by flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub(super) struct Bounds {
    /// Remove messages that are older, such as 7d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    retention_age: Option<Duration>,
    /// Remove the oldest messages beyond so many bytes, such as 1GiB
    #[arg(long, value_name = "BYTES", value_parser = byte_count)]
    retention_bytes: Option<u64>,
    /// Remove the oldest messages beyond so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    retention_messages: Option<u64>,
}

impl From<Bounds> for sdk::Retention {
    fn from(bounds: Bounds) -> Self {
        let mut retention = Self::new();
        retention.age = bounds.retention_age;
        retention.bytes = bounds.retention_bytes;
        retention.messages = bounds.retention_messages;
        retention
    }
}

/// Bounds as they are printed; those that are absent do not count.
#[derive(Debug, Serialize)]
pub(super) struct Retention {
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<u64>,
}

impl Retention {
    /// `None` when everything is kept.
    pub(super) fn new(retention: sdk::Retention) -> Option<Self> {
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let bounds = Self {
            age_ms: retention.age.map(millis),
            bytes: retention.bytes,
            messages: retention.messages,
        };
        (!retention.is_unbounded()).then_some(bounds)
    }

    /// `keeps at most 7days, 1GiB, 5 messages`.
    pub(super) fn sentence(retention: Option<&Self>) -> String {
        let Some(retention) = retention else {
            return "keeps all messages".to_owned();
        };
        let age = retention.age_ms.map(Duration::from_millis);
        let bounds = [
            age.map(|age| humantime::format_duration(age).to_string()),
            retention.bytes.map(text::bytes),
            retention
                .messages
                .map(|count| text::count(count, "message")),
        ];
        let bounds: Vec<String> = bounds.into_iter().flatten().collect();
        format!("keeps at most {}", bounds.join(", "))
    }
}

/// Reads a number of bytes with a unit: `1GiB`, `500MB`, `4096`.
fn byte_count(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("", 1),
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    let digits = text.find(|letter: char| !letter.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let number: Option<u64> = number.parse().ok().filter(|number| *number > 0);
    let unit = UNITS.iter().find(|(name, _)| *name == unit.trim());
    let bytes = number
        .zip(unit)
        .and_then(|(number, (_, unit))| number.checked_mul(*unit));
    bytes.ok_or_else(|| "it is not a number of bytes such as 4096, 64MiB or 1GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1B", 1),
            ("64MiB", 64 << 20),
            ("1 GiB", 1 << 30),
            ("2TB", 2_000_000_000_000),
        ] {
            assert_eq!(byte_count(text), Ok(bytes));
        }
        for wrong in [
            "",
            "0",
            "0GiB",
            "-1",
            "GiB",
            "1.5GiB",
            "1 giga",
            "99999999999TiB",
        ] {
            assert!(byte_count(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bounds_are_a_sentence() {
        let week = sdk::Retention::new()
            .with_age(Duration::from_secs(7 * 86_400))
            .with_bytes(3 << 29)
            .with_messages(1);
        assert_eq!(
            Retention::sentence(Retention::new(week).as_ref()),
            "keeps at most 7days, 1.5GiB, 1 message"
        );
        assert!(Retention::new(sdk::Retention::new()).is_none());
        assert_eq!(Retention::sentence(None), "keeps all messages");
    }
}
