//! From the protocol to the domain: requests are checked here, once, and every limit is met here.
//!
//! An absent value has the meaning that `proto/` gives it. The way back is in [`super::answer`]. Begin with [`name`].

use std::time::Duration;

use cubecast_sdk::proto::v1::{self as proto, ErrorReason};

use super::status::Fault;
use crate::broker::AckLevel;
use crate::replica::Consistency;
use crate::shard::Start;
use crate::types::{ByteCount, Limits, Name, Offset, RequestId, Sequence, SessionId, Timestamp};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Left free in an answer for what is not messages, so that a client with the usual limit of 4 MiB can read it.
const ANSWER_HEAD_BYTES: u64 = 4096;

/// A field that must hold a name.
pub fn name(text: &str, field: &'static str) -> Result<Name, Fault> {
    Name::new(text).map_err(|error| {
        let fault =
            Fault::new(ErrorReason::NameInvalid, format!("{field}: {error}")).in_field(field);
        fault.with("field", field).with("limit", Name::BYTES_MAX)
    })
}

/// A field that may hold a name.
pub fn optional_name(text: &str, field: &'static str) -> Result<Option<Name>, Fault> {
    if text.is_empty() {
        Ok(None)
    } else {
        name(text, field).map(Some)
    }
}

/// The beginning of names: no longer than a name and made of the same characters.
pub fn prefix(text: &str) -> Result<String, Fault> {
    optional_name(text, "prefix")
        .map(|name| name.map_or_else(String::new, |name| name.as_str().to_owned()))
}

/// The UUID of a creation, in text, with or without hyphens.
pub fn request_id(text: &str) -> Result<Option<RequestId>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || {
        invalid(
            "request_id",
            "request_id is not a UUID such as 123e4567-e89b-12d3-a456-426614174000",
        )
    };
    let is_hyphenated = text.len() == 36
        && [8, 13, 18, 23]
            .iter()
            .all(|place| text.as_bytes().get(*place) == Some(&b'-'));
    let digits: String = if is_hyphenated {
        text.split('-').collect()
    } else {
        text.to_owned()
    };
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let number = u128::from_str_radix(&digits, 16).map_err(|_| wrong())?;
    Ok(Some(RequestId(number.to_be_bytes())))
}

/// Session and sequence of a publish.
pub fn sequence(
    sequence: Option<&proto::PublishSequence>,
    has_publisher: Presence,
) -> Result<Option<(SessionId, Sequence)>, Fault> {
    match (sequence, has_publisher) {
        (None, _) => Ok(None),
        (Some(_), Presence::Absent) => Err(invalid("sequence", "a sequence needs a publisher")),
        (Some(sequence), Presence::Present) => Ok(Some((
            SessionId(sequence.session),
            Sequence(sequence.sequence),
        ))),
    }
}

/// Whether a field was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It was.
    Present,
    /// It was not.
    Absent,
}

/// When a publish is answered.
pub fn acks(number: i32) -> Result<AckLevel, Fault> {
    match proto::AckLevel::try_from(number) {
        Ok(proto::AckLevel::Unspecified | proto::AckLevel::Quorum) => Ok(AckLevel::Quorum),
        Ok(proto::AckLevel::Owner) => Ok(AckLevel::Owner),
        Ok(proto::AckLevel::All) => Ok(AckLevel::All),
        Err(_) => Err(invalid("acks", format!("{number} is not an AckLevel"))),
    }
}

/// What a read is sure to see.
pub fn consistency(number: i32) -> Result<Consistency, Fault> {
    match proto::ReadConsistency::try_from(number) {
        Ok(proto::ReadConsistency::Unspecified | proto::ReadConsistency::Leader) => {
            Ok(Consistency::Leader)
        }
        Ok(proto::ReadConsistency::Linearizable) => Ok(Consistency::Linearizable),
        Ok(proto::ReadConsistency::Eventual) => Ok(Consistency::Eventual),
        Err(_) => Err(invalid(
            "consistency",
            format!("{number} is not a ReadConsistency"),
        )),
    }
}

