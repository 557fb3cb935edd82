//! The services over a real connection, at a peer that has no replicas: what a caller meets before any shard is asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::ErrorReason;
use cubecast_sdk::proto::v1::cluster_service_client::ClusterServiceClient;
use cubecast_sdk::proto::v1::peer_service_client::PeerServiceClient;
use http::uri::PathAndQuery;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use super::status::reason;
use super::{Api, Facts, Health, Now, Parts, ROUTE, SERVED_BY};
use crate::broker::{self, Broker};
use crate::cluster::{Cluster, Member, Options};
use crate::env::disk::SystemDisk;
use crate::link::{self, Acquaintances, Identity, Peers};
use crate::replica::Replicas;
use crate::types::{Dimension, Incarnation, Limits, PeerId, Timestamp};

/// A peer that serves nothing but its edge.
struct Lonely {
    channel: Channel,
    health: super::HealthSwitch,
    _tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

#[expect(
    clippy::too_many_lines,
    reason = "a peer has many parts, and this is all of them"
)]
async fn lonely() -> Lonely {
    let folder = tempfile::tempdir().unwrap();
    let dimension = Dimension::new(3).unwrap();
    // Nobody listens at port 1.
    let address = |_| "http://127.0.0.1:1".to_owned();
    let members: Vec<Member> = dimension
        .vertices()
        .map(|vertex| Member {
            peer: PeerId(vertex.index()),
            vertex,
            address: address(()),
        })
        .collect();
    let others: BTreeMap<PeerId, String> = members
        .iter()
        .skip(1)
        .map(|member| (member.peer, address(())))
        .collect();
    let cluster = Cluster::new(Options {
        this: PeerId(0),
        members,
        dimension,
        replication_factor: 4,
    })
    .unwrap();
    let identity = Identity {
        cluster: "test".to_owned(),
        peer: PeerId(0),
        directory: 1,
        incarnation: Incarnation(1),
    };
    let options = link::Options {
        connect_timeout: Duration::from_millis(200),
        keep_alive_interval: Duration::from_secs(1),
        ..link::Options::new(identity, others)
    };
    let acquaintances = Acquaintances::open(Arc::new(SystemDisk), folder.path()).unwrap();
    let facts = Facts {
        cluster: "test".to_owned(),
        version: "0.0.0",
        started: Timestamp(0),
        has_fault_injection: false,
        trace_seed: 1,
        clock: Arc::new(|| Timestamp(1)),
        now: Arc::new(Now::default),
    };
    let api = Api::new(Parts {
        cluster,
        replicas: Replicas::default(),
        peers: Peers::new(&options, std::sync::Arc::new(acquaintances)).unwrap(),
        broker: Broker::new(broker::Options {
            clock: Arc::new(|| Timestamp(1)),
        }),
        limits: Limits::default(),
        facts,
        outage: tokio::sync::watch::Sender::new(None),
        drain: tokio_util::sync::CancellationToken::new(),
    });
    let health = Health::new().await;
    let switch = health.switch();
    let routes = super::routes(&api, health, |routes| routes).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        Server::builder()
            .add_routes(routes)
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    Lonely {
        channel,
        health: switch,
        _tasks: tasks,
        _folder: folder,
    }
}

fn told(status: &Status) -> (Code, Option<ErrorReason>) {
    (status.code(), reason(status))
}

/// Sends any bytes as the request of a method.
async fn send(peer: &Lonely, path: &'static str, bytes: Vec<u8>) -> Status {
    let mut client = Grpc::new(peer.channel.clone());
    client.ready().await.unwrap();
    let codec = ProstCodec::<super::wire::Opaque<()>, ()>::default();
    let request = Request::new(super::wire::Opaque {
        head: (),
        messages: Bytes::from(bytes),
    });
    client
        .unary(request, PathAndQuery::from_static(path), codec)
        .await
        .unwrap_err()
}

const PUBLISH: &str = "/cubecast.v1.PeerService/Publish";

#[tokio::test]
async fn bytes_that_are_no_request_are_the_callers_fault() {
    let peer = lonely().await;
    for bytes in [
        b"\xff\xff\xff".to_vec(),
        b"\x0a\x7fshort".to_vec(),
        b"\x08\x01".to_vec(),
    ] {
        let status = send(&peer, PUBLISH, bytes).await;
        assert_eq!(
            told(&status),
            (Code::InvalidArgument, Some(ErrorReason::RequestMalformed))
        );
    }
    let text = send(
        &peer,
        "/cubecast.v1.PeerService/GetTopic",
        b"\x0a\x01\xff".to_vec(),
    )
    .await;
    assert_eq!(
        told(&text),
        (Code::InvalidArgument, Some(ErrorReason::RequestMalformed))
    );
    let status = send(&peer, "/cubecast.v1.PeerService/Nothing", Vec::new()).await;
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn request_beyond_the_limit_is_named_so() {
    let peer = lonely().await;
    let status = send(&peer, PUBLISH, vec![0x22; (4 << 20) + 1]).await;
    assert_eq!(
        told(&status),
        (Code::ResourceExhausted, Some(ErrorReason::RequestTooLarge))
    );
    let limit = status.get_details_error_info().unwrap().metadata["limit"].clone();
    assert_eq!(limit, (4 << 20).to_string());
    let client = &mut PeerServiceClient::new(peer.channel.clone());
    assert!(
        client
            .get_node_status(proto::GetNodeStatusRequest {})
            .await
            .is_ok(),
        "the peer is well after it"
    );
}

#[tokio::test]
async fn wrong_fields_are_named_before_anybody_is_asked() {
    let peer = lonely().await;
    let client = &mut PeerServiceClient::new(peer.channel.clone());
    let request = proto::CreateTopicRequest {
        topic: "no spaces".to_owned(),
        ..Default::default()
    };
    let status = client.create_topic(request).await.unwrap_err();
    assert_eq!(
        told(&status),
        (Code::InvalidArgument, Some(ErrorReason::NameInvalid))
    );
    assert_eq!(
        status.get_details_bad_request().unwrap().field_violations[0].field,
        "topic"
    );
    assert_eq!(status.metadata().get(SERVED_BY).unwrap(), "000");
    let status = client
        .list_topics(proto::ListTopicsRequest {
            page_token: "x".to_owned(),
            ..Default::default()
        })
        .await;
    assert_eq!(
        told(&status.unwrap_err()).1,
        Some(ErrorReason::PageTokenInvalid)
    );
    let request = proto::PublishRequest {
        topic: "t".to_owned(),
        messages: vec![proto::Message::default()],
        ..Default::default()
    };
    assert_eq!(
        told(&client.publish(request).await.unwrap_err()).1,
        Some(ErrorReason::MessageEmpty)
    );
}

#[tokio::test]
async fn unreachable_majority_is_unavailable_long_before_the_deadline() {
    let peer = lonely().await;
    let client = &mut PeerServiceClient::new(peer.channel.clone());
    let request = proto::CreateTopicRequest {
        topic: "news".to_owned(),
        ..Default::default()
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), client.create_topic(request)).await;
    assert_eq!(
        told(&answer.unwrap().unwrap_err()),
        (Code::Unavailable, Some(ErrorReason::NoQuorum))
    );
}

