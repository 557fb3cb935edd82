//! What is printed as data: each struct here is a JSON object with the field names given here, which do not change, and a line or a row of text.
//!
//! Absent fields are not known, or do not apply. Times are RFC 3339 in UTC, vertices are bits, sizes are bytes. Fields may be added.
//! Nothing is asked for here. Begin with [`Topic`].

use cubecast_sdk as sdk;
use serde::Serialize;

use super::output::Row;
use super::retention::Retention;
use super::text;

/// A topic: `topic get`, `topic list`, and with `replicas` and `leader` `topic create`.
#[derive(Debug, Serialize)]
pub(super) struct Topic {
    pub(super) topic: String,
    /// A text, because not every reader of JSON keeps 64 bits of a number.
    pub(super) id: String,
    pub(super) owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) creator: Option<String>,
    pub(super) create_time: String,
    pub(super) first_offset: u64,
    pub(super) next_offset: u64,
    pub(super) bytes: u64,
    /// Absent: it keeps all messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retention: Option<Retention>,
}

impl From<sdk::Topic> for Topic {
    fn from(topic: sdk::Topic) -> Self {
        Self {
            topic: topic.name,
            id: topic.id.to_string(),
            owner: topic.owner,
            creator: topic.creator,
            create_time: humantime::format_rfc3339_millis(topic.create_time).to_string(),
            first_offset: topic.first_offset,
            next_offset: topic.next_offset,
            bytes: topic.bytes,
            retention: Retention::new(topic.retention),
        }
    }
}

impl Topic {
    /// Messages that can be read.
    pub(super) fn message_count(&self) -> u64 {
        self.next_offset.saturating_sub(self.first_offset)
    }
}

impl Row for Topic {
    const HEADER: &'static [&'static str] =
        &["TOPIC", "OWNER", "MESSAGES", "BYTES", "CREATOR", "CREATED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.topic.clone(),
            self.owner.clone(),
            self.message_count().to_string(),
            self.bytes.to_string(),
            self.creator.clone().unwrap_or_else(|| "-".to_owned()),
            self.create_time.clone(),
        ]
    }
}

/// A publisher: `publisher create` and `publisher list`.
#[derive(Debug, Serialize)]
pub(super) struct Publisher {
    pub(super) publisher: String,
    pub(super) owner: String,
    pub(super) create_time: String,
}

/// A subscriber: `subscriber create` and `subscriber list`.
#[derive(Debug, Serialize)]
pub(super) struct Subscriber {
    pub(super) subscriber: String,
    pub(super) owner: String,
    pub(super) create_time: String,
}

impl From<sdk::Party> for Publisher {
    fn from(party: sdk::Party) -> Self {
        let create_time = humantime::format_rfc3339_millis(party.create_time).to_string();
        Self {
            publisher: party.id,
            owner: party.owner,
            create_time,
        }
    }
}

impl From<sdk::Party> for Subscriber {
    fn from(party: sdk::Party) -> Self {
        let create_time = humantime::format_rfc3339_millis(party.create_time).to_string();
        Self {
            subscriber: party.id,
            owner: party.owner,
            create_time,
        }
    }
}

impl Row for Publisher {
    const HEADER: &'static [&'static str] = &["PUBLISHER", "OWNER", "CREATED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.publisher.clone(),
            self.owner.clone(),
            self.create_time.clone(),
        ]
    }
}

impl Row for Subscriber {
    const HEADER: &'static [&'static str] = &["SUBSCRIBER", "OWNER", "CREATED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.subscriber.clone(),
            self.owner.clone(),
            self.create_time.clone(),
        ]
    }
}

/// Something with the place where it lives: the fields of both.
#[derive(Debug, Serialize)]
pub(super) struct Placed<T> {
    #[serde(flatten)]
    pub(super) item: T,
    pub(super) replicas: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) leader: Option<String>,
}

impl<T: From<U>, U> From<sdk::Placed<U>> for Placed<T> {
    fn from(placed: sdk::Placed<U>) -> Self {
        let sdk::Placement {
            replicas, leader, ..
        } = placed.placement;
        Self {
            item: placed.item.into(),
            replicas,
            leader,
        }
    }
}

