//! What each call means, in the words of the domain.
//!
//! The replica that leads a shard (or, for some reads, any replica) is given; which one that is, is decided above. Commands get their time
//! here, from the leader's clock. Never talks to a client and knows neither gRPC nor the links between peers; what another shard knows is
//! asked through [`Directory`]. Begin with [`Broker`]; each group of calls has its file.

mod access;
mod delivery;
mod holder;
mod identity;
mod known;
mod lease;
mod list;
mod publish;
mod pull;
mod replica_pull;
mod share;
mod subscription;
mod topic;

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

pub use access::{Access, Directory, Post, Returned, Unresolved, Watch};
pub use delivery::{Delivered, Delivery, LEASE_DEFAULT, OpenDelivery, Opened};
pub use identity::Kind;
pub use list::{Page, SubscriptionPlace, SubscriptionsAsked, TopicsAsked};
pub use publish::{AckLevel, Publish, Published};
pub use pull::{Acknowledgement, Pull, Pulled};
pub use replica_pull::{ReplicaPull, ReplicaPulled};
pub use share::{Consumer, LETTER_PUBLISHER, Letter, Which};
pub use subscription::Subscribed;
pub use topic::{CreateTopic, CreateTopics, Found, Located};

use crate::replica;
use crate::shard::{self, Refusal, Response};
use crate::types::{SubscriberId, Timestamp, TopicName, Vertex};
use holder::Holders;
use known::Known;
use share::Shares;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a broker works with.
#[derive(Clone)]
pub struct Options {
    /// The time that commands carry.
    pub clock: Clock,
}

/// Carries out calls on replicas of this peer.
pub struct Broker {
    clock: Clock,
    publishers: Known,
    holders: Holders,
    shares: Shares,
}

/// The replica that answers a call, and until when.
pub struct Call<'a, R, D> {
    /// The replica.
    pub replica: &'a R,
    /// Knows the publishers and subscribers of all shards.
    pub directory: &'a D,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

impl Broker {
    /// A broker.
    pub fn new(options: Options) -> Self {
        Self {
            clock: options.clock,
            publishers: Known::default(),
            holders: Holders::default(),
            shares: Shares::default(),
        }
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
    }
}

/// Who answered a read, and how fresh the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The replica leads its shard.
    pub is_leader: bool,
    /// Committed entries that the replica had not applied. `None`: it does not know.
    pub lag: Option<u64>,
}

impl From<&replica::Read> for Freshness {
    fn from(read: &replica::Read) -> Self {
        Self {
            is_leader: read.is_leader,
            lag: read.lag,
        }
    }
}

/// Why a call was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The shard refused the command.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The replica did not do it.
    #[error(transparent)]
    Replica(#[from] replica::Error),
    /// The replica's rows cannot be read.
    #[error("the rows of shard {shard} cannot be read")]
    Rows {
        /// The shard.
        shard: Vertex,
        /// Why.
        source: Arc<shard::Error>,
    },
    /// The topic was deleted while the call waited for it.
    #[error("topic {topic} was deleted while this call waited")]
    TopicDeleted {
        /// The topic.
        topic: TopicName,
    },
    /// Others moved the cursor each time.
    #[error(
        "the cursor of subscriber {subscriber} on topic {topic} was moved by others {attempts} times"
    )]
    CursorContended {
        /// The topic.
        topic: TopicName,
        /// Whose cursor.
        subscriber: SubscriberId,
        /// How often it was tried.
        attempts: u32,
    },
    /// Another reader took the subscription.
    #[error(
        "another stream took over what subscriber {subscriber} reads from topic {topic}: one at a time may"
    )]
    Superseded {
        /// The topic.
        topic: TopicName,
        /// Whose subscription.
        subscriber: SubscriberId,
    },
    /// Another shard could not be asked about a name.
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    /// A state machine answered a command with what belongs to another, or a task was lost: a defect.
    #[error("shard {shard} gave an answer that does not fit: {what}")]
    Defect {
        /// The shard.
        shard: Vertex,
        /// What came.
        what: String,
    },
}

/// The answer to another command came.
fn misfit<T>(shard: Vertex, response: &Response) -> Result<T, Error> {
    Err(Error::Defect {
        shard,
        what: format!("{response:?}"),
    })
}

/// Reads rows on a thread that may block.
async fn look<T: Send + 'static>(
    shard: Vertex,
    query: impl FnOnce() -> Result<T, shard::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(query).await {
        Ok(result) => rows(shard, result),
        Err(error) => Err(Error::Defect {
            shard,
            what: error.to_string(),
        }),
    }
}

/// The result of a read of one row, which is quick enough for any thread: it lies in memory, but for the first time after a start.
fn rows<T>(shard: Vertex, result: Result<T, shard::Error>) -> Result<T, Error> {
    result.map_err(|source| Error::Rows {
        shard,
        source: Arc::new(source),
    })
}

#[cfg(test)]
mod tests;
