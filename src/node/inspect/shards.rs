//! The store of a peer, shard by shard, against itself and against the log.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Inspection, STORE, Verdict, in_store, told};
use crate::env::disk;
use crate::shard::{self, TopicFilter, TopicRow, View};
use crate::store::{self, FjallStore, Reader, TopicStore};
use crate::types::{ByteCount, Dimension, LogPosition, Offset, Vertex};
use crate::wal;

/// Topics listed at once.
const TOPICS_MAX: usize = 1000;
/// Payload read at once.
const READ_BYTES_MAX: ByteCount = ByteCount(4 << 20);
/// Findings in one shard's topics, after which the rest is not worth a line each.
const FINDINGS_MAX: usize = 100;

/// A store that is read, and closed after its reader.
struct Opened {
    reader: Arc<dyn Reader>,
    _store: Option<FjallStore>,
}

impl Inspection<'_> {
    /// Looks at the store. `log` is what the log holds, if it could be listed.
    pub(super) fn store(&mut self, dimension: Option<Dimension>, log: Option<&wal::Inspected>) {
        let folder = self.directory.join(STORE);
        let found = match self.disk.list(&folder) {
            Ok(_) => {
                let visit = &mut *self.visit;
                let directory = self.directory.clone();
                store::inspect(&folder, &mut |finding| {
                    let (shard, text) = in_store(&finding);
                    visit(super::Finding {
                        directory: directory.clone(),
                        thing: "store",
                        shard,
                        verdict: Verdict::Damaged,
                        text,
                        place: None,
                    });
                })
            }
            Err(disk::Error::NotFound { .. }) => {
                self.tell("store", Verdict::Noted, "there is none");
                Ok(store::Inspected::default())
            }
            Err(error) => return self.tell("store", Verdict::Damaged, told(&error)),
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.tell("store", Verdict::Damaged, told(&error)),
        };
        // Opening would empty a shard whose replacement was cut short; until then nothing is to be read of it.
        let is_unfinished = found.shards.values().any(|shard| shard.is_unfinished);
        let reader = match is_unfinished {
            true => None,
            false => self.open(&found),
        };
        let reader = reader.as_ref().map(|opened| &opened.reader);
        let mut shards: BTreeSet<u16> = found.shards.keys().copied().collect();
        shards.extend(log.iter().flat_map(|log| log.shards.keys()));
        let dimension = dimension.or(Dimension::new(Dimension::MAX).ok());
        for index in shards {
            let vertex = dimension.and_then(|dimension| Vertex::new(index, dimension).ok());
            let Some(vertex) = vertex else {
                let text = "no vertex of this cube has this number".to_owned();
                self.tell_of("store", Some(index), Verdict::Damaged, text);
                continue;
            };
            let stored = found.shards.get(&index);
            self.shard(vertex, stored, reader);
            if let (Some(log), Some(reader)) = (log, reader) {
                let bounds = log.shards.get(&index).cloned().unwrap_or_default();
                self.position(vertex, &bounds, &**reader);
            }
        }
    }

    /// The store, frozen; `None` also when there is none.
    fn open(&mut self, found: &store::Inspected) -> Option<Opened> {
        if found.shards.is_empty() {
            let nothing: Arc<dyn Reader> = Arc::new(store::MemoryStore::default());
            return Some(Opened {
                reader: nothing,
                _store: None,
            });
        }
        let folder = self.directory.join(STORE);
        let opened = FjallStore::open(&folder, store::Options::default());
        match opened.and_then(|store| Ok((store.snapshot()?, store))) {
            Ok((reader, store)) => Some(Opened {
                reader,
                _store: Some(store),
            }),
            Err(error) => {
                self.tell("store", Verdict::Damaged, told(&error));
                None
            }
        }
    }

    fn shard(
        &mut self,
        vertex: Vertex,
        stored: Option<&store::InspectedShard>,
        reader: Option<&Arc<dyn Reader>>,
    ) {
        let Some(stored) = stored else { return };
        let index = Some(vertex.index());
        if stored.is_unfinished {
            let text = "its replacement was cut short; the next start empties it".to_owned();
            return self.tell_of("store", index, Verdict::Noted, text);
        }
        let text = format!(
            "{} rows, {} batches with {} messages of {} bytes",
            stored.row_count, stored.batch_count, stored.message_count, stored.payload_bytes
        );
        self.tell_of("store", index, Verdict::Whole, text);
        if let Some(reader) = reader {
            self.topics(vertex, reader);
        }
    }

    /// Whether each topic has all its messages.
    fn topics(&mut self, vertex: Vertex, reader: &Arc<dyn Reader>) {
        let view = View::new(vertex, Arc::clone(reader));
        let index = Some(vertex.index());
        let (mut count, mut damaged) = (0_u64, 0);
        let mut last = None;
        loop {
            let filter = TopicFilter::default();
            let page = match view.topics(filter, last.as_ref(), TOPICS_MAX) {
                Ok(page) => page,
                Err(error) => {
                    return self.tell_of("topics", index, Verdict::Damaged, told(&error));
                }
            };
            let Some(end) = page.last() else { break };
            last = Some(end.name.clone());
            for topic in page {
                count += 1;
                if let Err(text) = is_dense(&view, &topic) {
                    damaged += 1;
                    let text = format!("topic {}: {text}", topic.name);
                    self.tell_of("topics", index, Verdict::Damaged, text);
                }
                if damaged == FINDINGS_MAX {
                    let text = format!("more than {damaged} topics are damaged");
                    return self.tell_of("topics", index, Verdict::Damaged, text);
                }
            }
        }
        if damaged == 0 {
            let text = format!("{count} topics, each with all its messages");
            self.tell_of("topics", index, Verdict::Whole, text);
        }
    }

    /// Whether log and store meet: what is not applied must be in the log.
    fn position(&mut self, vertex: Vertex, bounds: &wal::Bounds, reader: &dyn Reader) {
        let index = Some(vertex.index());
        match shard::mark_of(reader, vertex) {
            Ok(mark) => {
                let applied = mark.map(|(applied, _)| applied);
                let (verdict, text) = compare(applied, bounds);
                self.tell_of("log", index, verdict, text);
            }
            Err(error) => self.tell_of("store", index, Verdict::Damaged, told(&error)),
        }
    }
}

