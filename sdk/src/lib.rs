//! The client of cubecast, a replicated publish/subscribe log.
//!
//! ```no_run
//! use cubecast_sdk::{Client, Error, PullOptions, Start};
//!
//! # async fn run() -> Result<(), Error> {
//! let client = Client::connect(["http://127.0.0.1:8000", "http://127.0.0.1:8001"]).await?;
//! client.create_topic("news").await?;
//!
//! client.create_publisher("agency").await?;
//! client.publisher("agency").publish("news", ["rain", "sun"]).await?;
//!
//! client.create_subscriber("reader").await?;
//! let news = client.subscriber("reader").subscribe("news", Start::Earliest).await?;
//! let pulled = news.pull(PullOptions::new()).await?;
//! news.acknowledge(pulled.next_offset).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] sends each call to the peer that leads the topic, as far as it knows, and to any other otherwise. A call that fails goes to another
//! peer while the deadline allows, unless it may have happened and must not happen twice: then the error is [`Error::OutcomeUnknown`]. Every other
//! error is definite. It never dials before the first call, never keeps a message that was not acknowledged, and shows no type of the gRPC
//! library outside [`proto`].
//!
//! The modules in reading order: `client` (settings and start), `call` (what calls there are), `course` (one call with its attempts), `attempt`, `retry` and `hedge`,
//! `moment`, `connect` (peers and leaders) with `address`, `circuit` and `probe`, `event`, `error`; then what can be asked for: `admin`, `batch`, `verify`, `watch`,
//! `replica`, `fault` and `party` with `page`, `publish` with `message` and `lane`, `producer` with `bundle`, `receipt`, `block` and `pipeline`, `subscribe` with
//! `received`, `stream` with `line` and `reader`, `shared` with `sharing` and `desk`, `pursuit`; and `model` with `convert`, and [`proto`].
#![deny(missing_docs)]

mod address;
mod admin;
mod attempt;
mod batch;
mod block;
mod bundle;
mod call;
mod circuit;
mod client;
mod connect;
mod convert;
mod course;
mod desk;
mod error;
mod event;
mod fault;
mod hedge;
mod lane;
mod line;
mod message;
mod model;
mod moment;
mod page;
mod party;
mod pipeline;
mod probe;
mod producer;
pub mod proto;
mod publish;
mod pursuit;
mod reader;
mod receipt;
mod received;
mod replica;
mod retry;
mod shared;
mod sharing;
mod stream;
mod subscribe;
mod verify;
mod watch;

pub use admin::{Placed, TopicFilter};
pub use batch::NewTopic;
pub use block::Compression;
pub use client::{Builder, Client};
pub use error::{Code, Error, Failure, Reason};
pub use event::{Event, Events};
pub use fault::{Fault, InjectedFault, Outage, StoppedNode};
pub use message::{Message, Published};
pub use model::{
    AckLevel, Cluster, Consistency, Link, Location, Member, MemberState, Neighbour, NodeStatus,
    Party, Placement, ReadSource, Replica, ReplicaDigest, ReplicaRole, ReplicaState, Retention,
    Shard, Start, SubscriptionInfo, Topic, Verification, VertexStatus,
};
pub use page::{Page, PageRequest};
pub use party::SubscriptionFilter;
pub use producer::{Producer, ProducerOptions};
pub use publish::Publisher;
pub use receipt::{Appended, Receipt, Receipts, ReceiptsIter};
pub use received::{Header, Origin, Pulled, PulledIter, Received};
pub use replica::{ReplicaPullOptions, ShardOf, SyncedReplica};
pub use shared::{ConsumeOptions, Consumer, Leased};
pub use sharing::Sharing;
pub use stream::{MessageStream, StreamControl, StreamOptions};
pub use subscribe::{PullOptions, Subscribed, Subscriber, Subscription};
pub use verify::VerifyOptions;
pub use watch::{ClusterChange, ClusterEvent};
