//! Subscriptions that several consumers share: what is acknowledged above the cursor, what was delivered in vain, what is to become a dead letter.
//!
//! Leases are not here: they are in the memory of the leader (`docs/adr/0008-shared.md`). Begin with [`Share`], then [`Settlement`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::{Step, Stop};
use super::row::{self, SubscriptionRow};
use super::{Error, Response, TopicRow};
use crate::store::Table;
use crate::types::{
    LogIndex, Offset, OffsetRange, Offsets, Sequence, SubscriberId, TopicId, TopicName,
};

/// Messages from the cursor of a shared subscription on that may be delivered or acknowledged: beyond them nothing is, until the cursor moves. It bounds what is
/// kept of a subscription: about 100 KiB when every second message is acknowledged and the others were delivered before.
pub const IN_FLIGHT_MAX: u64 = 10_000;

/// How consumers share a subscription. Said when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// How long a consumer has for a message, unless its stream says something else.
    pub lease: Duration,
    /// What becomes of messages that nobody acknowledges. `None`: they come again and again.
    pub dead_letters: Option<DeadLetters>,
}

/// Where messages go that were delivered too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetters {
    /// After so many deliveries without an acknowledgement.
    pub max_deliveries: u32,
    /// Where to.
    pub topic: TopicName,
}

/// What is known of a shared subscription beside its cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The entry that put the cursor where it began: a settlement of another era says nothing.
    pub era: LogIndex,
    /// Acknowledged messages above the cursor; never the one at the cursor.
    pub acknowledged: Offsets,
    /// Deliveries in vain of messages that are not acknowledged.
    pub deliveries: BTreeMap<Offset, u32>,
    /// Messages that were gone before they were acknowledged, and that the cursor has passed since.
    pub missed: u64,
    /// Dead letters.
    pub letters: Letters,
}

/// The dead letters of a subscription. They are published in order as one session, so that none is there twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letters {
    /// The entry that began the session; its number names the session.
    pub session: LogIndex,
    /// The sequence of the first that waits.
    pub next: Sequence,
    /// Messages that are to be published, the first first. They are delivered no more, and not acknowledged before they are published.
    pub waiting: Vec<Offset>,
}

/// What the leader has to say of a shared subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// Messages from the first offset on, without the second, are acknowledged.
    pub acknowledged: Vec<(Offset, Offset)>,
    /// So often were these delivered in vain.
    pub deliveries: Vec<(Offset, u32)>,
    /// These are to become dead letters, in this order.
    pub condemned: Vec<Offset>,
    /// What became of the first dead letter that waits.
    pub letter: Option<LetterFate>,
}

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LetterFate {
    /// It is in its topic.
    Published {
        /// In this session.
        session: LogIndex,
        /// With this sequence.
        sequence: Sequence,
    },
    /// The topic does not know the session any more: another one begins.
    Refused {
        /// This session.
        session: LogIndex,
    },
}

impl Settlement {
    /// There is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.acknowledged.is_empty()
            && self.deliveries.is_empty()
            && self.condemned.is_empty()
            && self.letter.is_none()
    }
}

impl Letters {
    fn begin(session: LogIndex) -> Self {
        Self {
            session,
            next: Sequence(0),
            waiting: Vec::new(),
        }
    }

    fn renew(&mut self, session: LogIndex) {
        (self.session, self.next) = (session, Sequence(0));
    }
}

impl Share {
    /// Nothing is acknowledged above the cursor.
    pub(super) fn begin(era: LogIndex) -> Self {
        Self {
            era,
            acknowledged: Offsets::default(),
            deliveries: BTreeMap::new(),
            missed: 0,
            letters: Letters::begin(era),
        }
    }

    /// Messages from the cursor to `first`, the first one there is, that were not acknowledged.
    pub(super) fn missed(&self, cursor: Offset, first: Offset) -> u64 {
        let gaps = self.acknowledged.gaps(&(cursor..first.max(cursor)));
        let gone: u64 = gaps.iter().map(|gap| gap.end.0 - gap.start.0).sum();
        self.missed.saturating_add(gone)
    }

