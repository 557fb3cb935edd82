//! Applies entries of the log. Begin with [`Machine::apply`].
//!
//! The store's mark of a shard is what this module makes of the caller's:
//! ```text
//! 0   version   1
//! 1   term      u64 big-endian   of the last entry applied
//! 9   index     u64 big-endian
//! 17  the caller's mark
//! ```

use std::sync::Arc;

use bytes::Bytes;

use super::command::VERSION as COMMAND_VERSION;
use super::overlay::Overlay;
use super::snapshot::{ChunkError, Import};
use super::topic::Creation;
use super::{Command, CommandError, Event, NewTopic, Outcome, Refusal, Response, View};
use crate::store::{self, BoxError, Reader, Table, TopicStore};
use crate::types::{LogIndex, LogPosition, Term, Vertex};

const MARK_VERSION: u8 = 1;

/// An entry of the shard's log: its position and its command, or `None` for a blank or a change of members.
pub type Entry = (LogPosition, Option<Bytes>);

/// What a group of entries did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// For each entry in order; `None` where there was no command.
    pub outcomes: Vec<Option<Outcome>>,
    /// What changed, in order.
    pub events: Vec<Event>,
}

/// Why entries were not applied. Nothing of the group is in the store then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed. The machine must be opened anew.
    #[error("the topic store failed")]
    Store(#[from] store::Error),
    /// A row has its checksum but not its form.
    #[error("a row of table {table:?} cannot be read")]
    Row {
        /// The table.
        table: Table,
        /// What is wrong.
        source: postcard::Error,
    },
    /// A row was written by a newer program.
    #[error("a row of table {table:?} has version {found}, this program knows up to {known}")]
    RowVersion {
        /// The table.
        table: Table,
        /// Its version.
        found: u8,
        /// The newest version known here.
        known: u8,
    },
    /// A key has its place but not its form.
    #[error("a key of table {table:?} cannot be read")]
    Key {
        /// The table.
        table: Table,
    },
    /// A row that another row speaks of is not there.
    #[error("a row of table {table:?} is missing")]
    RowMissing {
        /// The table.
        table: Table,
    },
    /// The mark cannot be read.
    #[error("the mark of shard {shard} cannot be read")]
    Mark {
        /// The shard.
        shard: Vertex,
    },
    /// The mark was written by a newer program.
    #[error("the mark of shard {shard} has version {found}, this program knows up to {known}")]
    MarkVersion {
        /// The shard.
        shard: Vertex,
        /// Its version.
        found: u8,
        /// The newest version known here.
        known: u8,
    },
    /// A command was proposed by a newer program. Were it only refused here, this replica would not be what the others are.
    #[error("entry {position} has a command of version {found}, this program knows up to {known}")]
    CommandVersion {
        /// The entry.
        position: LogPosition,
        /// Its version.
        found: u8,
        /// The newest version known here.
        known: u8,
    },
    /// An entry was applied before, or one before it was not.
    #[error("entry {found} does not follow entry {applied}, the last one applied")]
    OutOfOrder {
        /// The last entry applied.
        applied: LogPosition,
        /// The entry given.
        found: LogPosition,
    },
    /// A snapshot is not one, or not whole.
    #[error("the snapshot is broken")]
    Snapshot(#[from] ChunkError),
    /// The rest of a snapshot did not come.
    #[error("the snapshot could not be read to its end")]
    Transfer(#[source] BoxError),
    /// An earlier call failed, so what the machine remembers may be wrong.
    #[error("shard {shard} failed before and must be opened anew")]
    Failed {
        /// The shard.
        shard: Vertex,
    },
}

/// A command stops early: refused, or failed.
pub(super) enum Stop {
    Refused(Refusal),
    Failed(Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// One shard's state machine.
pub struct Machine {
    overlay: Overlay,
    applied: Option<LogPosition>,
    mark: Option<Bytes>,
    has_failed: bool,
}

impl Error {
    /// Whether the shard's part of this replica's store is not what was written, so that it must come anew from another replica.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Store(error) => error.is_damage(),
            Self::Row { .. } | Self::RowMissing { .. } => true,
            Self::Key { .. } | Self::Mark { .. } => true,
            Self::RowVersion { .. } | Self::MarkVersion { .. } => false,
            Self::CommandVersion { .. } => false,
            Self::OutOfOrder { .. } | Self::Failed { .. } => false,
            Self::Snapshot(_) | Self::Transfer(_) => false,
        }
    }

    /// Whether the rows were replaced while they were read: reading them again may do.
    pub fn is_replaced(&self) -> bool {
        matches!(self, Self::Store(store::Error::Replaced { .. }))
    }
}

impl Machine {
    /// The machine as it was after the last commit.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn open(shard: Vertex, store: Arc<dyn TopicStore>) -> Result<Self, Error> {
        let (applied, mark) = mark_of(&*store, shard)?.unzip();
        Ok(Self {
            overlay: Overlay::new(shard, store),
            applied,
            mark,
            has_failed: false,
        })
    }

    /// The machine of a shard whose content comes from a snapshot, in the place of all that the store holds of it. The state is the last
    /// entry that the snapshot has in it, and the caller's mark. Durable on return; after an error or a crash the shard may be empty, but
    /// is never mixed.
    ///
    /// # Errors
    /// [`Error::Snapshot`] when the chunks are not a whole snapshot of the shard, [`Error::Transfer`] when they did not come, another
    /// [`Error`] when the store fails.
    pub fn install(
        shard: Vertex,
        store: Arc<dyn TopicStore>,
        chunks: &mut dyn Iterator<Item = Result<Bytes, BoxError>>,
        state: (LogPosition, Bytes),
    ) -> Result<Self, Error> {
        let (applied, mark) = state;
        let mut import = Import::new(shard, chunks);
        let replaced = store.replace(shard, &mut import, join_mark(applied, &mark));
        // Why the chunks ended says more than that they did; but a store that failed did not take them to their end.
        if matches!(&replaced, Ok(()) | Err(store::Error::Part(_))) {
            import.finish()?;
        }
        replaced?;
        Self::open(shard, store)
    }

    /// The last entry applied; `None` at first.
    pub fn applied(&self) -> Option<LogPosition> {
        self.applied
    }

    /// The caller's mark of the last commit.
    pub fn mark(&self) -> Option<&Bytes> {
        self.mark.as_ref()
    }

    /// The last entry whose effects a power cut cannot take back; the log may be purged up to it.
    ///
    /// # Errors
    /// [`Error::Mark`] when the mark cannot be read.
    pub fn durable_applied(&self) -> Result<Option<LogPosition>, Error> {
        let shard = self.overlay.shard();
        let mark = self.overlay.store().durable_mark(shard);
        let parts = mark.map(|mark| split_mark(shard, &mark)).transpose()?;
        Ok(parts.map(|(applied, _)| applied))
    }

    /// Whether the next [`Self::apply`] is sure not to wait for a store that is behind with its upkeep.
    pub fn is_calm(&self) -> bool {
        self.overlay.store().is_calm()
    }

    #[cfg(test)]
    pub(super) fn store(&self) -> &Arc<dyn TopicStore> {
        self.overlay.store()
    }

    /// Answers queries about this shard.
    pub fn view(&self) -> View {
        let store = Arc::<dyn TopicStore>::clone(self.overlay.store());
        View::new(self.overlay.shard(), store)
    }

    /// Applies entries that follow the last one applied, in one commit, with the caller's mark. However a log is cut into groups, the
    /// outcomes and the state are the same.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] when an entry was applied before or one is left out; nothing is done then. Any other [`Error`] ends the
    /// machine: open a new one.
    pub fn apply(&mut self, entries: Vec<Entry>, mark: Bytes) -> Result<Applied, Error> {
        if self.has_failed {
            return Err(Error::Failed {
                shard: self.overlay.shard(),
            });
        }
        let last = self.check_order(&entries)?;
        let result = self.apply_group(entries, (last, mark));
        self.has_failed = result.is_err();
        result
    }

    /// The position after the entries, when they follow each other.
    fn check_order(&self, entries: &[Entry]) -> Result<Option<LogPosition>, Error> {
        let mut last = self.applied;
        for (found, _) in entries {
            let follows = |applied: LogPosition| {
                found.index == applied.index.next() && found.term >= applied.term
            };
            match last {
                Some(applied) if !follows(applied) => {
                    return Err(Error::OutOfOrder {
                        applied,
                        found: *found,
                    });
                }
                _ => last = Some(*found),
            }
        }
        Ok(last)
    }

    fn apply_group(
        &mut self,
        entries: Vec<Entry>,
        (last, mark): (Option<LogPosition>, Bytes),
    ) -> Result<Applied, Error> {
        let mut applied = Applied {
            outcomes: Vec::with_capacity(entries.len()),
            events: Vec::new(),
        };
        for (position, command) in entries {
            let mut step = Step {
                overlay: &mut self.overlay,
                events: &mut applied.events,
                position,
            };
            let outcome = command.map(|bytes| step.outcome(&bytes)).transpose()?;
            applied.outcomes.push(outcome);
        }
        if let Some(last) = last {
            self.overlay.commit(join_mark(last, &mark))?;
            self.applied = Some(last);
            self.mark = Some(mark);
        }
        Ok(applied)
    }
}

/// What a reader holds of a shard: the last entry applied, and the caller's mark. `None` when nothing was applied.
///
/// # Errors
/// [`Error`] when the store cannot be read.
pub fn mark_of(reader: &dyn Reader, shard: Vertex) -> Result<Option<(LogPosition, Bytes)>, Error> {
    let mark = reader.mark(shard)?;
    mark.map(|mark| split_mark(shard, &mark)).transpose()
}

fn join_mark(applied: LogPosition, mark: &[u8]) -> Bytes {
    let (term, index) = (applied.term.0.to_be_bytes(), applied.index.0.to_be_bytes());
    [&[MARK_VERSION], &term[..], &index, mark].concat().into()
}

fn split_mark(shard: Vertex, mark: &Bytes) -> Result<(LogPosition, Bytes), Error> {
    let version = mark.first().copied();
    if let Some(found) = version.filter(|found| *found > MARK_VERSION) {
        let known = MARK_VERSION;
        return Err(Error::MarkVersion {
            shard,
            found,
            known,
        });
    }
    let parts = || {
        let (version, rest) = mark.split_first()?;
        let (term, rest) = rest.split_first_chunk::<8>()?;
        let (index, rest) = rest.split_first_chunk::<8>()?;
        let position = LogPosition {
            term: Term(u64::from_be_bytes(*term)),
            index: LogIndex(u64::from_be_bytes(*index)),
        };
        (*version == MARK_VERSION).then(|| (position, mark.slice(mark.len() - rest.len()..)))
    };
    parts().ok_or(Error::Mark { shard })
}

/// One entry being applied. What each command does is in the files named for it.
pub(super) struct Step<'a> {
    pub(super) overlay: &'a mut Overlay,
    pub(super) events: &'a mut Vec<Event>,
    pub(super) position: LogPosition,
}

