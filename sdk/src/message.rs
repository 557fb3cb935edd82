//! Messages on their way in, and the run of bytes that a publish is.
//!
//! It never sends. Begin with [`Message`].

use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::WireType;

use crate::convert;
use crate::model::{AckLevel, Placement};
use crate::proto::v1;

/// The field of the messages in a request to publish.
const MESSAGES_FIELD: u32 = 4;

/// A message to publish. Key and payload are not both empty.
///
/// ```
/// use cubecast_sdk::Message;
///
/// let message = Message::new("rain").with_key("weather").with_header("language", "en");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Message(v1::Message);

impl Message {
    /// A message with this content.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self(v1::Message {
            payload: payload.into(),
            ..v1::Message::default()
        })
    }

    /// What peers count of it: key, payload and headers with their frames.
    pub(crate) fn bytes(&self) -> usize {
        self.0.encoded_len()
    }

    /// It says nothing; no peer takes it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.key.is_empty() && self.0.payload.is_empty()
    }

    /// Appends it to a run. `bytes` is what [`Self::bytes`] says, which is not to be counted twice.
    pub(crate) fn encode_into(&self, bytes: usize, run: &mut BytesMut) {
        prost::encoding::encode_key(MESSAGES_FIELD, WireType::LengthDelimited, run);
        prost::encoding::encode_varint(bytes as u64, run);
        self.0.encode_raw(run);
    }

    /// Says what the message is about.
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.0.key = key.into();
        self
    }

    /// Adds a named value.
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.0.headers.push(v1::Header {
            name: name.into(),
            value: value.into(),
        });
        self
    }
}

macro_rules! from_payload {
    ($($payload:ty),*) => {
        $(impl From<$payload> for Message {
            fn from(payload: $payload) -> Self {
                Self::new(payload)
            }
        })*
    };
}

from_payload!(Bytes, String, Vec<u8>, &'static str, &'static [u8]);

/// What became of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The offset of the first message; the others follow densely.
    pub first_offset: u64,
    /// How many messages there were.
    pub message_count: u32,
    /// When the leader took them.
    pub append_time: SystemTime,
    /// An earlier attempt of the same publish had appended them already.
    pub is_duplicate: bool,
    /// The vertices of the peers known to have stored them.
    pub stored_by: Vec<String>,
    /// The level that was really reached.
    pub reached: AckLevel,
    /// Where the topic lives.
    pub placement: Placement,
    /// In words, when the owner could not be reached: "cannot reach owner 100; served by replica 101".
    pub note: Option<String>,
}

impl Published {
    pub(crate) fn new(answer: v1::PublishResponse) -> Self {
        Self {
            reached: answer.reached().into(),
            first_offset: answer.first_offset,
            message_count: answer.message_count,
            append_time: convert::time(answer.append_time),
            is_duplicate: answer.is_duplicate,
            stored_by: answer.stored_by,
            placement: answer.placement.unwrap_or_default().into(),
            note: None,
        }
    }

    /// The part of a merged publish that begins `skip` messages later and has `count` messages.
    pub(crate) fn part(&self, skip: u64, count: u32) -> Self {
        Self {
            first_offset: self.first_offset.saturating_add(skip),
            message_count: count,
            ..self.clone()
        }
    }
}

/// Messages encoded as the field of a request: runs can be joined, and the request is a head and runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) count: u32,
    pub(crate) bytes: Bytes,
}

impl Run {
    pub(crate) fn new<M: Into<Message>>(messages: impl IntoIterator<Item = M>) -> Self {
        let mut bytes = BytesMut::new();
        let mut count: u32 = 0;
        for message in messages {
            let message = message.into();
            message.encode_into(message.bytes(), &mut bytes);
            count = count.saturating_add(1);
        }
        Self {
            count,
            bytes: bytes.freeze(),
        }
    }
}

/// The messages of a run, each with its frame.
pub(crate) fn frames(run: &Bytes) -> Vec<Bytes> {
    let mut rest = run.clone();
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let mut inside: &[u8] = &rest;
        let tag = prost::encoding::decode_key(&mut inside);
        let length = prost::encoding::decode_varint(&mut inside);
        let (Ok(_), Ok(length)) = (tag, length) else {
            break;
        };
        let head = rest.len() - inside.len();
        let end = usize::try_from(length).map_or(rest.len(), |length| head.saturating_add(length));
        frames.push(rest.split_to(end.min(rest.len())));
    }
    frames
}

/// A request to publish the runs, of which `head` has everything but the messages.
pub(crate) fn request<'a>(
    head: &impl prost::Message,
    runs: impl Iterator<Item = &'a Run> + Clone,
) -> Bytes {
    let length = head.encoded_len() + runs.clone().map(|run| run.bytes.len()).sum::<usize>();
    let mut bytes = BytesMut::with_capacity(length);
    head.encode_raw(&mut bytes);
    for run in runs {
        bytes.put_slice(&run.bytes);
    }
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_runs_are_one_request() {
        let head = v1::PublishRequest {
            topic: "news".to_owned(),
            acks: 2,
            ..v1::PublishRequest::default()
        };
        let runs = [
            Run::new(["a", "b"]),
            Run::new([Message::new("c").with_key("k").with_header("h", "v")]),
        ];
        let request = v1::PublishRequest::decode(request(&head, runs.iter())).unwrap();
        assert_eq!((request.topic.as_str(), request.acks), ("news", 2));
        let payloads: Vec<_> = request
            .messages
            .iter()
            .map(|message| message.payload.clone())
            .collect();
        assert_eq!(payloads, ["a", "b", "c"]);
        assert_eq!(request.messages[2].key, "k");
        assert_eq!(request.messages[2].headers[0].value, "v");
    }

    #[test]
    fn part_of_a_publish_has_its_own_offsets() {
        let whole = Published::new(v1::PublishResponse {
            first_offset: 10,
            message_count: 5,
            ..v1::PublishResponse::default()
        });
        let part = whole.part(2, 3);
        assert_eq!((part.first_offset, part.message_count), (12, 3));
    }
}
