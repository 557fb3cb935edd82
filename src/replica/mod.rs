//! One shard on one peer: propose to it, read it, wait for it.
//!
//! A replica joins the shard's group (`consensus`) with its rows (`store`, read through `shard::View`). It outlives its group: one that finds
//! that it lost something drops it, with the leave of the others, and is made again from them (`life.rs`, `rebuild.rs`). It never knows which
//! call it serves and never talks to a client. Begin with [`Replica`]; [`Replicas`] holds those of this peer.

mod error;
mod frozen;
mod ledger;
mod life;
mod rebuild;
mod registry;
mod retention;
mod sync;
mod watch;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::consensus::{self, Group, Leadership, Quorum, Role, Status};
use crate::env::clock::Clock;
use crate::env::disk::{Disk, Level, Room};
use crate::link::{Links, Peers};
use crate::shard::{self, Command, View};
use crate::store::{Lease, Reader, TopicStore};
use crate::types::{ByteCount, LogIndex, LogPosition, PeerId, TopicName, Vertex};
use crate::wal::RaftLog;
use frozen::Frozen;
use life::{Life, State};
use retention::Lull;

pub use error::Error;
pub use ledger::{Ledger, Standing};
pub use life::Phase;
pub use registry::Replicas;
pub use watch::TopicWatch;

/// A follower that was behind when leadership was to be given to it may have caught up after this.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(20);
/// When nobody could take over so many times, everybody is about to stop.
const HAND_OVER_TRIES: u32 = 10;

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
    /// What is known of the links to them.
    pub links: Links,
    /// Where files are kept.
    pub disk: Arc<dyn Disk>,
    /// A folder for snapshots that come in; each replica has its own within.
    pub staging: PathBuf,
    /// How much room the disk has.
    pub room: Arc<Room>,
    /// Which life each replica is in.
    pub ledger: Arc<dyn Ledger>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
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
    shared: Arc<Shared>,
}

/// What the handles of a replica and its life share.
struct Shared {
    shard: Vertex,
    wal: Arc<dyn RaftLog>,
    store: Arc<dyn TopicStore>,
    room: Arc<Room>,
    options: Options,
    waiters: watch::Waiters,
    frozen: Frozen,
    lull: Lull,
    state: tokio::sync::watch::Sender<State>,
    leadership: tokio::sync::watch::Sender<Leadership>,
    stop: CancellationToken,
    /// The life, and work on the disk that was begun for it.
    tasks: TaskTracker,
}

