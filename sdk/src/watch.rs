//! Watching the cluster: how it is, then each change, as one peer sees it.
//!
//! A stream is one connection to one peer and ends with it; who wants to go on opens another, which begins with the whole again. Begin with
//! [`Client::watch_cluster`].

use std::time::SystemTime;

use futures::StreamExt;
use futures::stream::BoxStream;

use crate::client::Client;
use crate::connect::Chosen;
use crate::convert;
use crate::error::{Error, Failure, Fate};
use crate::model::{Cluster, Link, Member, VertexStatus, required};
use crate::proto::v1;
use crate::proto::v1::cluster_service_client::ClusterServiceClient;
use crate::proto::v1::watch_cluster_response::Event;

/// The call, as errors name it.
const METHOD: &str = "WatchCluster";

/// What changed in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterEvent {
    /// Everything, at the beginning and whenever that is shorter than what changed.
    Whole(Box<Cluster>),
    /// A member came, or is believed to be in another state.
    Member(Member),
    /// The peer of this number is no member any more.
    MemberLeft(u32),
    /// A vertex has another leader, home, replicas or voters.
    Vertex(VertexStatus),
    /// A link went up or down, or became known.
    Link(Link),
}

/// A change with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterChange {
    /// The revision of the cluster after it.
    pub revision: u64,
    /// When the peer learned of it.
    pub time: SystemTime,
    /// What changed.
    pub event: ClusterEvent,
}

impl ClusterChange {
    fn new(response: v1::WatchClusterResponse) -> Result<Self, Error> {
        let event = match required(response.event, "event")? {
            // The stream does not say who sees it so: whoever was asked.
            Event::Cluster(whole) => ClusterEvent::Whole(Box::new(convert::cluster(whole, 0))),
            Event::Member(member) => ClusterEvent::Member(member.into()),
            Event::MemberLeft(peer) => ClusterEvent::MemberLeft(peer),
            Event::Vertex(vertex) => ClusterEvent::Vertex(vertex.into()),
            Event::Link(link) => ClusterEvent::Link(link.into()),
        };
        Ok(Self {
            revision: response.revision,
            time: convert::time(response.time),
            event,
        })
    }
}

impl Client {
    /// Tells how the cluster is, then each change, as any peer sees it that answers. The stream ends with an error when that peer stops or is lost.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use futures::TryStreamExt;
    ///
    /// let mut changes = client.watch_cluster().await?;
    /// while let Some(change) = changes.try_next().await? {
    ///     println!("{:?}", change.event);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no peer can be reached; [`Error::DeadlineExceeded`] when none answers, each for as long as a first attempt may take
    /// ([`Builder::attempt_timeout`](crate::Builder::attempt_timeout)); [`Error::Refused`] with `Overloaded`; and what any call can have.
    pub async fn watch_cluster(
        &self,
    ) -> Result<BoxStream<'static, Result<ClusterChange, Error>>, Error> {
        let peers = &self.shared.peers;
        let mut tried = Vec::new();
        let mut last = Error::Answer { field: "peer" };
        while let Some(chosen) = peers.choose(None, &tried)
            && !tried.contains(&chosen.key)
        {
            tried.push(chosen.key);
            match self.watch(chosen).await {
                Ok(changes) => return Ok(changes),
                Err(error) if error.is_transient() => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// As [`Self::watch_cluster`], as one peer sees it that is named by its vertex or its address.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// let mut changes = client.watch_cluster_at("100").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::watch_cluster`]; [`Error::Address`] when the peer is neither known nor an address.
    pub async fn watch_cluster_at(
        &self,
        peer: &str,
    ) -> Result<BoxStream<'static, Result<ClusterChange, Error>>, Error> {
        let key = self.peer_at(peer).await?;
        let chosen = required(self.shared.peers.get(key), "peer")?;
        self.watch(chosen).await
    }

    /// Opens a stream at a peer, which has as long for it as for any first attempt.
    async fn watch(
        &self,
        chosen: Chosen,
    ) -> Result<BoxStream<'static, Result<ClusterChange, Error>>, Error> {
        let patience = self.shared.options.attempt_timeout;
        let key = chosen.key;
        match tokio::time::timeout(patience, watch(chosen)).await {
            Ok(opened) => opened,
            Err(_) => {
                self.shared.suspect(key);
                Err(Error::DeadlineExceeded {
                    method: METHOD,
                    deadline: patience,
                })
            }
        }
    }
}

async fn watch(chosen: Chosen) -> Result<BoxStream<'static, Result<ClusterChange, Error>>, Error> {
    let Chosen {
        address, channel, ..
    } = chosen;
    let mut client = ClusterServiceClient::new(channel);
    let opened = client.watch_cluster(v1::WatchClusterRequest {}).await;
    let changes = opened
        .map_err(|status| failed(Failure::from_status(&status, address.clone())))?
        .into_inner();
    let changes = changes.map(move |response| match response {
        Ok(response) => ClusterChange::new(response),
        Err(status) => Err(failed(Failure::from_status(&status, address.clone()))),
    });
    Ok(changes.boxed())
}

fn failed(last: Failure) -> Error {
    let last = Box::new(last);
    match last.fate {
        Fate::NotSent => Error::Unreachable {
            method: METHOD,
            last,
        },
        Fate::Nothing | Fate::Unknown => Error::Refused(last),
    }
}