/// Where a new cursor begins: at the earliest message unless the caller says otherwise.
pub fn optional_start(start: Option<&proto::StartPosition>) -> Result<Start, Fault> {
    if start.is_none() {
        Ok(Start::Earliest)
    } else {
        self::start(start)
    }
}

/// Where a cursor is to be.
pub fn start(start: Option<&proto::StartPosition>) -> Result<Start, Fault> {
    use proto::start_position::Position;
    match start.and_then(|start| start.position.as_ref()) {
        Some(Position::Earliest(_)) => Ok(Start::Earliest),
        Some(Position::Latest(_)) => Ok(Start::Latest),
        Some(Position::Offset(offset)) => Ok(Start::Offset(Offset(*offset))),
        Some(Position::Time(time)) => timestamp(time, "start.time").map(Start::Time),
        None => Err(invalid(
            "start",
            "start says no position: earliest, latest, offset or time",
        )),
    }
}

/// A time. Before 1970 there are no messages, so such a time means 1970; beyond the year 2554 it means that year.
pub fn timestamp(time: &prost_types::Timestamp, field: &'static str) -> Result<Timestamp, Fault> {
    let nanos = u64::try_from(time.nanos)
        .ok()
        .filter(|nanos| *nanos < NANOS_PER_SECOND);
    let nanos = nanos.ok_or_else(|| {
        invalid(
            field,
            format!("nanos of {field} are not within 0..=999999999"),
        )
    })?;
    let Ok(seconds) = u64::try_from(time.seconds) else {
        return Ok(Timestamp(0));
    };
    Ok(Timestamp(
        seconds
            .saturating_mul(NANOS_PER_SECOND)
            .saturating_add(nanos),
    ))
}

/// How long a pull waits; absent means not at all, more than the limit means the limit.
pub fn wait(duration: Option<&prost_types::Duration>, limits: &Limits) -> Result<Duration, Fault> {
    let Some(duration) = duration else {
        return Ok(Duration::ZERO);
    };
    let wrong = || invalid("wait", "wait is negative or no duration");
    let seconds = u64::try_from(duration.seconds).map_err(|_| wrong())?;
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|nanos| u64::from(*nanos) < NANOS_PER_SECOND)
        .ok_or_else(wrong)?;
    Ok(Duration::new(seconds, nanos).min(limits.pull_wait_max))
}

/// Messages of one answer; 0 means the default, more than the limit means the limit.
pub fn pull_count(count: u32, limits: &Limits) -> u32 {
    let count = if count == 0 {
        Limits::PULL_MESSAGES_DEFAULT
    } else {
        count
    };
    count.min(limits.pull_messages_max)
}

/// Bytes of one answer; 0 and more than the limit mean the limit.
pub fn pull_bytes(bytes: u64, limits: &Limits) -> ByteCount {
    let max = limits
        .request_bytes_max
        .saturating_sub(ANSWER_HEAD_BYTES)
        .max(1);
    ByteCount(if bytes == 0 { max } else { bytes.min(max) })
}

/// Entries of one page; 0 means the default, more than the limit means the limit.
pub fn page_size(size: i32, limits: &Limits) -> Result<u32, Fault> {
    match u32::try_from(size) {
        Ok(0) => Ok(Limits::PAGE_SIZE_DEFAULT.min(limits.page_size_max)),
        Ok(size) => Ok(size.min(limits.page_size_max)),
        Err(_) => Err(invalid("page_size", "page_size is negative")),
    }
}

/// A field that is no name has a value that makes no sense.
pub fn invalid(field: &'static str, message: impl Into<String>) -> Fault {
    Fault::new(ErrorReason::FieldInvalid, message)
        .in_field(field)
        .with("field", field)
}

#[cfg(test)]
mod tests;
