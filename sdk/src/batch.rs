//! Many topics at once: calls of at most a thousand, a few under way at a time, each name with its own fate.
//!
//! What failed and may work later is tried again under the same request id, so that a topic that was created by an attempt without an answer is
//! not taken for somebody else's. Begin with [`Client::create_topics`].

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use prost::Message;
use tokio::time::Instant;

use crate::admin::{Placed, placed, request_id, retention};
use crate::attempt::Answer;
use crate::call::{self, Call};
use crate::client::Client;
use crate::error::{Error, Failure, Fate};
use crate::hedge::Hedge;
use crate::model::{Retention, Topic};
use crate::proto::v1;
use crate::retry::{self, Majority, Repeat, Verdict};

/// Topics in one call: what peers take.
const CHUNK: usize = 1000;
/// Calls under way: enough that all shards are busy while answers travel.
const CALLS: usize = 4;
/// As errors name the call.
const METHOD: &str = "BatchCreateTopics";

/// A topic that is to be created. A name alone is one, too.
///
/// ```
/// use cubecast_sdk::{NewTopic, Retention};
///
/// let topic = NewTopic::new("news").with_retention(Retention::new().with_bytes(1 << 30));
/// assert_eq!(NewTopic::from("news"), NewTopic::new("news"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NewTopic {
    pub(crate) name: String,
    pub(crate) retention: Retention,
}

impl NewTopic {
    /// A topic that keeps its messages for ever.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            retention: Retention::default(),
        }
    }

    /// Keeps its messages only so long.
    #[must_use]
    pub fn with_retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }
}

impl From<&str> for NewTopic {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<&String> for NewTopic {
    fn from(name: &String) -> Self {
        Self::new(name)
    }
}

impl From<String> for NewTopic {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl Client {
    /// Creates many topics, and tells of each, in their order, whether it was created. They are sent a thousand at a time; the client's deadline
    /// is for each thousand.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) {
    /// let names = (0..10_000).map(|number| format!("sensor-{number}"));
    /// let created = client.create_topics(names).await;
    /// println!("{} of them exist", created.iter().filter(|created| created.is_ok()).count());
    /// # }
    /// ```
    ///
    /// The errors of a topic are those of [`Client::create_topic`].
    pub async fn create_topics<T: Into<NewTopic>>(
        &self,
        topics: impl IntoIterator<Item = T>,
    ) -> Vec<Result<Placed<Topic>, Error>> {
        let topics = topics.into_iter().map(Into::into).collect();
        self.create_topics_by(topics, "").await
    }

    /// Creates topics in the name of a publisher; empty: of nobody.
    pub(crate) async fn create_topics_by(
        &self,
        topics: Vec<NewTopic>,
        publisher: &str,
    ) -> Vec<Result<Placed<Topic>, Error>> {
        let chunks: Vec<Vec<v1::TopicToCreate>> = topics
            .chunks(CHUNK)
            .map(|chunk| chunk.iter().map(to_create).collect())
            .collect();
        let calls = chunks
            .into_iter()
            .map(|chunk| Chunk::new(self, chunk, publisher).run());
        let results: Vec<Vec<_>> = stream::iter(calls).buffered(CALLS).collect().await;
        results.into_iter().flatten().collect()
    }
}

fn to_create(topic: &NewTopic) -> v1::TopicToCreate {
    v1::TopicToCreate {
        topic: topic.name.clone(),
        retention: retention(topic.retention),
    }
}

/// At most a thousand topics on their way.
struct Chunk<'a> {
    client: &'a Client,
    publisher: &'a str,
    request_id: String,
    ends: Instant,
    topics: Vec<Fated>,
}

/// A topic with what is known of it so far.
struct Fated {
    topic: v1::TopicToCreate,
    /// `None`: not answered yet.
    result: Option<Result<Placed<Topic>, Error>>,
    /// It is to be asked for again.
    is_open: bool,
    /// The fate of an earlier attempt is not known.
    was_unknown: bool,
    majority: Majority,
}

impl<'a> Chunk<'a> {
    fn new(client: &'a Client, topics: Vec<v1::TopicToCreate>, publisher: &'a str) -> Self {
        let fated = |topic| Fated {
            topic,
            result: None,
            is_open: true,
            was_unknown: false,
            majority: Majority::default(),
        };
        Self {
            client,
            publisher,
            request_id: request_id(),
            ends: Instant::now() + client.shared.options.deadline,
            topics: topics.into_iter().map(fated).collect(),
        }
    }

