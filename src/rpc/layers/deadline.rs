//! Reads the deadline of a call.

use std::time::Duration;

use cubecast_sdk::proto::v1::ErrorReason;
use http::HeaderMap;
use tonic::Status;

use crate::rpc::status::Fault;

/// At most so many digits, says the gRPC protocol.
const DIGITS_MAX: usize = 8;

/// The time that the caller gives, from `grpc-timeout`: digits and a unit. `None`: absent, or not as the protocol says.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    if digits.len() > DIGITS_MAX || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(count * 3600)),
        'M' => Some(Duration::from_secs(count * 60)),
        'S' => Some(Duration::from_secs(count)),
        'm' => Some(Duration::from_millis(count)),
        'u' => Some(Duration::from_micros(count)),
        'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The deadline had passed when the call came.
pub(super) fn already_past() -> Status {
    Fault::new(
        ErrorReason::DeadlineExceeded,
        "the deadline had passed when the call came",
    )
    .into_status()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_the_protocol_are_read() {
        let read = |text: &str| {
            timeout(&HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                text.parse().unwrap(),
            )]))
        };
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("4S"), Some(Duration::from_secs(4)));
        assert_eq!(read("5m"), Some(Duration::from_millis(5)));
        assert_eq!(read("6u"), Some(Duration::from_micros(6)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in ["", "5", "m", "-5m", "123456789m", "5x", "5 m"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
