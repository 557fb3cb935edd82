//! Checks the messages of a publish without decoding them.
//!
//! What passes here can be decoded by every reader: a batch is given back as it came, so a broken message must not get in. Nothing is
//! allocated. Begin with [`check`].

use std::str;

use bytes::Buf;
use cubecast_sdk::proto::v1::ErrorReason;
use prost::DecodeError;
use prost::encoding::{self, DecodeContext, WireType};

use super::status::Fault;
use crate::types::{Batch, BatchError, Limits};

use bytes::Bytes;

/// The batch in a run of messages, when every message is whole, not empty and not too large.
///
/// # Errors
/// A [`Fault`] that names the message and the limit.
pub fn check(messages: Bytes, limits: &Limits) -> Result<Batch, Fault> {
    let batch = Batch::new(messages).map_err(|error| match error {
        BatchError::Empty => Fault::new(
            ErrorReason::BatchEmpty,
            "a publish has at least one message",
        )
        .in_field("messages"),
        BatchError::Frame { .. } => Fault::new(ErrorReason::RequestMalformed, error.to_string()),
    })?;
    if batch.count() > limits.publish_messages_max {
        let text = format!(
            "a publish has at most {} messages, this one has {}",
            limits.publish_messages_max,
            batch.count()
        );
        let fault = Fault::new(ErrorReason::BatchTooMany, text).in_field("messages");
        return Err(fault
            .with("limit", limits.publish_messages_max)
            .with("actual", batch.count()));
    }
    let mut rest: &[u8] = batch.payload();
    let mut index: u32 = 0;
    while let Some(message) = next_message(&mut rest) {
        check_message(message, index, limits)?;
        index += 1;
    }
    Ok(batch)
}

/// The body of the first message; `Batch` has checked that it is whole.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (_, mut after_tag) = rest.split_first()?;
    let length = usize::try_from(encoding::decode_varint(&mut after_tag).ok()?).ok()?;
    let (message, after) = after_tag.split_at_checked(length)?;
    *rest = after;
    Some(message)
}

fn check_message(message: &[u8], index: u32, limits: &Limits) -> Result<(), Fault> {
    let field = || format!("messages[{index}]");
    if message.len() as u64 > limits.message_bytes_max {
        let text = format!(
            "a message has at most {} bytes, this one has {}",
            limits.message_bytes_max,
            message.len()
        );
        let fault = Fault::new(ErrorReason::MessageTooLarge, text)
            .in_field(field())
            .with("index", index);
        return Err(fault
            .with("limit", limits.message_bytes_max)
            .with("actual", message.len()));
    }
    match has_content(message) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let fault = Fault::new(
                ErrorReason::MessageEmpty,
                "a message has a key or a payload",
            );
            Err(fault.in_field(field()).with("index", index))
        }
        Err(error) => Err(Fault::new(
            ErrorReason::RequestMalformed,
            format!("{}: {error}", field()),
        )),
    }
}

/// Whether the message has a key or a payload; an error when it is no `cubecast.v1.Message`.
fn has_content(mut message: &[u8]) -> Result<bool, DecodeError> {
    let (mut key_bytes, mut payload_bytes) = (0, 0);
    while message.has_remaining() {
        let (tag, wire_type) = encoding::decode_key(&mut message)?;
        match tag {
            1 => key_bytes = bytes_field(wire_type, &mut message)?.len(),
            2 => payload_bytes = bytes_field(wire_type, &mut message)?.len(),
            3 => check_header(bytes_field(wire_type, &mut message)?)?,
            4 => check_block(bytes_field(wire_type, &mut message)?)?,
            _ => skip_field(wire_type, tag, &mut message)?,
        }
    }
    Ok(key_bytes + payload_bytes > 0)
}

fn check_header(mut header: &[u8]) -> Result<(), DecodeError> {
    while header.has_remaining() {
        let (tag, wire_type) = encoding::decode_key(&mut header)?;
        match tag {
            1 if str::from_utf8(bytes_field(wire_type, &mut header)?).is_err() => {
                return Err(broken_text());
            }
            1 => {}
            2 => drop(bytes_field(wire_type, &mut header)?),
            _ => skip_field(wire_type, tag, &mut header)?,
        }
    }
    Ok(())
}

