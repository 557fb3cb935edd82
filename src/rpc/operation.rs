//! One trait for every call that a shard answers: how it is read, where it goes, what it does there.
//!
//! The calls themselves are in the files of `operation/`. Begin with [`Operation`].

mod batch;
mod directory;
mod identity;
mod letter;
mod publish;
mod pull;
mod subscription;
mod topic;
mod verify;

use std::future::Future;
use std::time::Duration;

use prost::Message;

use super::api::{Api, Names};
use super::forward::Fate;
use super::status::Fault;
use crate::broker::{Call, Error};
use crate::cluster::Cluster;
use crate::replica::Replica;
use crate::router::Aim;
use crate::types::{Limits, Vertex};

pub use batch::{CreateShardTopics, new_topic};
pub use directory::{ListShard, ListShardSubscriptions, RemoveSubscriptions, Resolve, ShardTail};
pub use identity::{CreatePublisher, CreateSubscriber, DeletePublisher, DeleteSubscriber};
pub use letter::{PublishLetter, ResolveTopic};
pub use publish::Publish;
pub use pull::Pull;
pub use subscription::{Acknowledge, Seek, Subscribe, Unsubscribe};
pub use topic::{CreateTopic, DeleteTopic, GetTopic, LocateTopic, UpdateTopic};
pub use verify::VerifyShard;

/// The replica, the directory and the deadline of a call.
pub type Here<'a> = Call<'a, Replica, Names<'a>>;

/// What requests are checked against.
#[derive(Debug, Clone, Copy)]
pub struct Checks<'a> {
    /// The limits of this peer.
    pub limits: &'a Limits,
    /// The cluster.
    pub cluster: &'a Cluster,
}

/// A call that one shard answers, its request checked.
pub trait Operation: Sized + Send + Sync {
    /// The request as it is forwarded.
    type Request: Message + Clone + Default + 'static;
    /// The answer.
    type Response: Message + Default + 'static;
    /// The path of the method.
    const PATH: &'static str;

    /// Checks a request.
    ///
    /// # Errors
    /// A [`Fault`] that names the field and the limit.
    fn parse(request: &Self::Request, checks: Checks<'_>) -> Result<Self, Fault>;

    /// The vertex whose shard answers.
    fn vertex(&self, cluster: &Cluster) -> Vertex;

    /// Which of its replicas may.
    fn aim(&self) -> Aim {
        Aim::Leader
    }

    /// What happens when it is not known whether the call was done.
    fn fate(&self) -> Fate;

    /// What a call without a deadline gets beyond the default.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// Does it at a replica of this peer.
    fn serve(
        &self,
        api: &Api,
        here: Here<'_>,
    ) -> impl Future<Output = Result<Self::Response, Error>> + Send;

    /// Takes note in the answer of why the owner did not give it.
    fn note(_response: &mut Self::Response, _text: String) {}
}
