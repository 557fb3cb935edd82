//! How a clerk sends what it has for its streams. Begin with [`Clerk::tell`].

use super::clerk::{Clerk, Seat};
use super::desk::{ConsumerId, Desk};
use crate::broker::{Access, Delivered, Post};
use crate::types::{ByteCount, OffsetRange, StoredBatch};

impl<R: Access, P: Post> Clerk<R, P> {
    /// Sends what there is room for.
    pub(super) fn tell(&mut self) {
        let (mut expelled, mut has_dropped) = (Vec::new(), false);
        for (id, seat) in &mut self.seats {
            if !seat.settled.is_empty()
                && let Ok(place) = seat.events.try_reserve()
            {
                let ranges = std::mem::take(&mut seat.settled);
                place.send(Ok(Delivered::Settled { ranges }));
            }
            if seat.events.capacity() > 0 {
                has_dropped |= drop_lost(*id, seat, &mut self.desk);
            }
            while !seat.ready.is_empty()
                && let Ok(place) = seat.events.try_reserve()
                && let Some(event) = seat.ready.pop_front()
            {
                if event.is_err() {
                    expelled.push(*id);
                }
                place.send(event);
            }
        }
        for id in expelled {
            self.seats.remove(&id);
        }
        if has_dropped {
            // There is credit again: what is next is read at once.
            self.bell.rung.notify_one();
        }
    }
}

/// Drops messages that wait here and that the stream does not have any more: their lease is over, or somebody has acknowledged them. Whether there were any.
fn drop_lost(id: ConsumerId, seat: &mut Seat, desk: &mut Desk) -> bool {
    let mut has_dropped = false;
    for event in std::mem::take(&mut seat.ready) {
        let Ok(Delivered::Batch {
            batch,
            attempt,
            mut missed,
        }) = event
        else {
            seat.ready.push_back(event);
            continue;
        };
        let all = batch.base_offset..batch.next_offset();
        let held = desk.held_of(id, all.clone());
        if held.iter().eq([all]) {
            seat.ready.push_back(Ok(Delivered::Batch {
                batch,
                attempt,
                missed,
            }));
            continue;
        }
        has_dropped = true;
        let count = u64::from(batch.batch.count());
        seat.credit.put_back(count, batch.batch.bytes());
        for part in held.iter().filter_map(|run| slice(&batch, &run)) {
            let count = u64::from(part.batch.count());
            seat.credit.take(count, part.batch.bytes());
            seat.ready.push_back(Ok(Delivered::Batch {
                batch: part,
                attempt,
                missed: std::mem::take(&mut missed),
            }));
        }
        desk.put_missed(missed);
    }
    has_dropped
}

/// A part of a batch.
pub(super) fn slice(stored: &StoredBatch, run: &OffsetRange) -> Option<StoredBatch> {
    let skip = run.start.0.checked_sub(stored.base_offset.0)?;
    let count = run.end.0.checked_sub(run.start.0)?;
    let (skip, count) = (u32::try_from(skip).ok()?, u32::try_from(count).ok()?);
    Some(StoredBatch {
        base_offset: run.start,
        batch: stored.batch.slice(skip, count, ByteCount(u64::MAX))?,
        ..stored.clone()
    })
}
