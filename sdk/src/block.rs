//! Blocks: messages that were compressed together and lie in the log as one.
//!
//! A block is a message whose `block` field says how its payload was made: the encoded messages, compressed. Peers store it as any other message and never
//! look into it. Never sends. Begin with [`packed`] and [`open`].

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use crate::bundle::{Bundle, MESSAGES_MAX, Packing};
use crate::message::Run;
use crate::producer::ProducerOptions;
use crate::proto::v1;
use crate::receipt::Shape;

/// A block that says to hold more is not opened: what a peer sends must not take all memory.
const BYTES_MAX: u32 = 4 << 20;
/// The field of the messages in a block, as in a request.
const MESSAGES_FIELD: u32 = 4;

/// How messages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// LZ4: fast, and better than nothing with text and numbers.
    Lz4,
}

/// What is sent of a bundle. Compressed once, however often it is sent.
pub(crate) fn packed<'a>(
    options: &ProducerOptions,
    message_bytes_max: usize,
    bundle: &'a mut Bundle,
) -> &'a Run {
    if let Packing::Unknown = bundle.packing {
        bundle.packing = match options
            .compression
            .and_then(|how| compress(how, message_bytes_max, &bundle.run))
        {
            Some(block) => Packing::Block(block),
            None => Packing::Plain,
        };
    }
    match &bundle.packing {
        Packing::Block(block) => block,
        Packing::Plain | Packing::Unknown => &bundle.run,
    }
}

/// How the messages of a bundle lie in the log.
pub(crate) fn shape(bundle: &Bundle) -> Shape {
    match bundle.packing {
        Packing::Block(_) => Shape::Block,
        Packing::Plain | Packing::Unknown => Shape::Dense,
    }
}

/// A run as one block, which is a message. `None`: that would not be smaller, or larger than peers take.
fn compress(how: Compression, message_bytes_max: usize, run: &Run) -> Option<Run> {
    let Compression::Lz4 = how;
    let bytes = u32::try_from(run.bytes.len())
        .ok()
        .filter(|bytes| *bytes <= BYTES_MAX)?;
    let message = v1::Message {
        payload: lz4_flex::block::compress(&run.bytes).into(),
        block: Some(v1::Block {
            compression: v1::Compression::Lz4.into(),
            message_count: run.count,
            bytes,
        }),
        ..v1::Message::default()
    };
    if message.encoded_len() > message_bytes_max {
        return None;
    }
    let mut block = BytesMut::with_capacity(message.encoded_len() + 8);
    prost::encoding::message::encode(MESSAGES_FIELD, &message, &mut block);
    (block.len() < run.bytes.len()).then(|| Run {
        count: 1,
        bytes: block.freeze(),
    })
}

/// The messages of a block. `None`: it is none, or of a kind that this SDK does not know.
pub(crate) fn open(message: &v1::Message) -> Option<Vec<v1::Message>> {
    let block = message.block.as_ref()?;
    if block.compression() != v1::Compression::Lz4 || block.bytes > BYTES_MAX {
        return None;
    }
    let size = usize::try_from(block.bytes).ok()?;
    let run = lz4_flex::block::decompress(&message.payload, size).ok()?;
    // A block that does not hold what it says would give messages wrong places. Counted before anything is made of them: the smallest message takes two
    // bytes here, and fifty times as much in memory.
    if block.message_count == 0 || frames(&run)? != block.message_count {
        return None;
    }
    let inside = v1::MessageBatch::decode(Bytes::from(run)).ok()?.messages;
    Some(inside)
}

/// How many messages there are in a run. `None`: it is none, or one of too many.
fn frames(mut run: &[u8]) -> Option<u32> {
    let mut count = 0_u32;
    while !run.is_empty() {
        let (field, wire_type) = prost::encoding::decode_key(&mut run).ok()?;
        if field != MESSAGES_FIELD || wire_type != prost::encoding::WireType::LengthDelimited {
            return None;
        }
        let length = prost::encoding::decode_varint(&mut run).ok()?;
        run = run.get(usize::try_from(length).ok()?..)?;
        count = count
            .checked_add(1)
            .filter(|count| *count <= MESSAGES_MAX)?;
    }
    Some(count)
}

/// How many messages there are in one, as far as it says.
pub(crate) fn count(message: &v1::Message) -> usize {
    let count = message.block.as_ref().map(|block| block.message_count);
    count.map_or(1, |count| usize::try_from(count).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(run: &Run) -> v1::Message {
        let block = compress(Compression::Lz4, usize::MAX, run).unwrap();
        assert_eq!(block.count, 1);
        let batch = v1::MessageBatch::decode(block.bytes).unwrap();
        batch.messages.into_iter().next().unwrap()
    }

    #[test]
    fn block_holds_its_messages_in_order() {
        let texts: Vec<String> = (0..100).map(|number| format!("message {number}")).collect();
        let message = block(&Run::new(texts.clone()));
        assert_eq!(count(&message), 100);
        let inside = open(&message).unwrap();
        let read: Vec<_> = inside.iter().map(|message| &message.payload[..]).collect();
        let written: Vec<_> = texts.iter().map(String::as_bytes).collect();
        assert_eq!(read, written);
    }

    #[test]
    fn block_of_too_many_messages_is_not_opened() {
        let run: Vec<u8> = [0x22, 0].repeat(20_000);
        let message = |count| v1::Message {
            payload: lz4_flex::block::compress(&run).into(),
            block: Some(v1::Block {
                compression: v1::Compression::Lz4.into(),
                message_count: count,
                bytes: 40_000,
            }),
            ..v1::Message::default()
        };
        assert!(open(&message(20_000)).is_none());
        assert!(open(&message(10_000)).is_none());
    }

    #[test]
    fn block_is_no_larger_than_a_message_may_be() {
        let run = Run::new(vec![vec![7_u8; 100]; 10]);
        let bytes = block(&run).encoded_len();
        assert!(compress(Compression::Lz4, bytes, &run).is_some());
        assert!(compress(Compression::Lz4, bytes - 1, &run).is_none());
    }

    #[test]
    fn what_would_not_get_smaller_stays_as_it_is() {
        assert!(compress(Compression::Lz4, usize::MAX, &Run::new(["a"])).is_none());
    }

    #[test]
    fn block_that_is_not_whole_is_not_opened() {
        let whole = block(&Run::new(vec![vec![7_u8; 100]; 10]));
        let wrong = |change: fn(&mut v1::Message)| {
            let mut message = whole.clone();
            change(&mut message);
            open(&message)
        };
        assert!(wrong(|message| message.payload = message.payload.slice(1..)).is_none());
        assert!(wrong(|message| message.block.as_mut().unwrap().bytes = u32::MAX).is_none());
        assert!(wrong(|message| message.block.as_mut().unwrap().bytes -= 1).is_none());
        assert!(wrong(|message| message.block.as_mut().unwrap().message_count = 11).is_none());
        assert!(wrong(|message| message.block.as_mut().unwrap().compression = 99).is_none());
        assert!(wrong(|message| message.block = None).is_none());
        assert!(open(&whole).is_some());
    }
}