impl Replica {
    /// Begins the replica's life in the background: it opens the shard from disk and joins its group as soon as the ledger is settled. The Raft id
    /// in `group` names the peer; which of its ids is used is in the ledger.
    pub fn start(
        shard: Vertex,
        group: consensus::Options,
        parts: &Parts,
        options: Options,
    ) -> Self {
        let shared = Arc::new(Shared {
            shard,
            wal: Arc::clone(&parts.wal),
            store: Arc::clone(&parts.store),
            room: Arc::clone(&parts.room),
            options,
            waiters: watch::Waiters::default(),
            frozen: Frozen::default(),
            lull: Lull::default(),
            state: tokio::sync::watch::Sender::new(State::default()),
            leadership: tokio::sync::watch::Sender::new(life::NOBODY),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let life = Life::new(Arc::clone(&shared), group, parts.clone());
        shared.tasks.spawn(life.run());
        shared.tasks.close();
        Self { shared }
    }

    /// The shard.
    pub fn shard(&self) -> Vertex {
        self.shared.shard
    }

    /// The shard's group while it runs, for the calls of other peers. It may run before the replica serves, and still while it is to be rebuilt.
    pub fn group(&self) -> Option<Group> {
        self.shared.state.borrow().group.clone()
    }

    /// Where the replica is in its life.
    pub fn phase(&self) -> Phase {
        self.shared.state.borrow().seen()
    }

    /// The group, when the replica may answer for it.
    fn serving(&self) -> Result<Group, Error> {
        let shard = self.shared.shard;
        let state = self.shared.state.borrow();
        match (state.seen(), &state.group) {
            (Phase::Serving, Some(group)) => Ok(group.clone()),
            (Phase::Rebuilding { reason }, _) => Err(Error::Damaged {
                shard,
                reason: reason.to_string(),
            }),
            (Phase::Starting | Phase::Serving, _) => Err(Error::Starting { shard }),
            (Phase::Stopped, _) => Err(Error::Consensus(consensus::Error::Stopped { shard })),
        }
    }

    /// Proposes a command and waits until it is on the disks of a majority and applied here.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::StorageFull`], [`Error::Starting`], [`Error::Damaged`] and [`Error::Consensus`] with `NotLeader` or
    /// `NoQuorum`: it certainly did not happen. [`Error::OutcomeUnknown`], and `OutcomeUnknown` of the group: it may have.
    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<Proposed, Error> {
        let shard = self.shared.shard;
        let group = self.serving()?;
        self.check_room(&command)?;
        let command = command.encode();
        let bytes = ByteCount(command.len() as u64);
        let limit = self.shared.options.command_bytes_max;
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        let proposal = tokio::time::timeout_at(deadline, group.propose(command)).await;
        let (position, outcome) = match proposal {
            Ok(applied) => applied?,
            Err(_) => return Err(Error::OutcomeUnknown { shard }),
        };
        // A command entry always has an outcome; without one its fate cannot be told.
        let outcome = outcome.ok_or(Error::OutcomeUnknown { shard })?;
        Ok(Proposed {
            outcome,
            position,
            stored_by: group.holders(position),
        })
    }

    /// Whether the command takes room that the disk does not have. What gives room back, and what readers need, goes on.
    fn check_room(&self, command: &Command) -> Result<(), Error> {
        if is_growing(command) && self.shared.room.level() != Level::Ample {
            return Err(Error::StorageFull {
                free: self.shared.room.free(),
                limit: self.shared.room.reserve(),
            });
        }
        Ok(())
    }

    /// Waits until every replica has stored an entry, or one that has not is gone, or this replica cannot know because it leads no more; at the latest
    /// until the deadline. The answer says who has stored it.
    pub async fn stored_by_all(&self, position: LogPosition, deadline: Instant) -> Vec<PeerId> {
        let Some(group) = self.group() else {
            return Vec::new();
        };
        // The answer is the same either way: who has it now.
        let _ = tokio::time::timeout_at(deadline, group.spread(position)).await;
        group.holders(position)
    }

    /// Waits until the shard may be read at this consistency.
    ///
    /// # Errors
    /// [`Error::Consensus`] when this replica does not lead and should, or no majority confirms it; [`Error::Starting`] and [`Error::Damaged`] when
    /// it does not hold the shard now; [`Error::Deadline`] when the deadline comes first.
    pub async fn read(&self, consistency: Consistency, deadline: Instant) -> Result<Read, Error> {
        // Taken before it is known that the replica serves: rows that are dropped or replaced from then on are not read under it.
        let view = self.view();
        let (shard, group) = (self.shared.shard, self.serving()?);
        match consistency {
            Consistency::Eventual => {}
            Consistency::Leader => self.ready(&group, deadline).await?,
            Consistency::Linearizable => {
                self.ready(&group, deadline).await?;
                tokio::time::timeout_at(deadline, group.confirm_leadership())
                    .await
                    .map_err(|_| Error::Deadline { shard })??;
            }
        }
        Ok(Self::seen(&group, view))
    }

    fn seen(group: &Group, view: View) -> Read {
        let leadership = *group.leadership().borrow();
        let status = group.status();
        let lag = match (status.committed, status.applied) {
            (Some(committed), applied) => Some(
                committed
                    .0
                    .saturating_sub(applied.map_or(0, |applied| applied.0)),
            ),
            (None, _) => None,
        };
        Read {
            view,
            lag,
            is_leader: status.role == Role::Leader,
            leader: leadership.leader,
        }
    }

    /// Waits until this replica leads and has applied an entry of its own term, so that it knows everything that was ever acknowledged. One that can
    /// reach no majority may have been replaced without knowing.
    async fn ready(&self, group: &Group, deadline: Instant) -> Result<(), Error> {
        let shard = self.shared.shard;
        let mut leadership = group.leadership();
        loop {
            let is_ready = leadership.borrow_and_update().is_ready;
            if !is_ready && group.status().role != Role::Leader {
                if group.leads_soon(deadline).await {
                    continue;
                }
                return Err(Error::Consensus(group.not_leader()));
            }
            group.check_quorum()?;
            if is_ready {
                return Ok(());
            }
            let changed = async {
                tokio::select! {
                    changed = leadership.changed() => changed.is_ok(),
                    () = group.quorum_lost() => true,
                }
            };
            match tokio::time::timeout_at(deadline, changed).await {
                Ok(true) => {}
                Ok(false) => {
                    return Err(Error::Consensus(consensus::Error::Stopped { shard }));
                }
                Err(_) => return Err(Error::Deadline { shard }),
            }
        }
    }

    /// Begins to watch a topic of this shard.
    pub fn subscribe_topic(&self, topic: &TopicName) -> TopicWatch {
        self.shared.waiters.watch(topic)
    }

    /// The group as this replica sees it; nothing is known of it while it does not run.
    pub fn status(&self) -> Status {
        match self.group() {
            Some(group) => group.status(),
            None => Status {
                role: Role::Stopped,
                term: self.shared.leadership.borrow().term,
                leader: None,
                last: None,
                committed: None,
                applied: None,
                replicas: Vec::new(),
                quorum: Quorum::default(),
            },
        }
    }

    /// Who leads, kept up to date over all lives. Nobody, while this replica does not serve.
    pub fn leader(&self) -> tokio::sync::watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// The rows, until they are dropped or a snapshot takes their place: reads under this view then end with an error. Says nothing of whether
    /// the replica serves.
    pub fn view(&self) -> View {
        let (store, shard) = (Arc::clone(&self.shared.store), self.shared.shard);
        View::new(shard, Arc::new(Lease::new(store, shard)))
    }

    /// Takes note that rows of this replica were met that cannot be what was written, so that it is made again from the others.
    pub fn blame(&self, error: &Arc<shard::Error>) {
        let shard = self.shared.shard;
        // Rows of a life that is over are no longer here.
        if error.is_damage() && self.phase() == Phase::Serving {
            let cause = Arc::<shard::Error>::clone(error);
            self.shared.store.blame(shard, cause);
        }
    }

    /// The rows as they were right after a [`Command::Barrier`] at this entry, which is kept for about a minute; waits until it is applied here.
    pub async fn frozen(&self, index: LogIndex, deadline: Instant) -> Option<Arc<dyn Reader>> {
        self.shared.frozen.get(index, deadline).await
    }

    /// Lets go of frozen rows that nobody asked for in time.
    pub fn tidy(&self) {
        self.shared.frozen.tidy();
    }

    /// Lets the log go, but for about its newest `keep` bytes and what a power cut would need.
    pub async fn compact(&self, keep: ByteCount) {
        let aged = self.shared.wal.aged(self.shared.shard, keep);
        if let (Some(group), Some(upto)) = (self.group(), aged) {
            group.compact(upto).await;
        }
    }

    /// Gives leadership to another replica, if this one has it and another one can take it, and waits until that one leads, or for the deadline. The
    /// peer is about to stop: from now on this replica is given no leadership, and goes on as a follower.
    pub async fn hand_over(&self, deadline: Instant) {
        let Some(group) = self.group() else { return };
        group.must_not_lead();
        let is_needed = || {
            let Status { role, quorum, .. } = group.status();
            role == Role::Leader && quorum.voters > 1 && quorum.has_majority()
        };
        let handing_over = async {
            for _ in 0..HAND_OVER_TRIES {
                if is_needed() {
                    group.hand_over().await;
                }
                if !is_needed() {
                    return;
                }
                tokio::time::sleep(HAND_OVER_PAUSE).await;
            }
        };
        if tokio::time::timeout_at(deadline, handing_over)
            .await
            .is_err()
        {
            warn!(shard = %self.shared.shard, "leadership could not be handed over in time");
        }
    }

    /// Lets those who wait for a topic wait no longer: the peer is stopping.
    pub fn drain(&self) {
        self.shared.waiters.close();
    }

    /// Leaves the group and ends the replica's life.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.wait().await;
    }
}

/// Whether a command leaves more on disk than there was.
fn is_growing(command: &Command) -> bool {
    match command {
        Command::CreateTopic { .. }
        | Command::CreateTopics { .. }
        | Command::CreatePublisher { .. }
        | Command::CreateSubscriber { .. }
        | Command::Subscribe { .. }
        | Command::SubscribeShared { .. }
        | Command::Append { .. } => true,
        Command::SetRetention { .. }
        | Command::Trim { .. }
        | Command::Barrier { .. }
        | Command::DeleteTopic { .. }
        | Command::DeletePublisher { .. }
        | Command::DeleteSubscriber { .. }
        | Command::Unsubscribe { .. }
        | Command::Acknowledge { .. }
        | Command::Settle { .. }
        | Command::AcknowledgeLife { .. }
        | Command::Seek { .. } => false,
    }
}
