//! Messages of the public API whose repeated `Message messages = 4` stays one opaque run of bytes.
//!
//! A publish is written as it came and a pull gives it back as it was: the server neither decodes single messages nor encodes them again
//! (`docs/adr/0004-batch.md`). On the wire these are `cubecast.v1.PublishRequest`, `PublishStreamRequest`, `MessageBatch`,
//! `PullResponse`, `ReplicaPullResponse` and `StreamPullResponse`; `build.rs` puts them in their place. Never checks what a message holds: that is [`super::message`]. Begin with [`Opaque`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cubecast_sdk::proto::v1::{
    BatchOrigin, Placement, PublishSequence, ReadSource, StreamPullHeartbeat, StreamPullOpened,
    StreamPullSettled,
};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

/// The number of the field that holds the messages.
const MESSAGES: u32 = 4;
/// The number of the field of a pull's answer that holds the batches.
const BATCHES: u32 = 1;

/// A request to publish, its messages not decoded.
pub type PublishRequest = Opaque<PublishHead>;
/// A request of a PublishStream, its messages not decoded.
pub type PublishStreamRequest = Opaque<PublishStreamHead>;
/// A batch, its messages not decoded.
pub type MessageBatch = Opaque<BatchHead>;

/// A message with some fields of its own and the run of messages in field 4.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Opaque<H> {
    /// All fields but the messages.
    pub head: H,
    /// The messages with their tags and lengths, in order, as `types::Batch` wants them.
    pub messages: Bytes,
}

/// The fields of `cubecast.v1.PublishRequest` that are not messages.
#[derive(Clone, PartialEq, Message)]
pub struct PublishHead {
    /// The name of the topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Who publishes. Empty: nobody in particular.
    #[prost(string, tag = "2")]
    pub publisher: String,
    /// Makes the call repeatable.
    #[prost(message, optional, tag = "3")]
    pub sequence: Option<PublishSequence>,
    /// When to answer.
    #[prost(enumeration = "cubecast_sdk::proto::v1::AckLevel", tag = "5")]
    pub acks: i32,
}

/// The fields of `cubecast.v1.PublishStreamRequest` that are not messages.
#[derive(Clone, PartialEq, Message)]
pub struct PublishStreamHead {
    /// The name of the topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Who publishes. Empty: nobody in particular.
    #[prost(string, tag = "2")]
    pub publisher: String,
    /// Makes the batch repeatable.
    #[prost(message, optional, tag = "3")]
    pub sequence: Option<PublishSequence>,
    /// When to answer.
    #[prost(enumeration = "cubecast_sdk::proto::v1::AckLevel", tag = "5")]
    pub acks: i32,
    /// Names the request in its answer.
    #[prost(uint64, tag = "6")]
    pub request_number: u64,
}

impl PublishStreamRequest {
    /// The number, and the same as a call of its own.
    pub fn into_publish(self) -> (u64, PublishRequest) {
        let Self { head, messages } = self;
        let number = head.request_number;
        let head = PublishHead {
            topic: head.topic,
            publisher: head.publisher,
            sequence: head.sequence,
            acks: head.acks,
        };
        (number, PublishRequest { head, messages })
    }

    /// A publish as a request of a stream.
    pub fn of(number: u64, publish: &PublishRequest) -> Self {
        let head = publish.head.clone();
        Self {
            head: PublishStreamHead {
                topic: head.topic,
                publisher: head.publisher,
                sequence: head.sequence,
                acks: head.acks,
                request_number: number,
            },
            messages: publish.messages.clone(),
        }
    }
}

/// The fields of `cubecast.v1.MessageBatch` that are not messages.
#[derive(Clone, PartialEq, Message)]
pub struct BatchHead {
    /// The offset of the first message here.
    #[prost(uint64, tag = "1")]
    pub base_offset: u64,
    /// When the leader took the publish.
    #[prost(message, optional, tag = "2")]
    pub append_time: Option<prost_types::Timestamp>,
    /// Who published it.
    #[prost(message, optional, tag = "3")]
    pub origin: Option<BatchOrigin>,
    /// How many messages there are.
    #[prost(uint32, tag = "5")]
    pub message_count: u32,
}

/// `cubecast.v1.PullResponse`, its messages not decoded.
pub type PullResponse = Delivery<PullTail>;
/// `cubecast.v1.ReplicaPullResponse`, its messages not decoded.
pub type ReplicaPullResponse = Delivery<ReplicaPullTail>;

/// An answer with batches in field 1.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delivery<T> {
    /// The messages from some offset on.
    pub batches: Vec<MessageBatch>,
    /// All other fields.
    pub tail: T,
}