impl Step<'_> {
    fn outcome(&mut self, bytes: &Bytes) -> Result<Outcome, Error> {
        let result = match Command::decode(bytes) {
            Ok(command) => self.run(command),
            Err(CommandError::Version { found }) if found > COMMAND_VERSION => {
                return Err(Error::CommandVersion {
                    position: self.position,
                    found,
                    known: COMMAND_VERSION,
                });
            }
            Err(error) => Err(Stop::Refused(error.into())),
        };
        match result {
            Ok(response) => Ok(Ok(response)),
            Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    #[expect(clippy::too_many_lines, reason = "a table: an arm for each command")]
    fn run(&mut self, command: Command) -> Result<Response, Stop> {
        match command {
            Command::CreateTopic {
                topic,
                creator,
                request_id,
                at,
                retention,
            } => {
                let new = NewTopic { topic, retention };
                self.create_topic(new, &Creation::new(creator, request_id, at))
            }
            Command::CreateTopics {
                topics,
                creator,
                request_id,
                at,
            } => self.create_topics(topics, &Creation::new(creator, request_id, at)),
            Command::SetRetention { topic, retention } => self.set_retention(&topic, retention),
            Command::Trim {
                topic,
                topic_id,
                before,
                bytes,
            } => self.trim(&topic, topic_id, (before, bytes)),
            Command::Barrier { .. } => Ok(Response::Barrier),
            Command::DeleteTopic { topic } => self.delete_topic(&topic),
            Command::CreatePublisher {
                publisher,
                request_id,
                at,
            } => self.create_publisher(publisher, request_id, at),
            Command::DeletePublisher { publisher } => self.delete_publisher(publisher),
            Command::CreateSubscriber {
                subscriber,
                request_id,
                at,
            } => self.create_subscriber(subscriber, request_id, at),
            Command::DeleteSubscriber { subscriber } => self.delete_subscriber(subscriber),
            Command::Append {
                topic,
                origin,
                at,
                batch,
            } => self.append(&topic, origin, at, batch),
            Command::Subscribe {
                topic,
                subscriber,
                start,
                at,
            } => self.subscribe(&topic, &subscriber, (start, None), at),
            Command::SubscribeShared {
                topic,
                subscriber,
                start,
                at,
                sharing,
            } => self.subscribe(&topic, &subscriber, (start, Some(sharing)), at),
            Command::Unsubscribe { topic, subscriber } => self.unsubscribe(&topic, &subscriber),
            Command::Acknowledge {
                topic,
                subscriber,
                next_offset,
                expected,
            } => self.acknowledge(&topic, &subscriber, next_offset, expected),
            Command::Settle {
                topic,
                topic_id,
                subscriber,
                era,
                settlement,
            } => self.settle((&topic, topic_id), (&subscriber, era), settlement),
            Command::AcknowledgeLife {
                topic,
                topic_id,
                subscriber,
                next_offset,
            } => self.acknowledge_life((topic, topic_id), &subscriber, next_offset),
            Command::Seek {
                topic,
                subscriber,
                to,
            } => self.seek(&topic, &subscriber, to),
        }
    }
}
