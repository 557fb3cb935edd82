//! Peers that keep one log in memory and fail on command: enough of cubecast to see what the SDK does when things go wrong.
//!
//! All peers of a [`FakeCluster`] share the log, as if every call were forwarded. Begin with [`FakeCluster::start`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cubecast_sdk::proto::v1;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::raw::Raw;

/// What a peer does with the next call in place of answering it.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Does what is asked, and the answer is lost.
    LoseAnswer,
    /// Does nothing and never answers.
    Hang,
    /// Refuses with this code, reason and one fact.
    Refuse(Code, &'static str, &'static str, String),
}

/// A call as a peer received it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub peer: usize,
    pub method: String,
    pub request: Bytes,
}

/// The peers.
pub struct FakeCluster {
    pub addresses: Vec<String>,
    state: Arc<Mutex<State>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    faults: HashMap<usize, VecDeque<Fault>>,
    seen: Vec<Seen>,
    messages: Vec<v1::Message>,
    /// First offsets by session and sequence.
    sequences: HashMap<(u64, u64), u64>,
    cursor: u64,
    topics: HashMap<String, String>,
    /// What a batch says of topics in place of creating them.
    refused_topics: HashMap<String, VecDeque<v1::ErrorReason>>,
    /// Messages that retention has removed below the cursor.
    missed: u64,
    /// The vertex that answers all calls.
    leader: Option<String>,
    /// The vertex that owns all topics.
    owner: String,
    /// Peers that answer nothing at the moment.
    silent: HashSet<usize>,
}

