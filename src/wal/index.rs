//! Where a shard's entries are: the shard's part of the log as readers see it, and as the disk has it.
//!
//! Readers see what was submitted, at once; the places on disk follow when a group is durable. Every visible entry is in `recent`, in
//! `slots`, or in both. No I/O here. Begin with [`ShardLog`].

use std::collections::VecDeque;
use std::mem::size_of;

use bytes::Bytes;

use super::record::Kind;
use super::{Bounds, Entry, Purged};
use crate::types::{LogIndex, LogPosition, Term};

/// Where an entry's record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Number of the segment.
    pub(crate) segment: u32,
    /// Where the record begins.
    pub(crate) position: u32,
    /// How long the payload is.
    pub(crate) payload: u32,
}

/// A record that is durable now, as far as the index needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement {
    /// The operation that brought it.
    pub(crate) ticket: u64,
    /// Its shard.
    pub(crate) shard: u16,
    /// Entry, cut, purge or reset; others are not placed.
    pub(crate) kind: Kind,
    /// As in the record.
    pub(crate) position: LogPosition,
    /// Where it is.
    pub(crate) slot: Slot,
}

/// Where to find an entry's payload.
#[derive(Debug)]
pub(crate) enum Found {
    /// In memory.
    Cached(Entry),
    /// On disk.
    Stored { position: LogPosition, slot: Slot },
}

#[derive(Debug)]
struct Recent {
    /// The operation that brought it; not to be evicted before it is written.
    ticket: u64,
    entry: Entry,
}

/// What an entry in memory costs beyond its payload.
const RECENT_BYTES: u64 = size_of::<Recent>() as u64;

/// One shard's log.
#[derive(Debug, Default)]
pub(crate) struct ShardLog {
    /// The last entry no longer needed. Never decreases.
    pub(crate) purged: Option<Purged>,
    /// As submitted last.
    pub(crate) hard_state: Option<Bytes>,
    /// As submitted last.
    pub(crate) committed: Option<Bytes>,
    /// The highest visible entry known durable.
    pub(crate) durable: Option<LogPosition>,
    /// The first visible entry, or `next` when there is none.
    first: u64,
    /// The index after the last visible entry.
    next: u64,
    /// Index from which on a term holds, ascending; covers `first..next`.
    terms: VecDeque<(u64, Term)>,
    /// The last entries before `next`, without gaps. Has all that are not written.
    recent: VecDeque<Recent>,
    recent_bytes: u64,
    /// The last operation that took visible entries away from the end; what older ones brought no longer counts as durable.
    cut_ticket: u64,
    /// Index of the first slot.
    slots_first: u64,
    /// Places of the entries on disk, without gaps.
    slots: VecDeque<Slot>,
}

