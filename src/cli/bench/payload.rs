//! What a message of the load holds: when it was due, and then bytes that do not compress.
//!
//! Begin with [`Payloads::stamped`].

use std::hash::{DefaultHasher, Hasher};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// What a stamp takes. A smaller message has none.
pub(super) const STAMP_BYTES: usize = 8;

/// What stamps are counted from.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Payloads of one size.
#[derive(Debug, Clone)]
pub(super) struct Payloads {
    filling: Vec<u8>,
}

impl Payloads {
    pub(super) fn new(size: u32) -> Self {
        let mut filling = vec![0; size as usize];
        for (number, chunk) in (0..).zip(filling.chunks_mut(size_of::<u64>())) {
            let mut noise = DefaultHasher::new();
            noise.write_u64(number);
            for (byte, noise) in chunk.iter_mut().zip(noise.finish().to_le_bytes()) {
                *byte = noise;
            }
        }
        epoch();
        Self { filling }
    }

    /// One that says when it was due.
    pub(super) fn stamped(&self, due: Instant) -> Bytes {
        let mut payload = self.filling.clone();
        if let Some(stamp) = payload.first_chunk_mut::<STAMP_BYTES>() {
            let nanos = due.saturating_duration_since(epoch()).as_nanos();
            *stamp = u64::try_from(nanos).unwrap_or(u64::MAX).to_le_bytes();
        }
        payload.into()
    }
}

/// How long ago it was due, when it has a stamp.
pub(super) fn age(payload: &[u8]) -> Option<Duration> {
    let stamp = payload.first_chunk::<STAMP_BYTES>()?;
    let due = Duration::from_nanos(u64::from_le_bytes(*stamp));
    Some(epoch().elapsed().saturating_sub(due))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_tells_when_it_was_due() {
        let due = Instant::now();
        let payload = Payloads::new(16).stamped(due);
        assert_eq!(payload.len(), 16);
        let told = age(&payload).unwrap();
        assert!(told <= due.elapsed(), "{told:?}");
        assert_eq!(age(&Payloads::new(7).stamped(due)), None);
    }
}