impl FakeCluster {
    /// Starts `count` peers at vertices 0, 1, … of a cube of three dimensions.
    pub async fn start(count: usize) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let mut addresses = Vec::new();
        let mut tasks = Vec::new();
        for peer in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(format!("http://{}", listener.local_addr().unwrap()));
            let fake = FakePeer {
                peer,
                state: Arc::clone(&state),
            };
            tasks.push(tokio::spawn(async move {
                let incoming = TcpListenerStream::new(listener);
                tonic::transport::Server::builder()
                    .add_service(fake)
                    .serve_with_incoming(incoming)
                    .await
                    .unwrap();
            }));
        }
        Self {
            addresses,
            state,
            tasks,
        }
    }

    pub fn fail(&self, peer: usize, fault: Fault) {
        self.state
            .lock()
            .unwrap()
            .faults
            .entry(peer)
            .or_default()
            .push_back(fault);
    }

    /// The next batch that names the topic says this of it and, unless the outcome is unknown, does not create it.
    pub fn refuse_topic(&self, topic: &str, reason: v1::ErrorReason) {
        self.state
            .lock()
            .unwrap()
            .refused_topics
            .entry(topic.to_owned())
            .or_default()
            .push_back(reason);
    }

    /// Removes the first messages, as retention does.
    pub fn trim(&self, next_offset: u64) {
        let mut state = self.state.lock().unwrap();
        state.missed += next_offset - state.cursor;
        state.cursor = next_offset;
    }

    /// The peer's calls are answered in the name of this vertex from now on.
    pub fn lead(&self, vertex: &str) {
        self.state.lock().unwrap().leader = Some(vertex.to_owned());
    }

    /// The vertex owns all topics.
    pub fn own(&self, vertex: &str) {
        self.state.lock().unwrap().owner = vertex.to_owned();
    }

    /// The peer answers nothing from now on, as if it were paused.
    pub fn silence(&self, peer: usize) {
        self.state.lock().unwrap().silent.insert(peer);
    }

    /// The peer goes on.
    pub fn wake(&self, peer: usize) {
        self.state.lock().unwrap().silent.remove(&peer);
    }

    /// Forgets all sessions.
    pub fn forget_sessions(&self) {
        self.state.lock().unwrap().sequences.clear();
    }

    /// The calls of this method so far.
    pub fn seen(&self, method: &str) -> Vec<Seen> {
        let state = self.state.lock().unwrap();
        state
            .seen
            .iter()
            .filter(|seen| seen.method == method)
            .cloned()
            .collect()
    }

    pub fn payloads(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state
            .messages
            .iter()
            .map(|message| String::from_utf8(message.payload.to_vec()).unwrap())
            .collect()
    }

    pub fn cursor(&self) -> u64 {
        self.state.lock().unwrap().cursor
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

pub fn refusal(code: Code, reason: &str, key: &str, value: &str) -> Status {
    let facts = HashMap::from([(key.to_owned(), value.to_owned())]);
    Status::with_error_details(
        code,
        "refused by the test",
        ErrorDetails::with_error_info(reason, "cubecast", facts),
    )
}

impl State {
    fn handle(&mut self, peer: usize, method: &str, request: Bytes) -> Result<Vec<u8>, Status> {
        match method {
            "GetNodeStatus" => Ok(v1::GetNodeStatusResponse {
                vertex: format!("{peer:03b}"),
                ..Default::default()
            }
            .encode_to_vec()),
            "CreateTopic" => self.create_topic(v1::CreateTopicRequest::decode(request).unwrap()),
            "BatchCreateTopics" => {
                Ok(self.create_topics(v1::BatchCreateTopicsRequest::decode(request).unwrap()))
            }
            "DeleteTopic" => {
                let topic = v1::DeleteTopicRequest::decode(request).unwrap().topic;
                self.topics
                    .remove(&topic)
                    .ok_or_else(|| refusal(Code::NotFound, "TOPIC_NOT_FOUND", "topic", &topic))?;
                Ok(v1::DeleteTopicResponse::default().encode_to_vec())
            }
            "GetTopic" => Ok(v1::GetTopicResponse {
                topic: Some(v1::Topic::default()),
                placement: Some(v1::Placement::default()),
                source: Some(self.source(peer)),
            }
            .encode_to_vec()),
            "Publish" => self.publish(v1::PublishRequest::decode(request).unwrap()),
            "Subscribe" => {
                let subscription = Some(v1::Subscription::default());
                Ok(v1::SubscribeResponse {
                    subscription,
                    ..Default::default()
                }
                .encode_to_vec())
            }
            "Pull" => Ok(self.pull(peer, &v1::PullRequest::decode(request).unwrap())),
            other => Err(Status::unimplemented(other)),
        }
    }

    fn create_topic(&mut self, request: v1::CreateTopicRequest) -> Result<Vec<u8>, Status> {
        let known = self
            .topics
            .entry(request.topic.clone())
            .or_insert_with(|| request.request_id.clone());
        if *known != request.request_id {
            return Err(refusal(
                Code::AlreadyExists,
                "TOPIC_ALREADY_EXISTS",
                "topic",
                &request.topic,
            ));
        }
        let topic = Some(v1::Topic {
            name: request.topic,
            ..Default::default()
        });
        let placement = Some(v1::Placement {
            owner: "100".to_owned(),
            ..Default::default()
        });
        Ok(v1::CreateTopicResponse { topic, placement }.encode_to_vec())
    }

    fn create_topics(&mut self, batch: v1::BatchCreateTopicsRequest) -> Vec<u8> {
        let results = batch.topics.into_iter().map(|topic| {
            let refused = self.refused_topics.get_mut(&topic.topic);
            let refused = refused.and_then(VecDeque::pop_front);
            let request = v1::CreateTopicRequest {
                topic: topic.topic,
                request_id: batch.request_id.clone(),
                ..Default::default()
            };
            let done = match refused {
                Some(v1::ErrorReason::OutcomeUnknown) | None => self.create_topic(request).err(),
                Some(_) => None,
            };
            let error = match (refused, done) {
                (Some(reason), _) => Some((reason, Code::Unavailable)),
                (None, Some(status)) => Some((v1::ErrorReason::TopicAlreadyExists, status.code())),
                (None, None) => None,
            };
            let result = match error {
                Some((reason, code)) => v1::topic_creation::Result::Error(v1::StreamError {
                    code: code.into(),
                    reason: reason.into(),
                    ..Default::default()
                }),
                None => v1::topic_creation::Result::Created(v1::CreateTopicResponse {
                    topic: Some(v1::Topic::default()),
                    placement: Some(v1::Placement::default()),
                }),
            };
            v1::TopicCreation {
                result: Some(result),
            }
        });
        let results = results.collect();
        v1::BatchCreateTopicsResponse { results }.encode_to_vec()
    }

    fn publish(&mut self, request: v1::PublishRequest) -> Result<Vec<u8>, Status> {
        if let Some(index) = request
            .messages
            .iter()
            .position(|message| message.payload.len() > 1000)
        {
            return Err(refusal(
                Code::InvalidArgument,
                "MESSAGE_TOO_LARGE",
                "index",
                &index.to_string(),
            ));
        }
        let mut answer = v1::PublishResponse {
            first_offset: self.messages.len() as u64,
            message_count: u32::try_from(request.messages.len()).unwrap(),
            placement: Some(v1::Placement {
                owner: self.owner.clone(),
                ..Default::default()
            }),
            ..Default::default()
        };
        if let Some(v1::PublishSequence { session, sequence }) = request.sequence {
            if let Some(first_offset) = self.sequences.get(&(session, sequence)) {
                (answer.first_offset, answer.is_duplicate) = (*first_offset, true);
                return Ok(answer.encode_to_vec());
            }
            if sequence > 0 && !self.sequences.contains_key(&(session, sequence - 1)) {
                return Err(refusal(
                    Code::FailedPrecondition,
                    "SESSION_UNKNOWN",
                    "session",
                    &session.to_string(),
                ));
            }
            self.sequences
                .insert((session, sequence), answer.first_offset);
        }
        self.messages.extend(request.messages);
        Ok(answer.encode_to_vec())
    }

    /// As a real peer tells it, of a replica that read its own rows.
    fn source(&self, peer: usize) -> v1::ReadSource {
        let served_by = format!("{peer:03b}");
        let note = match served_by == self.owner {
            true => String::new(),
            false => format!("served by replica {served_by}"),
        };
        v1::ReadSource {
            served_by,
            owner: self.owner.clone(),
            note,
            ..Default::default()
        }
    }

    fn pull(&mut self, peer: usize, request: &v1::PullRequest) -> Vec<u8> {
        if let Some(next_offset) = request.acknowledge_to {
            self.cursor = self.cursor.max(next_offset);
            self.missed = 0;
        }
        let from = usize::try_from(self.cursor).unwrap();
        let messages: Vec<_> = self
            .messages
            .iter()
            .skip(from)
            .take(request.max_messages as usize)
            .cloned()
            .collect();
        let next_offset = self.cursor + messages.len() as u64;
        let batch = v1::MessageBatch {
            base_offset: self.cursor,
            messages,
            ..Default::default()
        };
        let batches = Some(batch)
            .filter(|batch| !batch.messages.is_empty())
            .into_iter()
            .collect();
        v1::PullResponse {
            batches,
            next_offset,
            cursor: self.cursor,
            missed: self.missed,
            source: Some(self.source(peer)),
            ..Default::default()
        }
        .encode_to_vec()
    }
}

#[derive(Clone)]
struct FakePeer {
    peer: usize,
    state: Arc<Mutex<State>>,
}

impl FakePeer {
    async fn answer(
        self,
        method: String,
        request: Bytes,
    ) -> Result<tonic::Response<Vec<u8>>, Status> {
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.seen.push(Seen {
                peer: self.peer,
                method: method.clone(),
                request: request.clone(),
            });
            let faults = state
                .faults
                .get_mut(&self.peer)
                .filter(|_| method != "GetNodeStatus");
            faults.and_then(VecDeque::pop_front)
        };
        while self.state.lock().unwrap().silent.contains(&self.peer) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        match fault {
            Some(Fault::Hang) => tokio::time::sleep(Duration::from_secs(600)).await,
            Some(Fault::Refuse(code, reason, key, value)) => {
                return Err(refusal(code, reason, key, &value));
            }
            Some(Fault::LoseAnswer) | None => (),
        }
        let mut state = self.state.lock().unwrap();
        let answer = state.handle(self.peer, &method, request)?;
        if matches!(fault, Some(Fault::LoseAnswer)) {
            return Err(Status::unavailable("the connection was reset"));
        }
        let vertex = state
            .leader
            .clone()
            .unwrap_or_else(|| format!("{:03b}", self.peer));
        let mut response = tonic::Response::new(answer);
        response
            .metadata_mut()
            .insert("cubecast-served-by", vertex.parse().unwrap());
        Ok(response)
    }
}

impl tonic::server::NamedService for FakePeer {
    const NAME: &'static str = "cubecast.v1.PeerService";
}

impl tower::Service<http::Request<tonic::body::Body>> for FakePeer {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let fake = self.clone();
        let method = request
            .uri()
            .path()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        Box::pin(async move {
            let service = tower::service_fn(move |request: tonic::Request<Bytes>| {
                fake.clone().answer(method.clone(), request.into_inner())
            });
            Ok(tonic::server::Grpc::new(Raw).unary(service, request).await)
        })
    }
}