impl ShardLog {
    /// The first visible index, and the index that the next entry has.
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.first, self.next)
    }

    /// What there is.
    pub(crate) fn bounds(&self) -> Bounds {
        let first = (self.first < self.next).then_some(LogIndex(self.first));
        Bounds {
            first,
            last: first.and_then(|_| self.position(self.next - 1)),
            purged: self.purged.clone(),
            hard_state: self.hard_state.clone(),
            committed: self.committed.clone(),
        }
    }

    /// The position of a visible entry.
    fn position(&self, index: u64) -> Option<LogPosition> {
        let run = self.terms.iter().rev().find(|(from, _)| *from <= index);
        let is_visible = (self.first..self.next).contains(&index);
        run.filter(|_| is_visible).map(|(_, term)| LogPosition {
            term: *term,
            index: LogIndex(index),
        })
    }

    /// Makes an entry visible. Its index is within `first..=next`; entries from there on are gone.
    pub(crate) fn append(&mut self, ticket: u64, entry: Entry) {
        let index = entry.position.index.0;
        self.cut(ticket, index);
        self.extend(entry.position);
        self.recent_bytes += entry.payload.len() as u64 + RECENT_BYTES;
        self.recent.push_back(Recent { ticket, entry });
    }

    fn extend(&mut self, position: LogPosition) {
        if self
            .terms
            .back()
            .is_none_or(|(_, term)| *term != position.term)
        {
            self.terms.push_back((position.index.0, position.term));
        }
        self.next = position.index.0.saturating_add(1);
    }

    /// Takes the visible entries from `from` on away.
    pub(crate) fn cut(&mut self, ticket: u64, from: u64) {
        let from = from.max(self.first);
        if from >= self.next {
            return;
        }
        let kept = from.saturating_sub(self.recent_first());
        while self.recent.len() as u64 > kept {
            self.forget(VecDeque::pop_back);
        }
        self.next = from;
        while self.terms.back().is_some_and(|(start, _)| *start >= from) {
            self.terms.pop_back();
        }
        self.cut_ticket = ticket;
        if self.durable.is_some_and(|durable| durable.index.0 >= from) {
            self.durable = from.checked_sub(1).and_then(|last| self.position(last));
        }
    }

    /// Takes the visible entries up to `upto` away, which need not be there.
    pub(crate) fn purge(&mut self, ticket: u64, purged: Purged) {
        let first = self.first.max(purged.position.index.0.saturating_add(1));
        self.purged = Some(purged);
        while self
            .recent
            .front()
            .is_some_and(|recent| recent.entry.position.index.0 < first)
        {
            self.forget(VecDeque::pop_front);
        }
        self.first = first;
        if first >= self.next {
            self.next = first;
            self.terms.clear();
            self.cut_ticket = ticket;
        }
        while self.terms.get(1).is_some_and(|(start, _)| *start <= first) {
            self.terms.pop_front();
        }
        if self.durable.is_some_and(|durable| durable.index.0 < first) {
            self.durable = None;
        }
    }

    /// Takes all away. The places of entries stay until it is durable, so that their segments do.
    pub(crate) fn reset(&mut self, ticket: u64) {
        *self = Self {
            cut_ticket: ticket,
            slots_first: self.slots_first,
            slots: std::mem::take(&mut self.slots),
            ..Self::default()
        };
    }

    fn forget(&mut self, pop: impl FnOnce(&mut VecDeque<Recent>) -> Option<Recent>) {
        if let Some(recent) = pop(&mut self.recent) {
            self.recent_bytes -= recent.entry.payload.len() as u64 + RECENT_BYTES;
        }
    }

    /// Index of the first entry in memory.
    fn recent_first(&self) -> u64 {
        self.next - self.recent.len() as u64
    }

    /// Lets go of the oldest entries in memory beyond `bytes`, as far as they are written.
    pub(crate) fn evict(&mut self, written: u64, bytes: u64) {
        while self.recent_bytes > bytes
            && self
                .recent
                .front()
                .is_some_and(|recent| recent.ticket <= written)
        {
            self.forget(VecDeque::pop_front);
        }
    }

    /// Notes what became durable, in the order of the log.
    pub(crate) fn place(&mut self, placement: &Placement) {
        let index = placement.position.index.0;
        match placement.kind {
            Kind::Entry => {
                self.place_entry(index, placement.slot);
                if placement.ticket >= self.cut_ticket && index >= self.first {
                    self.durable = Some(placement.position);
                }
            }
            Kind::Cut => self.slots.truncate(self.slot_at(index)),
            Kind::Purged => self.drop_slots(index.saturating_add(1)),
            Kind::Reset => {
                self.slots.clear();
                self.slots_first = 0;
            }
            Kind::HardState | Kind::Committed | Kind::Mark => {}
        }
    }

    fn slot_at(&self, index: u64) -> usize {
        usize::try_from(index.saturating_sub(self.slots_first)).unwrap_or(usize::MAX)
    }

    fn place_entry(&mut self, index: u64, slot: Slot) {
        let at = self.slot_at(index);
        if index < self.slots_first || at > self.slots.len() {
            self.slots.clear();
        }
        if self.slots.is_empty() {
            self.slots_first = index;
        }
        self.slots.truncate(at);
        self.slots.push_back(slot);
    }

    fn drop_slots(&mut self, first: u64) {
        let count = self.slot_at(first).min(self.slots.len());
        self.slots.drain(..count);
        self.slots_first = self.slots_first.max(first);
    }

    /// The oldest segment that has an entry still needed.
    pub(crate) fn oldest_segment(&self) -> Option<u32> {
        self.slots.front().map(|slot| slot.segment)
    }

    /// The last entry that lies in segments before this one. What is not yet as the disk has it does not count.
    pub(crate) fn last_before(&self, segment: u32) -> Option<LogIndex> {
        let count = self.slots.partition_point(|slot| slot.segment < segment) as u64;
        let last = self.slots_first.checked_add(count)?.checked_sub(1)?;
        let last = last.min(self.durable?.index.0);
        (last >= self.first.max(self.slots_first)).then_some(LogIndex(last))
    }

    /// Where the visible entries from `from` on are, before `to` and up to `bytes`, but at least one when there is one.
    pub(crate) fn find(&self, from: u64, to: u64, bytes: u64) -> Vec<Found> {
        let mut found = Vec::new();
        let mut total: u64 = 0;
        for index in from.max(self.first)..to.min(self.next) {
            let Some((payload, next)) = self.locate(index) else {
                break;
            };
            total = total.saturating_add(payload);
            if total > bytes && !found.is_empty() {
                break;
            }
            found.push(next);
        }
        found
    }

    fn locate(&self, index: u64) -> Option<(u64, Found)> {
        if let Some(at) = index.checked_sub(self.recent_first()) {
            let recent = self.recent.get(usize::try_from(at).ok()?)?;
            let entry = recent.entry.clone();
            return Some((entry.payload.len() as u64, Found::Cached(entry)));
        }
        let at = index.checked_sub(self.slots_first)?;
        let slot = *self.slots.get(usize::try_from(at).ok()?)?;
        let position = self.position(index)?;
        Some((u64::from(slot.payload), Found::Stored { position, slot }))
    }

    /// Takes a record over from the disk at the start, in the order of the log. Gaps are allowed here: see [`Self::recovered`].
    pub(crate) fn replay(&mut self, placement: &Placement, payload: &[u8]) {
        let index = placement.position.index.0;
        match placement.kind {
            Kind::Entry => {
                let is_purged = self
                    .purged
                    .as_ref()
                    .is_some_and(|purged| purged.position.index.0 >= index);
                if is_purged {
                    return;
                }
                if index < self.first || index > self.next {
                    (self.first, self.next) = (index, index);
                    self.terms.clear();
                }
                self.cut(0, index);
                self.extend(placement.position);
            }
            Kind::Cut => self.cut(0, index),
            Kind::Purged => {
                let position = placement.position;
                let is_newer = self
                    .purged
                    .as_ref()
                    .is_none_or(|purged| purged.position.index < position.index);
                if is_newer {
                    let state = Bytes::copy_from_slice(payload);
                    self.purge(0, Purged { position, state });
                }
            }
            Kind::HardState => self.hard_state = Some(Bytes::copy_from_slice(payload)),
            Kind::Committed => self.committed = Some(Bytes::copy_from_slice(payload)),
            Kind::Reset => self.reset(0),
            Kind::Mark => {}
        }
        self.place(placement);
        self.durable = None;
    }

    /// Ends the replay: everything is durable. The index expected first and the one found, when entries between them are missing.
    pub(crate) fn recovered(&mut self) -> Result<(), (LogIndex, LogIndex)> {
        let expected = self
            .purged
            .as_ref()
            .map_or(0, |purged| purged.position.index.0.saturating_add(1));
        if self.first != expected && self.first < self.next {
            return Err((LogIndex(expected), LogIndex(self.first)));
        }
        if self.first == self.next {
            (self.first, self.next) = (expected, expected);
        }
        self.durable = self
            .next
            .checked_sub(1)
            .and_then(|last| self.position(last));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(term: u64, index: u64) -> LogPosition {
        LogPosition {
            term: Term(term),
            index: LogIndex(index),
        }
    }

    fn append(log: &mut ShardLog, ticket: u64, term: u64, index: u64) {
        let payload = Bytes::from_static(b"xy");
        let position = position(term, index);
        log.append(ticket, Entry { position, payload });
    }

    fn place(log: &mut ShardLog, ticket: u64, term: u64, index: u64) {
        let (segment, at) = (1, u32::try_from(index).unwrap() * 100);
        log.place(&Placement {
            ticket,
            shard: 0,
            kind: Kind::Entry,
            position: position(term, index),
            slot: Slot {
                segment,
                position: at,
                payload: 2,
            },
        });
    }

    #[test]
    fn late_placement_of_an_overwritten_entry_is_not_durable() {
        let mut log = ShardLog::default();
        append(&mut log, 1, 1, 0);
        append(&mut log, 2, 1, 1);
        append(&mut log, 3, 2, 1);
        place(&mut log, 1, 1, 0);
        place(&mut log, 2, 1, 1);
        assert_eq!(log.durable, None);
        place(&mut log, 3, 2, 1);
        assert_eq!(log.durable, Some(position(2, 1)));
        assert_eq!(log.bounds().last, Some(position(2, 1)));
    }

    #[test]
    fn unwritten_entries_are_never_evicted() {
        let mut log = ShardLog::default();
        for index in 0..4 {
            append(&mut log, index + 1, 1, index);
        }
        place(&mut log, 1, 1, 0);
        place(&mut log, 2, 1, 1);
        log.evict(2, 0);
        let found = log.find(0, 9, u64::MAX);
        let stored = found
            .iter()
            .filter(|found| matches!(found, Found::Stored { .. }));
        assert_eq!((stored.count(), found.len()), (2, 4));
        assert_eq!(log.find(1, 9, 0).len(), 1, "never empty");
    }

    #[test]
    fn purge_beyond_the_end_lets_the_log_go_on_there() {
        let mut log = ShardLog::default();
        append(&mut log, 1, 1, 0);
        let state = Bytes::new();
        log.purge(
            2,
            Purged {
                position: position(3, 9),
                state,
            },
        );
        place(&mut log, 1, 1, 0);
        assert_eq!((log.range(), log.durable), ((10, 10), None));
        append(&mut log, 3, 3, 10);
        assert_eq!(log.bounds().first, Some(LogIndex(10)));
        assert_eq!(log.bounds().last, Some(position(3, 10)));
    }
}
