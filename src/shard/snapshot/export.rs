//! Writes a shard as chunks.

use std::collections::VecDeque;

use bytes::Bytes;

use super::draft::{Draft, last_chunk};
use super::error::Totals;
use crate::shard::row::{self, SessionRow, SubscriptionRow};
use crate::shard::view::TopicFilter;
use crate::shard::walk::Walk;
use crate::shard::{Error, TopicRow, View};
use crate::store::{Row, RowRange, Table};
use crate::types::{SubscriberId, TopicName};

/// A chunk is sent when the next record would make it longer; one record that is longer goes alone.
const CHUNK_BYTES: usize = 256 << 10;
/// Rows read at once.
const PAGE_ROWS: usize = 256;

/// The shard as chunks: what it counts, publishers, subscribers, then topics with their indexes in the order of names, and after each page of them their
/// sessions, sequences, subscriptions and batches. Memory is bounded, whatever the shard holds. The view must be of a frozen reader: chunks of a shard that
/// changes would not fit together.
///
/// Ends after the first error: when the store cannot be read, or what a row speaks of is not there.
pub fn export(view: View) -> impl Iterator<Item = Result<Bytes, Error>> {
    export_in(view, CHUNK_BYTES)
}

/// The same in chunks of another length.
pub(in crate::shard) fn export_in(
    view: View,
    chunk_bytes: usize,
) -> impl Iterator<Item = Result<Bytes, Error>> {
    let tables = [Table::Subscriber, Table::Publisher, Table::Shard];
    let mut work = vec![Work::Topics { after: None }];
    work.extend(tables.map(|table| Work::Rows(Scan::new(table, Bytes::new()))));
    Export {
        view,
        work,
        chunk_bytes,
        draft: Draft::new(),
        ready: VecDeque::new(),
        number: 0,
        totals: Totals::default(),
    }
}

/// Rows of a table that are still to be written.
struct Scan {
    table: Table,
    prefix: Bytes,
    after: Option<Bytes>,
}

impl Scan {
    fn new(table: Table, prefix: Bytes) -> Self {
        Self {
            table,
            prefix,
            after: None,
        }
    }
}

/// A part of the shard that is still to be written. A step writes a page of it.
enum Work {
    /// Rows as they are.
    Rows(Scan),
    /// All topics after a name.
    Topics { after: Option<TopicName> },
    /// A topic's sessions, with their sequences: those of forgotten sessions may still be in the store.
    Sessions { topic: Box<TopicRow>, scan: Scan },
    /// A topic's subscriptions, with their twins.
    Subscriptions { topic: Box<TopicRow>, scan: Scan },
    /// A topic's batches.
    Batches { topic: Box<TopicRow>, walk: Walk },
    /// The last chunk.
    Last,
}

struct Export {
    view: View,
    /// The last one comes first.
    work: Vec<Work>,
    chunk_bytes: usize,
    draft: Draft,
    ready: VecDeque<Bytes>,
    /// Of the next chunk.
    number: u64,
    totals: Totals,
}

impl Iterator for Export {
    type Item = Result<Bytes, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            let work = self.work.pop()?;
            if let Err(error) = self.step(work) {
                self.work.clear();
                self.ready.clear();
                return Some(Err(error));
            }
        }
    }
}

impl Export {
    fn step(&mut self, work: Work) -> Result<(), Error> {
        match work {
            Work::Rows(scan) => self.rows(scan),
            Work::Topics { after } => self.topics(after.as_ref()),
            Work::Sessions { topic, scan } => self.sessions(topic, scan),
            Work::Subscriptions { topic, scan } => self.subscriptions(topic, scan),
            Work::Batches { topic, walk } => self.batches(topic, walk),
            Work::Last => {
                self.send();
                let last = last_chunk(self.view.shard, self.number, self.totals);
                self.ready.push_back(last);
                Ok(())
            }
        }
    }

    /// The next page of rows, and where the one after it begins; `None` when there is no more.
    fn page(&self, scan: Scan) -> Result<(Vec<Row>, Option<Scan>), Error> {
        let range = RowRange {
            prefix: &scan.prefix,
            after: scan.after.as_deref(),
        };
        let shard = self.view.shard;
        let rows = self.view.store.rows(shard, scan.table, range, PAGE_ROWS)?;
        let is_full = rows.len() == PAGE_ROWS;
        let after = rows.last().map(|(key, _)| key.clone());
        let rest = is_full.then_some(Scan { after, ..scan });
        Ok((rows, rest))
    }

    fn rows(&mut self, scan: Scan) -> Result<(), Error> {
        let table = scan.table;
        let (rows, rest) = self.page(scan)?;
        self.work.extend(rest.map(Work::Rows));
        for (key, row) in rows {
            self.row(table, &key, &row);
        }
        Ok(())
    }

