//! One shard on one peer: propose to it, read it, wait for it.
//!
//! A replica joins the shard's group (`consensus`) with its rows (`store`, read through `shard::View`). It never knows which call it serves and
//! never talks to a client. Begin with [`Replica`]; [`Replicas`] holds those of this peer.

mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::consensus::{self, Group, Leadership, Role, Status};
use crate::link::Peers;
use crate::shard::{self, Command, View};
use crate::store::TopicStore;
use crate::types::{ByteCount, LogPosition, PeerId, Term, TopicName, Vertex};
use crate::wal::RaftLog;

pub use watch::TopicWatch;

/// How fresh a read must be (guarantee G4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// What the leader has committed, without asking the others.
    Leader,
    /// Sees every write that was acknowledged before the read began.
    Linearizable,
    /// Any replica: a prefix of the log.
    Eventual,
}

/// An applied command.
#[derive(Debug)]
pub struct Proposed {
    /// What the state machine answered.
    pub outcome: shard::Outcome,
    /// The log entry that carried it.
    pub position: LogPosition,
    /// The peers that are known to have that entry on stable storage: at least a majority.
    pub stored_by: Vec<PeerId>,
}

/// Leave to read.
pub struct Read {
    /// The rows.
    pub view: View,
    /// Committed entries that this replica has not applied yet, as far as it knows. `None`: it does not know.
    pub lag: Option<u64>,
    /// Whether this replica leads.
    pub is_leader: bool,
    /// The leader, when known.
    pub leader: Option<PeerId>,
}

/// What all replicas of a peer work with.
#[derive(Clone)]
pub struct Parts {
    /// The write-ahead log.
    pub wal: Arc<dyn RaftLog>,
    /// The rows.
    pub store: Arc<dyn TopicStore>,
    /// The other peers.
    pub peers: Peers,
}

/// Limits of one replica.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The largest encoded command.
    pub command_bytes_max: ByteCount,
}

/// One shard on this peer. A cheap handle.
#[derive(Clone)]
pub struct Replica {
    shard: Vertex,
    group: Group,
    store: Arc<dyn TopicStore>,
    waiters: watch::Waiters,
    options: Options,
}

impl Replica {
    /// Opens the shard from disk and joins its group.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Consensus`] when the disk does not hold what it should.
    pub async fn start(
        shard: Vertex,
        group: consensus::Options,
        parts: &Parts,
        options: Options,
    ) -> Result<Self, Error> {
        let waiters = watch::Waiters::default();
        let observed = waiters.clone();
        let machine = shard::Machine::open(shard, Arc::clone(&parts.store)).map_err(|source| {
            Error::Shard {
                shard,
                source: Arc::new(source),
            }
        })?;
        let mark = machine.mark().cloned();
        let parts_of_group = consensus::Parts {
            shard,
            wal: Arc::clone(&parts.wal),
            peers: parts.peers.clone(),
            machine,
            mark,
            observer: Arc::new(move |events| wake(&observed, events)),
        };
        let group = Group::start(group, parts_of_group).await?;
        let replica = Self {
            shard,
            group,
            store: Arc::clone(&parts.store),
            waiters,
            options,
        };
        let leadership = replica.group.leadership();
        replica
            .group
            .spawn(wake_on_leadership(leadership, replica.waiters.clone()));
        Ok(replica)
    }

    /// The shard.
    pub fn shard(&self) -> Vertex {
        self.shard
    }

    /// The shard's group, for the calls of other peers.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Proposes a command and waits until it is on the disks of a majority and applied here.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::Consensus`] with `NotLeader`: it certainly did not happen. [`Error::OutcomeUnknown`]: it may have.
    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<Proposed, Error> {
        let command = command.encode();
        let bytes = ByteCount(command.len() as u64);
        if bytes > self.options.command_bytes_max {
            return Err(Error::TooLarge {
                bytes,
                limit: self.options.command_bytes_max,
            });
        }
        let proposal = tokio::time::timeout_at(deadline, self.group.propose(command)).await;
        let (position, outcome) = match proposal {
            Ok(applied) => applied?,
            Err(_) => return Err(Error::OutcomeUnknown { shard: self.shard }),
        };
        // A command entry always has an outcome; without one its fate cannot be told.
        let outcome = outcome.ok_or(Error::OutcomeUnknown { shard: self.shard })?;
        Ok(Proposed {
            outcome,
            position,
            stored_by: self.group.holders(position),
        })
    }

    /// Waits until every replica has stored an entry, or the deadline; the answer says who has.
    pub async fn stored_by_all(&self, position: LogPosition, deadline: Instant) -> Vec<PeerId> {
        let mut progress = self.group.watch_progress();
        loop {
            let holders = self.group.holders(position);
            let is_everywhere = holders.len() >= self.group.status().replicas.len();
            if is_everywhere
                || !matches!(
                    tokio::time::timeout_at(deadline, progress.changed()).await,
                    Ok(Ok(()))
                )
            {
                return holders;
            }
        }
    }

    /// Waits until the shard may be read at this consistency.
    ///
    /// # Errors
    /// [`Error::Consensus`] when this replica does not lead and should, or no majority confirms it; [`Error::Deadline`] when the deadline comes first.
    pub async fn read(&self, consistency: Consistency, deadline: Instant) -> Result<Read, Error> {
        match consistency {
            Consistency::Eventual => {}
            Consistency::Leader => self.ready(deadline).await?,
            Consistency::Linearizable => {
                self.ready(deadline).await?;
                tokio::time::timeout_at(deadline, self.group.confirm_leadership())
                    .await
                    .map_err(|_| Error::Deadline { shard: self.shard })??;
            }
        }
        Ok(self.view_now())
    }

