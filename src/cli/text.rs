//! Small pieces of sentences, and bytes that people can look at.
//!
//! No output happens here. Begin with [`placement`] and [`visible`].

use std::fmt::Write as _;

/// `owner 100, replicas 101, 110, 000`.
pub(super) fn placement(owner: &str, replicas: &[String]) -> String {
    match replicas {
        [] => format!("owner {owner}"),
        [one] => format!("owner {owner}, replica {one}"),
        more => format!("owner {owner}, replicas {}", more.join(", ")),
    }
}

/// `1 message`, `3 messages`.
pub(super) fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// `512B`, `1.5GiB`.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut scaled: u128 = u128::from(number) * 10;
    let mut unit = "B";
    for name in UNITS {
        if scaled < 10_240 {
            break;
        }
        (scaled, unit) = (scaled / 1024, name);
    }
    match scaled % 10 {
        0 => format!("{}{unit}", scaled / 10),
        tenth => format!("{}.{tenth}{unit}", scaled / 10),
    }
}

/// `offset 7`, `offsets 0..2`: the last is the last, not the one after it.
pub(super) fn offsets(first: u64, count: u64) -> String {
    match count {
        0 | 1 => format!("offset {first}"),
        more => format!("offsets {first}..{}", first.saturating_add(more - 1)),
    }
}

/// Bytes on one line: text as it is but for its control characters, anything else escaped byte for byte.
pub(super) fn visible(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return bytes.escape_ascii().to_string();
    };
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\t' {
            // Also what would move the cursor of a terminal.
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Base64 with the standard alphabet and padding (RFC 4648 §4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| {
            bits << 8 | three.get(at).copied().map_or(0, usize::from)
        });
        for digit in 0..4 {
            let letter = ALPHABET
                .get(bits >> (18 - 6 * digit) & 0x3f)
                .filter(|_| digit <= three.len());
            text.push(letter.copied().map_or('=', char::from));
        }
    }
    text
}

/// A sentence's list: `a, b`; `-` for none.
pub(super) fn list(items: &[String]) -> String {
    if items.is_empty() {
        "-".to_owned()
    } else {
        items.join(", ")
    }
}

/// `2.310 ms`.
pub(super) fn milliseconds(time: std::time::Duration) -> String {
    let mut text = String::new();
    let micros = time.as_micros();
    // Writing into a text does not fail.
    let _always = write!(text, "{}.{:03} ms", micros / 1000, micros % 1000);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_count_well() {
        assert_eq!(count(1, "message"), "1 message");
        assert_eq!(count(0, "message"), "0 messages");
        assert_eq!(offsets(7, 1), "offset 7");
        assert_eq!(offsets(0, 3), "offsets 0..2");
        let replicas = ["101", "110", "000"].map(str::to_owned);
        assert_eq!(
            placement("100", &replicas),
            "owner 100, replicas 101, 110, 000"
        );
        assert_eq!(placement("0", &[]), "owner 0");
        assert_eq!(
            milliseconds(std::time::Duration::from_micros(2310)),
            "2.310 ms"
        );
    }

    #[test]
    fn sizes_have_one_digit_after_the_point_at_most() {
        for (number, expected) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1536, "1.5KiB"),
            (1 << 30, "1GiB"),
            (u64::MAX, "15.9EiB"),
        ] {
            assert_eq!(bytes(number), expected);
        }
    }

    #[test]
    fn text_is_shown_as_it_is_and_the_rest_is_escaped() {
        assert_eq!(visible("grüße\t1".as_bytes()), "grüße\t1");
        assert_eq!(visible(b"two\nlines\x1b[2J"), "two\\nlines\\u{1b}[2J");
        assert_eq!(visible(&[0xff, b'a', 0]), "\\xffa\\x00");
    }

    #[test]
    fn base64_has_the_values_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }
}
