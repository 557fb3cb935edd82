//! From the protocol to the domain: requests are checked here, once, and every limit is met here.
//!
//! An absent value has the meaning that `proto/` gives it. The way back is in [`super::answer`]. Begin with [`name`].

use std::time::Duration;

use cubecast_sdk::proto::v1::{self as proto, ErrorReason};

use super::status::Fault;
use crate::broker::{AckLevel, LETTER_PUBLISHER};
use crate::cluster::Cluster;
use crate::replica::Consistency;
use crate::shard::Start;
use crate::types::{
    ByteCount, Limits, Name, Offset, PublisherId, RequestId, Retention, Sequence, SessionId,
    Timestamp, Vertex,
};

/// Topics in one `BatchCreateTopics`: one entry of at most 300 KiB in each shard's log, and some milliseconds of work.
pub const BATCH_CREATE_TOPICS_MAX: u32 = 1000;

/// The leader looks every few seconds for what is too old; less would promise what it does not keep.
const RETENTION_AGE_MIN: Duration = Duration::from_secs(1);
/// A hundred years: more cannot be told from a mistake, and times end in the year 2554.
const RETENTION_AGE_MAX: Duration = Duration::from_secs(36_500 * 86_400);

/// A shorter lease would end before an acknowledgement arrives, a longer one is no lease.
pub const LEASE: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(12 * 3600));

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

/// A field that must hold the name of a publisher that a client may be.
pub fn publisher(text: &str, field: &'static str) -> Result<PublisherId, Fault> {
    let publisher = name(text, field)?;
    if publisher.as_str().starts_with(LETTER_PUBLISHER) {
        let text = format!("{field}: names that begin with {LETTER_PUBLISHER} are the cluster's");
        let fault = Fault::new(ErrorReason::NameInvalid, text).in_field(field);
        return Err(fault.with("field", field).with("limit", Name::BYTES_MAX));
    }
    Ok(PublisherId(publisher))
}

/// A field that may hold the name of a publisher that a client may be.
pub fn optional_publisher(text: &str, field: &'static str) -> Result<Option<PublisherId>, Fault> {
    if text.is_empty() {
        Ok(None)
    } else {
        publisher(text, field).map(Some)
    }
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

/// The vertex that a peer means.
pub fn shard(index: u32, cluster: &Cluster) -> Result<Vertex, Fault> {
    let vertex = u16::try_from(index)
        .ok()
        .and_then(|index| Vertex::new(index, cluster.dimension()).ok());
    vertex.ok_or_else(|| invalid("shard", format!("the cube has no vertex {index}")))
}

/// The vertex that a caller names by its bits.
pub fn vertex(text: &str, field: &'static str, cluster: &Cluster) -> Result<Vertex, Fault> {
    let dimension = cluster.dimension();
    let vertex = text.parse::<Vertex>().ok();
    vertex
        .filter(|vertex| vertex.dimension() == dimension)
        .ok_or_else(|| invalid(field, format!("{text:?} is not {} bits", dimension.bits())))
}

/// How many topics a batch may have.
pub fn batch_count(count: usize) -> Result<(), Fault> {
    let limit = BATCH_CREATE_TOPICS_MAX;
    match u32::try_from(count) {
        Ok(0) => Err(invalid("topics", "topics is empty")),
        Ok(count) if count <= limit => Ok(()),
        _ => {
            let text = format!("{count} topics are more than {limit}");
            Err(invalid("topics", text).with("limit", limit))
        }
    }
}

/// How long a topic keeps its messages; absent means for ever.
pub fn retention(retention: Option<&proto::Retention>) -> Result<Retention, Fault> {
    let Some(retention) = retention else {
        return Ok(Retention::FOR_EVER);
    };
    let age = retention.age.as_ref().map(age).transpose()?;
    Ok(Retention {
        age,
        bytes: positive(retention.bytes, "retention.bytes")?.map(ByteCount),
        messages: positive(retention.messages, "retention.messages")?,
    })
}

fn age(age: &prost_types::Duration) -> Result<Duration, Fault> {
    const FIELD: &str = "retention.age";
    let age = duration(age, FIELD)?;
    if age < RETENTION_AGE_MIN {
        return Err(invalid(FIELD, format!("{FIELD} is below 1 s")).with("limit", "1s"));
    }
    if age > RETENTION_AGE_MAX {
        return Err(invalid(FIELD, format!("{FIELD} is above 36500 days")).with("limit", "36500d"));
    }
    Ok(age)
}

fn positive(number: Option<u64>, field: &'static str) -> Result<Option<u64>, Fault> {
    match number {
        Some(0) => Err(invalid(field, format!("{field} is 0")).with("limit", 1)),
        number => Ok(number),
    }
}

/// A span of time.
pub fn duration(duration: &prost_types::Duration, field: &'static str) -> Result<Duration, Fault> {
    let wrong = || invalid(field, format!("{field} is negative or no duration"));
    let seconds = u64::try_from(duration.seconds).map_err(|_| wrong())?;
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|nanos| u64::from(*nanos) < NANOS_PER_SECOND)
        .ok_or_else(wrong)?;
    Ok(Duration::new(seconds, nanos))
}

/// A span of time that has bounds.
pub fn within(
    span: Option<&prost_types::Duration>,
    field: &'static str,
    (min, max): (Duration, Duration),
) -> Result<Option<Duration>, Fault> {
    let Some(span) = span else { return Ok(None) };
    let span = duration(span, field)?;
    let outside = |what, limit: Duration| {
        let text = format!("{field} is {what} {limit:?}");
        Err(invalid(field, text).with("limit", format!("{limit:?}")))
    };
    if span < min {
        outside("below", min)
    } else if span > max {
        outside("above", max)
    } else {
        Ok(Some(span))
    }
}

/// How long a pull waits; absent means not at all, more than the limit means the limit.
pub fn wait(wait: Option<&prost_types::Duration>, limits: &Limits) -> Result<Duration, Fault> {
    match wait {
        Some(wait) => Ok(duration(wait, "wait")?.min(limits.pull_wait_max)),
        None => Ok(Duration::ZERO),
    }
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
