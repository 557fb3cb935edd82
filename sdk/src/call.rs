//! One call with all its attempts: choose a peer, send, judge, pause, again.
//!
//! The request is encoded once and sent as bytes, so that a repetition costs nothing and the clone of ten thousand messages is never made. It never
//! decides what may be repeated: that is `retry`. Begin with [`run`].

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;
use tracing::debug;

use crate::client::Shared;
use crate::connect::{Address, Chosen, PeerKey};
use crate::error::{Attempt, Code, Error, Failure, Fate};
use crate::retry::{self, Place, Repeat, Verdict};

/// How often a call follows the word of a peer that another leads, without a pause.
const REDIRECTS_MAX: u32 = 4;

/// A method of the API.
#[derive(Debug)]
pub(crate) struct Method {
    /// As errors name it.
    name: &'static str,
    path: &'static str,
    repeat: Repeat,
}

macro_rules! methods {
    ($($constant:ident = $service:literal / $name:literal, $repeat:ident;)*) => {
        $(pub(crate) const $constant: Method = Method {
            name: $name,
            path: concat!("/cubecast.v1.", $service, "/", $name),
            repeat: Repeat::$repeat,
        };)*
    };
}

methods! {
    CREATE_PUBLISHER = "PeerService" / "CreatePublisher", Write;
    DELETE_PUBLISHER = "PeerService" / "DeletePublisher", Delete;
    LIST_PUBLISHERS = "PeerService" / "ListPublishers", Read;
    CREATE_SUBSCRIBER = "PeerService" / "CreateSubscriber", Write;
    DELETE_SUBSCRIBER = "PeerService" / "DeleteSubscriber", Delete;
    LIST_SUBSCRIBERS = "PeerService" / "ListSubscribers", Read;
    CREATE_TOPIC = "PeerService" / "CreateTopic", Write;
    BATCH_CREATE_TOPICS = "PeerService" / "BatchCreateTopics", Write;
    UPDATE_TOPIC = "PeerService" / "UpdateTopic", Write;
    GET_TOPIC = "PeerService" / "GetTopic", Read;
    LIST_TOPICS = "PeerService" / "ListTopics", Read;
    DELETE_TOPIC = "PeerService" / "DeleteTopic", Delete;
    PUBLISH = "PeerService" / "Publish", Never;
    PUBLISH_SEQUENCED = "PeerService" / "Publish", Write;
    SUBSCRIBE = "PeerService" / "Subscribe", Write;
    UNSUBSCRIBE = "PeerService" / "Unsubscribe", Delete;
    LIST_SUBSCRIPTIONS = "PeerService" / "ListSubscriptions", Read;
    PULL = "PeerService" / "Pull", Read;
    PULL_ACKNOWLEDGING = "PeerService" / "Pull", Write;
    PULL_AUTO_ACKNOWLEDGE = "PeerService" / "Pull", Never;
    ACKNOWLEDGE = "PeerService" / "Acknowledge", Write;
    SEEK = "PeerService" / "Seek", Write;
    LOCATE_TOPIC = "PeerService" / "LocateTopic", Read;
    GET_NODE_STATUS = "PeerService" / "GetNodeStatus", Read;
    GET_CLUSTER = "ClusterService" / "GetCluster", Read;
    VERIFY_REPLICAS = "ClusterService" / "VerifyReplicas", Read;
}

/// Who may answer a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Every peer; the leader of the topic first.
    Any,
    /// This one.
    Only(PeerKey),
}

/// A call to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    method: &'static Method,
    /// The topic that it is about, whose leader is asked first and remembered. `None`: no leader is better than another peer.
    pub(crate) topic: Option<&'a str>,
    target: Target,
    /// How long the peer may wait before it answers, beyond the usual.
    wait: Duration,
    /// In place of the client's.
    deadline: Option<Duration>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: &'static Method) -> Self {
        Self {
            method,
            topic: None,
            target: Target::Any,
            wait: Duration::ZERO,
            deadline: None,
        }
    }

    pub(crate) fn about(self, topic: &'a str) -> Self {
        Self {
            topic: Some(topic),
            ..self
        }
    }

    pub(crate) fn at(self, target: Target) -> Self {
        Self { target, ..self }
    }

    pub(crate) fn waiting(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    pub(crate) fn within(self, deadline: Duration) -> Self {
        Self {
            deadline: Some(deadline),
            ..self
        }
    }
}