/// Something was deleted: `topic delete`, `publisher delete`, `subscriber delete`, `unsubscribe`. `deleted` is always true.
#[derive(Debug, Default, Serialize)]
pub(super) struct Deleted<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) publisher: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subscriber: Option<&'a str>,
    pub(super) deleted: bool,
}

/// Where a cursor is: `acknowledge` and `seek`.
#[derive(Debug, Serialize)]
pub(super) struct Cursor<'a> {
    pub(super) topic: &'a str,
    pub(super) subscriber: &'a str,
    pub(super) next_offset: u64,
}

/// What became of one call of `publish`.
#[derive(Debug, Serialize)]
pub(super) struct Published {
    pub(super) topic: String,
    pub(super) first_offset: u64,
    pub(super) message_count: u32,
    pub(super) append_time: String,
    /// The level that was really reached: `owner`, `quorum` or `all`.
    pub(super) reached: &'static str,
    /// The vertices of the peers known to have stored the messages.
    pub(super) stored_by: Vec<String>,
    pub(super) is_duplicate: bool,
    pub(super) owner: String,
    pub(super) replicas: Vec<String>,
}

impl Published {
    pub(super) fn new(topic: &str, published: sdk::Published) -> Self {
        let sdk::Placement {
            owner, replicas, ..
        } = published.placement;
        Self {
            topic: topic.to_owned(),
            first_offset: published.first_offset,
            message_count: published.message_count,
            append_time: humantime::format_rfc3339_millis(published.append_time).to_string(),
            reached: level(published.reached),
            stored_by: in_order(published.stored_by, &owner, &replicas),
            is_duplicate: published.is_duplicate,
            owner,
            replicas,
        }
    }

    /// The answer in a sentence.
    pub(super) fn sentence(&self) -> String {
        let count = u64::from(self.message_count);
        let messages = text::count(count, "message");
        let offsets = text::offsets(self.first_offset, count);
        let stored = if self.stored_by.is_empty() {
            String::new()
        } else {
            format!(" (stored by {})", self.stored_by.join(", "))
        };
        format!(
            "published {messages} to {} at {offsets}{stored}",
            self.topic
        )
    }
}

/// Vertices as replicas are named everywhere: the owner, then its neighbours in bit order.
pub(super) fn in_order(mut vertices: Vec<String>, owner: &str, replicas: &[String]) -> Vec<String> {
    let place = |vertex: &String| replicas.iter().position(|replica| replica == vertex);
    vertices.sort_by_key(|vertex| (vertex != owner, place(vertex)));
    vertices
}

/// A level as arguments and JSON spell it.
pub(super) fn level(level: sdk::AckLevel) -> &'static str {
    match level {
        sdk::AckLevel::Owner => "owner",
        sdk::AckLevel::Quorum => "quorum",
        sdk::AckLevel::All => "all",
        _ => "unknown",
    }
}

/// A message: `pull` and `tail`.
#[derive(Debug, Serialize)]
pub(super) struct Message<'a> {
    pub(super) topic: &'a str,
    pub(super) offset: u64,
    pub(super) append_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) publisher: Option<&'a str>,
    /// The key, when it is text; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_base64: Option<String>,
    /// The payload, when it is text (UTF-8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload: Option<&'a str>,
    /// The payload, when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) headers: Vec<Header<'a>>,
}

/// A named value beside a payload.
#[derive(Debug, Serialize)]
pub(super) struct Header<'a> {
    pub(super) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value_base64: Option<String>,
}

/// Where a topic lives: `topic locate`.
#[derive(Debug, Serialize)]
pub(super) struct Location {
    pub(super) topic: String,
    pub(super) exists: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    pub(super) owner: String,
    pub(super) replicas: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) leader: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) leader_address: Option<String>,
    pub(super) term: u64,
    /// Every replica, the owner's first.
    pub(super) replica_status: Vec<Replica>,
}

