//! The rows of a shard and their keys.
//!
//! A row is a version byte (1; 2 for the row of a shared subscription) and the fields in postcard. Names have no zero byte, so a zero ends them in a key; numbers are big-endian.
//! ```text
//! table                       key                                              row
//! Shard                       (empty)                                          ShardRow
//! Topic                       name                                             TopicRow
//! TopicByCreator              publisher ‖ 0 ‖ topic name                       (empty)
//! Publisher, Subscriber       id                                               Identity
//! Session                     topic id u64 ‖ publisher ‖ 0 ‖ session u64       SessionRow
//! Sequence                    topic id u64 ‖ session number u64 ‖ sequence u64 SequenceRow
//! Subscription                topic id u64 ‖ subscriber                        SubscriptionRow; version 1 has no sharing
//! Share                       topic id u64 ‖ subscriber                        Share, of a shared subscription
//! SubscriptionBySubscriber    subscriber ‖ 0 ‖ topic name ‖ 0 ‖ topic id u64   (empty)
//! Retention                   topic id u64                                     topic name, when it does not keep all for ever
//! ```
//! A deleted topic's rows below its id are swept later. Their twins in `SubscriptionBySubscriber` are too: a reader ignores those whose
//! topic no longer has that id.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Error, Share, Sharing};
use crate::store::Table;
use crate::types::{
    ByteCount, LogIndex, Name, Offset, PublisherId, RequestId, Retention, Sequence, SessionId,
    SubscriberId, Timestamp, TopicId, TopicName,
};

const VERSION: u8 = 1;
/// The version of a row that version 1 cannot say: of a shared subscription.
const VERSION_SHARED: u8 = 2;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRow {
    /// Its life.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// Who asked for it.
    pub creator: Option<PublisherId>,
    /// When.
    pub created: Timestamp,
    /// The create call that made it.
    pub request_id: Option<RequestId>,
    /// The first message that is still there.
    pub first_offset: Offset,
    /// The offset that the next message will get. Never decreases.
    pub next_offset: Offset,
    /// Bytes of the payloads that are still there.
    pub bytes: ByteCount,
    /// Bytes of the payloads that were trimmed.
    pub trimmed: ByteCount,
    /// The time of the last append; at first that of the creation. Never decreases.
    pub appended: Timestamp,
    /// Sessions remembered.
    pub session_count: u32,
    /// Sessions that ever began. The next one gets this number.
    pub session_number_next: u64,
    /// How long it keeps its messages.
    pub retention: Retention,
}

/// A cursor of a subscriber on a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The topic's life.
    pub topic_id: TopicId,
    /// The topic's name.
    pub topic: TopicName,
    /// Whose cursor.
    pub subscriber: SubscriberId,
    /// The next message to deliver: all before it are acknowledged, or gone.
    pub cursor: Offset,
    /// Messages that were gone before they were acknowledged. Counts until the cursor is moved.
    pub missed: u64,
    /// When it was made.
    pub created: Timestamp,
    /// How consumers share it. `None`: one reader at a time has it.
    pub sharing: Option<Sharing>,
}

/// A publisher or a subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// When it was created.
    pub created: Timestamp,
    /// The create call that made it.
    pub request_id: Option<RequestId>,
}

/// What the shard counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShardRow {
    /// Topics ever created.
    pub(super) topics_created: u64,
    /// Topics that exist.
    pub(super) topic_count: u64,
}

/// A session of a publisher on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SessionRow {
    /// Which one of the topic's sessions; never reused, so that a session that begins again does not meet its old rows.
    pub(super) number: u64,
    /// The first sequence whose row is still there; the same as the next one when none is.
    pub(super) first_sequence: Sequence,
    /// The offset after the messages of that one, so that its row is read only when it goes.
    pub(super) first_end: Offset,
    /// The sequence that must come next.
    pub(super) next_sequence: Sequence,
    /// The entry that used it last.
    pub(super) used: LogIndex,
}

/// What a publish got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SequenceRow {
    pub(super) first_offset: Offset,
    pub(super) count: u32,
    pub(super) append_time: Timestamp,
}

/// A cursor. Its bytes are those of version 1 unless it is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SubscriptionRow {
    pub(super) cursor: Offset,
    pub(super) created: Timestamp,
    pub(super) sharing: Option<Sharing>,
}

impl SequenceRow {
    /// The offset after the messages.
    pub(super) fn next_offset(self) -> Offset {
        self.first_offset.plus(u64::from(self.count))
    }
}

impl SubscriptionRow {
    /// Where the cursor stands in effect: what it has not passed may be gone.
    pub(super) fn cursor(&self, topic: &TopicRow) -> Offset {
        self.cursor.max(topic.first_offset)
    }

    /// The bytes of the row.
    pub(super) fn encode(&self) -> Bytes {
        match &self.sharing {
            None => write(VERSION, &(self.cursor, self.created)),
            Some(sharing) => write(VERSION_SHARED, &(self.cursor, self.created, sharing)),
        }
    }

