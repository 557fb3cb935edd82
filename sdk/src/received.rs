//! Messages on their way out.
//!
//! It never copies a payload: keys, payloads and values are parts of the answer's bytes. Begin with [`Pulled`].

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::block;
use crate::convert;
use crate::model::ReadSource;
use crate::proto::v1;

/// A named value beside a message's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// The name.
    pub name: String,
    /// The value.
    pub value: Bytes,
}

/// Where messages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// Who published them.
    pub publisher: String,
    /// In which session.
    pub session: u64,
    /// As which publish of the session.
    pub sequence: u64,
}

/// A message with its place in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// Its position in the topic.
    pub offset: u64,
    /// Its place among the messages of this offset: 0, unless it was compressed together with others. They are acknowledged together.
    pub index: u32,
    /// When the leader took it.
    pub append_time: SystemTime,
    /// What it is about; may be empty.
    pub key: Bytes,
    /// Its content; may be empty.
    pub payload: Bytes,
    /// Named values, in the order in which they were published.
    pub headers: Vec<Header>,
    /// Where it comes from; `None` when it was published without a publisher.
    pub origin: Option<Arc<Origin>>,
    /// Messages right before this one that retention removed before they were acknowledged: they cannot be read any more. 0 but for the first
    /// message of a pull.
    pub missed: u64,
    /// The payload is a block of messages that this SDK cannot open: a newer one compressed it, or something else did not do so well.
    pub is_opaque: bool,
}

/// What a pull gave. Iterate over it to get the messages in order.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Pulled {
    /// The offset after the last message, or the cursor when there is none: acknowledge this when all are done.
    pub next_offset: u64,
    /// Where the cursor is.
    pub cursor: u64,
    /// The offset that the topic's next message will get.
    pub head_offset: u64,
    /// Who answered.
    pub source: Option<ReadSource>,
    /// Messages right below the cursor that retention removed before they were acknowledged. Told again until the cursor moves.
    pub missed: u64,
    batches: Vec<v1::MessageBatch>,
}

impl Pulled {
    pub(crate) fn new(answer: v1::PullResponse) -> Self {
        Self {
            next_offset: answer.next_offset,
            cursor: answer.cursor,
            head_offset: answer.head_offset,
            source: answer.source.map(Into::into),
            missed: answer.missed,
            batches: answer.batches,
        }
    }

    /// What one replica gave; it has no cursor, so the messages before the first count as done.
    pub(crate) fn of_replica(answer: v1::ReplicaPullResponse) -> Self {
        let first = answer.batches.first().map(|batch| batch.base_offset);
        Self {
            next_offset: answer.next_offset,
            cursor: first.unwrap_or(answer.next_offset),
            head_offset: answer.head_offset,
            source: answer.source.map(Into::into),
            missed: 0,
            batches: answer.batches,
        }
    }

    /// How many messages there are.
    ///
    /// ```no_run
    /// # fn run(pulled: cubecast_sdk::Pulled) {
    /// println!("{} messages", pulled.len());
    /// # }
    /// ```
    pub fn len(&self) -> usize {
        let messages = self.batches.iter().flat_map(|batch| &batch.messages);
        messages.map(block::count).sum()
    }

    /// Nothing is new.
    ///
    /// ```no_run
    /// # fn run(pulled: cubecast_sdk::Pulled) {
    /// if pulled.is_empty() {
    ///     println!("nothing new");
    /// }
    /// # }
    /// ```
    pub fn is_empty(&self) -> bool {
        self.batches.iter().all(|batch| batch.messages.is_empty())
    }
}

impl IntoIterator for Pulled {
    type Item = Received;
    type IntoIter = PulledIter;

    fn into_iter(self) -> PulledIter {
        PulledIter {
            batches: self.batches.into_iter(),
            batch: None,
            missed: self.missed,
        }
    }
}

/// The messages of a [`Pulled`], in order.
#[derive(Debug)]
pub struct PulledIter {
    batches: std::vec::IntoIter<v1::MessageBatch>,
    batch: Option<BatchIter>,
    /// To be told with the next message.
    missed: u64,
}

/// What is left of a batch.
#[derive(Debug)]
pub(crate) struct BatchIter {
    offset: u64,
    /// What is left of a block, and the place of its next message.
    block: std::vec::IntoIter<v1::Message>,
    index: u32,
    append_time: SystemTime,
    origin: Option<Arc<Origin>>,
    messages: std::vec::IntoIter<v1::Message>,
}

impl BatchIter {
    pub(crate) fn new(batch: v1::MessageBatch) -> Self {
        let origin = batch.origin.map(|origin| {
            Arc::new(Origin {
                publisher: origin.publisher,
                session: origin.session,
                sequence: origin.sequence,
            })
        });
        Self {
            offset: batch.base_offset,
            block: Vec::new().into_iter(),
            index: 0,
            append_time: convert::time(batch.append_time),
            origin,
            messages: batch.messages.into_iter(),
        }
    }

    pub(crate) fn next(&mut self) -> Option<Received> {
        if let Some(message) = self.block.next() {
            self.index = self.index.saturating_add(1);
            // The offset of the block, which was counted when it was opened.
            let offset = self.offset.saturating_sub(1);
            return Some(self.received(offset, self.index, message));
        }
        let mut message = self.messages.next()?;
        let offset = self.offset;
        (self.offset, self.index) = (offset.saturating_add(1), 0);
        if let Some(inside) = block::open(&message) {
            self.block = inside.into_iter();
            message = self.block.next()?;
        }
        Some(self.received(offset, 0, message))
    }

    fn received(&self, offset: u64, index: u32, message: v1::Message) -> Received {
        let headers = message.headers.into_iter().map(|header| Header {
            name: header.name,
            value: header.value,
        });
        Received {
            offset,
            index,
            append_time: self.append_time,
            key: message.key,
            payload: message.payload,
            headers: headers.collect(),
            origin: self.origin.clone(),
            missed: 0,
            is_opaque: message.block.is_some(),
        }
    }
}

impl Iterator for PulledIter {
    type Item = Received;

    fn next(&mut self) -> Option<Received> {
        loop {
            if let Some(message) = self.batch.as_mut().and_then(BatchIter::next) {
                let missed = std::mem::take(&mut self.missed);
                return Some(Received { missed, ..message });
            }
            self.batch = Some(BatchIter::new(self.batches.next()?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base_offset: u64, payloads: &[&'static str]) -> v1::MessageBatch {
        let messages = payloads.iter().map(|payload| v1::Message {
            payload: (*payload).into(),
            ..v1::Message::default()
        });
        v1::MessageBatch {
            base_offset,
            messages: messages.collect(),
            ..v1::MessageBatch::default()
        }
    }

    #[test]
    fn messages_get_their_offsets_across_batches() {
        let batches = vec![batch(3, &["a", "b"]), batch(5, &[]), batch(5, &["c"])];
        let pulled = Pulled::new(v1::PullResponse {
            batches,
            next_offset: 6,
            missed: 2,
            ..v1::PullResponse::default()
        });
        assert_eq!((pulled.len(), pulled.is_empty()), (3, false));
        let messages: Vec<_> = pulled
            .into_iter()
            .map(|message| (message.offset, message.payload, message.missed))
            .collect();
        assert_eq!(
            messages,
            [(3, "a".into(), 2), (4, "b".into(), 0), (5, "c".into(), 0)]
        );
    }

    #[test]
    fn nothing_new_is_empty() {
        assert!(Pulled::new(v1::PullResponse::default()).is_empty());
    }
}