#[tokio::test]
async fn call_that_was_forwarded_is_not_forwarded_again() {
    let peer = lonely().await;
    let client = &mut PeerServiceClient::new(peer.channel.clone());
    let mut request = Request::new(proto::GetTopicRequest {
        topic: "news".to_owned(),
        ..Default::default()
    });
    request
        .metadata_mut()
        .insert(super::FORWARDED_BY, "3".parse().unwrap());
    let status = client.get_topic(request).await.unwrap_err();
    assert_eq!(
        told(&status),
        (Code::FailedPrecondition, Some(ErrorReason::NotLeader))
    );
}

#[tokio::test]
async fn what_is_not_done_yet_says_so() {
    let peer = lonely().await;
    let client = &mut ClusterServiceClient::new(peer.channel.clone());
    let status = client
        .snapshot(proto::SnapshotRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        told(&status),
        (Code::Unimplemented, Some(ErrorReason::NotImplemented))
    );
}

#[tokio::test]
async fn cluster_and_node_are_told_without_a_shard() {
    let peer = lonely().await;
    let client = &mut ClusterServiceClient::new(peer.channel.clone());
    let answer = client
        .get_cluster(proto::GetClusterRequest {})
        .await
        .unwrap();
    assert_eq!(answer.metadata().get(SERVED_BY).unwrap(), "000");
    assert_eq!(answer.metadata().get(ROUTE).unwrap(), "000");
    let cluster = answer.into_inner().cluster.unwrap();
    assert_eq!((cluster.members.len(), cluster.vertices.len()), (8, 8));
    assert_eq!(cluster.vertices[4].replicas, [4, 5, 6, 0]);
    let client = &mut PeerServiceClient::new(peer.channel.clone());
    let status = client
        .get_node_status(proto::GetNodeStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    let neighbours: Vec<&str> = status
        .neighbours
        .iter()
        .map(|neighbour| neighbour.vertex.as_str())
        .collect();
    assert_eq!(neighbours, ["001", "010", "100"]);
    assert_eq!(status.calls, 1);
}

#[tokio::test]
async fn directory_answers_peers_only() {
    use crate::proto::peer::v1::directory_service_client::DirectoryServiceClient;
    let peer = lonely().await;
    let client = &mut DirectoryServiceClient::new(peer.channel.clone());
    let status = client
        .resolve(crate::proto::peer::v1::ResolveRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        told(&status),
        (Code::PermissionDenied, Some(ErrorReason::NotAPeer))
    );
}

#[tokio::test]
async fn health_follows_its_switch_for_each_service() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    let peer = lonely().await;
    let client = &mut tonic_health::pb::health_client::HealthClient::new(peer.channel.clone());
    for service in super::SERVICES {
        let check = || HealthCheckRequest {
            service: service.to_owned(),
        };
        assert_eq!(
            client.check(check()).await.unwrap().into_inner().status(),
            ServingStatus::NotServing
        );
        peer.health.serve().await;
        assert_eq!(
            client.check(check()).await.unwrap().into_inner().status(),
            ServingStatus::Serving
        );
        peer.health.stop().await;
    }
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    use tonic_reflection::pb::{v1, v1alpha};
    let peer = lonely().await;
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    };
    let client =
        &mut v1::server_reflection_client::ServerReflectionClient::new(peer.channel.clone());
    let answer = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner()
        .message()
        .await;
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.unwrap().unwrap().message_response
    else {
        panic!("it lists services")
    };
    let names: Vec<&str> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert!(names.contains(&"cubecast.v1.PeerService"), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
    assert!(
        !names.iter().any(|name| name.starts_with("cubecast.peer")),
        "{names:?}"
    );

    let symbol = v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
        "google.rpc.ErrorInfo".to_owned(),
    );
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(symbol),
    };
    let client =
        &mut v1alpha::server_reflection_client::ServerReflectionClient::new(peer.channel.clone());
    let answer = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner()
        .message()
        .await;
    let answer = answer.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(
        answer,
        v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_)
    ));
}
