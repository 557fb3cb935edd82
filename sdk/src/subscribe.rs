//! Reading: durable cursors, pulls, and a stream of messages.
//!
//! It never acknowledges a message that the application has not had. Begin with [`Client::subscriber`].

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};

use crate::admin::reading;
use crate::call::{self, Call};
use crate::client::Client;
use crate::convert;
use crate::error::Error;
use crate::model::{Consistency, Placement, Start, SubscriptionInfo, required};
use crate::party::SubscriptionFilter;
use crate::proto::v1;
use crate::received::{Pulled, Received};

/// How long the stream of messages waits in one pull when the options name no time.
const STREAM_WAIT: Duration = Duration::from_secs(30);

impl Client {
    /// Reads in the name of a subscriber, which must have been created.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::Start;
    ///
    /// client.create_subscriber("reader").await?;
    /// let news = client.subscriber("reader").subscribe("news", Start::Earliest).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscriber(&self, id: impl Into<String>) -> Subscriber {
        Subscriber {
            client: self.clone(),
            id: id.into().into(),
        }
    }
}

/// Reads in the name of a subscriber. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Subscriber {
    client: Client,
    id: Arc<str>,
}

impl Subscriber {
    /// The subscriber's id.
    ///
    /// ```no_run
    /// # fn run(client: cubecast_sdk::Client) {
    /// assert_eq!(client.subscriber("reader").id(), "reader");
    /// # }
    /// ```
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Subscribes to a topic. When the subscription is there already it is left as it is, and `start` is not looked at: an application that comes
    /// back simply subscribes again and goes on where it was.
    ///
    /// ```no_run
    /// # async fn run(subscriber: cubecast_sdk::Subscriber) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::Start;
    ///
    /// let news = subscriber.subscribe("news", Start::Latest).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicNotFound`, `SubscriberNotFound` or `OffsetOutOfRange`; and what any call can have.
    pub async fn subscribe(&self, topic: &str, start: Start) -> Result<Subscription, Error> {
        self.subscribe_as(topic, start, None).await
    }

    /// Subscribes for one reader, or for many consumers.
    pub(crate) async fn subscribe_as(
        &self,
        topic: &str,
        start: Start,
        shared: Option<v1::Sharing>,
    ) -> Result<Subscription, Error> {
        let request = v1::SubscribeRequest {
            topic: topic.to_owned(),
            subscriber: self.id.to_string(),
            start: Some(start.into()),
            shared,
        };
        let answer: v1::SubscribeResponse = self
            .client
            .call(Call::new(&call::SUBSCRIBE).about(topic), &request)
            .await?;
        let made = Subscribed {
            info: required(answer.subscription, "subscription")?.into(),
            is_existing: answer.is_existing,
            placement: answer.placement.unwrap_or_default().into(),
        };
        Ok(Subscription {
            made: Some(Arc::new(made)),
            ..self.subscription(topic)
        })
    }

    /// A subscription that was made before, without asking whether it was.
    ///
    /// ```no_run
    /// # async fn run(subscriber: cubecast_sdk::Subscriber) -> Result<(), cubecast_sdk::Error> {
    /// subscriber.subscription("news").acknowledge(17).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn subscription(&self, topic: &str) -> Subscription {
        Subscription {
            client: self.client.clone(),
            subscriber: Arc::clone(&self.id),
            topic: topic.into(),
            made: None,
        }
    }

    /// Lists the subscriber's subscriptions, page after page. The stream ends after an error.
    ///
    /// ```no_run
    /// # async fn run(subscriber: cubecast_sdk::Subscriber) -> Result<(), cubecast_sdk::Error> {
    /// use futures::TryStreamExt;
    ///
    /// let all: Vec<_> = subscriber.subscriptions().try_collect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscriptions(&self) -> BoxStream<'static, Result<SubscriptionInfo, Error>> {
        self.client.subscriptions(SubscriptionFilter {
            subscriber: Some(self.id.to_string()),
            ..SubscriptionFilter::default()
        })
    }
}

/// What the cluster answered to a subscribe.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscribed {
    /// The subscription with its cursor.
    pub info: SubscriptionInfo,
    /// It was there before.
    pub is_existing: bool,
    /// Where it lives: with its topic.
    pub placement: Placement,
}

/// How to pull. The default takes what the peer allows, does not wait and acknowledges nothing.
///
/// ```
/// use std::time::Duration;
///
/// let options = cubecast_sdk::PullOptions::new().max_messages(100).wait(Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct PullOptions {
    max_messages: u32,
    max_bytes: u64,
    wait: Option<Duration>,
    acknowledge_to: Option<u64>,
    auto_acknowledge: bool,
    consistency: Consistency,
}

