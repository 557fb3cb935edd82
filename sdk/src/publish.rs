//! Publishing: with a publisher, exactly once in the log; without one, at most once per attempt that arrives.
//!
//! How a publisher's publishes to one topic follow each other is in `lane`. Begin with [`Client::publisher`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::admin::Placed;
use crate::attempt::Answer;
use crate::batch::NewTopic;
use crate::call::{self, Call};
use crate::client::Client;
use crate::error::Error;
use crate::lane::{self, Lane, ROOM_KIB};
use crate::message::{self, Message, Published, Run};
use crate::model::{AckLevel, Topic};
use crate::proto::v1;

/// Topics whose session a publisher keeps; beyond it those without work are dropped, and begin a new session when they come again.
const LANES_MAX: usize = 100_000;

impl Client {
    /// Publishes messages in nobody's name, answered at `QUORUM`.
    ///
    /// They are appended all or none, one after another. Nothing tells a repetition from a new publish: when the answer is lost, the result is
    /// [`Error::OutcomeUnknown`]. A [`Publisher`] does better.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// let published = client.publish("news", ["rain", "sun"]).await?;
    /// println!("first at {}", published.first_offset);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `TopicNotFound`, `BatchEmpty`, `BatchTooMany`, `MessageEmpty`, `MessageTooLarge` or `RequestTooLarge`;
    /// [`Error::OutcomeUnknown`]; and what any call can have.
    pub async fn publish<M: Into<Message>>(
        &self,
        topic: &str,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Published, Error> {
        self.publish_at(AckLevel::Quorum, topic, messages).await
    }

    /// As [`Self::publish`], answered at another level.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::AckLevel;
    ///
    /// let published = client.publish_at(AckLevel::All, "news", ["rain"]).await?;
    /// assert!(published.reached >= AckLevel::Quorum);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub async fn publish_at<M: Into<Message>>(
        &self,
        acks: AckLevel,
        topic: &str,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Published, Error> {
        let head = v1::PublishRequest {
            topic: topic.to_owned(),
            acks: v1::AckLevel::from(acks).into(),
            ..v1::PublishRequest::default()
        };
        let run = Run::new(messages);
        let request = message::request(&head, std::iter::once(&run));
        let call = Call::new(&call::PUBLISH).about(topic);
        let answer = self.call_whole(call, request).await?;
        Ok(self.published(answer))
    }

    /// What became of a publish, with who answered in whose place.
    pub(crate) fn published(&self, answer: Answer<v1::PublishResponse>) -> Published {
        let published = Published::new(answer.message);
        let note = self.stand_in(&published.placement.owner, answer.served_by.as_deref());
        Published { note, ..published }
    }

    /// Publishes in the name of a publisher, which must have been created.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// client.create_publisher("agency").await?;
    /// let publisher = client.publisher("agency");
    /// publisher.publish("news", ["rain"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn publisher(&self, id: impl Into<String>) -> Publisher {
        Publisher {
            acks: AckLevel::Quorum,
            shared: Arc::new(Shared {
                client: self.clone(),
                id: id.into().into(),
                lanes: Mutex::default(),
                room: Arc::new(Semaphore::new(ROOM_KIB)),
                tasks: Mutex::default(),
            }),
        }
    }
}

/// Publishes in the name of a publisher, each publish exactly once in the log.
///
/// Publishes to one topic are appended in the order in which their futures were first polled, as long as no more than 64 MiB wait. One request per topic is under way at a time;
/// publishes that come meanwhile wait and then go together, so that many callers at once are fast. Each keeps its own offsets and its own
/// error. Cheap to clone; clones share the order.
///
/// A publish that is dropped before it was sent is not sent. One that was sent may be appended.
#[derive(Debug, Clone)]
pub struct Publisher {
    acks: AckLevel,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    id: Arc<str>,
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    /// What may wait in all lanes together. Full: the next publish waits.
    room: Arc<Semaphore>,
    /// One per topic with work. They end with the publisher.
    tasks: Mutex<JoinSet<()>>,
}

impl Publisher {
    /// The publisher's id.
    ///
    /// ```no_run
    /// # fn run(client: cubecast_sdk::Client) {
    /// assert_eq!(client.publisher("agency").id(), "agency");
    /// # }
    /// ```
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    pub(crate) fn client(&self) -> &Client {
        &self.shared.client
    }

    /// The same publisher, answered at another level.
    ///
    /// ```no_run
    /// # fn run(client: cubecast_sdk::Client) {
    /// let publisher = client.publisher("agency").with_acks(cubecast_sdk::AckLevel::All);
    /// # }
    /// ```
    #[must_use]
    pub fn with_acks(&self, acks: AckLevel) -> Self {
        Self {
            acks,
            shared: Arc::clone(&self.shared),
        }
    }

    /// Creates a topic in the publisher's name: a name, or a [`NewTopic`] that says more.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// client.publisher("agency").create_topic("news").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::create_topic`]; and [`Error::Refused`] with `PublisherNotFound`.
    pub async fn create_topic(&self, topic: impl Into<NewTopic>) -> Result<Placed<Topic>, Error> {
        self.shared
            .client
            .create_topic_by(topic.into(), &self.shared.id)
            .await
    }

    /// Creates many topics in the publisher's name, as [`Client::create_topics`].
    ///
    /// ```no_run
    /// # async fn run(publisher: cubecast_sdk::Publisher) {
    /// for created in publisher.create_topics(["rain", "sun"]).await {
    ///     println!("{created:?}");
    /// }
    /// # }
    /// ```
    pub async fn create_topics<T: Into<NewTopic>>(
        &self,
        topics: impl IntoIterator<Item = T>,
    ) -> Vec<Result<Placed<Topic>, Error>> {
        let topics = topics.into_iter().map(Into::into).collect();
        self.shared
            .client
            .create_topics_by(topics, &self.shared.id)
            .await
    }

    /// Publishes messages: all or none, one after another.
    ///
    /// ```no_run
    /// # async fn run(publisher: cubecast_sdk::Publisher) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::Message;
    ///
    /// let published = publisher.publish("news", [Message::new("rain").with_key("weather")]).await?;
    /// println!("stored by {:?}", published.stored_by);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::publish`]; [`Error::Refused`] with `PublisherNotFound`; [`Error::OutcomeUnknown`] only when the deadline passed first;
    /// [`Error::DeadlineExceeded`] when it passed before the publish was sent. One that waited for others has the deadline anew when it is sent.
    pub async fn publish<M: Into<Message>>(
        &self,
        topic: &str,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Published, Error> {
        let run = Run::new(messages);
        let shared = &self.shared;
        let lane = shared.lane(topic);
        let deadline = shared.client.shared.options.deadline;
        let place = lane::enter(&shared.room, run, self.acks, deadline).await?;
        let waiting = lane.push(place, || {
            shared.spawn(lane::drive(
                Arc::clone(&lane),
                shared.client.clone(),
                Arc::clone(&shared.id),
            ));
        });
        waiting.answer().await
    }
}

impl Shared {
    /// Leaf data, and never held across an await.
    fn lanes(&self) -> MutexGuard<'_, HashMap<String, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane(&self, topic: &str) -> Arc<Lane> {
        let mut lanes = self.lanes();
        if let Some(lane) = lanes.get(topic) {
            return Arc::clone(lane);
        }
        if lanes.len() >= LANES_MAX {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        let lane = Arc::new(Lane::new(topic));
        lanes.insert(topic.to_owned(), Arc::clone(&lane));
        lane
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}
