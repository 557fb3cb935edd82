//! What the shard is to be told, and who waits for its word. Begin with [`Desk::take_settlement`].

use std::collections::BTreeMap;

use super::{ConsumerId, Desk, Place};
use crate::shard::{LetterFate, Settlement};
use crate::types::{LogIndex, Offset, Offsets, Sequence};

impl Desk {
    /// What the shard is to be told now. Nothing while something is on the way.
    pub(in crate::broker::share) fn take_settlement(&mut self) -> Option<Settlement> {
        if self.is_settling {
            return None;
        }
        let counted = std::mem::take(&mut self.counted);
        let deliveries = counted
            .into_iter()
            .filter_map(|offset| Some((offset, self.entries.get(&offset)?.deliveries)));
        let settlement = Settlement {
            acknowledged: self.pending.clone().into(),
            deliveries: deliveries.collect(),
            condemned: std::mem::take(&mut self.condemned),
            letter: self.fate.take(),
        };
        let waits_for_word = !self.pending_by.is_empty();
        if settlement.is_empty() && !waits_for_word {
            return None;
        }
        self.proposed = std::mem::take(&mut self.pending);
        self.proposed_by = std::mem::take(&mut self.pending_by);
        if let (Some(LetterFate::Published { .. }), Some(offset)) =
            (settlement.letter, self.letters.waiting.first())
        {
            self.proposed.insert(*offset..offset.plus(1));
        }
        self.is_settling = true;
        Some(settlement)
    }

    /// Its letter is in the queue, or on the way there: it is not to be kept from being published any more.
    pub(super) fn is_queued(&self, offset: Offset) -> bool {
        let entry = self.entries.get(&offset);
        entry.is_some_and(|entry| entry.place == Place::Condemned)
            && !self.condemned.contains(&offset)
    }

    /// A consumer has acknowledged a message that becomes a letter all the same: it is done when that is published, and the consumer is told then.
    pub(super) fn acknowledge_late(&mut self, by: ConsumerId, offset: Offset) {
        let one = offset..offset.plus(1);
        self.pending.remove(one.clone());
        if let Some(told) = self.pending_by.get_mut(&by) {
            told.remove(one.clone());
            if told.is_empty() {
                self.pending_by.remove(&by);
            }
        }
        self.late_by.entry(by).or_default().insert(one);
    }

    /// Letters were published: who has acknowledged their messages is told with the next settlement.
    pub(super) fn end_late(&mut self) {
        for (by, late) in std::mem::take(&mut self.late_by) {
            for offset in late.iter().flat_map(|range| range.start.0..range.end.0) {
                let offset = Offset(offset);
                let by_then = if self.entries.contains_key(&offset) {
                    &mut self.late_by
                } else {
                    &mut self.pending_by
                };
                let one = offset..offset.plus(1);
                by_then.entry(by).or_default().insert(one);
            }
        }
    }

    /// The settlement on the way is stored, and what the shard holds was seen since: who is to be told of what.
    pub(in crate::broker::share) fn settled(&mut self) -> BTreeMap<ConsumerId, Offsets> {
        self.is_settling = false;
        self.proposed = Offsets::default();
        std::mem::take(&mut self.proposed_by)
    }

    /// Whether all that a consumer has acknowledged is stored.
    pub(in crate::broker::share) fn is_quiet(&self, by: ConsumerId) -> bool {
        !self.pending_by.contains_key(&by) && !self.proposed_by.contains_key(&by)
    }

    /// Whether the shard knows all.
    pub(in crate::broker::share) fn is_settled(&self) -> bool {
        let is_told = self.pending.is_empty() && self.counted.is_empty() && self.fate.is_none();
        is_told && self.condemned.is_empty() && !self.is_settling
    }

    /// The dead letter that is to be published next, its number, and how often it was delivered.
    pub(in crate::broker::share) fn letter(&self) -> Option<(Offset, (LogIndex, Sequence), u32)> {
        if self.fate.is_some() || self.is_settling {
            return None;
        }
        let offset = *self.letters.waiting.first()?;
        let entry = self.entries.get(&offset);
        let deliveries = entry.map_or(0, |entry| entry.deliveries);
        let deliveries = deliveries.max(self.deliveries_max.unwrap_or(0));
        let number = (self.letters.session, self.letters.next);
        Some((offset, number, deliveries))
    }

    /// What became of it.
    pub(in crate::broker::share) fn decide(&mut self, fate: LetterFate) {
        self.fate = Some(fate);
    }
}
