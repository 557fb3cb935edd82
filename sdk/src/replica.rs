//! One replica: reading it directly, and waiting until it has caught up.
//!
//! Both are asked of one peer, named by its vertex or its address, and never answered by another. Begin with [`Client::replica_pull`].

use std::time::Duration;

use crate::call::{self, Call, Target};
use crate::client::Client;
use crate::error::Error;
use crate::model::{Shard, required};
use crate::proto::v1;
use crate::received::Pulled;

/// How long a replica may take to catch up, beyond what a call usually takes: as long as the peer gives itself.
const CATCHING_UP: Duration = Duration::from_secs(50);

/// What to read of a replica. The default is from the oldest message on, as much as one answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct ReplicaPullOptions {
    first_offset: Option<u64>,
    max_messages: u32,
}

impl ReplicaPullOptions {
    /// From the oldest message on.
    pub fn new() -> Self {
        Self::default()
    }

    /// From this offset on.
    pub fn first_offset(self, offset: u64) -> Self {
        Self {
            first_offset: Some(offset),
            ..self
        }
    }

    /// At most so many messages. Default: 1,000.
    pub fn max_messages(self, count: u32) -> Self {
        Self {
            max_messages: count,
            ..self
        }
    }
}

/// Which shard is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShardOf {
    /// That of a topic, which need not exist.
    Topic(String),
    /// That of a vertex.
    Vertex(String),
}

/// A replica that has caught up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncedReplica {
    /// The replica.
    pub shard: Shard,
    /// How many entries it lacked before.
    pub entries_received: u64,
}

impl Client {
    /// Reads a topic from one peer's own replica, without a subscription: only what is committed, as far as that replica has it.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::ReplicaPullOptions;
    ///
    /// for message in client.replica_pull("101", "news", ReplicaPullOptions::new()).await? {
    ///     println!("{}", message.offset);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `NotReplica`, `TopicNotFound`, `OffsetOutOfRange` or `ReplicaDamaged`; and what any call can have.
    pub async fn replica_pull(
        &self,
        peer: &str,
        topic: &str,
        options: ReplicaPullOptions,
    ) -> Result<Pulled, Error> {
        let target = Target::Only(self.peer_at(peer).await?);
        let request = v1::ReplicaPullRequest {
            topic: topic.to_owned(),
            first_offset: options.first_offset,
            max_messages: options.max_messages,
            max_bytes: 0,
        };
        let call = Call::new(&call::REPLICA_PULL).at(target);
        let answer: v1::ReplicaPullResponse = self.call(call, &request).await?;
        Ok(Pulled::of_replica(answer))
    }

    /// Waits until one peer's own replica of a shard has everything that was committed when the call came.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::ShardOf;
    ///
    /// let synced = client.sync_replica("101", ShardOf::Topic("news".to_owned())).await?;
    /// println!("it lacked {} entries", synced.entries_received);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `NotReplica`, `FieldInvalid`, `NoLeader`, `NoQuorum` or `DeadlineExceeded`; and what any call can have.
    pub async fn sync_replica(&self, peer: &str, shard: ShardOf) -> Result<SyncedReplica, Error> {
        use v1::sync_replica_request::Shard as Wire;
        let target = Target::Only(self.peer_at(peer).await?);
        let request = v1::SyncReplicaRequest {
            shard: Some(match shard {
                ShardOf::Topic(topic) => Wire::Topic(topic),
                ShardOf::Vertex(vertex) => Wire::Vertex(vertex),
            }),
        };
        let call = Call::new(&call::SYNC_REPLICA)
            .at(target)
            .waiting(CATCHING_UP);
        let answer: v1::SyncReplicaResponse = self.call(call, &request).await?;
        Ok(SyncedReplica {
            shard: required(answer.status, "status")?.into(),
            entries_received: answer.entries_received,
        })
    }
}
