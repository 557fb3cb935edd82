//! A request of a PublishStream, from when it is read until it is answered.
//!
//! What it takes, its messages and its part of the room of all streams, is given back as soon as no attempt will need it again, even when its answer has
//! to wait for those before it. Begin with [`Held`].

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::ErrorReason;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::answers::Place;
use crate::rpc::context::Context;
use crate::rpc::forward::Failure;
use crate::rpc::operation::Publish;
use crate::rpc::status;
use crate::rpc::wire;
use crate::types::{PeerId, TopicName, Vertex};

/// What a request takes besides its bytes: its parts, its attempt, its answer.
const OVERHEAD_BYTES: usize = 1 << 10;

/// A request that has no answer yet.
pub struct Held {
    /// As the caller calls it.
    pub number: u64,
    /// Where it goes. `None`: it is no request that could be tried.
    pub goal: Option<Goal>,
    /// Present as long as it may be tried.
    pub work: Option<Box<Work>>,
    /// What it took when it was read.
    pub bytes: usize,
    /// Where its answer goes.
    pub place: Place,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Goal {
    /// The topic.
    pub topic: TopicName,
    /// The shard of the topic.
    pub vertex: Vertex,
    /// The shard knows it again.
    pub is_sequenced: bool,
    /// It has one attempt: whoever passed it on makes the next.
    pub is_forwarded: bool,
}

/// What an attempt needs.
pub struct Work {
    /// As it came.
    pub request: wire::PublishRequest,
    /// What it asks for.
    pub operation: Publish,
    /// What the stream brought with it, with the deadline of this request.
    pub context: Context,
    /// Its part of the room of all streams.
    pub room: Option<OwnedSemaphorePermit>,
}

/// What a request takes while it waits for its answer. Its messages lie in the buffer that it came in, of which they are the greater part.
pub fn bytes(request: &wire::PublishRequest) -> usize {
    request.encoded_len().saturating_add(OVERHEAD_BYTES)
}

impl Held {
    /// Whether this failure of its first attempt may be followed by another attempt.
    pub fn may_retry(&self, failure: &Failure) -> bool {
        let Some(goal) = &self.goal else { return false };
        let is_possible = match failure {
            Failure::Final(status) => goal.is_sequenced && is_out_of_turn(status),
            Failure::Unknown => goal.is_sequenced,
            _ => true,
        };
        is_possible && !goal.is_forwarded
    }
}

/// What became of a request in the first attempt.
pub struct Tried {
    /// The request.
    pub held: Box<Held>,
    /// Who was asked.
    pub peer: Option<PeerId>,
    /// The answer.
    pub result: Result<proto::PublishResponse, Failure>,
}

impl Tried {
    /// Gives back what the request takes, unless it may be tried again.
    pub fn new(
        mut held: Box<Held>,
        peer: Option<PeerId>,
        result: Result<proto::PublishResponse, Failure>,
    ) -> Self {
        let is_decided = match &result {
            Ok(_) => true,
            Err(failure) => !held.may_retry(failure),
        };
        if is_decided {
            held.work = None;
        }
        Self { held, peer, result }
    }

    /// It may be in the log of this topic.
    pub fn may_be_done(&self, topic: &TopicName) -> bool {
        let goal = self.held.goal.as_ref();
        goal.is_some_and(|goal| goal.topic == *topic)
            && matches!(self.result, Ok(_) | Err(Failure::Unknown))
    }
}

/// Refused for want of a request before it, which may only be late.
fn is_out_of_turn(status: &Status) -> bool {
    matches!(
        status::reason(status),
        Some(ErrorReason::SequenceGap | ErrorReason::SessionUnknown)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::Semaphore;
    use tokio::time::Instant;

    use super::*;
    use crate::cluster::{Cluster, Member, Options};
    use crate::rpc::operation::{Checks, Operation};
    use crate::rpc::status::Fault;
    use crate::rpc::stream::answers;
    use crate::types::{Dimension, Limits};

    fn cluster() -> Cluster {
        let dimension = Dimension::new(3).unwrap();
        let member = |vertex: Vertex| Member {
            peer: PeerId(vertex.index()),
            vertex,
            address: "http://127.0.0.1:1".to_owned(),
        };
        Cluster::new(Options {
            this: PeerId(0),
            members: dimension.vertices().map(member).collect(),
            dimension,
            replication_factor: 4,
        })
        .unwrap()
    }

    /// A request that has this part of the room.
    async fn held(room: &Arc<Semaphore>, is_sequenced: bool) -> Box<Held> {
        let request = proto::PublishRequest {
            topic: "news".to_owned(),
            messages: vec![proto::Message {
                payload: vec![7; 100_000].into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let request = wire::PublishRequest::decode(request.encode_to_vec().as_slice()).unwrap();
        assert!((100_000..110_000).contains(&bytes(&request)));
        let checks = Checks {
            limits: &Limits::default(),
            cluster: &cluster(),
        };
        let operation = Publish::parse(&request, checks).unwrap();
        let goal = Goal {
            topic: operation.topic().clone(),
            vertex: operation.vertex(checks.cluster),
            is_sequenced,
            is_forwarded: false,
        };
        let context = Context {
            deadline: Instant::now() + Duration::from_secs(1),
            forwarded_by: None,
            trace_parent: None,
        };
        let work = Work {
            request,
            operation,
            context,
            room: Some(Arc::clone(room).try_acquire_owned().unwrap()),
        };
        Box::new(Held {
            number: 1,
            goal: Some(goal),
            work: Some(Box::new(work)),
            bytes: 0,
            place: answers::queue(1).0.place().await,
        })
    }

    #[tokio::test]
    async fn room_is_free_as_soon_as_a_request_is_decided() {
        let room = Arc::new(Semaphore::new(1));
        let refused = |reason| Err(Failure::Final(Fault::new(reason, "no").into_status()));
        let done = || Ok(proto::PublishResponse::default());
        for (is_sequenced, result, is_free) in [
            (false, done(), true),
            (true, done(), true),
            (true, refused(ErrorReason::TopicNotFound), true),
            (true, refused(ErrorReason::SequenceGap), false),
            (false, Err(Failure::Unknown), true),
            (true, Err(Failure::Unknown), false),
            (false, Err(Failure::Unreached), false),
        ] {
            let held = held(&room, is_sequenced).await;
            assert_eq!(room.available_permits(), 0);
            let tried = Tried::new(held, None, result);
            let is_given_back = room.available_permits() == 1;
            assert_eq!(is_given_back, is_free, "{:?}", tried.result);
        }
    }
}
