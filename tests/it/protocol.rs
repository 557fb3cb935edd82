//! Bytes that are no request, methods that nobody serves, and connections that speak something else.

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::cluster_service_client::ClusterServiceClient;
use cubecast_sdk::proto::v1::{
    JoinClusterRequest, LeaveClusterRequest, MoveVertexRequest, PinTopicRequest, SnapshotRequest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tower::Service;

use crate::support::plain;
use crate::wire::{PATIENCE, Wire, assert_healthy, expected, host, told};

/// All calls of one request and one answer that have a field.
const METHODS: [&str; 19] = [
    "/cubecast.v1.PeerService/CreatePublisher",
    "/cubecast.v1.PeerService/DeletePublisher",
    "/cubecast.v1.PeerService/ListPublishers",
    "/cubecast.v1.PeerService/CreateSubscriber",
    "/cubecast.v1.PeerService/DeleteSubscriber",
    "/cubecast.v1.PeerService/ListSubscribers",
    "/cubecast.v1.PeerService/CreateTopic",
    "/cubecast.v1.PeerService/GetTopic",
    "/cubecast.v1.PeerService/ListTopics",
    "/cubecast.v1.PeerService/DeleteTopic",
    "/cubecast.v1.PeerService/Publish",
    "/cubecast.v1.PeerService/Subscribe",
    "/cubecast.v1.PeerService/Unsubscribe",
    "/cubecast.v1.PeerService/ListSubscriptions",
    "/cubecast.v1.PeerService/Pull",
    "/cubecast.v1.PeerService/Acknowledge",
    "/cubecast.v1.PeerService/Seek",
    "/cubecast.v1.PeerService/LocateTopic",
    "/cubecast.v1.ClusterService/GetCluster",
];

/// No message of any type: a varint without an end, field 0, a group that does not end, a length beyond the end.
const NO_MESSAGES: [&[u8]; 4] = [&[0xff; 32], &[0x00, 0x01], &[0x0b], &[0x0a, 0x05, b'a']];

/// No publish: messages as a number, a name that is no text, a message whose payload goes beyond it, a header whose name is no text.
const NO_PUBLISHES: [&[u8]; 4] = [
    &[0x20, 0x01],
    &[0x0a, 0x01, 0xff],
    &[0x0a, 0x01, b't', 0x22, 0x02, 0x12, 0x05],
    &[0x0a, 0x01, b't', 0x22, 0x05, 0x1a, 0x03, 0x0a, 0x01, 0xff],
];

// REQ F20: what is no request of the method is told so by every method.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_request_are_refused_by_every_method() {
    let mut cluster = TestCluster::start().await;
    let wire = Wire::connect(cluster.address(3)).await.unwrap();
    let malformed = || expected(Code::InvalidArgument, "REQUEST_MALFORMED", &[]);
    for method in METHODS {
        for body in NO_MESSAGES {
            let status = wire.call(method, body).await.unwrap_err();
            assert_eq!(told(&status), malformed(), "{method} {body:?}");
        }
    }
    for body in NO_PUBLISHES {
        let status = wire
            .call("/cubecast.v1.PeerService/Publish", body)
            .await
            .unwrap_err();
        assert_eq!(told(&status), malformed(), "{body:?}");
    }
    // A frame that promises more bytes than come; one that is said to be compressed; one with a wrong flag.
    for frame in ["\0\0\0\0\x64abc", "\u{1}\0\0\0\u{1}a", "\u{7}\0\0\0\u{1}a"] {
        assert_eq!(told(&framed(&wire, frame).await), malformed(), "{frame:?}");
    }
    assert_healthy(&mut plain(cluster.address(3)).await, "after-malformed").await;
    cluster.stop().await;
}

/// The error of a publish whose body is this and nothing more.
async fn framed(wire: &Wire, body: &str) -> Status {
    let request = http::Request::post("http://peer/cubecast.v1.PeerService/Publish")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body.to_owned()))
        .unwrap();
    let response = Service::call(&mut wire.clone(), request).await.unwrap();
    Status::from_header_map(response.headers()).unwrap()
}

// REQ F20: what this version does not do is said by name.
#[tokio::test(flavor = "multi_thread")]
async fn methods_that_are_not_done_say_so() {
    let mut cluster = TestCluster::start().await;
    let wire = Wire::connect(cluster.address(2)).await.unwrap();
    for (method, status) in not_done(&wire).await {
        let metadata = [("method", method)];
        assert_eq!(
            told(&status),
            expected(Code::Unimplemented, "NOT_IMPLEMENTED", &metadata)
        );
    }
    let unknown = [
        "/cubecast.v1.PeerService/Nothing",
        "/cubecast.v1.NothingService/Nothing",
        "/cubecast.v2.PeerService/Nothing",
        "/Nothing",
    ];
    for path in unknown {
        let status = wire.call(path, "").await.unwrap_err();
        let metadata = [("method", "Nothing")];
        assert_eq!(
            told(&status),
            expected(Code::Unimplemented, "NOT_IMPLEMENTED", &metadata),
            "{path}"
        );
    }
    assert_healthy(&mut plain(cluster.address(2)).await, "after-unimplemented").await;
    cluster.stop().await;
}

/// The errors of the methods that later versions do.
async fn not_done(wire: &Wire) -> Vec<(&'static str, Status)> {
    macro_rules! errors {
        ($($name:literal: $call:expr),+ $(,)?) => { vec![$(($name, $call.await.map(drop).unwrap_err())),+] };
    }
    let origin = http::Uri::from_static("http://peer");
    let mut cluster = ClusterServiceClient::with_origin(wire.clone(), origin);
    errors![
        "JoinCluster": cluster.join_cluster(JoinClusterRequest::default()),
        "LeaveCluster": cluster.leave_cluster(LeaveClusterRequest::default()),
        "MoveVertex": cluster.move_vertex(MoveVertexRequest::default()),
        "PinTopic": cluster.pin_topic(PinTopicRequest::default()),
        "Snapshot": cluster.snapshot(SnapshotRequest::default()),
    ]
}

// REQ F20: what is no HTTP/2 is shut out at once, and the peer serves on.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_speak_something_else_are_closed() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut cluster = TestCluster::start().await;
    let noise: Vec<u8> = (0..100_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let after_preface = [PREFACE, noise.as_slice()].concat();
    // A frame of settings that is larger than any may be.
    let oversized = [PREFACE, b"\xff\xff\xff\x04\0\0\0\0\0", noise.as_slice()].concat();
    let first_words: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: peer\r\n\r\n",
        b"POST /cubecast.v1.PeerService/Publish HTTP/1.1\r\nHost: peer\r\nContent-Length: 1000000\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        &noise,
        &after_preface,
        &oversized,
    ];
    for words in first_words {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(host(cluster.address(4))).await.unwrap();
            // The peer may have hung up before it has read everything.
            let _ = stream.write_all(words).await;
            let mut said = Vec::new();
            let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
            assert!(
                closed.is_ok(),
                "still open after {:?}",
                &words[..words.len().min(40)]
            );
        }
    }
    assert_healthy(&mut plain(cluster.address(4)).await, "after-noise").await;
    cluster.stop().await;
}
