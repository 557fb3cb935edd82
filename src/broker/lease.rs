//! What a stream of deliveries may still deliver, and until when what it has delivered is to be acknowledged.
//!
//! Pure but for the clock of the runtime. Begin with [`Credit`] and [`Leases`].

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::types::{ByteCount, Offset};

/// Deliveries within this part of a lease end together, so that a lease has at most some twenty ends, however much is delivered.
const GRAINS: u32 = 16;

/// What the reader allows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Credit {
    messages: u64,
    bytes: Bytes,
}

/// The bytes of a credit.
#[derive(Debug, Clone, Copy, Default)]
enum Bytes {
    /// The first credit will tell whether they count.
    #[default]
    Unknown,
    /// They do not count.
    Free,
    /// So many are left. Below 0 after a message that passed it.
    Left(i64),
}

impl Credit {
    /// Allows more. Bytes count if the first credit has some.
    pub(super) fn give(&mut self, messages: u32, bytes: ByteCount) {
        self.messages = self.messages.saturating_add(u64::from(messages));
        let more = i64::try_from(bytes.0).unwrap_or(i64::MAX);
        self.bytes = match self.bytes {
            Bytes::Unknown if more == 0 => Bytes::Free,
            Bytes::Unknown => Bytes::Left(more),
            Bytes::Free => Bytes::Free,
            Bytes::Left(left) => Bytes::Left(left.saturating_add(more)),
        };
    }

    /// Whether a message may be delivered.
    pub(super) fn is_open(self) -> bool {
        self.messages > 0 && self.bytes(1) > ByteCount(0)
    }

    /// How many messages.
    pub(super) fn messages(self) -> u64 {
        self.messages
    }

    /// How many bytes, but at most so many.
    pub(super) fn bytes(self, max: u64) -> ByteCount {
        ByteCount(match self.bytes {
            Bytes::Unknown => 0,
            Bytes::Free => max,
            Bytes::Left(left) => u64::try_from(left).unwrap_or(0).min(max),
        })
    }

    /// So much was not delivered after all.
    pub(super) fn put_back(&mut self, messages: u64, bytes: ByteCount) {
        self.messages = self.messages.saturating_add(messages);
        if let Bytes::Left(left) = &mut self.bytes {
            *left = left.saturating_add(i64::try_from(bytes.0).unwrap_or(i64::MAX));
        }
    }

    /// So much was delivered.
    pub(super) fn take(&mut self, messages: u64, bytes: ByteCount) {
        self.messages = self.messages.saturating_sub(messages);
        if let Bytes::Left(left) = &mut self.bytes {
            *left = left.saturating_sub(i64::try_from(bytes.0).unwrap_or(i64::MAX));
        }
    }
}

/// Until when what is delivered is to be acknowledged.
#[derive(Debug)]
pub(super) struct Leases {
    lease: Duration,
    /// In the order of offsets and of time.
    open: VecDeque<Lease>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    /// The end of the messages that it is about.
    next_offset: Offset,
    begun: Instant,
    ends: Instant,
}

impl Leases {
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            lease,
            open: VecDeque::new(),
        }
    }

    /// Messages up to here were delivered now.
    pub(super) fn begin(&mut self, next_offset: Offset) {
        let (now, grain) = (Instant::now(), self.lease / GRAINS);
        match self.open.back_mut() {
            // Its end leaves room for the last that joins.
            Some(last) if now.saturating_duration_since(last.begun) < grain => {
                last.next_offset = next_offset;
            }
            _ => self.open.push_back(Lease {
                next_offset,
                begun: now,
                ends: now + self.lease + grain,
            }),
        }
    }

    /// Messages before this offset are acknowledged.
    pub(super) fn release(&mut self, next_offset: Offset) {
        while self
            .open
            .front()
            .is_some_and(|lease| lease.next_offset <= next_offset)
        {
            self.open.pop_front();
        }
    }

    /// Messages from this offset on count as not delivered; those before `acknowledged` are not under way in any case.
    pub(super) fn forget(&mut self, from: Offset, acknowledged: Offset) {
        while let Some(last) = self.open.pop_back_if(|lease| lease.next_offset > from) {
            let before = self.open.back().map(|lease| lease.next_offset);
            if before.unwrap_or(acknowledged) < from {
                // What it has before that offset stays under way.
                self.open.push_back(Lease {
                    next_offset: from,
                    ..last
                });
                return;
            }
        }
    }

    /// Everything has this time from now.
    pub(super) fn extend(&mut self, lease: Duration) {
        let Some(last) = self.open.back().copied() else {
            return;
        };
        let now = Instant::now();
        self.open.clear();
        self.open.push_back(Lease {
            next_offset: last.next_offset,
            begun: now,
            ends: now + lease,
        });
    }

    /// When the first of them ends.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.open.front().map(|lease| lease.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(16);

    fn second() -> Duration {
        Duration::from_secs(1)
    }

    #[test]
    fn bytes_count_if_the_first_credit_has_some() {
        let mut free = Credit::default();
        assert!(!free.is_open());
        free.give(2, ByteCount(0));
        assert_eq!(free.bytes(100), ByteCount(100));
        free.take(1, ByteCount(1_000));
        free.give(0, ByteCount(10));
        assert_eq!((free.messages(), free.bytes(100)), (1, ByteCount(100)));
        let mut counted = Credit::default();
        counted.give(2, ByteCount(10));
        counted.take(1, ByteCount(11));
        counted.give(5, ByteCount(0));
        assert!(!counted.is_open(), "one message passed it");
        counted.give(0, ByteCount(2));
        assert!(counted.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn lease_ends_not_before_its_time_and_they_are_few() {
        let mut leases = Leases::new(LEASE);
        let begun = Instant::now();
        for number in 1..=1_600 {
            leases.begin(Offset(number));
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!(leases.open.len() <= 17, "{}", leases.open.len());
        let ends = leases.ends().unwrap();
        assert!(ends >= begun + LEASE + second());
        leases.release(Offset(1_599));
        assert!(leases.ends().unwrap() > ends);
        leases.release(Offset(1_600));
        assert_eq!(leases.ends(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_rejected_is_not_under_way_and_what_is_before_it_is() {
        let mut leases = Leases::new(LEASE);
        for number in [10, 20, 30] {
            leases.begin(Offset(number));
            tokio::time::advance(second()).await;
        }
        let first = leases.ends();
        leases.forget(Offset(15), Offset(0));
        let ends: Vec<_> = leases
            .open
            .iter()
            .map(|lease| lease.next_offset.0)
            .collect();
        assert_eq!((ends, leases.ends()), (vec![10, 15], first));
        leases.forget(Offset(5), Offset(0));
        assert_eq!(leases.open.front().unwrap().next_offset, Offset(5));
        leases.forget(Offset(3), Offset(3));
        assert_eq!(leases.ends(), None);
    }
}
