//! Publishers, subscribers and their subscriptions: make, list and delete them.
//!
//! It never publishes or reads. Begin with [`Client::create_publisher`].

use futures::stream::BoxStream;

use crate::admin::{Placed, placed, request_id};
use crate::call::{self, Call};
use crate::client::Client;
use crate::error::Error;
use crate::model::{Party, SubscriptionInfo};
use crate::page::{Page, PageRequest, pages};
use crate::proto::v1;

/// Which subscriptions to list; the default is all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubscriptionFilter {
    /// Only those on this topic.
    pub topic: Option<String>,
    /// Only those of this subscriber.
    pub subscriber: Option<String>,
}

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
    /// [`Client::delete_topic`].
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
            page_size: page.wire_size(),
            page_token: page.token,
            prefix: prefix.to_owned(),
        };
        let answer: v1::ListPublishersResponse = self
            .call(Call::new(&call::LIST_PUBLISHERS), &request)
            .await?;
        Ok(Page::new(answer.publishers, answer.next_page_token))
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

    /// Removes a subscriber with all its subscriptions. A second attempt that finds nothing is success, as in [`Client::delete_topic`].
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
            page_size: page.wire_size(),
            page_token: page.token,
            prefix: prefix.to_owned(),
        };
        let answer: v1::ListSubscribersResponse = self
            .call(Call::new(&call::LIST_SUBSCRIBERS), &request)
            .await?;
        Ok(Page::new(answer.subscribers, answer.next_page_token))
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
            page_size: page.wire_size(),
            page_token: page.token,
            topic: filter.topic.clone().unwrap_or_default(),
            subscriber: filter.subscriber.clone().unwrap_or_default(),
        };
        let answer: v1::ListSubscriptionsResponse = self
            .call(Call::new(&call::LIST_SUBSCRIPTIONS), &request)
            .await?;
        Ok(Page::new(answer.subscriptions, answer.next_page_token))
    }
}
