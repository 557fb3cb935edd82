//! Goes through the batches of a topic: whole ones, each after the other, in bounded memory.

use std::collections::VecDeque;

use super::{Error, TopicRow, View};
use crate::store::{self, BatchRange};
use crate::types::{ByteCount, Offset, StoredBatch, TopicId};

/// Bytes of payload read at once; a batch that is longer is read alone.
const PAGE_BYTES: ByteCount = ByteCount(1 << 20);

/// The batches from the one that holds the topic's first message to the one that holds its last. One that is missing is an error.
pub(super) struct Walk {
    view: View,
    topic: TopicId,
    /// The next message.
    at: Offset,
    until: Offset,
    page: VecDeque<StoredBatch>,
}

impl Walk {
    pub(super) fn new(view: &View, topic: &TopicRow) -> Self {
        Self {
            view: view.clone(),
            topic: topic.id,
            at: topic.first_offset,
            until: topic.next_offset,
            page: VecDeque::new(),
        }
    }

    fn step(&mut self) -> Result<Option<StoredBatch>, Error> {
        if self.at >= self.until {
            return Ok(None);
        }
        if self.page.is_empty() {
            self.page = self.read()?;
        }
        let next = self.page.pop_front();
        let next =
            next.filter(|batch| batch.base_offset <= self.at && batch.next_offset() > self.at);
        let next = next.ok_or_else(|| self.missing())?;
        self.at = next.next_offset();
        Ok(Some(next))
    }

    /// The first batch may be cut, by a trim or by the limit, and the last by the limit: the one is read again, the other is left for the
    /// next page.
    fn read(&self) -> Result<VecDeque<StoredBatch>, Error> {
        let range = BatchRange {
            from: self.at,
            until: self.until,
            count_max: u32::MAX,
            bytes_max: PAGE_BYTES,
        };
        let mut page = VecDeque::from(self.view.store.batches(self.topic, range)?);
        if page.len() > 1
            && page
                .back()
                .is_some_and(|last| last.next_offset() < self.until)
        {
            page.pop_back();
        }
        let whole = self.view.store.batch_at(self.topic, self.at)?;
        let first = page.front_mut().ok_or_else(|| self.missing())?;
        *first = whole.ok_or_else(|| self.missing())?;
        Ok(page)
    }

    fn missing(&self) -> Error {
        Error::Store(store::Error::Missing {
            topic: self.topic,
            offset: self.at,
        })
    }
}

impl Iterator for Walk {
    type Item = Result<StoredBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.step();
        if next.is_err() {
            self.at = self.until;
        }
        next.transpose()
    }
}
