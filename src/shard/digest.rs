//! A digest of all that a shard or a topic holds, so that replicas can be compared byte for byte.
//!
//! SHA-256 over the rows and batches in the order of their keys, each part preceded by its length. Left out is what may differ between equal
//! replicas: the mark, what is doomed but not swept yet, and the three indexes, which follow from other rows.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::row::{self, SessionRow};
use super::view::TopicFilter;
use super::walk::Walk;
use super::{Error, TopicRow, View};
use crate::store::{RowRange, Table};
use crate::types::{StoredBatch, TopicName};

/// Rows read at once.
const STEP: usize = 1024;

/// What a shard or topic holds, in 32 bytes. Shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl View {
    /// The digest of the whole shard. Reads everything; meant for a shard at rest.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn digest(&self) -> Result<Digest, Error> {
        let mut hash = Sha256::new();
        for table in [Table::Shard, Table::Publisher, Table::Subscriber] {
            self.hash_rows(&mut hash, table, &[])?;
        }
        let mut after: Option<TopicName> = None;
        loop {
            let topics = self.topics(TopicFilter::default(), after.as_ref(), STEP)?;
            let Some(last) = topics.last() else { break };
            after = Some(last.name.clone());
            for topic in &topics {
                self.hash_topic(&mut hash, topic)?;
            }
        }
        Ok(Digest(hash.finalize().into()))
    }

    /// The digest of one topic with its sessions, subscriptions and messages.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn topic_digest(&self, topic: &TopicRow) -> Result<Digest, Error> {
        let mut hash = Sha256::new();
        self.hash_topic(&mut hash, topic)?;
        Ok(Digest(hash.finalize().into()))
    }

    fn hash_topic(&self, hash: &mut Sha256, topic: &TopicRow) -> Result<(), Error> {
        part(hash, &row::encode(topic));
        let prefix = row::topic_prefix(topic.id);
        self.hash_rows(hash, Table::Session, &prefix)?;
        // Rows of forgotten sessions may still be there: take those of the sessions known.
        let range = RowRange {
            prefix: &prefix,
            after: None,
        };
        let sessions = self
            .store
            .rows(self.shard, Table::Session, range, usize::MAX)?;
        for (_, row) in sessions {
            let session: SessionRow = row::decode(Table::Session, &row)?;
            let prefix = row::sequence_prefix(topic.id, session.number);
            self.hash_rows(hash, Table::Sequence, &prefix)?;
        }
        self.hash_rows(hash, Table::Subscription, &prefix)?;
        self.hash_rows(hash, Table::Share, &prefix)?;
        for batch in Walk::new(self, topic) {
            hash_batch(hash, &batch?);
        }
        Ok(())
    }

    fn hash_rows(&self, hash: &mut Sha256, table: Table, prefix: &[u8]) -> Result<(), Error> {
        let mut after = None;
        loop {
            let range = RowRange {
                prefix,
                after: after.as_deref(),
            };
            let rows = self.store.rows(self.shard, table, range, STEP)?;
            for (key, row) in &rows {
                part(hash, &[table as u8]);
                part(hash, key);
                part(hash, row);
            }
            match rows.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => return Ok(()),
            }
        }
    }
}

fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

fn hash_batch(hash: &mut Sha256, stored: &StoredBatch) {
    let position = stored.log_position;
    for number in [
        stored.base_offset.0,
        stored.append_time.0,
        position.term.0,
        position.index.0,
        u64::from(stored.batch.count()),
    ] {
        hash.update(number.to_be_bytes());
    }
    if let Some((publisher, session, sequence)) = &stored.origin {
        part(hash, publisher.as_str().as_bytes());
        hash.update(session.0.to_be_bytes());
        hash.update(sequence.0.to_be_bytes());
    }
    part(hash, stored.batch.payload());
}