    /// Reads a row.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let table = Table::Subscription;
        let (cursor, created, sharing) = match bytes.split_first() {
            Some((&VERSION_SHARED, fields)) => {
                let fields = postcard::from_bytes(fields);
                let (cursor, created, sharing) =
                    fields.map_err(|source| Error::Row { table, source })?;
                (cursor, created, Some(sharing))
            }
            Some((&found, _)) if found > VERSION_SHARED => {
                return Err(Error::RowVersion {
                    table,
                    found,
                    known: VERSION_SHARED,
                });
            }
            _ => {
                let (cursor, created) = decode(table, bytes)?;
                (cursor, created, None)
            }
        };
        Ok(Self {
            cursor,
            created,
            sharing,
        })
    }

    /// As it is told. `share` is there when it is shared.
    pub(super) fn with(
        self,
        topic: &TopicRow,
        subscriber: &SubscriberId,
        share: Option<&Share>,
    ) -> Subscription {
        let gone = topic.first_offset.0.saturating_sub(self.cursor.0);
        Subscription {
            topic_id: topic.id,
            topic: topic.name.clone(),
            subscriber: subscriber.clone(),
            cursor: self.cursor(topic),
            missed: share.map_or(gone, |share| share.missed(self.cursor, topic.first_offset)),
            created: self.created,
            sharing: self.sharing,
        }
    }
}

pub(super) fn encode(row: &impl Serialize) -> Bytes {
    write(VERSION, row)
}

#[expect(
    clippy::expect_used,
    reason = "names, numbers and options always have a postcard form"
)]
fn write(version: u8, row: &impl Serialize) -> Bytes {
    let bytes = postcard::to_extend(row, vec![version]).expect("a row is plain data");
    bytes.into()
}

pub(super) fn decode<R: DeserializeOwned>(table: Table, bytes: &[u8]) -> Result<R, Error> {
    match bytes.split_first() {
        Some((&VERSION, fields)) => {
            postcard::from_bytes(fields).map_err(|source| Error::Row { table, source })
        }
        Some((&found, _)) if found > VERSION => Err(Error::RowVersion {
            table,
            found,
            known: VERSION,
        }),
        // Empty, or version 0, which no program wrote.
        _ => Err(Error::Row {
            table,
            source: postcard::Error::DeserializeBadEncoding,
        }),
    }
}

fn joined(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

pub(super) fn name_key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

/// The key of the one row of [`Table::Shard`].
pub(super) fn shard_key() -> Bytes {
    Bytes::new()
}

pub(super) fn creator_prefix(creator: &PublisherId) -> Bytes {
    joined(&[creator.as_str().as_bytes(), &[0]])
}

pub(super) fn creator_key(creator: &PublisherId, topic: &str) -> Bytes {
    joined(&[creator.as_str().as_bytes(), &[0], topic.as_bytes()])
}

/// What all keys of a topic's sessions, sequences and subscriptions begin with.
pub(super) fn topic_prefix(topic: TopicId) -> Bytes {
    joined(&[&topic.to_bits().to_be_bytes()])
}

pub(super) fn session_key(topic: TopicId, publisher: &PublisherId, session: SessionId) -> Bytes {
    joined(&[
        &topic.to_bits().to_be_bytes(),
        publisher.as_str().as_bytes(),
        &[0],
        &session.0.to_be_bytes(),
    ])
}

pub(super) fn retention_key(topic: TopicId) -> Bytes {
    topic_prefix(topic)
}

/// What the keys of all sequences of a session begin with.
pub(super) fn sequence_prefix(topic: TopicId, number: u64) -> Bytes {
    joined(&[&topic.to_bits().to_be_bytes(), &number.to_be_bytes()])
}

pub(super) fn sequence_key(topic: TopicId, number: u64, sequence: Sequence) -> Bytes {
    joined(&[
        &topic.to_bits().to_be_bytes(),
        &number.to_be_bytes(),
        &sequence.0.to_be_bytes(),
    ])
}

pub(super) fn subscription_key(topic: TopicId, subscriber: &SubscriberId) -> Bytes {
    joined(&[
        &topic.to_bits().to_be_bytes(),
        subscriber.as_str().as_bytes(),
    ])
}

pub(super) fn subscriber_prefix(subscriber: &SubscriberId) -> Bytes {
    joined(&[subscriber.as_str().as_bytes(), &[0]])
}

/// What follows the subscriber in the key of a twin.
pub(super) fn twin_suffix(topic: &TopicName, id: TopicId) -> Bytes {
    joined(&[
        &[0],
        topic.as_str().as_bytes(),
        &[0],
        &id.to_bits().to_be_bytes(),
    ])
}

pub(super) fn twin_key(subscriber: &SubscriberId, topic: &TopicName, id: TopicId) -> Bytes {
    joined(&[subscriber.as_str().as_bytes(), &twin_suffix(topic, id)])
}

/// The name in a key from a byte on.
pub(super) fn name_at(key: &Bytes, skip: usize) -> Option<Name> {
    let text = std::str::from_utf8(key.get(skip..)?).ok()?;
    Name::new(text).ok()
}

/// The topic's name and id in a twin's key.
pub(super) fn twin_parts(key: &[u8]) -> Option<(TopicName, TopicId)> {
    let (rest, id) = key.split_last_chunk::<8>()?;
    let mut parts = rest.strip_suffix(&[0])?.splitn(2, |byte| *byte == 0);
    let name = parts.nth(1)?;
    let name = TopicName::new(std::str::from_utf8(name).ok()?).ok()?;
    Some((name, TopicId::from_bits(u64::from_be_bytes(*id))))
}