/// How a block is compressed is not looked at, only that it can be read what is said of it.
fn check_block(mut block: &[u8]) -> Result<(), DecodeError> {
    while block.has_remaining() {
        let (tag, wire_type) = encoding::decode_key(&mut block)?;
        if matches!(tag, 1..=3) {
            encoding::check_wire_type(WireType::Varint, wire_type)?;
        }
        skip_field(wire_type, tag, &mut block)?;
    }
    Ok(())
}

/// Passes a field that is not looked at. Groups are refused: proto3 has none, and one that is nested as deep as may be here would be too deep for every
/// reader, to whom the message comes inside others.
fn skip_field(wire_type: WireType, tag: u32, rest: &mut &[u8]) -> Result<(), DecodeError> {
    if matches!(wire_type, WireType::StartGroup | WireType::EndGroup) {
        encoding::check_wire_type(WireType::LengthDelimited, wire_type)?;
    }
    encoding::skip_field(wire_type, tag, rest, DecodeContext::default())
}

fn bytes_field<'a>(wire_type: WireType, rest: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    encoding::check_wire_type(WireType::LengthDelimited, wire_type)?;
    let length = encoding::decode_varint(rest)?;
    let split = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length));
    let (field, after) = split.ok_or_else(broken_text)?;
    *rest = after;
    Ok(field)
}

/// prost keeps the constructor of its error to itself; a text that is no text gives one.
fn broken_text() -> DecodeError {
    let mut text = String::new();
    let invalid: &[u8] = &[1, 0xff];
    let result = encoding::string::merge(
        WireType::LengthDelimited,
        &mut text,
        &mut { invalid },
        DecodeContext::default(),
    );
    match result {
        Err(error) => error,
        Ok(()) => unreachable!("the byte ff is in no text"),
    }
}

#[cfg(test)]
mod tests {
    use cubecast_sdk::proto::v1 as proto;
    use prost::Message;

    use super::*;

    fn run(messages: Vec<proto::Message>) -> Bytes {
        proto::PublishRequest {
            messages,
            ..Default::default()
        }
        .encode_to_vec()
        .into()
    }

    fn payload(bytes: usize) -> proto::Message {
        proto::Message {
            payload: vec![7; bytes].into(),
            ..Default::default()
        }
    }

    fn limits() -> Limits {
        Limits {
            message_bytes_max: 100,
            publish_messages_max: 3,
            ..Limits::default()
        }
    }

    fn why(messages: Bytes) -> (ErrorReason, Option<String>) {
        let fault = check(messages, &limits()).unwrap_err();
        (fault.reason, fault.field)
    }

    #[test]
    fn messages_at_the_limits_pass() {
        let header = proto::Header {
            name: "n".to_owned(),
            value: Bytes::from_static(b"v"),
        };
        let only_key = proto::Message {
            key: Bytes::from_static(b"k"),
            headers: vec![header],
            ..Default::default()
        };
        assert_eq!(payload(98).encoded_len(), 100);
        assert_eq!(
            check(run(vec![payload(98), only_key, payload(1)]), &limits())
                .unwrap()
                .count(),
            3
        );
    }

    #[test]
    fn each_limit_names_itself_and_the_message() {
        assert_eq!(
            why(Bytes::new()),
            (ErrorReason::BatchEmpty, Some("messages".to_owned()))
        );
        assert_eq!(why(run(vec![payload(1); 4])).0, ErrorReason::BatchTooMany);
        assert_eq!(
            why(run(vec![payload(1), payload(99)])),
            (ErrorReason::MessageTooLarge, Some("messages[1]".to_owned()))
        );
        assert_eq!(
            why(run(vec![payload(1), proto::Message::default()])),
            (ErrorReason::MessageEmpty, Some("messages[1]".to_owned()))
        );
    }

    #[test]
    fn messages_that_a_reader_could_not_decode_do_not_pass() {
        for broken in [
            &b"\x22\x02\x12\x05"[..],
            b"\x22\x02\x10\x05",
            b"\x22\x01\x12",
            b"\x22\x05\x1a\x03\x0a\x01\xff",
            // Groups, in a message and in a header; and a length that is longer than it needs to be.
            b"\x22\x05\x12\x01\x61\x2b\x2c",
            b"\x22\x07\x12\x01\x61\x1a\x02\x2b\x2c",
            b"\x22\x83\x00\x12\x01\x61",
            b"\x18\x01",
        ] {
            assert_eq!(
                why(Bytes::from_static(broken)).0,
                ErrorReason::RequestMalformed,
                "{broken:?}"
            );
        }
    }
}
