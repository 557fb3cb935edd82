//! Sets of offsets, kept as ranges.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Offset;

/// Messages from `start` on, without `end`.
pub type OffsetRange = std::ops::Range<Offset>;

/// A set of offsets: ranges that neither overlap nor touch, and none of them empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(Offset, Offset)>", into = "Vec<(Offset, Offset)>")]
pub struct Offsets(BTreeMap<Offset, Offset>);

/// Ranges that are empty, overlap, touch, or are out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ranges of offsets are not in order")]
pub struct DisorderError;

impl TryFrom<Vec<(Offset, Offset)>> for Offsets {
    type Error = DisorderError;

    fn try_from(ranges: Vec<(Offset, Offset)>) -> Result<Self, DisorderError> {
        let mut last: Option<Offset> = None;
        for (start, end) in &ranges {
            if start >= end || last.is_some_and(|last| last >= *start) {
                return Err(DisorderError);
            }
            last = Some(*end);
        }
        Ok(Self(ranges.into_iter().collect()))
    }
}

impl From<Offsets> for Vec<(Offset, Offset)> {
    fn from(offsets: Offsets) -> Self {
        offsets.0.into_iter().collect()
    }
}

impl FromIterator<OffsetRange> for Offsets {
    fn from_iter<T: IntoIterator<Item = OffsetRange>>(ranges: T) -> Self {
        let mut offsets = Self::default();
        ranges.into_iter().for_each(|range| offsets.insert(range));
        offsets
    }
}

impl Offsets {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many offsets there are.
    pub fn count(&self) -> u64 {
        let lengths = self.iter().map(|range| range.end.0 - range.start.0);
        lengths.fold(0, u64::saturating_add)
    }

    /// Whether this offset is in it.
    pub fn contains(&self, offset: Offset) -> bool {
        self.range_of(offset).is_some()
    }

    /// The range in it that this offset is in.
    pub fn range_of(&self, offset: Offset) -> Option<OffsetRange> {
        let (start, end) = self.0.range(..=offset).next_back()?;
        (*end > offset).then_some(*start..*end)
    }

    /// The first offset in it that is not below this one.
    pub fn first_from(&self, offset: Offset) -> Option<Offset> {
        if self.contains(offset) {
            return Some(offset);
        }
        self.0.range(offset..).next().map(|(start, _)| *start)
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = OffsetRange> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    /// Adds a range. An empty one adds nothing.
    pub fn insert(&mut self, range: OffsetRange) {
        if range.start >= range.end {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Those that it meets become one with it.
        while let Some((other, until)) = self.0.range(..=end).next_back().map(|(s, e)| (*s, *e)) {
            if until < start {
                break;
            }
            (start, end) = (start.min(other), end.max(until));
            self.0.remove(&other);
        }
        self.0.insert(start, end);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: OffsetRange) {
        if range.start >= range.end {
            return;
        }
        while let Some((start, end)) = self
            .0
            .range(..range.end)
            .next_back()
            .map(|(start, end)| (*start, *end))
        {
            if end <= range.start {
                break;
            }
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
            if start < range.start {
                self.0.insert(start, range.start);
                break;
            }
        }
    }

    /// Takes out all below an offset.
    pub fn remove_below(&mut self, offset: Offset) {
        self.remove(Offset(0)..offset);
    }

    /// What of a range is not in it, in order.
    pub fn gaps(&self, range: &OffsetRange) -> Vec<OffsetRange> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        while at < range.end {
            match self.range_of(at) {
                Some(held) => at = held.end,
                None => {
                    let end = self.first_from(at).unwrap_or(range.end).min(range.end);
                    gaps.push(at..end);
                    at = end;
                }
            }
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> OffsetRange {
        Offset(start)..Offset(end)
    }

    #[test]
    fn ranges_that_meet_become_one() {
        let mut offsets: Offsets = [range(3, 5), range(7, 9), range(5, 7), range(4, 4)]
            .into_iter()
            .collect();
        assert_eq!(offsets.iter().collect::<Vec<_>>(), [range(3, 9)]);
        offsets.remove(range(4, 6));
        assert_eq!(
            offsets.iter().collect::<Vec<_>>(),
            [range(3, 4), range(6, 9)]
        );
        assert_eq!(
            offsets.gaps(&range(0, 20)),
            [range(0, 3), range(4, 6), range(9, 20)]
        );
    }

    #[test]
    fn ranges_out_of_order_are_refused() {
        for ranges in [vec![(3, 3)], vec![(3, 5), (5, 6)], vec![(7, 9), (3, 4)]] {
            let ranges: Vec<_> = ranges
                .into_iter()
                .map(|(start, end)| (Offset(start), Offset(end)))
                .collect();
            assert_eq!(Offsets::try_from(ranges), Err(DisorderError));
        }
    }

    proptest! {
        #[test]
        fn they_are_a_set(steps in prop::collection::vec((any::<bool>(), 0_u64..40, 0_u64..12), 0..60)) {
            let (mut offsets, mut model) = (Offsets::default(), BTreeSet::new());
            for (is_insert, start, length) in steps {
                let range = range(start, start + length);
                if is_insert {
                    offsets.insert(range);
                    model.extend(start..start + length);
                } else {
                    offsets.remove(range);
                    model.retain(|offset| !(start..start + length).contains(offset));
                }
                prop_assert_eq!(offsets.count(), model.len() as u64);
                for offset in 0..60 {
                    prop_assert_eq!(offsets.contains(Offset(offset)), model.contains(&offset));
                    let first = model.range(offset..).next().copied().map(Offset);
                    prop_assert_eq!(offsets.first_from(Offset(offset)), first);
                }
                let gaps: u64 = offsets.gaps(&(Offset(0)..Offset(60))).iter().map(|gap| gap.end.0 - gap.start.0).sum();
                prop_assert_eq!(gaps, 60 - model.len() as u64);
                let plain: Vec<(Offset, Offset)> = offsets.clone().into();
                prop_assert_eq!(Offsets::try_from(plain), Ok(offsets.clone()));
            }
        }
    }
}
