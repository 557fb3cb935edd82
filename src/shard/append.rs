//! Appends, and the memory that makes a repeated one answer as the first did (guarantee G3).

use bytes::Bytes;

use super::machine::{Step, Stop};
use super::row::{self, SequenceRow, SessionRow};
use super::{Error, Event, Refusal, Response, TopicRow};
use crate::store::{Doom, Table};
use crate::types::{
    Batch, ByteCount, Limits, Offset, PublisherId, Sequence, SessionId, StoredBatch, Timestamp,
    TopicName,
};

type Origin = (PublisherId, SessionId, Sequence);

/// Rows of a session that one append may drop: one more than it adds, so that a backlog gets smaller.
const SEQUENCES_FORGOTTEN_MAX: u32 = 2;

/// Where a publish stands in its session.
enum Place {
    /// It was appended before.
    Past(SequenceRow),
    /// It comes next; the session is counted in the topic already.
    Next { key: Bytes, session: SessionRow },
}

impl Step<'_> {
    pub(super) fn append(
        &mut self,
        name: &TopicName,
        origin: Option<Origin>,
        at: Timestamp,
        batch: Batch,
    ) -> Result<Response, Stop> {
        let mut topic = self.topic(name)?;
        let place = match &origin {
            Some(origin) => Some(self.place(&mut topic, origin)?),
            None => None,
        };
        if let Some(Place::Past(first)) = place {
            return Ok(appended(&topic, first, Newness::Repeated));
        }
        let first = SequenceRow {
            first_offset: topic.next_offset,
            count: batch.count(),
            append_time: at.max(topic.appended),
        };
        if let Some(Place::Next { key, mut session }) = place {
            self.forget_sequences(&topic, &mut session)?;
            let sequence = session.next_sequence;
            if session.first_sequence == sequence {
                session.first_end = first.next_offset();
            }
            let sequence_key = row::sequence_key(topic.id, session.number, sequence);
            self.overlay.put(Table::Sequence, sequence_key, &first);
            session.next_sequence = Sequence(sequence.0 + 1);
            session.used = self.position.index;
            self.overlay.put(Table::Session, key, &session);
        }
        topic.bytes = ByteCount(topic.bytes.0.saturating_add(batch.bytes().0));
        topic.appended = first.append_time;
        topic.next_offset = topic.next_offset.plus(u64::from(first.count));
        let stored = StoredBatch {
            base_offset: first.first_offset,
            append_time: first.append_time,
            origin,
            log_position: self.position,
            batch,
        };
        self.overlay.append(topic.id, stored);
        self.put_topic(&topic);
        self.say_advanced(&topic);
        Ok(appended(&topic, first, Newness::New))
    }

    /// Finds the publish in its session. A session that begins is counted and may push out the one unused longest; a repetition is a use.
    fn place(&mut self, topic: &mut TopicRow, origin: &Origin) -> Result<Place, Stop> {
        let (publisher, session_id, sequence) = origin;
        let key = row::session_key(topic.id, publisher, *session_id);
        let Some(mut session) = self.overlay.get::<SessionRow>(Table::Session, &key)? else {
            if *sequence != Sequence(0) {
                return Err(Refusal::SessionUnknown {
                    topic: topic.name.clone(),
                    publisher: publisher.clone(),
                    session: *session_id,
                    got: *sequence,
                }
                .into());
            }
            let session = self.begin_session(topic)?;
            return Ok(Place::Next { key, session });
        };
        if *sequence == session.next_sequence {
            return Ok(Place::Next { key, session });
        }
        if *sequence > session.next_sequence {
            return Err(Refusal::SequenceGap {
                topic: topic.name.clone(),
                publisher: publisher.clone(),
                session: *session_id,
                expected: session.next_sequence,
                got: *sequence,
            }
            .into());
        }
        if *sequence < session.first_sequence {
            return Err(Refusal::SequenceForgotten {
                topic: topic.name.clone(),
                publisher: publisher.clone(),
                session: *session_id,
                sequence: *sequence,
            }
            .into());
        }
        let table = Table::Sequence;
        let past_key = row::sequence_key(topic.id, session.number, *sequence);
        let past = self.overlay.get(table, &past_key)?;
        let past = past.ok_or(Error::RowMissing { table })?;
        session.used = self.position.index;
        self.overlay.put(Table::Session, key, &session);
        Ok(Place::Past(past))
    }

    fn begin_session(&mut self, topic: &mut TopicRow) -> Result<SessionRow, Error> {
        if topic.session_count >= Limits::SESSIONS_PER_TOPIC_MAX {
            self.forget_session(topic)?;
        }
        let number = topic.session_number_next;
        topic.session_number_next += 1;
        topic.session_count += 1;
        Ok(SessionRow {
            number,
            first_sequence: Sequence(0),
            first_end: Offset(0),
            next_sequence: Sequence(0),
            used: self.position.index,
        })
    }

    /// Drops rows of the session whose messages are gone, a few at each append. An append brings one, so they cannot pile up.
    fn forget_sequences(
        &mut self,
        topic: &TopicRow,
        session: &mut SessionRow,
    ) -> Result<(), Error> {
        let table = Table::Sequence;
        for _ in 0..SEQUENCES_FORGOTTEN_MAX {
            let first = session.first_sequence;
            if first == session.next_sequence || session.first_end > topic.first_offset {
                break;
            }
            let key = row::sequence_key(topic.id, session.number, first);
            self.overlay.remove(table, key);
            session.first_sequence = Sequence(first.0 + 1);
            if session.first_sequence < session.next_sequence {
                let key = row::sequence_key(topic.id, session.number, session.first_sequence);
                let row: Option<SequenceRow> = self.overlay.get(table, &key)?;
                session.first_end = row.ok_or(Error::RowMissing { table })?.next_offset();
            }
        }
        Ok(())
    }

    /// Forgets the session unused longest. Reads all sessions of the topic, a bounded number; only a new session on a full topic pays it.
    fn forget_session(&mut self, topic: &mut TopicRow) -> Result<(), Error> {
        let rows = self
            .overlay
            .scan(Table::Session, &row::topic_prefix(topic.id))?;
        let mut oldest: Option<(Bytes, SessionRow)> = None;
        for (key, bytes) in rows {
            let session: SessionRow = row::decode(Table::Session, &bytes)?;
            // An entry uses one session, so no two were used last by the same.
            if oldest
                .as_ref()
                .is_none_or(|(_, old)| session.used < old.used)
            {
                oldest = Some((key, session));
            }
        }
        if let Some((key, session)) = oldest {
            self.overlay.remove(Table::Session, key);
            self.overlay.doom(Doom::Rows {
                table: Table::Sequence,
                prefix: row::sequence_prefix(topic.id, session.number),
                twin: None,
            });
            topic.session_count = topic.session_count.saturating_sub(1);
        }
        Ok(())
    }

    /// Several appends to one topic in a row are one event.
    fn say_advanced(&mut self, topic: &TopicRow) {
        match self.events.last_mut() {
            Some(Event::TopicAdvanced {
                topic_id,
                next_offset,
                ..
            }) if *topic_id == topic.id => *next_offset = topic.next_offset,
            _ => self.events.push(Event::TopicAdvanced {
                topic_id: topic.id,
                topic: topic.name.clone(),
                next_offset: topic.next_offset,
            }),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Newness {
    New,
    Repeated,
}

fn appended(topic: &TopicRow, first: SequenceRow, newness: Newness) -> Response {
    Response::Appended {
        topic_id: topic.id,
        first_offset: first.first_offset,
        count: first.count,
        append_time: first.append_time,
        is_duplicate: newness == Newness::Repeated,
    }
}
