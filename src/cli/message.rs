//! How a message is printed, for `pull` and `tail`. It acknowledges nothing. Begin with [`Printer`].

use std::io;

use clap::Args;
use cubecast_sdk::Received;

use super::output::{Format, Output};
use super::record;
use super::text;

/// How messages are printed
#[derive(Debug, Clone, Args)]
pub(super) struct Printer {
    /// Print payloads alone, byte for byte, a line end after each
    #[arg(long)]
    raw: bool,
}

impl Printer {
    /// Prints one message: `7  rain`, or with a key `7  [weather] rain`.
    pub(super) fn print(
        &self,
        topic: &str,
        message: &Received,
        output: &mut Output,
    ) -> io::Result<()> {
        if self.raw {
            output.bytes(&message.payload)?;
            return output.bytes(b"\n");
        }
        match output.format() {
            Format::Text => {
                let line = line(message.offset, &message.key, &message.payload);
                output.bytes(line.as_bytes())
            }
            Format::Json => output.line("", &record(topic, message)),
        }
    }
}

fn line(offset: u64, key: &[u8], payload: &[u8]) -> String {
    let payload = text::visible(payload);
    match key {
        [] => format!("{offset}  {payload}\n"),
        key => format!("{offset}  [{}] {payload}\n", text::visible(key)),
    }
}

fn record<'a>(topic: &'a str, message: &'a Received) -> record::Message<'a> {
    let key = Some(&*message.key).filter(|key| !key.is_empty()).map(read);
    let payload = read(&message.payload);
    let header = |header: &'a cubecast_sdk::Header| {
        let value = read(&header.value);
        record::Header {
            name: &header.name,
            value: value.text(),
            value_base64: value.base64(),
        }
    };
    record::Message {
        topic,
        offset: message.offset,
        append_time: humantime::format_rfc3339_millis(message.append_time).to_string(),
        publisher: message
            .origin
            .as_ref()
            .map(|origin| origin.publisher.as_str()),
        key: key.and_then(Bytes::text),
        key_base64: key.and_then(Bytes::base64),
        payload: payload.text(),
        payload_base64: payload.base64(),
        headers: message.headers.iter().map(header).collect(),
    }
}

/// Text, or bytes that are none.
#[derive(Debug, Clone, Copy)]
enum Bytes<'a> {
    Text(&'a str),
    Other(&'a [u8]),
}

fn read(bytes: &[u8]) -> Bytes<'_> {
    std::str::from_utf8(bytes).map_or(Bytes::Other(bytes), Bytes::Text)
}

impl<'a> Bytes<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other(_) => None,
        }
    }

    fn base64(self) -> Option<String> {
        match self {
            Self::Text(_) => None,
            Self::Other(bytes) => Some(text::base64(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_offset_key_and_payload() {
        assert_eq!(line(7, b"", b"rain"), "7  rain\n");
        assert_eq!(
            line(7, b"weather", b"two\nlines"),
            "7  [weather] two\\nlines\n"
        );
        assert_eq!(line(7, b"", &[0xff]), "7  \\xff\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        assert_eq!(
            (read(b"rain").text(), read(b"rain").base64()),
            (Some("rain"), None)
        );
        let other = read(&[0xff]);
        assert_eq!(
            (other.text(), other.base64().as_deref()),
            (None, Some("/w=="))
        );
    }
}