    /// Takes in what the leader says, and gives the cursor. The messages that may be spoken of are those of `window`.
    fn settle(&mut self, settlement: Settlement, window: &OffsetRange, now: LogIndex) -> Offset {
        self.settle_letter(settlement.letter, now);
        let is_open = |share: &Self, offset: Offset| {
            window.contains(&offset) && !share.acknowledged.contains(offset)
        };
        let mut waiting: BTreeSet<Offset> = self.letters.waiting.iter().copied().collect();
        for offset in settlement.condemned {
            if is_open(self, offset) && waiting.insert(offset) {
                self.letters.waiting.push(offset);
            }
        }
        for (start, end) in settlement.acknowledged {
            self.acknowledged
                .insert(start.max(window.start)..end.min(window.end));
        }
        // What waits is done when it is published.
        for offset in &self.letters.waiting {
            self.acknowledged.remove(*offset..offset.plus(1));
        }
        for (offset, count) in settlement.deliveries {
            if is_open(self, offset) {
                let known = self.deliveries.entry(offset).or_default();
                *known = count.max(*known);
            }
        }
        let done = self.acknowledged.range_of(window.start);
        let cursor = done.map_or(window.start, |range| range.end);
        self.acknowledged.remove_below(cursor);
        let acknowledged = &self.acknowledged;
        self.deliveries
            .retain(|offset, _| *offset >= cursor && !acknowledged.contains(*offset));
        cursor
    }

    fn settle_letter(&mut self, fate: Option<LetterFate>, now: LogIndex) {
        let letters = &mut self.letters;
        match fate {
            Some(LetterFate::Published { session, sequence })
                if (session, sequence) == (letters.session, letters.next)
                    && !letters.waiting.is_empty() =>
            {
                let offset = letters.waiting.remove(0);
                letters.next = Sequence(sequence.0 + 1);
                self.acknowledged.insert(offset..offset.plus(1));
            }
            Some(LetterFate::Refused { session }) if session == letters.session => {
                letters.renew(now);
            }
            _ => {}
        }
    }

    /// Forgets what is below the first message there is.
    fn forget_below(&mut self, first: Offset, now: LogIndex) {
        self.acknowledged.remove_below(first);
        let next = self.letters.waiting.first().copied();
        self.letters.waiting.retain(|offset| *offset >= first);
        if self.letters.waiting.first().copied() != next {
            // It may have been published with the next sequence: no other message may pass for it.
            self.letters.renew(now);
        }
    }
}