/// What a call gave.
#[derive(Debug)]
pub(crate) struct Answer<A> {
    pub(crate) message: A,
    /// The vertex of the peer that answered, where it said so.
    pub(crate) served_by: Option<String>,
    /// The address that was called.
    pub(crate) address: Address,
}

/// Makes a call.
pub(crate) async fn run<A>(
    shared: &Shared,
    call: Call<'_>,
    request: Bytes,
) -> Result<Answer<A>, Error>
where
    A: prost::Message + Default + 'static,
{
    let mut course = Course::new(shared, call);
    loop {
        let chosen = course.choose()?;
        let timeout = course.attempt_timeout();
        let failure = match attempt(&course, &chosen, timeout, request.clone()).await {
            Ok(answer) => {
                shared.peers.mark_up(chosen.key);
                return Ok(answer);
            }
            Err(failure) => failure,
        };
        debug!(method = call.method.name, attempt = course.attempts, %failure, "attempt failed");
        match course.judge(chosen.key, failure)? {
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                return Ok(Answer {
                    message: A::default(),
                    served_by: None,
                    address: chosen.address,
                });
            }
        }
    }
}

/// Where a call stands.
struct Course<'a> {
    shared: &'a Shared,
    call: Call<'a>,
    deadline: Duration,
    ends: Instant,
    /// One for all attempts, so that all peers' traces of this call are found together.
    trace: String,
    attempts: u32,
    redirects: u32,
    tried: Vec<PeerKey>,
    leader: Option<PeerKey>,
    /// The fate of an earlier attempt is unknown.
    was_unknown: bool,
}

impl<'a> Course<'a> {
    fn new(shared: &'a Shared, call: Call<'a>) -> Self {
        let deadline = call
            .deadline
            .unwrap_or(shared.options.deadline)
            .saturating_add(call.wait);
        Self {
            shared,
            call,
            deadline,
            ends: Instant::now() + deadline,
            trace: format!(
                "00-{:032x}-{:016x}-01",
                rand::random::<u128>() | 1,
                rand::random::<u64>() | 1
            ),
            attempts: 0,
            redirects: 0,
            tried: Vec::new(),
            leader: None,
            was_unknown: false,
        }
    }

