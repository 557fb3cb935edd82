//! What several tests need: a plain client of one peer, names with a known owner, short ways to call.

use cubecast::cube;
use cubecast::testing::TestCluster;
use cubecast::types::{Dimension, Name, PeerId, Vertex};
use cubecast_sdk::proto::v1::peer_service_client::PeerServiceClient;
use cubecast_sdk::proto::v1::{
    CreatePublisherRequest, CreateSubscriberRequest, CreateTopicRequest, Message, PublishRequest,
    PublishResponse, PublishSequence, PullRequest, PullResponse, SubscribeRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::wire::PATIENCE;

/// The generated client of one peer: no SDK, no failover, no retries.
pub type Plain = PeerServiceClient<Channel>;

/// A client that talks to this peer alone.
pub async fn plain(address: &str) -> Plain {
    let endpoint = Channel::from_shared(address.to_owned()).unwrap();
    PeerServiceClient::new(endpoint.connect().await.unwrap())
}

/// Waits until all the others know that these peers are gone. What a leader takes before it knows, and can then not commit, is of unknown fate.
pub async fn all_know_gone(cluster: &TestCluster, gone: &[u16]) {
    for peer in (0..8).filter(|peer| !gone.contains(peer)) {
        let mut links = cluster.node(usize::from(peer)).peers().links().watch();
        let all = links.wait_for(|map| gone.iter().all(|other| map.is_gone(PeerId(*other))));
        assert!(
            matches!(tokio::time::timeout(PATIENCE, all).await, Ok(Ok(_))),
            "peer {peer} does not see that {gone:?} are gone"
        );
    }
}

/// The first name of the form `{prefix}{number}` that the vertex with this index owns.
pub fn name_owned_by(prefix: &str, vertex: u16) -> String {
    let dimension = Dimension::new(3).unwrap();
    let names = (0..).map(|number| format!("{prefix}{number}"));
    let mut owned =
        names.filter(|name| cube::owner(&Name::new(name).unwrap(), dimension).index() == vertex);
    owned.next().unwrap()
}

pub fn vertex(index: u16) -> Vertex {
    Vertex::new(index, Dimension::new(3).unwrap()).unwrap()
}

/// The bits of a vertex: `100`.
pub fn bits(index: u16) -> String {
    vertex(index).to_string()
}

pub fn message(text: &str) -> Message {
    Message {
        payload: text.as_bytes().to_vec().into(),
        ..Message::default()
    }
}

pub async fn create_topic(client: &mut Plain, topic: &str) {
    client
        .create_topic(CreateTopicRequest {
            topic: topic.to_owned(),
            ..Default::default()
        })
        .await
        .unwrap();
}

pub async fn create_publisher(client: &mut Plain, publisher: &str) {
    let request = CreatePublisherRequest {
        publisher: publisher.to_owned(),
        ..Default::default()
    };
    client.create_publisher(request).await.unwrap();
}

pub async fn create_subscriber(client: &mut Plain, subscriber: &str) {
    let request = CreateSubscriberRequest {
        subscriber: subscriber.to_owned(),
        ..Default::default()
    };
    client.create_subscriber(request).await.unwrap();
}

pub async fn subscribe(client: &mut Plain, topic: &str, subscriber: &str) {
    let request = SubscribeRequest {
        topic: topic.to_owned(),
        subscriber: subscriber.to_owned(),
        start: None,
        shared: None,
    };
    client.subscribe(request).await.unwrap();
}

pub async fn publish(
    client: &mut Plain,
    topic: &str,
    texts: &[&str],
) -> Result<PublishResponse, Status> {
    let messages = texts.iter().map(|text| message(text)).collect();
    let request = PublishRequest {
        topic: topic.to_owned(),
        messages,
        ..Default::default()
    };
    client
        .publish(request)
        .await
        .map(tonic::Response::into_inner)
}

/// A publish that may be repeated.
pub async fn publish_as(
    client: &mut Plain,
    topic: &str,
    (publisher, session, sequence): (&str, u64, u64),
    text: &str,
) -> Result<PublishResponse, Status> {
    let request = PublishRequest {
        topic: topic.to_owned(),
        publisher: publisher.to_owned(),
        sequence: Some(PublishSequence { session, sequence }),
        messages: vec![message(text)],
        ..Default::default()
    };
    client
        .publish(request)
        .await
        .map(tonic::Response::into_inner)
}

/// What a pull that acknowledges brings, as text.
pub async fn pull(client: &mut Plain, topic: &str, subscriber: &str) -> Vec<String> {
    let request = PullRequest {
        topic: topic.to_owned(),
        subscriber: subscriber.to_owned(),
        auto_acknowledge: true,
        ..Default::default()
    };
    texts(&client.pull(request).await.unwrap().into_inner())
}

/// The payloads of an answer, in order.
pub fn texts(response: &PullResponse) -> Vec<String> {
    let messages = response.batches.iter().flat_map(|batch| &batch.messages);
    messages
        .map(|message| String::from_utf8(message.payload.to_vec()).unwrap())
        .collect()
}

/// The code of an error with the reason that its `ErrorInfo` names.
pub fn reason(status: &Status) -> (Code, String) {
    let info = status
        .get_details_error_info()
        .unwrap_or_else(|| panic!("an error has an ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "cubecast");
    (status.code(), info.reason)
}