    fn topics(&mut self, after: Option<&TopicName>) -> Result<(), Error> {
        let topics = self.view.topics(TopicFilter::default(), after, PAGE_ROWS)?;
        let Some(last) = topics.last() else {
            self.work.push(Work::Last);
            return Ok(());
        };
        let after = Some(last.name.clone());
        self.work.push(Work::Topics { after });
        for topic in topics {
            let name = topic.name.as_str();
            self.row(Table::Topic, name.as_bytes(), &row::encode(&topic));
            if let Some(creator) = &topic.creator {
                let key = row::creator_key(creator, name);
                self.row(Table::TopicByCreator, &key, &[]);
            }
            if !topic.retention.is_for_ever() {
                let key = row::retention_key(topic.id);
                self.row(Table::Retention, &key, &row::encode(&topic.name));
            }
            self.work.extend(parts(&self.view, topic));
        }
        Ok(())
    }

    fn sessions(&mut self, topic: Box<TopicRow>, scan: Scan) -> Result<(), Error> {
        let (rows, rest) = self.page(scan)?;
        let id = topic.id;
        self.work
            .extend(rest.map(|scan| Work::Sessions { topic, scan }));
        for (key, row) in rows {
            let session: SessionRow = row::decode(Table::Session, &row)?;
            let prefix = row::sequence_prefix(id, session.number);
            self.work
                .push(Work::Rows(Scan::new(Table::Sequence, prefix)));
            self.row(Table::Session, &key, &row);
        }
        Ok(())
    }

    fn subscriptions(&mut self, topic: Box<TopicRow>, scan: Scan) -> Result<(), Error> {
        let skip = scan.prefix.len();
        let (rows, rest) = self.page(scan)?;
        for (key, row) in rows {
            let subscriber = row::name_at(&key, skip).map(SubscriberId);
            let table = Table::Subscription;
            let subscriber = subscriber.ok_or(Error::Key { table })?;
            let twin = row::twin_key(&subscriber, &topic.name, topic.id);
            self.row(table, &key, &row);
            self.row(Table::SubscriptionBySubscriber, &twin, &[]);
            if SubscriptionRow::decode(&row)?.sharing.is_some() {
                self.share(&key)?;
            }
        }
        self.work
            .extend(rest.map(|scan| Work::Subscriptions { topic, scan }));
        Ok(())
    }

    /// What is known of a shared subscription.
    fn share(&mut self, key: &[u8]) -> Result<(), Error> {
        let table = Table::Share;
        let row = self.view.store.row(self.view.shard, table, key)?;
        self.row(table, key, &row.ok_or(Error::RowMissing { table })?);
        Ok(())
    }

    /// Batches until a chunk is ready.
    fn batches(&mut self, topic: Box<TopicRow>, mut walk: Walk) -> Result<(), Error> {
        while self.ready.is_empty() {
            let Some(batch) = walk.next().transpose()? else {
                return Ok(());
            };
            self.make_room(batch.batch.payload().len());
            self.draft.batch(topic.id, &batch);
        }
        self.work.push(Work::Batches { topic, walk });
        Ok(())
    }

    fn row(&mut self, table: Table, key: &[u8], row: &[u8]) {
        self.make_room(key.len() + row.len());
        self.draft.row(table, key, row);
    }

    /// Sends what there is when a record of about this length would make the chunk too long.
    fn make_room(&mut self, record_bytes: usize) {
        if self.draft.len() + record_bytes > self.chunk_bytes {
            self.send();
        }
    }

    fn send(&mut self) {
        if self.draft.is_empty() {
            return;
        }
        let draft = std::mem::replace(&mut self.draft, Draft::new());
        let chunk = draft.finish(self.view.shard, self.number, &mut self.totals);
        self.ready.push_back(chunk);
        self.number += 1;
    }
}

/// What hangs on a topic, the last first.
fn parts(view: &View, topic: TopicRow) -> Vec<Work> {
    let mut parts = Vec::new();
    let prefix = row::topic_prefix(topic.id);
    let topic = Box::new(topic);
    if topic.first_offset < topic.next_offset {
        let walk = Walk::new(view, &topic);
        parts.push(Work::Batches {
            topic: topic.clone(),
            walk,
        });
    }
    if topic.session_count > 0 {
        parts.push(Work::Sessions {
            topic: topic.clone(),
            scan: Scan::new(Table::Session, prefix.clone()),
        });
    }
    parts.push(Work::Subscriptions {
        topic,
        scan: Scan::new(Table::Subscription, prefix),
    });
    parts
}
