//! Topics, publishers and subscribers: make, find, list and delete them; and ask how the cluster is.
//!
//! Each creation carries an id of its own, so that it can be repeated without being refused as a duplicate of itself. Begin with
//! [`Client::create_topic`].

use futures::stream::{self, BoxStream, StreamExt};

use crate::call::{self, Call, Method, Target};
use crate::client::Client;
use crate::connect::Address;
use crate::error::Error;
use crate::model::{
    Cluster, Consistency, Location, NodeStatus, Party, Placement, SubscriptionInfo, Topic, required,
};
use crate::proto::v1;

/// Something with the place where it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placed<T> {
    /// The thing.
    pub item: T,
    /// Where it lives.
    pub placement: Placement,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T> {
    /// The entries; may be none although there are more.
    pub items: Vec<T>,
    /// Asks for the next page; `None`: this was the last.
    pub next_token: Option<String>,
}

/// Which page of a list to get.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageRequest {
    /// At most so many entries; 0 leaves it to the peer (100).
    pub size: u32,
    /// `next_token` of the page before; empty for the first.
    pub token: String,
}

/// Which topics to list; the default is all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicFilter {
    /// Only those that this publisher created.
    pub publisher: Option<String>,
    /// Only those whose name begins so.
    pub prefix: Option<String>,
}

/// Which subscriptions to list; the default is all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubscriptionFilter {
    /// Only those on this topic.
    pub topic: Option<String>,
    /// Only those of this subscriber.
    pub subscriber: Option<String>,
}

/// Topics.
impl Client {
    /// Creates a topic.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// let created = client.create_topic("news").await?;
    /// println!("owner {}, replicas {:?}", created.placement.owner, created.placement.replicas);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicAlreadyExists` or `NameInvalid`; and what any call can have.
    pub async fn create_topic(&self, topic: &str) -> Result<Placed<Topic>, Error> {
        self.create_topic_by(topic, "").await
    }

    /// Creates a topic in the name of a publisher; empty: of nobody.
    pub(crate) async fn create_topic_by(
        &self,
        topic: &str,
        publisher: &str,
    ) -> Result<Placed<Topic>, Error> {
        let request = v1::CreateTopicRequest {
            topic: topic.to_owned(),
            publisher: publisher.to_owned(),
            request_id: request_id(),
        };
        let answer: v1::CreateTopicResponse = self
            .call(Call::new(&call::CREATE_TOPIC).about(topic), &request)
            .await?;
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
        placed(answer.topic, "topic", answer.placement)
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
            page_size: size(&page),
            page_token: page.token,
            publisher: filter.publisher.clone().unwrap_or_default(),
            prefix: filter.prefix.clone().unwrap_or_default(),
        };
        let answer: v1::ListTopicsResponse =
            self.call(Call::new(&call::LIST_TOPICS), &request).await?;
        Ok(page_of(answer.topics, answer.next_page_token))
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
        Ok(answer.into())
    }
}

/// Publishers and subscribers.
impl Client {
    /// Makes the id of a publisher known.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// client.create_publisher("agency").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `PublisherAlreadyExists` or `NameInvalid`; and what any call can have.
    pub async fn create_publisher(&self, publisher: &str) -> Result<Placed<Party>, Error> {
        let request = v1::CreatePublisherRequest {
            publisher: publisher.to_owned(),
            request_id: request_id(),
        };
        let answer: v1::CreatePublisherResponse = self
            .call(Call::new(&call::CREATE_PUBLISHER), &request)
            .await?;
        placed(answer.publisher, "publisher", answer.placement)
    }

    /// Forgets the id of a publisher; its topics and messages stay. A second attempt that finds nothing is success, as in
    /// [`Self::delete_topic`].
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// client.delete_publisher("agency").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `PublisherNotFound`; and what any call can have.
    pub async fn delete_publisher(&self, publisher: &str) -> Result<(), Error> {
        let request = v1::DeletePublisherRequest {
            publisher: publisher.to_owned(),
        };
        let _: v1::DeletePublisherResponse = self
            .call(Call::new(&call::DELETE_PUBLISHER), &request)
            .await?;
        Ok(())
    }