    async fn run(mut self) -> Vec<Result<Placed<Topic>, Error>> {
        let mut round = 0;
        loop {
            let asked = self.attempt().await;
            let pause = self.client.shared.options.backoff;
            round += 1;
            let pause = pause.pause(round, rand::random(), asked);
            let is_open = self.topics.iter().any(|topic| topic.is_open);
            if !is_open || Instant::now() + pause >= self.ends {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        let results = self.topics.into_iter().map(|topic| topic.result);
        let unanswered = Error::Answer { field: "results" };
        results
            .map(|result| result.unwrap_or_else(|| Err(unanswered.clone())))
            .collect()
    }

    /// Asks once for all that is open. Gives how long the peers want to be spared before the rest is asked for again.
    async fn attempt(&mut self) -> Option<Duration> {
        let open: Vec<&mut Fated> = self
            .topics
            .iter_mut()
            .filter(|topic| topic.is_open)
            .collect();
        let request = v1::BatchCreateTopicsRequest {
            topics: open.iter().map(|fated| fated.topic.clone()).collect(),
            publisher: self.publisher.to_owned(),
            request_id: self.request_id.clone(),
        };
        let left = self.ends.saturating_duration_since(Instant::now());
        let call = Call::new(&call::BATCH_CREATE_TOPICS)
            .within(left)
            .hedged(Hedge::Never);
        let request = request.encode_to_vec().into();
        let answer: Result<Answer<v1::BatchCreateTopicsResponse>, Error> =
            self.client.call_whole(call, request).await;
        let answer = match answer {
            Ok(answer) if answer.message.results.len() == open.len() => answer,
            Ok(_) => {
                fail_all(open, &Error::Answer { field: "results" });
                return None;
            }
            Err(error) => {
                // It was tried as long as there was time.
                fail_all(open, &error);
                return None;
            }
        };
        let address = answer.address;
        let patience = self.client.shared.options.no_quorum_patience;
        let asked = open
            .into_iter()
            .zip(answer.message.results)
            .filter_map(|(fated, creation)| match creation.result {
                Some(v1::topic_creation::Result::Created(created)) => {
                    fated.is_open = false;
                    fated.result = Some(placed(created.topic, "topic", created.placement));
                    None
                }
                Some(v1::topic_creation::Result::Error(part)) => {
                    fated.fail(Failure::from_part(part, address.clone()), patience)
                }
                None => {
                    fated.is_open = false;
                    fated.result = Some(Err(Error::Answer { field: "result" }));
                    None
                }
            });
        asked.max()
    }
}

fn fail_all(open: Vec<&mut Fated>, error: &Error) {
    for fated in open {
        fated.is_open = false;
        // What is known of an earlier attempt is not undone by a later one that was not heard.
        let is_unknown = fated.was_unknown && fated.result.is_some();
        if !is_unknown {
            fated.result = Some(Err(error.clone()));
        }
    }
}

impl Fated {
    /// Takes note of a failure. Gives the time that the peer asks for.
    fn fail(&mut self, failure: Failure, patience: Duration) -> Option<Duration> {
        let verdict = retry::decide(&failure, Repeat::Write, self.was_unknown);
        let lost_for = self.majority.lost_for(&failure, Instant::now());
        let has_hope = lost_for.is_none_or(|lost| lost < patience);
        self.is_open = has_hope && matches!(verdict, Verdict::Again(_));
        self.was_unknown |= failure.fate == Fate::Unknown;
        let asked = failure.retry_after.filter(|_| self.is_open);
        let last = Box::new(failure);
        let is_unknown = self.was_unknown && !retry::is_refused_always(&last);
        self.result = Some(Err(if is_unknown {
            Error::OutcomeUnknown {
                method: METHOD,
                last,
            }
        } else {
            Error::Refused(last)
        }));
        asked
    }
}
