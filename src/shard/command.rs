//! What a shard can be told, and how that is written into the log.
//!
//! ```text
//! 0  version   1; 2 for what version 1 does not know: from SubscribeShared on
//! 1  head      postcard: variant number as varint, then the fields in order; variants and fields are only ever added at the end
//! …  Append only:
//!    count     u32 big-endian, messages
//!    length    u32 big-endian, bytes
//!    payload   to the end, never copied
//! ```
//! The log's records are checksummed, so a command is not. Decoding never panics, and what it allocates is bounded by the length of the
//! bytes: no more than 64 times of it, and 1 MiB before the first of a list is read.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Settlement, Sharing};
use crate::types::{
    Batch, BatchError, ByteCount, LogIndex, Offset, PublisherId, RequestId, Retention, Sequence,
    SessionId, SubscriberId, Timestamp, TopicId, TopicName,
};

/// The newest version that is known. Older ones stay readable; newer ones are refused.
pub(super) const VERSION: u8 = 2;
/// The version of the commands of the first day. They are written so for ever, so that a program that knows no other applies them.
const VERSION_FIRST: u8 = 1;
/// The variant number of [`Command::Barrier`].
const BARRIER: u8 = 14;

/// A change of one shard. Times are the leader's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Make a topic.
    CreateTopic {
        /// Its name.
        topic: TopicName,
        /// The publisher that asked for it, when the call said so. Not checked here.
        creator: Option<PublisherId>,
        /// Makes a repetition known for one.
        request_id: Option<RequestId>,
        /// When it was asked for.
        at: Timestamp,
        /// How long it keeps its messages.
        retention: Retention,
    },
    /// Remove a topic with all that belongs to it.
    DeleteTopic {
        /// Its name.
        topic: TopicName,
    },
    /// Register a publisher.
    CreatePublisher {
        /// Its id.
        publisher: PublisherId,
        /// Makes a repetition known for one.
        request_id: Option<RequestId>,
        /// When it was asked for.
        at: Timestamp,
    },
    /// Remove a publisher. Its topics and messages stay.
    DeletePublisher {
        /// Its id.
        publisher: PublisherId,
    },
    /// Register a subscriber.
    CreateSubscriber {
        /// Its id.
        subscriber: SubscriberId,
        /// Makes a repetition known for one.
        request_id: Option<RequestId>,
        /// When it was asked for.
        at: Timestamp,
    },
    /// Remove a subscriber. Its subscriptions are with their topics and stay.
    DeleteSubscriber {
        /// Its id.
        subscriber: SubscriberId,
    },
    /// Append a batch to a topic.
    Append {
        /// Where to.
        topic: TopicName,
        /// Publisher, session and sequence, when the publish is to be deduplicated.
        origin: Option<(PublisherId, SessionId, Sequence)>,
        /// When the leader proposed it.
        at: Timestamp,
        /// The messages.
        #[serde(skip, default = "no_batch")]
        batch: Batch,
    },
    /// Give a subscriber a cursor on a topic.
    Subscribe {
        /// The topic.
        topic: TopicName,
        /// Who subscribes. Not checked here.
        subscriber: SubscriberId,
        /// Where the cursor begins.
        start: Start,
        /// When it was asked for.
        at: Timestamp,
    },
    /// Remove a cursor.
    Unsubscribe {
        /// The topic.
        topic: TopicName,
        /// Whose cursor.
        subscriber: SubscriberId,
    },
    /// Move a cursor forward. A cursor that is further already stays.
    Acknowledge {
        /// The topic.
        topic: TopicName,
        /// Whose cursor.
        subscriber: SubscriberId,
        /// Messages before this one are acknowledged.
        next_offset: Offset,
        /// Move only if the cursor is exactly here.
        expected: Option<Offset>,
    },
    /// Put a cursor anywhere.
    Seek {
        /// The topic.
        topic: TopicName,
        /// Whose cursor.
        subscriber: SubscriberId,
        /// Where to.
        to: Start,
    },
    /// Make many topics. Each is made or refused for itself.
    CreateTopics {
        /// Which.
        topics: Vec<NewTopic>,
        /// The publisher that asked for them, when the call said so. Not checked here.
        creator: Option<PublisherId>,
        /// Makes a repetition known for one: of each topic that the first made.
        request_id: Option<RequestId>,
        /// When it was asked for.
        at: Timestamp,
    },
    /// Say how long a topic keeps its messages. What it drops for it comes with a [`Command::Trim`].
    SetRetention {
        /// The topic.
        topic: TopicName,
        /// How long.
        retention: Retention,
    },
    /// Drop the oldest messages of a topic. Which ones was decided by the leader; a trim that comes too late does nothing.
    Trim {
        /// The topic.
        topic: TopicName,
        /// The life of it that is meant.
        topic_id: TopicId,
        /// The messages before this one go.
        before: Offset,
        /// Bytes of all payloads that ever came before it, so that trims that overlap count nothing twice.
        bytes: ByteCount,
    },
    /// Change nothing: a place in the log at which replicas can be compared.
    Barrier {
        /// Which comparison; tells one barrier from another.
        id: u64,
    },
    /// As [`Command::Acknowledge`], in one life of the topic: what was read of a topic is not acknowledged in a later one of its name.
    AcknowledgeLife {
        /// The topic.
        topic: TopicName,
        /// The life of it that is meant.
        topic_id: TopicId,
        /// Whose cursor.
        subscriber: SubscriberId,
        /// Messages before this one are acknowledged.
        next_offset: Offset,
    },
    /// Give a subscriber a cursor on a topic that several consumers share.
    SubscribeShared {
        /// The topic.
        topic: TopicName,
        /// Who subscribes. Not checked here.
        subscriber: SubscriberId,
        /// Where the cursor begins.
        start: Start,
        /// When it was asked for.
        at: Timestamp,
        /// How they share it.
        sharing: Sharing,
    },
    /// Say what became of messages of a shared subscription.
    Settle {
        /// The topic.
        topic: TopicName,
        /// The life of it that is meant.
        topic_id: TopicId,
        /// Whose cursor.
        subscriber: SubscriberId,
        /// The era of the subscription that is meant.
        era: LogIndex,
        /// What became of them.
        settlement: Settlement,
    },
}