    /// Lists the publishers whose ids begin with `prefix` (empty: all), page after page. The stream ends after an error.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use futures::TryStreamExt;
    ///
    /// let publishers: Vec<_> = client.publishers("").try_collect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn publishers(&self, prefix: &str) -> BoxStream<'static, Result<Party, Error>> {
        let (client, prefix) = (self.clone(), prefix.to_owned());
        pages(move |page| {
            let (client, prefix) = (client.clone(), prefix.clone());
            async move { client.publishers_page(&prefix, page).await }
        })
    }

    /// One page of [`Self::publishers`].
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// let page = client.publishers_page("a", cubecast_sdk::PageRequest::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `PageTokenInvalid`; and what any call can have.
    pub async fn publishers_page(
        &self,
        prefix: &str,
        page: PageRequest,
    ) -> Result<Page<Party>, Error> {
        let request = v1::ListPublishersRequest {
            page_size: size(&page),
            page_token: page.token,
            prefix: prefix.to_owned(),
        };
        let answer: v1::ListPublishersResponse = self
            .call(Call::new(&call::LIST_PUBLISHERS), &request)
            .await?;
        Ok(page_of(answer.publishers, answer.next_page_token))
    }

    /// Makes the id of a subscriber known.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// client.create_subscriber("reader").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `SubscriberAlreadyExists` or `NameInvalid`; and what any call can have.
    pub async fn create_subscriber(&self, subscriber: &str) -> Result<Placed<Party>, Error> {
        let request = v1::CreateSubscriberRequest {
            subscriber: subscriber.to_owned(),
            request_id: request_id(),
        };
        let answer: v1::CreateSubscriberResponse = self
            .call(Call::new(&call::CREATE_SUBSCRIBER), &request)
            .await?;
        placed(answer.subscriber, "subscriber", answer.placement)
    }

    /// Removes a subscriber with all its subscriptions. A second attempt that finds nothing is success, as in [`Self::delete_topic`].
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// client.delete_subscriber("reader").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `SubscriberNotFound`; and what any call can have.
    pub async fn delete_subscriber(&self, subscriber: &str) -> Result<(), Error> {
        let request = v1::DeleteSubscriberRequest {
            subscriber: subscriber.to_owned(),
        };
        let _: v1::DeleteSubscriberResponse = self
            .call(Call::new(&call::DELETE_SUBSCRIBER), &request)
            .await?;
        Ok(())
    }

    /// Lists the subscribers whose ids begin with `prefix` (empty: all), page after page. The stream ends after an error.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use futures::TryStreamExt;
    ///
    /// let subscribers: Vec<_> = client.subscribers("").try_collect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribers(&self, prefix: &str) -> BoxStream<'static, Result<Party, Error>> {
        let (client, prefix) = (self.clone(), prefix.to_owned());
        pages(move |page| {
            let (client, prefix) = (client.clone(), prefix.clone());
            async move { client.subscribers_page(&prefix, page).await }
        })
    }

    /// One page of [`Self::subscribers`].
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// let page = client.subscribers_page("r", cubecast_sdk::PageRequest::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `PageTokenInvalid`; and what any call can have.
    pub async fn subscribers_page(
        &self,
        prefix: &str,
        page: PageRequest,
    ) -> Result<Page<Party>, Error> {
        let request = v1::ListSubscribersRequest {
            page_size: size(&page),
            page_token: page.token,
            prefix: prefix.to_owned(),
        };
        let answer: v1::ListSubscribersResponse = self
            .call(Call::new(&call::LIST_SUBSCRIBERS), &request)
            .await?;
        Ok(page_of(answer.subscribers, answer.next_page_token))
    }

    /// Lists subscriptions, page after page. The stream ends after an error.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::SubscriptionFilter;
    /// use futures::TryStreamExt;
    ///
    /// let filter = SubscriptionFilter { subscriber: Some("reader".to_owned()), ..SubscriptionFilter::default() };
    /// let subscriptions: Vec<_> = client.subscriptions(filter).try_collect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscriptions(
        &self,
        filter: SubscriptionFilter,
    ) -> BoxStream<'static, Result<SubscriptionInfo, Error>> {
        let client = self.clone();
        pages(move |page| {
            let (client, filter) = (client.clone(), filter.clone());
            async move { client.subscriptions_page(&filter, page).await }
        })
    }

    /// One page of [`Self::subscriptions`].
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::{PageRequest, SubscriptionFilter};
    ///
    /// let page = client.subscriptions_page(&SubscriptionFilter::default(), PageRequest::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `PageTokenInvalid`; and what any call can have.
    pub async fn subscriptions_page(
        &self,
        filter: &SubscriptionFilter,
        page: PageRequest,
    ) -> Result<Page<SubscriptionInfo>, Error> {
        let request = v1::ListSubscriptionsRequest {
            page_size: size(&page),
            page_token: page.token,
            topic: filter.topic.clone().unwrap_or_default(),
            subscriber: filter.subscriber.clone().unwrap_or_default(),
        };
        let answer: v1::ListSubscriptionsResponse = self
            .call(Call::new(&call::LIST_SUBSCRIPTIONS), &request)
            .await?;
        Ok(page_of(answer.subscriptions, answer.next_page_token))
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
        let peers = &self.shared.peers;
        let key = match peers.at_vertex(peer) {
            Some(key) => key,
            None => peers.add(&Address::parse(peer)?)?,
        };
        let call = Call::new(&call::GET_NODE_STATUS).at(Target::Only(key));
        let answer: v1::GetNodeStatusResponse =
            self.call(call, &v1::GetNodeStatusRequest {}).await?;
        Ok(answer.into())
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
        call
    } else {
        call.about(topic)
    }
}

