//! Which consumer has which message of a shared subscription, until when, and what of it the shard is still to be told.
//!
//! Pure: it is told the time and what the shard holds, and says what is to be done. What it holds beside the shard's rows may be lost with the leader: leases,
//! and deliveries that were not told yet; never an acknowledgement that was confirmed. Begin with [`Desk::grant`], then [`Desk::take_settlement`].

mod word;

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::shard::{IN_FLIGHT_MAX, LetterFate, Letters, Share};
use crate::types::{LogIndex, Offset, OffsetRange, Offsets};

/// A stream, among those of its subscription.
pub(super) type ConsumerId = u64;

/// What the shard holds.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// The first message that is not acknowledged, or gone.
    pub(super) cursor: Offset,
    /// The first message there is.
    pub(super) first: Offset,
    /// The offset that the next message will get.
    pub(super) head: Offset,
    /// Messages that were gone before they were acknowledged.
    pub(super) missed: u64,
    /// All else.
    pub(super) share: Share,
}

/// Whose messages are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All that the consumer has.
    All,
    /// These, as far as it has them.
    These(Offsets),
}

/// A message that is not acknowledged and was delivered, or is known otherwise.
#[derive(Debug)]
struct Entry {
    /// How often it was delivered in vain.
    deliveries: u32,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Whoever comes may have it.
    Free,
    /// A consumer has it until then.
    Held { by: ConsumerId, ends: Instant },
    /// Nobody gets it before.
    Delayed { until: Instant },
    /// Nobody gets it any more: it becomes a dead letter.
    Condemned,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Desk {
    /// After so many deliveries in vain a message becomes a dead letter.
    deliveries_max: Option<u32>,
    era: LogIndex,
    cursor: Offset,
    head: Offset,
    letters: Letters,
    /// Acknowledged, and stored.
    done: Offsets,
    /// Acknowledged, and on the way to the shard.
    proposed: Offsets,
    /// Acknowledged.
    pending: Offsets,
    /// Who is to be told of what is on the way, and of what is not.
    proposed_by: BTreeMap<ConsumerId, Offsets>,
    pending_by: BTreeMap<ConsumerId, Offsets>,
    /// Who is to be told of messages whose letters are in the queue, when those are published.
    late_by: BTreeMap<ConsumerId, Offsets>,
    entries: BTreeMap<Offset, Entry>,
    /// Those of them that are free.
    free: BTreeSet<Offset>,
    /// When a lease or a delay ends.
    timers: BTreeSet<(Instant, Offset)>,
    /// All before it have an entry or are acknowledged.
    fresh: Offset,
    /// Deliveries of these are to be told.
    counted: BTreeSet<Offset>,
    /// To be told: these become dead letters.
    condemned: Vec<Offset>,
    /// To be told: what became of the first letter.
    fate: Option<LetterFate>,
    /// A settlement is on the way.
    is_settling: bool,
    /// To be told with the next message.
    missed: u64,
}

impl Desk {
    pub(super) fn new(seen: Seen, deliveries_max: Option<u32>) -> Self {
        let mut desk = Self {
            deliveries_max,
            era: seen.share.era,
            cursor: seen.cursor,
            head: seen.head,
            letters: seen.share.letters.clone(),
            done: Offsets::default(),
            proposed: Offsets::default(),
            pending: Offsets::default(),
            proposed_by: BTreeMap::new(),
            pending_by: BTreeMap::new(),
            late_by: BTreeMap::new(),
            entries: BTreeMap::new(),
            free: BTreeSet::new(),
            timers: BTreeSet::new(),
            fresh: seen.cursor,
            counted: BTreeSet::new(),
            condemned: Vec::new(),
            fate: None,
            is_settling: false,
            missed: seen.missed,
        };
        for (offset, deliveries) in seen.share.deliveries.range(seen.cursor..) {
            let entry = Entry {
                deliveries: *deliveries,
                place: Place::Free,
            };
            desk.entries.insert(*offset, entry);
            desk.put(*offset, Place::Free);
        }
        desk.see(seen);
        // What was taken in above may be over.
        desk.forget_done();
        let over = desk.entries.iter().filter(|(_, entry)| {
            deliveries_max.is_some_and(|max| entry.deliveries >= max)
                && entry.place != Place::Condemned
        });
        let over: Vec<Offset> = over.map(|(offset, _)| *offset).collect();
        over.into_iter().for_each(|offset| desk.condemn(offset));
        desk
    }

    pub(super) fn era(&self) -> LogIndex {
        self.era
    }

    pub(super) fn cursor(&self) -> Offset {
        self.cursor
    }