impl Step<'_> {
    /// Takes in what became of messages of a shared subscription. What is said of another life of it, or of what it was before its cursor was put elsewhere, does
    /// nothing.
    pub(super) fn settle(
        &mut self,
        (name, topic_id): (&TopicName, TopicId),
        (subscriber, era): (&SubscriberId, LogIndex),
        settlement: Settlement,
    ) -> Result<Response, Stop> {
        let (topic, mut row) = self.cursor(name, subscriber)?;
        let before = row.cursor(&topic);
        let stale = Response::Settled {
            cursor: before,
            is_stale: true,
        };
        if topic.id != topic_id || row.sharing.is_none() {
            return Ok(stale);
        }
        let mut share = self.share(&topic, subscriber)?;
        if share.era != era {
            return Ok(stale);
        }
        let now = self.position.index;
        share.missed = share.missed(row.cursor, topic.first_offset);
        share.forget_below(topic.first_offset, now);
        let end = topic.next_offset.min(before.plus(IN_FLIGHT_MAX));
        row.cursor = share.settle(settlement, &(before..end), now);
        if row.cursor > before {
            share.missed = 0;
        }
        let cursor = row.cursor;
        self.put_share(&topic, subscriber, &share);
        self.put_cursor(&topic, subscriber, &row);
        Ok(Response::Settled {
            cursor,
            is_stale: false,
        })
    }

    pub(super) fn share(
        &mut self,
        topic: &TopicRow,
        subscriber: &SubscriberId,
    ) -> Result<Share, Error> {
        let table = Table::Share;
        let key = row::subscription_key(topic.id, subscriber);
        let share = self.overlay.get(table, &key)?;
        share.ok_or(Error::RowMissing { table })
    }

    pub(super) fn put_share(&mut self, topic: &TopicRow, subscriber: &SubscriberId, share: &Share) {
        let key = row::subscription_key(topic.id, subscriber);
        self.overlay.put(Table::Share, key, share);
    }

    /// Forgets all that is known of a shared subscription beside its cursor, which was put somewhere else.
    pub(super) fn begin_share(
        &mut self,
        topic: &TopicRow,
        subscriber: &SubscriberId,
        row: &SubscriptionRow,
    ) {
        if row.sharing.is_some() {
            let share = Share::begin(self.position.index);
            self.put_share(topic, subscriber, &share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> (Offset, Offset) {
        (Offset(start), Offset(end))
    }

    fn window(start: u64, end: u64) -> OffsetRange {
        Offset(start)..Offset(end)
    }

    #[test]
    fn cursor_follows_when_what_it_waits_for_is_acknowledged() {
        let mut share = Share::begin(LogIndex(1));
        let settlement = Settlement {
            acknowledged: vec![range(2, 4), range(6, 99)],
            deliveries: vec![(Offset(0), 1), (Offset(3), 7)],
            ..Settlement::default()
        };
        let cursor = share.settle(settlement, &window(0, 9), LogIndex(2));
        assert_eq!(cursor, Offset(0));
        assert_eq!(share.acknowledged.count(), 5);
        assert_eq!(share.deliveries, [(Offset(0), 1)].into());
        let settlement = Settlement {
            acknowledged: vec![range(0, 2)],
            ..Settlement::default()
        };
        assert_eq!(
            share.settle(settlement, &window(0, 9), LogIndex(3)),
            Offset(4)
        );
        assert!(share.deliveries.is_empty());
        assert_eq!(
            share.acknowledged.iter().collect::<Vec<_>>(),
            [window(6, 9)]
        );
    }

    #[test]
    fn dead_letter_is_done_when_it_is_published_and_not_before() {
        let mut share = Share::begin(LogIndex(1));
        let settlement = Settlement {
            acknowledged: vec![range(0, 3)],
            condemned: vec![Offset(1), Offset(2)],
            ..Settlement::default()
        };
        let cursor = share.settle(settlement, &window(0, 3), LogIndex(2));
        assert_eq!(cursor, Offset(1));
        assert_eq!(share.letters.waiting, [Offset(1), Offset(2)]);
        let published = |sequence| Settlement {
            letter: Some(LetterFate::Published {
                session: LogIndex(1),
                sequence: Sequence(sequence),
            }),
            ..Settlement::default()
        };
        let mut cursor = 1;
        for (sequence, expected) in [(1, 1), (0, 2), (0, 2), (1, 3)] {
            let found = share.settle(published(sequence), &window(cursor, 3), LogIndex(3));
            assert_eq!(found, Offset(expected), "{sequence}");
            cursor = expected;
        }
        assert_eq!(share.letters.next, Sequence(2));
    }

    #[test]
    fn message_that_is_gone_leaves_its_sequence_to_no_other() {
        let mut share = Share::begin(LogIndex(1));
        share.letters.waiting = vec![Offset(1), Offset(5)];
        share.forget_below(Offset(1), LogIndex(7));
        assert_eq!(share.letters.session, LogIndex(1));
        share.forget_below(Offset(2), LogIndex(8));
        assert_eq!(share.letters.session, LogIndex(8));
        assert_eq!(share.letters.waiting, [Offset(5)]);
        // The first may be under way: it keeps its number when one behind it is gone.
        share.letters.waiting = vec![Offset(5), Offset(3), Offset(6)];
        share.forget_below(Offset(4), LogIndex(9));
        assert_eq!(share.letters.session, LogIndex(8));
        assert_eq!(share.letters.waiting, [Offset(5), Offset(6)]);
    }
}