impl PullOptions {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most so many messages.
    pub fn max_messages(self, count: u32) -> Self {
        Self {
            max_messages: count,
            ..self
        }
    }

    /// At most so many bytes of messages, but at least one message.
    pub fn max_bytes(self, bytes: u64) -> Self {
        Self {
            max_bytes: bytes,
            ..self
        }
    }

    /// Waits so long for a first message. It adds to the client's deadline.
    pub fn wait(self, wait: Duration) -> Self {
        Self {
            wait: Some(wait),
            ..self
        }
    }

    /// Acknowledges all messages below this offset first: the `next_offset` of the pull before.
    pub fn acknowledge_to(self, next_offset: u64) -> Self {
        Self {
            acknowledge_to: Some(next_offset),
            ..self
        }
    }

    /// Acknowledges the pulled messages before the answer is sent: at most once. When the answer is lost so are they, and the result is
    /// [`Error::OutcomeUnknown`].
    pub fn auto_acknowledge(self) -> Self {
        Self {
            auto_acknowledge: true,
            ..self
        }
    }

    /// What the pull is sure to see.
    pub fn consistency(self, consistency: Consistency) -> Self {
        Self {
            consistency,
            ..self
        }
    }
}

/// A durable cursor on a topic. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Subscription {
    client: Client,
    topic: Arc<str>,
    subscriber: Arc<str>,
    made: Option<Arc<Subscribed>>,
}

impl Subscription {
    /// The topic's name.
    ///
    /// ```no_run
    /// # fn run(subscriber: cubecast_sdk::Subscriber) {
    /// assert_eq!(subscriber.subscription("news").topic(), "news");
    /// # }
    /// ```
    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The subscriber's id.
    ///
    /// ```no_run
    /// # fn run(subscriber: cubecast_sdk::Subscriber) {
    /// assert_eq!(subscriber.subscription("news").subscriber(), subscriber.id());
    /// # }
    /// ```
    pub fn subscriber(&self) -> &str {
        &self.subscriber
    }

    /// What the cluster answered to [`Subscriber::subscribe`]; `None` when this did not come from there.
    ///
    /// ```no_run
    /// # fn run(news: cubecast_sdk::Subscription) {
    /// if let Some(made) = news.made() {
    ///     println!("{} messages are waiting", made.info.head_offset - made.info.next_offset);
    /// }
    /// # }
    /// ```
    pub fn made(&self) -> Option<&Subscribed> {
        self.made.as_deref()
    }

    /// Reads messages from the cursor on. The cursor stays until they are acknowledged.
    ///
    /// ```no_run
    /// # async fn run(news: cubecast_sdk::Subscription) -> Result<(), cubecast_sdk::Error> {
    /// let pulled = news.pull(cubecast_sdk::PullOptions::new()).await?;
    /// let done = pulled.next_offset;
    /// for message in pulled {
    ///     println!("{} {:?}", message.offset, message.payload);
    /// }
    /// news.acknowledge(done).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicNotFound`, `SubscriptionNotFound`, `OffsetOutOfRange` or `TopicDeleted`; and what any call can have.
    pub async fn pull(&self, options: PullOptions) -> Result<Pulled, Error> {
        let method = match (options.auto_acknowledge, options.acknowledge_to) {
            (true, _) => &call::PULL_AUTO_ACKNOWLEDGE,
            (false, Some(_)) => &call::PULL_ACKNOWLEDGING,
            (false, None) => &call::PULL,
        };
        let call = reading(method, &self.topic, options.consistency)
            .waiting(options.wait.unwrap_or_default());
        let request = v1::PullRequest {
            topic: self.topic.to_string(),
            subscriber: self.subscriber.to_string(),
            max_messages: options.max_messages,
            max_bytes: options.max_bytes,
            wait: options.wait.map(convert::duration),
            acknowledge_to: options.acknowledge_to,
            auto_acknowledge: options.auto_acknowledge,
            consistency: v1::ReadConsistency::from(options.consistency).into(),
        };
        let answer: v1::PullResponse = self.client.call(call, &request).await?;
        let mut pulled = Pulled::new(answer);
        pulled.source = self.client.note(pulled.source);
        Ok(pulled)
    }