impl From<sdk::Location> for Location {
    fn from(location: sdk::Location) -> Self {
        Self {
            topic: location.topic,
            exists: location.exists,
            id: location.id.map(|id| id.to_string()),
            owner: location.placement.owner,
            replicas: location.placement.replicas,
            leader: location.placement.leader,
            leader_address: location.leader_address,
            term: location.term,
            replica_status: location.replicas.into_iter().map(Into::into).collect(),
        }
    }
}

impl Location {
    /// The answer in a sentence.
    pub(super) fn sentence(&self) -> String {
        let topic = &self.topic;
        let place = text::placement(&self.owner, &self.replicas);
        let leader = match (&self.leader, &self.leader_address) {
            (Some(leader), Some(address)) => {
                format!("; led by {leader} at {address} in term {}", self.term)
            }
            (Some(leader), None) => format!("; led by {leader} in term {}", self.term),
            (None, _) => "; no leader known".to_owned(),
        };
        if self.exists {
            format!("topic {topic}: {place}{leader}")
        } else {
            format!("topic {topic} does not exist; its place: {place}{leader}")
        }
    }
}

/// One replica of a shard.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Replica {
    pub(super) vertex: String,
    pub(super) peer: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) address: String,
    /// `voter`, `standby` or `unknown`.
    pub(super) role: &'static str,
    /// `leader`, `follower`, `candidate`, `learner`, `damaged`, `unreachable` or `unknown`.
    pub(super) state: &'static str,
    /// Entries of the leader's log that it lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lag_entries: Option<u64>,
}

impl From<sdk::Replica> for Replica {
    fn from(replica: sdk::Replica) -> Self {
        Self {
            vertex: replica.vertex,
            peer: replica.peer,
            address: replica.address,
            role: role(replica.role),
            state: match replica.is_reachable {
                Some(false) => "unreachable",
                _ => state(replica.state),
            },
            lag_entries: replica.lag_entries,
        }
    }
}

impl Row for Replica {
    const HEADER: &'static [&'static str] = &["VERTEX", "PEER", "ROLE", "STATE", "LAG", "ADDRESS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.vertex.clone(),
            self.peer.to_string(),
            self.role.to_owned(),
            self.state.to_owned(),
            self.lag_entries
                .map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
            self.address.clone(),
        ]
    }
}

/// A role as text.
pub(super) fn role(role: sdk::ReplicaRole) -> &'static str {
    match role {
        sdk::ReplicaRole::Voter => "voter",
        sdk::ReplicaRole::Standby => "standby",
        _ => "unknown",
    }
}

/// A state as text.
pub(super) fn state(state: sdk::ReplicaState) -> &'static str {
    match state {
        sdk::ReplicaState::Leader => "leader",
        sdk::ReplicaState::Follower => "follower",
        sdk::ReplicaState::Candidate => "candidate",
        sdk::ReplicaState::Learner => "learner",
        sdk::ReplicaState::Damaged => "damaged",
        _ => "unknown",
    }
}

/// A peer of `dev`, as it is announced.
#[derive(Debug, Serialize)]
pub(super) struct DevPeer {
    pub(super) vertex: String,
    pub(super) peer: u16,
    pub(super) address: String,
    /// In bit order.
    pub(super) neighbours: Vec<String>,
}

impl Row for DevPeer {
    const HEADER: &'static [&'static str] = &["VERTEX", "ADDRESS", "NEIGHBOURS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.vertex.clone(),
            self.address.clone(),
            text::list(&self.neighbours),
        ]
    }
}

/// A setting: `config show`.
#[derive(Debug, Serialize)]
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) value: String,
    /// `default`, `derived`, `file …`, `environment …` or `flag …`.
    pub(super) origin: String,
}

impl Row for Setting {
    const HEADER: &'static [&'static str] = &["SETTING", "FROM", "VALUE"];

    fn cells(&self) -> Vec<String> {
        vec![self.key.to_owned(), self.origin.clone(), self.value.clone()]
    }
}

/// What a peer says of itself: `health`.
#[derive(Debug, Serialize)]
pub(super) struct Health<'a> {
    pub(super) address: &'a str,
    /// `serving`, `not serving` or `unknown`.
    pub(super) status: &'static str,
}
