//! The calls that there are: their methods, whether they may be repeated, and what is said of one of them.
//!
//! It never sends: `course` does. Begin with [`Call`].

use std::time::Duration;

use crate::connect::PeerKey;
use crate::hedge::Hedge;
use crate::retry::Repeat;

/// A method of the API.
#[derive(Debug)]
pub(crate) struct Method {
    name: &'static str,
    path: &'static str,
    repeat: Repeat,
}

impl Method {
    /// As errors name it.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn path(&self) -> &'static str {
        self.path
    }

    pub(crate) fn repeat(&self) -> Repeat {
        self.repeat
    }
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
    REPLICA_PULL = "PeerService" / "ReplicaPull", Read;
    SYNC_REPLICA = "PeerService" / "SyncReplica", Read;
    STOP_NODE = "PeerService" / "StopNode", Never;
    INJECT_FAULT = "ClusterService" / "InjectFault", Never;
    CLEAR_FAULTS = "ClusterService" / "ClearFaults", Delete;
    LIST_FAULTS = "ClusterService" / "ListFaults", Read;
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
    pub(crate) method: &'static Method,
    /// The topic that it is about, whose leader is asked first and remembered. `None`: no leader is better than another peer.
    pub(crate) topic: Option<&'a str>,
    pub(crate) target: Target,
    /// How long the peer may wait before it answers, beyond the usual.
    pub(crate) wait: Duration,
    /// In place of the client's.
    pub(crate) deadline: Option<Duration>,
    pub(crate) hedge: Hedge,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: &'static Method) -> Self {
        Self {
            method,
            topic: None,
            target: Target::Any,
            wait: Duration::ZERO,
            deadline: None,
            hedge: Hedge::default(),
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

    pub(crate) fn hedged(self, hedge: Hedge) -> Self {
        Self { hedge, ..self }
    }
}