    /// Moves the cursor forward: all messages below `next_offset` are done. Gives the cursor, which may be further.
    ///
    /// ```no_run
    /// # async fn run(news: cubecast_sdk::Subscription, last: cubecast_sdk::Received) -> Result<(), cubecast_sdk::Error> {
    /// news.acknowledge(last.offset + 1).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicNotFound`, `SubscriptionNotFound` or `OffsetOutOfRange`; and what any call can have.
    pub async fn acknowledge(&self, next_offset: u64) -> Result<u64, Error> {
        let request = v1::AcknowledgeRequest {
            topic: self.topic.to_string(),
            subscriber: self.subscriber.to_string(),
            next_offset,
        };
        let call = Call::new(&call::ACKNOWLEDGE).about(&self.topic);
        let answer: v1::AcknowledgeResponse = self.client.call(call, &request).await?;
        Ok(answer.cursor)
    }

    /// Moves the cursor to any place, also back. Gives the cursor.
    ///
    /// ```no_run
    /// # async fn run(news: cubecast_sdk::Subscription) -> Result<(), cubecast_sdk::Error> {
    /// news.seek(cubecast_sdk::Start::Earliest).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicNotFound`, `SubscriptionNotFound` or `OffsetOutOfRange`; and what any call can have.
    pub async fn seek(&self, start: Start) -> Result<u64, Error> {
        let request = v1::SeekRequest {
            topic: self.topic.to_string(),
            subscriber: self.subscriber.to_string(),
            start: Some(start.into()),
        };
        let answer: v1::SeekResponse = self
            .client
            .call(Call::new(&call::SEEK).about(&self.topic), &request)
            .await?;
        Ok(answer.cursor)
    }

    /// Removes the subscription with its cursor. A second attempt that finds nothing is success, as in [`Client::delete_topic`].
    ///
    /// ```no_run
    /// # async fn run(news: cubecast_sdk::Subscription) -> Result<(), cubecast_sdk::Error> {
    /// news.unsubscribe().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicNotFound` or `SubscriptionNotFound`; and what any call can have.
    pub async fn unsubscribe(&self) -> Result<(), Error> {
        let request = v1::UnsubscribeRequest {
            topic: self.topic.to_string(),
            subscriber: self.subscriber.to_string(),
        };
        let call = Call::new(&call::UNSUBSCRIBE).about(&self.topic);
        let _: v1::UnsubscribeResponse = self.client.call(call, &request).await?;
        Ok(())
    }

    /// All messages from the cursor on, as they come, without end.
    ///
    /// Messages are delivered at least once: those of one pull are acknowledged together when the application asks for the first message after
    /// them. Dropping the stream acknowledges nothing; call [`Self::acknowledge`] to do so earlier. With
    /// [`PullOptions::auto_acknowledge`] they are delivered at most once.
    ///
    /// After an error that may pass ([`Error::is_transient`]) the stream goes on, with another attempt at its next message; otherwise it ends.
    ///
    /// ```no_run
    /// # async fn run(news: cubecast_sdk::Subscription) -> Result<(), cubecast_sdk::Error> {
    /// use futures::TryStreamExt;
    ///
    /// let mut messages = news.messages(cubecast_sdk::PullOptions::new());
    /// while let Some(message) = messages.try_next().await? {
    ///     println!("{} {:?}", message.offset, message.payload);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[expect(
        clippy::needless_pass_by_value,
        reason = "options are given away, as to `pull`"
    )]
    pub fn messages(&self, options: PullOptions) -> BoxStream<'static, Result<Received, Error>> {
        let options = PullOptions {
            wait: options.wait.or(Some(STREAM_WAIT)),
            ..options
        };
        let reader = Reader {
            subscription: self.clone(),
            options,
            left: Vec::new().into_iter(),
        };
        stream::unfold(Some(reader), |reader| async move { reader?.next().await }).boxed()
    }
}

/// Where a stream of messages is.
struct Reader {
    subscription: Subscription,
    /// Its `acknowledge_to` is the end of the messages that were pulled last.
    options: PullOptions,
    left: std::vec::IntoIter<Received>,
}

impl Reader {
    /// The next message, with the reader unless this is the end.
    async fn next(mut self) -> Option<(Result<Received, Error>, Option<Self>)> {
        loop {
            if let Some(message) = self.left.next() {
                return Some((Ok(message), Some(self)));
            }
            match self.subscription.pull(self.options.clone()).await {
                Ok(pulled) => self.take(pulled),
                Err(error) if error.is_transient() => return Some((Err(error), Some(self))),
                Err(error) => return Some((Err(error), None)),
            }
        }
    }

    fn take(&mut self, pulled: Pulled) {
        // Acknowledging the same again would be a write for nothing.
        self.options.acknowledge_to = Some(pulled.next_offset)
            .filter(|_| !pulled.is_empty() && !self.options.auto_acknowledge);
        self.left = pulled.into_iter().collect::<Vec<_>>().into_iter();
    }
}
