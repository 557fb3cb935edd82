//! Topics, and the cluster: make, find, list and delete; and ask how it is.
//!
//! Each creation carries an id of its own, so that it can be repeated without being refused as a duplicate of itself. Begin with
//! [`Client::create_topic`].

use futures::stream::BoxStream;

use crate::address::Address;
use crate::batch::NewTopic;
use crate::call::{self, Call, Method, Target};
use crate::client::Client;
use crate::connect::PeerKey;
use crate::error::Error;
use crate::hedge::Hedge;
use crate::model::{
    Cluster, Consistency, Location, Member, NodeStatus, Placement, ReadSource, Retention, Topic,
    required,
};
use crate::page::{Page, PageRequest, pages};
use crate::proto::v1;

/// Something with the place where it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placed<T> {
    /// The thing.
    pub item: T,
    /// Where it lives.
    pub placement: Placement,
    /// Who answered, of what was read: its note says when that was not the owner. `None` of what was written.
    pub source: Option<ReadSource>,
}

/// Which topics to list; the default is all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicFilter {
    /// Only those that this publisher created.
    pub publisher: Option<String>,
    /// Only those whose name begins so.
    pub prefix: Option<String>,
}

/// Topics.
impl Client {
    /// Creates a topic: a name, or a [`NewTopic`] that says more. For many there is [`Client::create_topics`].
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::{NewTopic, Retention};
    ///
    /// let created = client.create_topic("news").await?;
    /// println!("owner {}, replicas {:?}", created.placement.owner, created.placement.replicas);
    ///
    /// let retention = Retention::new().with_messages(1_000_000);
    /// client.create_topic(NewTopic::new("quotes").with_retention(retention)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicAlreadyExists`, `NameInvalid` or `FieldInvalid`; and what any call can have.
    pub async fn create_topic(&self, topic: impl Into<NewTopic>) -> Result<Placed<Topic>, Error> {
        self.create_topic_by(topic.into(), "").await
    }

    /// Creates a topic in the name of a publisher; empty: of nobody.
    pub(crate) async fn create_topic_by(
        &self,
        topic: NewTopic,
        publisher: &str,
    ) -> Result<Placed<Topic>, Error> {
        let request = v1::CreateTopicRequest {
            topic: topic.name,
            publisher: publisher.to_owned(),
            request_id: request_id(),
            retention: retention(topic.retention),
        };
        let call = Call::new(&call::CREATE_TOPIC).about(&request.topic);
        let answer: v1::CreateTopicResponse = self.call(call, &request).await?;
        placed(answer.topic, "topic", answer.placement)
    }

    /// Changes how long a topic keeps its messages: what is said here is all that counts from now on.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use std::time::Duration;
    ///
    /// let day = cubecast_sdk::Retention::new().with_age(Duration::from_secs(24 * 60 * 60));
    /// client.update_topic("news", day).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicNotFound` or `FieldInvalid`; and what any call can have.
    pub async fn update_topic(
        &self,
        topic: &str,
        retention: Retention,
    ) -> Result<Placed<Topic>, Error> {
        let request = v1::UpdateTopicRequest {
            topic: topic.to_owned(),
            retention: Some(retention.into()),
        };
        let call = Call::new(&call::UPDATE_TOPIC).about(topic);
        let answer: v1::UpdateTopicResponse = self.call(call, &request).await?;
        placed(answer.topic, "topic", answer.placement)
    }

    /// Tells about a topic.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// let topic = client.topic("news", cubecast_sdk::Consistency::Leader).await?.item;
    /// println!("{} messages", topic.next_offset - topic.first_offset);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicNotFound`; and what any call can have.
    pub async fn topic(
        &self,
        topic: &str,
        consistency: Consistency,
    ) -> Result<Placed<Topic>, Error> {
        let request = v1::GetTopicRequest {
            topic: topic.to_owned(),
            consistency: v1::ReadConsistency::from(consistency).into(),
        };
        let call = reading(&call::GET_TOPIC, topic, consistency);
        let answer: v1::GetTopicResponse = self.call(call, &request).await?;
        let found = placed(answer.topic, "topic", answer.placement)?;
        let source = self.note(answer.source.map(Into::into));
        Ok(Placed { source, ..found })
    }