    fn view_now(&self) -> Read {
        let leadership = *self.group.leadership().borrow();
        let status = self.group.status();
        let lag = match (status.committed, status.applied) {
            (Some(committed), applied) => Some(
                committed
                    .0
                    .saturating_sub(applied.map_or(0, |applied| applied.0)),
            ),
            (None, _) => None,
        };
        Read {
            view: View::new(self.shard, Arc::clone(&self.store)),
            lag,
            is_leader: status.role == Role::Leader,
            leader: leadership.leader,
        }
    }

    /// Waits until this replica leads and has applied an entry of its own term, so that it knows everything that was ever acknowledged.
    async fn ready(&self, deadline: Instant) -> Result<(), Error> {
        let mut leadership = self.group.leadership();
        loop {
            let now = *leadership.borrow_and_update();
            if now.is_ready {
                return Ok(());
            }
            let leads = self.group.status().role == Role::Leader;
            if !leads {
                return Err(Error::Consensus(consensus::Error::NotLeader {
                    shard: self.shard,
                    leader: now.leader,
                    term: now.term,
                }));
            }
            match tokio::time::timeout_at(deadline, leadership.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => {
                    return Err(Error::Consensus(consensus::Error::Stopped {
                        shard: self.shard,
                    }));
                }
                Err(_) => return Err(Error::Deadline { shard: self.shard }),
            }
        }
    }

    /// Begins to watch a topic of this shard.
    pub fn subscribe_topic(&self, topic: &TopicName) -> TopicWatch {
        self.waiters.watch(topic)
    }

    /// The group as this replica sees it.
    pub fn status(&self) -> Status {
        self.group.status()
    }

    /// Who leads, kept up to date.
    pub fn leader(&self) -> tokio::sync::watch::Receiver<Leadership> {
        self.group.leadership()
    }

    /// The rows as they are now, for tests and for an operator who reads one replica.
    pub fn view(&self) -> View {
        View::new(self.shard, Arc::clone(&self.store))
    }

    /// Lets those who wait for a topic wait no longer: the peer is stopping.
    pub fn drain(&self) {
        self.waiters.close();
    }

    /// Waits until the replica has failed, and says why.
    pub async fn failed(&self) -> String {
        self.group.failed().await
    }

    /// Leaves the group.
    pub async fn stop(&self) {
        self.group.stop().await;
    }
}

fn wake(waiters: &watch::Waiters, events: &[shard::Event]) {
    for event in events {
        let (shard::Event::TopicAdvanced { topic, .. }
        | shard::Event::TopicDeleted { topic, .. }
        | shard::Event::CursorMoved { topic, .. }
        | shard::Event::SubscriptionDeleted { topic, .. }) = event;
        waiters.wake(topic);
    }
}

/// Ends by itself when the group stops.
async fn wake_on_leadership(
    mut leadership: tokio::sync::watch::Receiver<Leadership>,
    waiters: watch::Waiters,
) {
    while leadership.changed().await.is_ok() {
        waiters.wake_all();
    }
}

/// The replicas of this peer. A cheap handle.
#[derive(Clone, Default)]
pub struct Replicas {
    replicas: Arc<BTreeMap<Vertex, Replica>>,
}

impl Replicas {
    /// Gathers replicas.
    pub fn new(replicas: impl IntoIterator<Item = Replica>) -> Self {
        Self {
            replicas: Arc::new(
                replicas
                    .into_iter()
                    .map(|replica| (replica.shard, replica))
                    .collect(),
            ),
        }
    }

    /// The replica of a shard, when this peer has one.
    pub fn get(&self, shard: Vertex) -> Option<Replica> {
        self.replicas.get(&shard).cloned()
    }

    /// The replica of the shard whose vertex has this index, as messages between peers name it.
    pub fn with_index(&self, index: u32) -> Option<Replica> {
        let mut replicas = self.replicas.values();
        replicas
            .find(|replica| u32::from(replica.shard.index()) == index)
            .cloned()
    }

    /// All of them, in the order of their vertices.
    pub fn all(&self) -> Vec<Replica> {
        self.replicas.values().cloned().collect()
    }
}

/// Why a replica did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The group says no.
    #[error(transparent)]
    Consensus(#[from] consensus::Error),
    /// The deadline came before the answer, or leadership was lost: the command may be applied or not.
    #[error("whether the command is applied in shard {shard} is not known")]
    OutcomeUnknown {
        /// The shard.
        shard: Vertex,
    },
    /// The deadline came before the shard could be read.
    #[error("shard {shard} could not be read before the deadline")]
    Deadline {
        /// The shard.
        shard: Vertex,
    },
    /// The command is too large for the log.
    #[error("the command has {bytes} bytes, the log takes {limit}")]
    TooLarge {
        /// How large it is.
        bytes: ByteCount,
        /// How large it may be.
        limit: ByteCount,
    },
    /// The state machine cannot be opened.
    #[error("shard {shard} cannot be opened")]
    Shard {
        /// The shard.
        shard: Vertex,
        /// Why.
        source: Arc<shard::Error>,
    },
}

impl Error {
    /// The leader to ask instead, with the term in which it leads, when the error names one.
    pub fn leader_hint(&self) -> Option<(PeerId, Term)> {
        match self {
            Self::Consensus(consensus::Error::NotLeader {
                leader: Some(leader),
                term,
                ..
            }) => Some((*leader, *term)),
            _ => None,
        }
    }
}