/// The fields of `cubecast.v1.PullResponse` that are not batches.
#[derive(Clone, PartialEq, Message)]
pub struct PullTail {
    /// The offset after the last message.
    #[prost(uint64, tag = "2")]
    pub next_offset: u64,
    /// Where the cursor is after the call.
    #[prost(uint64, tag = "3")]
    pub cursor: u64,
    /// The offset that the topic's next message will get.
    #[prost(uint64, tag = "4")]
    pub head_offset: u64,
    /// Who answered.
    #[prost(message, optional, tag = "5")]
    pub source: Option<ReadSource>,
    /// Messages right below the cursor that retention removed.
    #[prost(uint64, tag = "6")]
    pub missed: u64,
}

/// The fields of `cubecast.v1.ReplicaPullResponse` that are not batches.
#[derive(Clone, PartialEq, Message)]
pub struct ReplicaPullTail {
    /// The offset after the last message.
    #[prost(uint64, tag = "2")]
    pub next_offset: u64,
    /// The offset that the topic's next message will get.
    #[prost(uint64, tag = "3")]
    pub head_offset: u64,
    /// The replica.
    #[prost(message, optional, tag = "4")]
    pub source: Option<ReadSource>,
    /// Where the topic lives.
    #[prost(message, optional, tag = "5")]
    pub placement: Option<Placement>,
}

/// Messages of a StreamPull: one batch, which a repeated field of one is on the wire, too.
pub type StreamPullDelivery = Delivery<StreamPullTail>;

/// The fields of `cubecast.v1.StreamPullDelivery` that are not the batch.
#[derive(Clone, PartialEq, Message)]
pub struct StreamPullTail {
    /// Which time these messages come.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
    /// Messages right before these that retention removed.
    #[prost(uint64, tag = "3")]
    pub missed: u64,
}

/// `cubecast.v1.StreamPullResponse`, its messages not decoded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StreamPullResponse {
    /// What is told. `None`: nothing that this version knows.
    pub event: Option<StreamPullEvent>,
}

/// What a StreamPull tells.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamPullEvent {
    /// The stream is open.
    Opened(Box<StreamPullOpened>),
    /// Messages.
    Delivery(StreamPullDelivery),
    /// A sign of life.
    Heartbeat(StreamPullHeartbeat),
    /// Acknowledgements of a shared subscription are stored.
    Settled(StreamPullSettled),
}

impl Message for StreamPullResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match &self.event {
            Some(StreamPullEvent::Opened(opened)) => encoding::message::encode(1, opened, buf),
            Some(StreamPullEvent::Delivery(delivery)) => {
                encoding::message::encode(2, delivery, buf);
            }
            Some(StreamPullEvent::Heartbeat(heartbeat)) => {
                encoding::message::encode(3, heartbeat, buf);
            }
            Some(StreamPullEvent::Settled(settled)) => {
                encoding::message::encode(4, settled, buf);
            }
            None => {}
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if !matches!(tag, 1..=4) {
            return encoding::skip_field(wire_type, tag, buf, ctx);
        }
        let event = length_delimited(wire_type, buf)?;
        self.event = Some(event_of(tag, event)?);
        Ok(())
    }

    /// Takes the batch out of the buffer without a copy.
    fn merge(&mut self, mut buf: impl Buf) -> Result<(), DecodeError> {
        let mut rest = buf.copy_to_bytes(buf.remaining());
        while rest.has_remaining() {
            let (tag, wire_type) = encoding::decode_key(&mut rest)?;
            self.merge_field(tag, wire_type, &mut rest, DecodeContext::default())?;
        }
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        match &self.event {
            Some(StreamPullEvent::Opened(opened)) => encoding::message::encoded_len(1, opened),
            Some(StreamPullEvent::Delivery(delivery)) => {
                encoding::message::encoded_len(2, delivery)
            }
            Some(StreamPullEvent::Heartbeat(heartbeat)) => {
                encoding::message::encoded_len(3, heartbeat)
            }
            Some(StreamPullEvent::Settled(settled)) => encoding::message::encoded_len(4, settled),
            None => 0,
        }
    }

    fn clear(&mut self) {
        self.event = None;
    }
}

fn event_of(tag: u32, event: Bytes) -> Result<StreamPullEvent, DecodeError> {
    Ok(match tag {
        1 => StreamPullEvent::Opened(Box::new(StreamPullOpened::decode(event)?)),
        2 => StreamPullEvent::Delivery(StreamPullDelivery::decode(event)?),
        3 => StreamPullEvent::Heartbeat(StreamPullHeartbeat::decode(event)?),
        _ => StreamPullEvent::Settled(StreamPullSettled::decode(event)?),
    })
}