    /// Lists topics, page after page, ordered by owner vertex, then name. The stream ends after an error.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use futures::TryStreamExt;
    ///
    /// let mut topics = client.topics(cubecast_sdk::TopicFilter::default());
    /// while let Some(topic) = topics.try_next().await? {
    ///     println!("{}", topic.name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn topics(&self, filter: TopicFilter) -> BoxStream<'static, Result<Topic, Error>> {
        let client = self.clone();
        pages(move |page| {
            let (client, filter) = (client.clone(), filter.clone());
            async move { client.topics_page(&filter, page).await }
        })
    }

    /// One page of [`Self::topics`].
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::{PageRequest, TopicFilter};
    ///
    /// let page = client.topics_page(&TopicFilter::default(), PageRequest { size: 10, ..PageRequest::default() }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `PageTokenInvalid`; and what any call can have.
    pub async fn topics_page(
        &self,
        filter: &TopicFilter,
        page: PageRequest,
    ) -> Result<Page<Topic>, Error> {
        let request = v1::ListTopicsRequest {
            page_size: page.wire_size(),
            page_token: page.token,
            publisher: filter.publisher.clone().unwrap_or_default(),
            prefix: filter.prefix.clone().unwrap_or_default(),
        };
        let answer: v1::ListTopicsResponse =
            self.call(Call::new(&call::LIST_TOPICS), &request).await?;
        Ok(Page::new(answer.topics, answer.next_page_token))
    }

    /// Deletes a topic with its messages and subscriptions. When an attempt had no answer and a further one finds no such topic, that is
    /// success.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// client.delete_topic("news").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicNotFound`; and what any call can have.
    pub async fn delete_topic(&self, topic: &str) -> Result<(), Error> {
        let request = v1::DeleteTopicRequest {
            topic: topic.to_owned(),
        };
        let _: v1::DeleteTopicResponse = self
            .call(Call::new(&call::DELETE_TOPIC).about(topic), &request)
            .await?;
        Ok(())
    }

    /// Tells where a topic lives, or would live.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// let location = client.locate_topic("news").await?;
    /// println!("owner {}, led by {:?}", location.placement.owner, location.placement.leader);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `NameInvalid`; and what any call can have.
    pub async fn locate_topic(&self, topic: &str) -> Result<Location, Error> {
        let request = v1::LocateTopicRequest {
            topic: topic.to_owned(),
        };
        let answer: v1::LocateTopicResponse =
            self.call(Call::new(&call::LOCATE_TOPIC), &request).await?;
        let mut location = Location::from(answer);
        location.source = self.note(location.source);
        Ok(location)
    }
}

/// The cluster.
impl Client {
    /// Asks one peer about itself. It is named by its address, or by its vertex when it is known who is there.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// let status = client.node_status("100").await?;
    /// println!("peer {} has {} shards", status.peer, status.shards.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Address`] when the peer is neither known nor an address; [`Error::Unreachable`]; and what any call can have.
    pub async fn node_status(&self, peer: &str) -> Result<NodeStatus, Error> {
        let key = self.peer_at(peer).await?;
        let call = Call::new(&call::GET_NODE_STATUS).at(Target::Only(key));
        let answer: v1::GetNodeStatusResponse =
            self.call(call, &v1::GetNodeStatusRequest {}).await?;
        Ok(answer.into())
    }

    /// The peer that is named by its address, or by its vertex. Another one is asked who is there when that is not known.
    pub(crate) async fn peer_at(&self, peer: &str) -> Result<PeerKey, Error> {
        let peers = &self.shared.peers;
        if let Some(key) = peers.at_vertex(peer) {
            return Ok(key);
        }
        let is_vertex = !peer.is_empty() && peer.bytes().all(|bit| matches!(bit, b'0' | b'1'));
        if is_vertex {
            let members = self.cluster().await?.members;
            let home = |member: &&Member| member.vertices.iter().any(|vertex| vertex == peer);
            if let Some(member) = members.iter().find(home) {
                let key = peers.add(&Address::parse(&member.address)?)?;
                peers.settle(peer, key, false);
                return Ok(key);
            }
        }
        peers.add(&Address::parse(peer)?)
    }

    /// Asks any peer how it sees the cluster.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// for member in client.cluster().await?.members {
    ///     println!("{} at {}", member.peer, member.address);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What any call can have.
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        let answer: v1::GetClusterResponse = self
            .call(Call::new(&call::GET_CLUSTER), &v1::GetClusterRequest {})
            .await?;
        Ok(answer.into())
    }
}

/// A read about a topic: for the leader unless any replica will do.
pub(crate) fn reading<'a>(
    method: &'static Method,
    topic: &'a str,
    consistency: Consistency,
) -> Call<'a> {
    let call = Call::new(method);
    if consistency == Consistency::Eventual {
        call.hedged(Hedge::Soon)
    } else {
        call.about(topic)
    }
}

/// How the wire says it: nothing when there is no bound.
pub(crate) fn retention(retention: Retention) -> Option<v1::Retention> {
    Some(retention)
        .filter(|retention| !retention.is_unbounded())
        .map(Into::into)
}

/// A UUID of version 4, as text.
pub(crate) fn request_id() -> String {
    let random: u128 = rand::random();
    let bits = random & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    let hex = format!("{bits:032x}");
    let parts = [
        hex.get(..8),
        hex.get(8..12),
        hex.get(12..16),
        hex.get(16..20),
        hex.get(20..),
    ];
    parts.map(Option::unwrap_or_default).join("-")
}

pub(crate) fn placed<T, U: From<T>>(
    item: Option<T>,
    field: &'static str,
    placement: Option<v1::Placement>,
) -> Result<Placed<U>, Error> {
    Ok(Placed {
        item: required(item, field)?.into(),
        placement: required(placement, "placement")?.into(),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_is_a_uuid_of_version_4() {
        let id = request_id();
        let lengths: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_ne!(id, request_id());
    }
}