    /// Takes in what the shard holds by now.
    pub(super) fn see(&mut self, seen: Seen) {
        if seen.share.era != self.era || seen.cursor < self.cursor {
            // The cursor was put elsewhere: all that was said before counts no more.
            *self = Self::new(seen, self.deliveries_max);
            return;
        }
        if seen.first > self.cursor {
            let gone = self.cursor..seen.first;
            let lost = |range: &OffsetRange| self.unsaid(range);
            self.missed = self.missed.saturating_add(lost(&gone));
        }
        self.head = seen.head;
        if (self.cursor, &self.done) != (seen.cursor, &seen.share.acknowledged) {
            (self.cursor, self.done) = (seen.cursor, seen.share.acknowledged);
            self.forget_done();
        }
        self.letters = seen.share.letters;
        let cursor = self.cursor;
        let waiting = self.letters.waiting.iter().copied();
        // One below the cursor is gone; the shard forgets it with the next settlement.
        let waiting: Vec<Offset> = waiting.filter(|offset| *offset >= cursor).collect();
        for offset in waiting {
            self.entries.entry(offset).or_insert(Entry {
                deliveries: 0,
                place: Place::Free,
            });
            self.put(offset, Place::Condemned);
        }
    }

    /// Forgets what is done, or gone.
    fn forget_done(&mut self) {
        let (cursor, done) = (self.cursor, &self.done);
        self.fresh = self.fresh.max(cursor);
        self.pending.remove_below(cursor);
        self.proposed.remove_below(cursor);
        let is_over = |offset: &Offset| *offset < cursor || done.contains(*offset);
        let over: Vec<Offset> = self.entries.keys().copied().filter(is_over).collect();
        over.into_iter().for_each(|offset| self.forget(offset));
        self.end_late();
    }

    /// Messages of a range that nobody has acknowledged.
    fn unsaid(&self, range: &OffsetRange) -> u64 {
        let gaps = self.done.gaps(range).into_iter();
        let gaps = gaps.flat_map(|gap| self.proposed.gaps(&gap));
        let gaps = gaps.flat_map(|gap| self.pending.gaps(&gap));
        gaps.map(|gap| gap.end.0 - gap.start.0).sum()
    }

    /// Messages that were removed before they were acknowledged, since it was asked last.
    pub(super) fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// It was not told of them after all.
    pub(super) fn put_missed(&mut self, missed: u64) {
        self.missed = self.missed.saturating_add(missed);
    }

    /// The end of what may be delivered or acknowledged.
    fn limit(&self) -> Offset {
        self.head.min(self.cursor.plus(IN_FLIGHT_MAX))
    }

    /// Messages that may be delivered now, at most so many: the lowest that there are.
    pub(super) fn pick(&self, count_max: u64) -> Option<OffsetRange> {
        let fresh = self.fresh_run(count_max);
        match self.free.first() {
            Some(first) if fresh.as_ref().is_none_or(|run| *first < run.start) => {
                let mut end = *first;
                while self.free.contains(&end) && end.0 - first.0 < count_max {
                    end = end.plus(1);
                }
                Some(*first..end)
            }
            _ => fresh,
        }
    }

    /// Messages that were never looked at.
    fn fresh_run(&self, count_max: u64) -> Option<OffsetRange> {
        let (limit, mut at) = (self.limit(), self.fresh);
        let said = [&self.done, &self.proposed, &self.pending];
        while at < limit {
            if let Some(range) = said.iter().find_map(|said| said.range_of(at)) {
                at = range.end;
                continue;
            }
            if self.entries.contains_key(&at) {
                at = at.plus(1);
                continue;
            }
            let entry = self.entries.range(at..).next().map(|(offset, _)| *offset);
            let ends = said.iter().map(|said| said.first_from(at)).chain([entry]);
            let end = ends.flatten().min().unwrap_or(limit);
            return Some(at..end.min(limit).min(at.plus(count_max)));
        }
        None
    }

    /// Gives a consumer what of a range is still free, until `ends`: runs of messages that are delivered for the same time, and for which time.
    pub(super) fn grant(
        &mut self,
        range: OffsetRange,
        by: ConsumerId,
        ends: Instant,
    ) -> Vec<(OffsetRange, u32)> {
        let mut runs: Vec<(OffsetRange, u32)> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let offset = at;
            at = at.plus(1);
            let deliveries = if self.free.contains(&offset) {
                self.entries.get(&offset).map(|entry| entry.deliveries)
            } else {
                let is_next = self.fresh_run(1).is_some_and(|run| run.start == offset);
                is_next.then_some(0)
            };
            let Some(deliveries) = deliveries else {
                continue;
            };
            if !self.entries.contains_key(&offset) {
                self.fresh = at;
                let place = Place::Free;
                self.entries.insert(offset, Entry { deliveries, place });
            }
            self.put(offset, Place::Held { by, ends });
            let attempt = deliveries.saturating_add(1);
            match runs.last_mut() {
                Some((run, same)) if run.end == offset && *same == attempt => run.end = at,
                _ => runs.push((offset..at, attempt)),
            }
        }
        runs
    }