impl<H: Message + Default> Message for Opaque<H> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.head.encode_raw(buf);
        buf.put_slice(&self.messages);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != MESSAGES {
            return self.head.merge_field(tag, wire_type, buf, ctx);
        }
        // Only reached when this message is a field of another one, which none of ours decodes in this way.
        let message = length_delimited(wire_type, buf)?;
        let mut run = BytesMut::from(self.messages.as_ref());
        encoding::encode_key(MESSAGES, WireType::LengthDelimited, &mut run);
        encoding::encode_varint(message.len() as u64, &mut run);
        run.put(message);
        self.messages = run.freeze();
        Ok(())
    }

    /// Takes the run of messages out of the buffer without a copy, as long as nothing stands between them.
    fn merge(&mut self, mut buf: impl Buf) -> Result<(), DecodeError> {
        // Costs nothing: the buffers of tonic and `Bytes` give their own memory away.
        let whole = buf.copy_to_bytes(buf.remaining());
        let mut run = Run::default();
        let mut rest = whole.clone();
        while rest.has_remaining() {
            let start = whole.len() - rest.len();
            let (tag, wire_type) = encoding::decode_key(&mut rest)?;
            if tag == MESSAGES {
                length_delimited(wire_type, &mut rest)?;
                run.push(&whole, start, whole.len() - rest.len());
            } else {
                self.head
                    .merge_field(tag, wire_type, &mut rest, DecodeContext::default())?;
            }
        }
        self.messages = run.finish(&whole);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.head.encoded_len() + self.messages.len()
    }

    fn clear(&mut self) {
        self.head.clear();
        self.messages.clear();
    }
}

impl<T: Message + Default> Message for Delivery<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        encoding::message::encode_repeated(BATCHES, &self.batches, buf);
        self.tail.encode_raw(buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            BATCHES => encoding::message::merge_repeated(wire_type, &mut self.batches, buf, ctx),
            _ => self.tail.merge_field(tag, wire_type, buf, ctx),
        }
    }

    /// Takes each batch out of the buffer without a copy.
    fn merge(&mut self, mut buf: impl Buf) -> Result<(), DecodeError> {
        let mut rest = buf.copy_to_bytes(buf.remaining());
        while rest.has_remaining() {
            let (tag, wire_type) = encoding::decode_key(&mut rest)?;
            if tag == BATCHES {
                let batch = length_delimited(wire_type, &mut rest)?;
                self.batches.push(MessageBatch::decode(batch)?);
            } else {
                self.tail
                    .merge_field(tag, wire_type, &mut rest, DecodeContext::default())?;
            }
        }
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        encoding::message::encoded_len_repeated(BATCHES, &self.batches) + self.tail.encoded_len()
    }

    fn clear(&mut self) {
        self.batches.clear();
        self.tail.clear();
    }
}

/// Where the messages lie in the whole.
#[derive(Default)]
enum Run {
    #[default]
    Empty,
    /// One stretch: the usual case.
    Stretch { start: usize, end: usize },
    /// Something stood between messages, so they were copied together.
    Copied(BytesMut),
}

impl Run {
    fn push(&mut self, whole: &Bytes, start: usize, end: usize) {
        match self {
            Self::Empty => *self = Self::Stretch { start, end },
            Self::Stretch { end: last, .. } if *last == start => *last = end,
            Self::Stretch {
                start: first,
                end: last,
            } => {
                let mut copy = BytesMut::with_capacity(whole.len());
                copy.extend_from_slice(&whole.slice(*first..*last));
                copy.extend_from_slice(&whole.slice(start..end));
                *self = Self::Copied(copy);
            }
            Self::Copied(copy) => copy.extend_from_slice(&whole.slice(start..end)),
        }
    }

    fn finish(self, whole: &Bytes) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            // Few of many bytes would keep all of them: fields that nobody knows may be as long as a request.
            Self::Stretch { start, end } if end - start < whole.len() / 2 => {
                Bytes::copy_from_slice(&whole.slice(start..end))
            }
            Self::Stretch { start, end } => whole.slice(start..end),
            Self::Copied(copy) => copy.freeze(),
        }
    }
}

/// Reads a length and takes as many bytes.
fn length_delimited(wire_type: WireType, rest: &mut impl Buf) -> Result<Bytes, DecodeError> {
    encoding::check_wire_type(WireType::LengthDelimited, wire_type)?;
    let length = encoding::decode_varint(rest)?;
    match usize::try_from(length) {
        Ok(length) if length <= rest.remaining() => Ok(rest.copy_to_bytes(length)),
        // The constructor of the error is not public; decoding a text that ends too early makes the same one.
        _ => Err(short()),
    }
}

/// The error of a field that ends beyond the buffer.
fn short() -> DecodeError {
    let mut nothing = String::new();
    let result = encoding::string::merge(
        WireType::LengthDelimited,
        &mut nothing,
        &mut [1_u8].as_slice(),
        DecodeContext::default(),
    );
    match result {
        Err(error) => error,
        Ok(()) => unreachable!("a length of 1 without a byte is an error"),
    }
}

#[cfg(test)]
mod tests;
