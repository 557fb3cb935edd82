//! What the broker needs of a replica and of the rest of the cluster. Traits, so that tests bring their own.

use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;

use crate::consensus::Status;
use crate::replica::{Consistency, Error, Proposed, Read, Replica, TopicWatch};
use crate::shard::Command;
use crate::types::{LogPosition, Name, PeerId, TopicName, Vertex};

use super::{Kind, Letter};

/// One shard on this peer. See [`Replica`] for what each call promises.
pub trait Access: Clone + Send + Sync + 'static {
    /// See [`Replica::subscribe_topic`].
    type Watch: Watch;

    /// See [`Replica::shard`].
    fn shard(&self) -> Vertex;

    /// See [`Replica::propose`].
    fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> impl Future<Output = Result<Proposed, Error>> + Send;

    /// See [`Replica::read`].
    fn read(
        &self,
        consistency: Consistency,
        deadline: Instant,
    ) -> impl Future<Output = Result<Read, Error>> + Send;

    /// See [`Replica::stored_by_all`].
    fn stored_by_all(
        &self,
        position: LogPosition,
        deadline: Instant,
    ) -> impl Future<Output = Vec<PeerId>> + Send;

    /// See [`Replica::subscribe_topic`].
    fn subscribe_topic(&self, topic: &TopicName) -> Self::Watch;

    /// See [`Replica::status`].
    fn status(&self) -> Status;
}

/// Sees what happens to one topic.
pub trait Watch: Send {
    /// See [`TopicWatch::changed`].
    fn changed(&mut self, deadline: Instant) -> impl Future<Output = bool> + Send;
}

/// Knows which publishers and subscribers there are, whichever shard they live in.
pub trait Directory: Sync {
    /// Whether a publisher or a subscriber of this name exists.
    fn exists(
        &self,
        kind: Kind,
        name: &Name,
        deadline: Instant,
    ) -> impl Future<Output = Result<bool, Unresolved>> + Send;

    /// Whether a topic exists.
    fn has_topic(
        &self,
        topic: &TopicName,
        deadline: Instant,
    ) -> impl Future<Output = Result<bool, Unresolved>> + Send;
}

/// Publishes dead letters, whichever shard their topic is in.
pub trait Post: Clone + Send + Sync + 'static {
    /// Publishes a letter, unless it was published before.
    fn publish(
        &self,
        letter: Letter,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), Returned>> + Send;
}

/// Why a letter was not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Returned {
    /// Its topic does not know its session.
    Unknown,
    /// It may be tried again: why not now, in words.
    Later(String),
}

/// Another shard could not be asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("whether {name} exists could not be asked")]
pub struct Unresolved {
    /// The name that was asked for.
    pub name: Name,
    /// Why, as the layer that asked tells it.
    pub source: Arc<dyn std::error::Error + Send + Sync>,
}

impl Access for Replica {
    type Watch = TopicWatch;

    fn shard(&self) -> Vertex {
        Self::shard(self)
    }

    async fn propose(&self, command: Command, deadline: Instant) -> Result<Proposed, Error> {
        Self::propose(self, command, deadline).await
    }

    async fn read(&self, consistency: Consistency, deadline: Instant) -> Result<Read, Error> {
        Self::read(self, consistency, deadline).await
    }

    async fn stored_by_all(&self, position: LogPosition, deadline: Instant) -> Vec<PeerId> {
        Self::stored_by_all(self, position, deadline).await
    }

    fn subscribe_topic(&self, topic: &TopicName) -> TopicWatch {
        Self::subscribe_topic(self, topic)
    }

    fn status(&self) -> Status {
        Self::status(self)
    }
}

impl Watch for TopicWatch {
    async fn changed(&mut self, deadline: Instant) -> bool {
        Self::changed(self, deadline).await
    }
}