    /// A consumer has acknowledged messages. `false`: there are no such messages.
    pub(super) fn acknowledge(&mut self, by: ConsumerId, range: &OffsetRange) -> bool {
        if range.end > self.head || range.start >= range.end {
            return false;
        }
        // What is below the cursor is done; what is beyond the limit was delivered before the cursor was put back, and comes again.
        let range = range.start..range.end.min(self.limit());
        if range.start >= range.end {
            return true;
        }
        self.pending_by.entry(by).or_default().insert(range.clone());
        let range = range.start.max(self.cursor)..range.end;
        let news = self.done.gaps(&range).into_iter();
        let news: Vec<OffsetRange> = news.flat_map(|gap| self.proposed.gaps(&gap)).collect();
        for gap in news {
            self.pending.insert(gap.clone());
            let known: Vec<Offset> = self.entries.range(gap).map(|(offset, _)| *offset).collect();
            for offset in known {
                if self.is_queued(offset) {
                    self.acknowledge_late(by, offset);
                } else {
                    self.forget(offset);
                }
            }
        }
        true
    }

    /// A consumer does not want messages that it has; nobody gets them before `until`.
    pub(super) fn reject(&mut self, by: ConsumerId, which: &Which, until: Option<Instant>) {
        let place = until.map_or(Place::Free, |until| Place::Delayed { until });
        for offset in self.held(by, which) {
            self.give_back(offset, place);
        }
    }

    /// A consumer has its messages until then.
    pub(super) fn extend(&mut self, by: ConsumerId, which: &Which, ends: Instant) {
        for offset in self.held(by, which) {
            self.put(offset, Place::Held { by, ends });
        }
    }

    /// A consumer is gone. What it has acknowledged still counts.
    pub(super) fn leave(&mut self, by: ConsumerId) {
        self.reject(by, &Which::All, None);
        self.pending_by.remove(&by);
        self.proposed_by.remove(&by);
        self.late_by.remove(&by);
    }

    /// Which of these messages a consumer still has.
    pub(super) fn held_of(&self, by: ConsumerId, range: OffsetRange) -> Offsets {
        let held = self.held(by, &Which::These([range].into_iter().collect()));
        held.into_iter()
            .map(|offset| offset..offset.plus(1))
            .collect()
    }

    fn held(&self, by: ConsumerId, which: &Which) -> Vec<Offset> {
        let is_held =
            |entry: &Entry| matches!(entry.place, Place::Held { by: other, .. } if other == by);
        let held: Vec<(&Offset, &Entry)> = match which {
            Which::All => self.entries.iter().collect(),
            Which::These(these) => these
                .iter()
                .flat_map(|range| self.entries.range(range))
                .collect(),
        };
        let held = held.into_iter().filter(|(_, entry)| is_held(entry));
        held.map(|(offset, _)| *offset).collect()
    }

    /// When something is to be done by time.
    pub(super) fn timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what is due by now.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some((at, offset)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            match self.entries.get(&offset).map(|entry| entry.place) {
                Some(Place::Held { .. }) => self.give_back(offset, Place::Free),
                Some(Place::Delayed { .. }) => self.put(offset, Place::Free),
                // None of these has a timer.
                Some(Place::Free | Place::Condemned) | None => {
                    self.timers.remove(&(at, offset));
                }
            }
        }
    }

    /// A delivery was in vain.
    fn give_back(&mut self, offset: Offset, place: Place) {
        let Some(entry) = self.entries.get_mut(&offset) else {
            return;
        };
        entry.deliveries = entry.deliveries.saturating_add(1);
        let deliveries = entry.deliveries;
        let Some(max) = self.deliveries_max else {
            // Only dead letters need to be sure of it.
            return self.put(offset, place);
        };
        self.counted.insert(offset);
        if deliveries >= max {
            self.condemn(offset);
        } else {
            self.put(offset, place);
        }
    }

    fn condemn(&mut self, offset: Offset) {
        self.put(offset, Place::Condemned);
        self.condemned.push(offset);
    }

    /// Moves a message with an entry to another place.
    fn put(&mut self, offset: Offset, place: Place) {
        let Some(entry) = self.entries.get_mut(&offset) else {
            return;
        };
        let before = std::mem::replace(&mut entry.place, place);
        self.unlist(offset, before);
        match place {
            Place::Free => drop(self.free.insert(offset)),
            Place::Held { ends: at, .. } | Place::Delayed { until: at } => {
                self.timers.insert((at, offset));
            }
            Place::Condemned => {}
        }
    }

    fn unlist(&mut self, offset: Offset, place: Place) {
        match place {
            Place::Free => drop(self.free.remove(&offset)),
            Place::Held { ends: at, .. } | Place::Delayed { until: at } => {
                self.timers.remove(&(at, offset));
            }
            Place::Condemned => self.condemned.retain(|other| *other != offset),
        }
    }

    fn forget(&mut self, offset: Offset) {
        if let Some(entry) = self.entries.remove(&offset) {
            self.unlist(offset, entry.place);
            self.counted.remove(&offset);
        }
    }
}