/// A UUID of version 4, as text.
fn request_id() -> String {
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

fn placed<T, U: From<T>>(
    item: Option<T>,
    field: &'static str,
    placement: Option<v1::Placement>,
) -> Result<Placed<U>, Error> {
    Ok(Placed {
        item: required(item, field)?.into(),
        placement: required(placement, "placement")?.into(),
    })
}

fn size(page: &PageRequest) -> i32 {
    i32::try_from(page.size).unwrap_or(i32::MAX)
}

fn page_of<T, U: From<T>>(items: Vec<T>, next_token: String) -> Page<U> {
    Page {
        items: items.into_iter().map(U::from).collect(),
        next_token: Some(next_token).filter(|token| !token.is_empty()),
    }
}

/// Where a walk through pages is.
enum Walk<T> {
    /// These are left of the page, and the next has this token.
    Within(std::vec::IntoIter<T>, Option<String>),
    /// After an error.
    Ended,
}

/// All entries of all pages. Ends after the last page or an error.
fn pages<T, F, W>(fetch: F) -> BoxStream<'static, Result<T, Error>>
where
    T: Send + 'static,
    F: Fn(PageRequest) -> W + Send + Sync + 'static,
    W: Future<Output = Result<Page<T>, Error>> + Send,
{
    let fetch = std::sync::Arc::new(fetch);
    let begin = Walk::Within(Vec::new().into_iter(), Some(String::new()));
    stream::unfold(begin, move |mut walk| {
        let fetch = std::sync::Arc::clone(&fetch);
        async move {
            loop {
                let Walk::Within(mut items, token) = walk else {
                    return None;
                };
                if let Some(item) = items.next() {
                    return Some((Ok(item), Walk::Within(items, token)));
                }
                match fetch(PageRequest {
                    size: 0,
                    token: token?,
                })
                .await
                {
                    Ok(page) => walk = Walk::Within(page.items.into_iter(), page.next_token),
                    Err(error) => return Some((Err(error), Walk::Ended)),
                }
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

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

    #[tokio::test]
    async fn walk_goes_through_empty_pages_to_the_last() {
        let all = pages(|page: PageRequest| async move {
            Ok(match page.token.as_str() {
                "" => Page {
                    items: vec![1, 2],
                    next_token: Some("a".to_owned()),
                },
                "a" => Page {
                    items: vec![],
                    next_token: Some("b".to_owned()),
                },
                _ => Page {
                    items: vec![3],
                    next_token: None,
                },
            })
        });
        assert_eq!(all.try_collect::<Vec<_>>().await.unwrap(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn walk_ends_after_an_error() {
        let mut all = pages::<u8, _, _>(|_| async { Err(Error::Answer { field: "x" }) });
        assert!(all.next().await.unwrap().is_err());
        assert!(all.next().await.is_none());
    }
}