/// What is missing of a topic's messages.
fn is_dense(view: &View, topic: &TopicRow) -> Result<(), String> {
    let mut next = topic.first_offset;
    while next < topic.next_offset {
        let read = view.batches(topic, next, u32::MAX, READ_BYTES_MAX);
        let batches = read.map_err(|error| told(&error))?;
        let begun = next;
        for batch in batches {
            if batch.base_offset != next {
                return Err(missing(next, batch.base_offset));
            }
            next = batch.next_offset();
        }
        if next == begun {
            return Err(missing(next, topic.next_offset));
        }
    }
    Ok(())
}

fn missing(from: Offset, next: Offset) -> String {
    format!("messages {from} up to, not including, {next} are missing")
}

/// Whether what the store has not applied is in the log.
fn compare(applied: Option<LogPosition>, bounds: &wal::Bounds) -> (Verdict, String) {
    let purged = bounds.purged.as_ref().map(|purged| purged.position);
    let last = bounds.last.or(purged);
    let told = |position: Option<LogPosition>| {
        position.map_or_else(|| "nothing".to_owned(), |position| position.to_string())
    };
    let index = |position: Option<LogPosition>| position.map(|position| position.index);
    if index(applied) < index(purged) {
        let text = format!(
            "the store has applied {}, but the log is purged up to {}: the entries between are missing",
            told(applied),
            told(purged)
        );
        return (Verdict::Damaged, text);
    }
    if index(applied) > index(last) {
        let text = format!(
            "the store has applied {}, but the log ends at {}",
            told(applied),
            told(last)
        );
        return (Verdict::Damaged, text);
    }
    let text = format!(
        "purged up to {}, last entry {}, applied in the store {}",
        told(purged),
        told(last),
        told(applied)
    );
    (Verdict::Whole, text)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{LogIndex, Term};

    fn position(index: u64) -> Option<LogPosition> {
        let index = LogIndex(index);
        let term = Term(1);
        Some(LogPosition { term, index })
    }

    #[test]
    fn gap_between_log_and_store_is_damage() {
        let bounds = |purged: Option<LogPosition>, last| wal::Bounds {
            purged: purged.map(|position| wal::Purged {
                position,
                state: Bytes::new(),
            }),
            last,
            ..wal::Bounds::default()
        };
        for (applied, purged, last, verdict) in [
            (None, None, None, Verdict::Whole),
            (None, None, position(9), Verdict::Whole),
            (position(4), position(4), position(9), Verdict::Whole),
            (position(9), position(9), None, Verdict::Whole),
            (position(3), position(4), position(9), Verdict::Damaged),
            (None, position(4), position(9), Verdict::Damaged),
            (position(10), position(4), position(9), Verdict::Damaged),
            (position(1), None, None, Verdict::Damaged),
        ] {
            let (found, text) = compare(applied, &bounds(purged, last));
            assert_eq!(found, verdict, "{text}");
        }
    }
}