    fn remaining(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    fn choose(&mut self) -> Result<Chosen, Error> {
        self.attempts += 1;
        let peers = &self.shared.peers;
        let chosen = match (self.call.target, self.leader.take()) {
            (Target::Only(key), _) | (Target::Any, Some(key)) => peers.get(key),
            (Target::Any, None) => peers.choose(self.call.topic, &self.tried),
        };
        chosen.ok_or(Error::Answer { field: "peer" })
    }

    /// How long the next attempt may take: so long that a slow answer arrives, so short that a peer that hangs does not use up the deadline.
    /// An attempt that cannot be followed by another has all the time there is.
    fn attempt_timeout(&self) -> Duration {
        if self.call.method.repeat == Repeat::Never {
            return self.remaining();
        }
        let factor = 1_u32 << self.attempts.saturating_sub(1).min(8);
        let patience = self
            .shared
            .options
            .attempt_timeout
            .saturating_mul(factor)
            .saturating_add(self.call.wait);
        patience.min(self.remaining())
    }

    /// Takes a failed attempt into account: how long to pause before the next, `None` when the call was a success after all.
    fn judge(&mut self, key: PeerKey, failure: Failure) -> Result<Option<Duration>, Error> {
        self.note(key, &failure);
        let verdict = retry::decide(&failure, self.call.method.repeat, self.was_unknown);
        self.was_unknown |= failure.fate == Fate::Unknown;
        let place = match verdict {
            Verdict::Done => return Ok(None),
            Verdict::Fail => return Err(self.give_up(failure)),
            Verdict::Again(place) => place,
        };
        let pause = self.pause(&place, &failure);
        if pause >= self.remaining() {
            return Err(self.give_up(failure));
        }
        Ok(Some(pause))
    }

    /// Remembers who is not to be asked again soon.
    fn note(&mut self, key: PeerKey, failure: &Failure) {
        let peers = &self.shared.peers;
        if failure.fate == Fate::NotSent
            || (failure.fate == Fate::Unknown && failure.reason().is_none())
        {
            peers.mark_down(key);
        }
        if let Some(topic) = self.call.topic {
            peers.forget(topic);
        }
        self.tried.push(key);
    }

    /// How long to wait before the next attempt, which goes to `place`.
    fn pause(&mut self, place: &Place, failure: &Failure) -> Duration {
        if let Place::Leader(address) = place
            && self.redirects < REDIRECTS_MAX
            && let Ok(key) =
                Address::parse(address).and_then(|address| self.shared.peers.add(&address))
        {
            self.redirects += 1;
            self.leader = Some(key);
            return Duration::ZERO;
        }
        let has_other = self.call.target == Target::Any && self.shared.peers.has_other(&self.tried);
        if *place != Place::Any && has_other && failure.retry_after.is_none() {
            return Duration::ZERO;
        }
        if !has_other {
            self.tried.clear();
        }
        // Another peer need not be spared because this one asks for it.
        let asked = failure
            .retry_after
            .filter(|_| *place == Place::Any || !has_other);
        self.shared
            .options
            .backoff
            .pause(self.attempts, rand::random(), asked)
    }

    /// The error of a call that is not tried again after this failure.
    fn give_up(&self, last: Failure) -> Error {
        let method = self.call.method.name;
        let last = Box::new(last);
        let changes = self.call.method.repeat != Repeat::Read;
        if changes
            && (last.fate == Fate::Unknown
                || (self.was_unknown && !retry::is_refused_always(&last)))
        {
            return Error::OutcomeUnknown { method, last };
        }
        match last.fate {
            Fate::NotSent => Error::Unreachable { method, last },
            Fate::Unknown if last.code == Code::DeadlineExceeded => Error::DeadlineExceeded {
                method,
                deadline: self.deadline,
            },
            Fate::Unknown | Fate::Nothing => Error::Refused(last),
        }
    }
}

/// Sends the request to one peer.
async fn attempt<A>(
    course: &Course<'_>,
    chosen: &Chosen,
    timeout: Duration,
    request: Bytes,
) -> Result<Answer<A>, Failure>
where
    A: prost::Message + Default + 'static,
{
    let sent = send::<A>(course, chosen, timeout, request);
    let Ok(attempt) = tokio::time::timeout(timeout, sent).await else {
        return Err(Failure::no_answer(chosen.address.clone(), timeout));
    };
    let response =
        attempt.map_err(|status| Failure::from_status(&status, chosen.address.clone()))?;
    let served_by = response.metadata().get("cubecast-served-by");
    Ok(Answer {
        served_by: served_by
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
        message: response.into_inner(),
        address: chosen.address.clone(),
    })
}

async fn send<A>(
    course: &Course<'_>,
    chosen: &Chosen,
    timeout: Duration,
    request: Bytes,
) -> Attempt<A>
where
    A: prost::Message + Default + 'static,
{
    let mut request = tonic::Request::new(Encoded(request));
    request.set_timeout(timeout);
    if let Ok(trace) = course.trace.parse() {
        request.metadata_mut().insert("traceparent", trace);
    }
    let mut grpc = Grpc::new(chosen.channel.clone())
        .max_decoding_message_size(course.shared.options.answer_bytes_max)
        .max_encoding_message_size(usize::MAX);
    // A lazy channel is always ready, or closed for good: then the call itself says so.
    if let Err(error) = grpc.ready().await {
        debug!(%error, address = %chosen.address, "channel is not ready");
    }
    let codec = ProstCodec::<Encoded, A>::default();
    grpc.unary(
        request,
        PathAndQuery::from_static(course.call.method.path),
        codec,
    )
    .await
}

/// A message that is encoded already.
#[derive(Debug, Default, Clone)]
struct Encoded(Bytes);

impl prost::Message for Encoded {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}