/// A topic to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTopic {
    /// Its name.
    pub topic: TopicName,
    /// How long it keeps its messages.
    pub retention: Retention,
}

/// Whether the bytes of an entry are a barrier. Looks at two bytes only, so that each entry can be asked.
pub fn is_barrier(command: &[u8]) -> bool {
    command.starts_with(&[VERSION_FIRST, BARRIER])
}

/// A place in a topic, found when the command is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// The first message there is.
    Earliest,
    /// After the last message there is.
    Latest,
    /// This message; it or the one before it must exist.
    Offset(Offset),
    /// The first message appended at this time or later, or after the last one.
    Time(Timestamp),
}

/// Why bytes are not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There are no bytes.
    #[error("a command has at least its version, this one is empty")]
    Empty,
    /// Another version wrote it.
    #[error("command version {found} is unknown, this peer reads up to {max}", max = VERSION)]
    Version {
        /// What it says.
        found: u8,
    },
    /// The head is not a known command.
    #[error("the head of the command is broken")]
    Head,
    /// There are more or fewer bytes than there must be.
    #[error("the command has {found} bytes after its head, not {expected}")]
    Length {
        /// What the head says.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The messages are broken.
    #[error("the batch of the command is broken")]
    Batch(#[from] BatchError),
    /// The messages are not as many as the command says.
    #[error("the command has {found} messages, not {expected}")]
    Count {
        /// What the command says.
        expected: u32,
        /// What is there.
        found: u32,
    },
}

/// Stands for a batch until the real one is read.
#[expect(clippy::expect_used, reason = "the bytes are one empty message")]
fn no_batch() -> Batch {
    Batch::new(Bytes::from_static(&[0x22, 0])).expect("an empty message is a batch")
}

impl Command {
    /// The bytes for the log.
    ///
    /// # Panics
    /// When the payload has 4 GiB or more, which no limit allows.
    #[expect(
        clippy::expect_used,
        reason = "names, numbers and options always have a postcard form; payloads are far below 4 GiB"
    )]
    pub fn encode(&self) -> Bytes {
        let head = postcard::to_stdvec(self).expect("the head is plain data");
        let payload = match self {
            Self::Append { batch, .. } => Some(batch),
            _ => None,
        };
        let payload_bytes = payload.map_or(0, |batch| 8 + batch.payload().len());
        let mut bytes = BytesMut::with_capacity(1 + head.len() + payload_bytes);
        bytes.extend_from_slice(&[self.version()]);
        bytes.extend_from_slice(&head);
        if let Some(batch) = payload {
            let length = u32::try_from(batch.payload().len()).expect("a payload is below 4 GiB");
            bytes.extend_from_slice(&batch.count().to_be_bytes());
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(batch.payload());
        }
        bytes.freeze()
    }

    /// The first version that knows it.
    fn version(&self) -> u8 {
        match self {
            Self::SubscribeShared { .. } | Self::Settle { .. } => VERSION,
            _ => VERSION_FIRST,
        }
    }

    /// Reads a command; its batch shares the bytes.
    ///
    /// # Errors
    /// [`CommandError`] says what is wrong with them.
    pub fn decode(bytes: &Bytes) -> Result<Self, CommandError> {
        let (version, body) = bytes.split_first().ok_or(CommandError::Empty)?;
        if !(VERSION_FIRST..=VERSION).contains(version) {
            return Err(CommandError::Version { found: *version });
        }
        let (mut command, rest) =
            postcard::take_from_bytes::<Self>(body).map_err(|_| CommandError::Head)?;
        if command.version() != *version {
            return Err(CommandError::Head);
        }
        if let Self::Append { batch, .. } = &mut command {
            *batch = decode_batch(bytes, rest)?;
        } else if !rest.is_empty() {
            return Err(CommandError::Length {
                expected: 0,
                found: rest.len() as u64,
            });
        }
        Ok(command)
    }
}

/// Reads the batch at the end of `bytes`.
fn decode_batch(bytes: &Bytes, rest: &[u8]) -> Result<Batch, CommandError> {
    let numbers = rest.split_first_chunk::<4>();
    let numbers = numbers.and_then(|(count, rest)| Some((count, rest.split_first_chunk::<4>()?)));
    let Some((count, (length, payload))) = numbers else {
        return Err(CommandError::Length {
            expected: 8,
            found: rest.len() as u64,
        });
    };
    let length = u32::from_be_bytes(*length);
    if payload.len() as u64 != u64::from(length) {
        return Err(CommandError::Length {
            expected: 8 + u64::from(length),
            found: rest.len() as u64,
        });
    }
    let batch = Batch::new(bytes.slice(bytes.len() - payload.len()..))?;
    let expected = u32::from_be_bytes(*count);
    if batch.count() != expected {
        return Err(CommandError::Count {
            expected,
            found: batch.count(),
        });
    }
    Ok(batch)
}
