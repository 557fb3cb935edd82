//! The messages of one publish, kept as one opaque run of bytes from the client to the disk and back.
//!
//! ```text
//! payload = message*        message = 0x22 length:varint bytes[length]
//! ```
//! That is how protobuf encodes `repeated Message messages = 4`, the field of both `PublishRequest` and `MessageBatch`: what a client sent is
//! what the log holds and what a subscriber gets. Here only the framing is read, never a message.

use bytes::Bytes;

use super::{ByteCount, LogPosition, Offset, PublisherId, Sequence, SessionId, Timestamp};

/// Key of field 4 with wire type 2 (length-delimited).
const MESSAGE_TAG: u8 = 0x22;

/// A run of messages whose framing has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// How many messages the payload holds; at least 1.
    count: u32,
    payload: Bytes,
}

impl Batch {
    /// Checks the framing and counts the messages.
    ///
    /// # Errors
    /// [`BatchError`] when a frame is broken or there is no message.
    pub fn new(payload: Bytes) -> Result<Self, BatchError> {
        let mut count: u32 = 0;
        let mut position = 0;
        while position < payload.len() {
            position = frame_end(&payload, position)?;
            count = count.checked_add(1).ok_or(BatchError::Frame { position })?;
        }
        if count == 0 {
            return Err(BatchError::Empty);
        }
        Ok(Self { count, payload })
    }

    /// How many messages there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The run of bytes.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// How long the run is.
    pub fn bytes(&self) -> ByteCount {
        ByteCount(self.payload.len() as u64)
    }

    /// The batch without its first `skip` messages, cut after as many messages as fit into `count_max` and `bytes_max`, but at least one
    /// when one is left. Shares the bytes. `None` when no message is left.
    #[must_use]
    pub fn slice(&self, skip: u32, count_max: u32, bytes_max: ByteCount) -> Option<Self> {
        if skip >= self.count {
            return None;
        }
        if skip == 0 && count_max >= self.count && bytes_max >= self.bytes() {
            return Some(self.clone());
        }
        let mut start = 0;
        for _ in 0..skip {
            start = frame_end(&self.payload, start).ok()?;
        }
        let mut end = frame_end(&self.payload, start).ok()?;
        let mut count = 1;
        while count < count_max && skip + count < self.count {
            let next = frame_end(&self.payload, end).ok()?;
            if (next - start) as u64 > bytes_max.0 {
                break;
            }
            end = next;
            count += 1;
        }
        Some(Self {
            count,
            payload: self.payload.slice(start..end),
        })
    }
}

/// Where the frame that begins at `position` ends.
fn frame_end(payload: &[u8], position: usize) -> Result<usize, BatchError> {
    let broken = BatchError::Frame { position };
    let frame = payload.get(position..).ok_or(broken.clone())?;
    let (tag, mut rest) = frame.split_first().ok_or(broken.clone())?;
    if *tag != MESSAGE_TAG {
        return Err(broken);
    }
    let after = rest.len();
    let length = prost::encoding::decode_varint(&mut rest).map_err(|_| broken.clone())?;
    // Only the shortest form: readers count a frame by its content, and equal batches are equal bytes.
    if after - rest.len() != prost::encoding::encoded_len_varint(length) {
        return Err(broken);
    }
    let length = usize::try_from(length).map_err(|_| broken.clone())?;
    if length > rest.len() {
        return Err(broken);
    }
    Ok(payload.len() - rest.len() + length)
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There is no message.
    #[error("a batch has at least one message, this one has none")]
    Empty,
    /// A frame does not begin with the tag, or ends beyond the batch.
    #[error("the batch is broken at byte {position}: no message begins there")]
    Frame {
        /// Where the frame should begin.
        position: usize,
    },
}

/// A batch in its topic, with its envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    /// Offset of the first message; the others follow densely.
    pub base_offset: Offset,
    /// When the leader proposed it. Does not decrease within a topic.
    pub append_time: Timestamp,
    /// Who published it, with session and sequence, when the call said so.
    pub origin: Option<(PublisherId, SessionId, Sequence)>,
    /// The entry of the shard's log that brought it.
    pub log_position: LogPosition,
    /// The messages.
    pub batch: Batch,
}

impl StoredBatch {
    /// The offset after the last message.
    pub fn next_offset(&self) -> Offset {
        self.base_offset.plus(u64::from(self.batch.count()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(messages: &[&[u8]]) -> Bytes {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.push(MESSAGE_TAG);
            prost::encoding::encode_varint(message.len() as u64, &mut bytes);
            bytes.extend_from_slice(message);
        }
        bytes.into()
    }

    #[test]
    fn messages_are_counted_without_decoding() {
        assert_eq!(Batch::new(run(&[b"a", &[7; 300], b""])).unwrap().count(), 3);
        assert_eq!(Batch::new(Bytes::new()), Err(BatchError::Empty));
    }

    #[test]
    fn broken_frames_are_refused_at_their_place() {
        let whole = run(&[b"abc", b"defg"]);
        for cut in 1..whole.len() {
            let cut_at_frame = cut == 5;
            assert_eq!(
                Batch::new(whole.slice(..cut)).is_ok(),
                cut_at_frame,
                "cut at {cut}"
            );
        }
        assert_eq!(
            Batch::new(Bytes::from_static(b"\x1a\x00")),
            Err(BatchError::Frame { position: 0 })
        );
        assert!(
            Batch::new(Bytes::from_static(
                b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
            ))
            .is_err()
        );
    }

    #[test]
    fn slice_takes_from_the_middle_and_keeps_at_least_one() {
        let batch = Batch::new(run(&[b"a", b"bb", b"ccc"])).unwrap();
        assert_eq!(
            batch.slice(1, 1, ByteCount(100)).unwrap().payload(),
            &run(&[b"bb"])
        );
        assert_eq!(
            batch.slice(1, 9, ByteCount(1)).unwrap().payload(),
            &run(&[b"bb"])
        );
        assert_eq!(
            batch.slice(0, 9, ByteCount(7)).unwrap().payload(),
            &run(&[b"a", b"bb"])
        );
        assert_eq!(batch.slice(0, 9, ByteCount(100)).unwrap(), batch);
        assert_eq!(batch.slice(3, 9, ByteCount(100)), None);
    }
}
