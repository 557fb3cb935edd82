//! Consensus: one Raft group per shard, run by openraft, which is named only here.
//!
//! This folder turns openraft's seams into ours: its log is a view of the write-ahead log ([`log`]), its state machine is the shard's
//! ([`machine`]), its network is the channel between two peers ([`network`]). It never looks into a command and never decides where a call
//! goes. Begin with [`Group`].
//!
//! What happens when a peer is gone is decided here as well: who stands for election ([`candidacy`]), who votes in its place ([`voters`]), when its
//! leadership is given back ([`homecoming`]), and what is refused meanwhile ([`quorum`]). `docs/adr/0006-failover.md` says why.
//!
//! Raft: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014); pre-vote and ReadIndex: Ongaro's thesis,
//! sections 9.6 and 6.4.

mod admission;
mod candidacy;
mod convert;
mod delivery;
mod error;
mod founding;
mod group;
mod homecoming;
mod invite;
mod lead;
mod log;
mod machine;
mod network;
mod outbound;
mod quorum;
mod receive;
mod send;
mod serve;
mod snapshot;
mod standing;
mod status;
mod steward;
mod transfer;
mod types;
mod vigil;
mod voters;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::env::disk::{Disk, Room};
use crate::link::{Links, Peers};
use crate::shard;
use crate::store::TopicStore;
use crate::types::{PeerId, Vertex};
use crate::wal::RaftLog;

pub use admission::{Admission, LEAVE_MAX};
pub use error::Error;
pub use group::Group;
pub use invite::{Answer, Greeting, Intent, InviteError, ask_admission, greet};
pub use machine::{Observed, Observer};
pub use network::{MESSAGE_BYTES_MAX, SHARD_KEY, TARGET_KEY};
pub use quorum::Quorum;
pub use status::{Leadership, Member, Role, Status};
pub use types::{incarnation_of, node_id, peer_of};

/// How a group behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the cluster, for the log.
    pub cluster: String,
    /// Raft id of this replica. Only a peer in its first incarnation founds a group.
    pub node: u64,
    /// The peers that vote when the group is founded, the owner first: it leads whenever it can. Who votes later, and under which Raft ids, the log
    /// says; as many as at first.
    pub voters: Vec<PeerId>,
    /// The other peers that hold the log, ready to vote in place of one that is gone.
    pub standbys: Vec<PeerId>,
    /// How often a leader says that it lives.
    pub heartbeat_interval: Duration,
    /// A follower that hears nothing stands for election after a time between this …
    pub election_timeout_min: Duration,
    /// … and this, which is also the leader's lease.
    pub election_timeout_max: Duration,
    /// A voter whose peer is gone for so long is replaced by a standby.
    pub standby_after: Duration,
    /// The owner is given leadership back when the link to it has been up for so long.
    pub return_after: Duration,
}

impl Options {
    /// The peers that hold the shard, the owner first.
    fn holders(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.voters.iter().chain(&self.standbys).copied()
    }

    /// The peer that leads whenever it can. `None`: there is no peer at all.
    fn owner(&self) -> Option<PeerId> {
        self.voters.first().copied()
    }
}

/// What a group works with.
pub struct Parts {
    /// The shard.
    pub shard: Vertex,
    /// The peer's write-ahead log.
    pub wal: Arc<dyn RaftLog>,
    /// The other peers.
    pub peers: Peers,
    /// What is known of the links to them.
    pub links: Links,
    /// The shard's state machine, opened.
    pub machine: shard::Machine,
    /// What the shard's store remembers of the last commit.
    pub mark: Option<Bytes>,
    /// Is told what happens to the state machine.
    pub observer: Observer,
    /// The store below the state machine.
    pub store: Arc<dyn TopicStore>,
    /// Where the snapshots that come in are put down until they are whole.
    pub disk: Arc<dyn Disk>,
    /// The folder for them. It is made when it is missing, and nothing of this shard in it outlives a start.
    pub staging: PathBuf,
    /// How much room the disk has.
    pub room: Arc<Room>,
}
