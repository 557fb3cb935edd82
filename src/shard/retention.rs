//! Which messages a topic's retention lets go. Only the leader asks, and proposes what it finds; the machine never looks at a clock.

use super::walk::Walk;
use super::{Error, TopicRow, View};
use crate::types::{ByteCount, Offset, Retention, StoredBatch, Timestamp};

/// Payload that one trim frees: as much as is read to count it.
const TRIM_BYTES_MAX: u64 = 64 << 20;
/// Batches that one trim frees.
const TRIM_BATCHES_MAX: u32 = 4096;

/// What a topic's retention asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The messages before the offset may go; and how many bytes of payload ever came before it, as [`Command::Trim`](super::Command::Trim) wants it.
    Trim(Offset, ByteCount),
    /// Nothing up to this time, as long as the topic does not change.
    After(Timestamp),
    /// Nothing, as long as the topic does not change.
    Nothing,
}

impl View {
    /// What is due for the topic now. A trim is always to the beginning of a batch. Reads a bounded number of batches, so a topic with much to drop is
    /// trimmed in several rounds.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn due(&self, topic: &TopicRow, now: Timestamp) -> Result<Due, Error> {
        let found = self.find_due(topic, now);
        if found.is_err() && self.is_outdated(topic)? {
            return Ok(Due::Nothing); // Trimmed or deleted, and swept, since the row was read: that is no damage.
        }
        found
    }

    /// Whether the topic was trimmed or deleted since its row was read.
    pub(super) fn is_outdated(&self, topic: &TopicRow) -> Result<bool, Error> {
        let current = self.topic(&topic.name)?;
        let is_same = |row: TopicRow| row.id == topic.id && row.first_offset == topic.first_offset;
        Ok(!current.is_some_and(is_same))
    }

    fn find_due(&self, topic: &TopicRow, now: Timestamp) -> Result<Due, Error> {
        let (until, later) = self.expired(topic, now)?;
        let bytes_min = topic.retention.bytes.map_or(u64::MAX, |bytes| bytes.0);
        if until <= topic.first_offset && topic.bytes.0 <= bytes_min {
            return Ok(later); // Most topics, most of the time: only the first batch is read, and only for its age.
        }
        let (mut before, mut freed) = (topic.first_offset, 0_u64);
        for (number, batch) in (0..TRIM_BATCHES_MAX).zip(Walk::new(self, topic)) {
            let batch = batch?;
            let freed_then = freed.saturating_add(bytes_from(&batch, topic.first_offset));
            let bytes_left = topic.bytes.0.saturating_sub(freed_then);
            let may_go = batch.next_offset() <= until || bytes_left >= bytes_min;
            let fits = number == 0 || freed_then <= TRIM_BYTES_MAX;
            if !may_go || !fits {
                break;
            }
            (before, freed) = (batch.next_offset(), freed_then);
        }
        if before <= topic.first_offset {
            return Ok(later);
        }
        let trimmed = ByteCount(topic.trimmed.0.saturating_add(freed));
        Ok(Due::Trim(before, trimmed))
    }

    /// The message before which all may go by their age or number; and what is due when none may.
    fn expired(&self, topic: &TopicRow, now: Timestamp) -> Result<(Offset, Due), Error> {
        let Retention { age, messages, .. } = topic.retention;
        let (mut until, mut later) = (topic.first_offset, Due::Nothing);
        if let Some(age) = age.filter(|_| topic.first_offset < topic.next_offset) {
            let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            let oldest = Timestamp(now.0.saturating_sub(age));
            match self.aged(topic, oldest)? {
                Aged::Until(offset) => until = offset,
                Aged::Young(first) => later = Due::After(Timestamp(first.0.saturating_add(age))),
            }
        }
        if let Some(count) = messages {
            until = until.max(Offset(topic.next_offset.0.saturating_sub(count)));
        }
        Ok((until, later))
    }

    /// Looks at the first batch before it searches: as a rule that one is young enough.
    fn aged(&self, topic: &TopicRow, oldest: Timestamp) -> Result<Aged, Error> {
        if topic.appended < oldest {
            return Ok(Aged::Until(topic.next_offset));
        }
        match self.store.batch_at(topic.id, topic.first_offset)? {
            Some(first) if first.append_time >= oldest => Ok(Aged::Young(first.append_time)),
            _ => self.offset_at(topic, oldest).map(Aged::Until),
        }
    }
}

/// What there is of messages that are too old.
enum Aged {
    /// Those before the offset are.
    Until(Offset),
    /// Not even the first one is, which was appended at this time.
    Young(Timestamp),
}

/// Bytes of the messages from an offset on.
fn bytes_from(stored: &StoredBatch, from: Offset) -> u64 {
    let skip = from.0.saturating_sub(stored.base_offset.0);
    let skip = u32::try_from(skip).unwrap_or(u32::MAX);
    let rest = stored.batch.slice(skip, u32::MAX, ByteCount(u64::MAX));
    rest.map_or(0, |rest| rest.bytes().0)
}
