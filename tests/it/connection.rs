//! More connections and more calls than a peer takes: the rest is told so, and peers get through.

use std::time::Duration;

use bytes::Bytes;
use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::{ListTopicsRequest, PublishRequest, PullRequest};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::support::{
    create_subscriber, create_topic, message, name_owned_by, plain, publish, subscribe,
};
use crate::wire::{PATIENCE, Wire, assert_healthy, expected, host, told};

/// A call that costs a peer next to nothing.
const CHEAP: &str = "/cubecast.v1.ClusterService/GetCluster";

fn exhausted(limit: u32) -> crate::wire::Told {
    let limit = limit.to_string();
    expected(
        Code::ResourceExhausted,
        "CONNECTIONS_EXHAUSTED",
        &[("limit", &limit)],
    )
}

/// Opens connections until one is refused: those that are served, the one that is not, and what it was told.
async fn fill(address: &str) -> (Vec<Wire>, Wire, Status) {
    let mut served = Vec::new();
    loop {
        let wire = Wire::connect(address).await.unwrap();
        match wire.call(CHEAP, Bytes::new()).await {
            Ok(_) => served.push(wire),
            Err(status) => return (served, wire, status),
        }
    }
}

/// Tries with new connections until one is served.
async fn until_served(address: &str) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let call = async {
            Wire::connect(address)
                .await
                .ok()?
                .call(CHEAP, Bytes::new())
                .await
                .ok()
        };
        if let Ok(Some(_)) = tokio::time::timeout(PATIENCE, call).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{address} serves no new connection");
}

// Limits: a connection too many hears why on every call, the other peers' traffic goes on, and there is room again when clients leave.
#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_told_so_and_peers_get_through() {
    let mut cluster = TestCluster::with_settings(&[("limits.connections_max", "20")]).await;
    let topic = name_owned_by("full", 4);
    create_topic(&mut plain(cluster.address(3)).await, &topic).await;
    let (served, refused, status) = fill(cluster.address(4)).await;
    assert!(
        (20 - 8..=20).contains(&served.len()),
        "{} clients beside seven peers",
        served.len()
    );
    assert_eq!(told(&status), exhausted(20));
    assert!(
        status
            .get_details_retry_info()
            .unwrap()
            .retry_delay
            .is_some()
    );
    assert_eq!(
        status.get_details_quota_failure().unwrap().violations.len(),
        1
    );
    let mut client = refused.client();
    let request = PublishRequest {
        topic: topic.clone(),
        messages: vec![message("x")],
        ..Default::default()
    };
    let errors = [
        client.publish(request).await.map(drop),
        client
            .list_topics(ListTopicsRequest::default())
            .await
            .map(drop),
        refused
            .call("/grpc.health.v1.Health/Check", Bytes::new())
            .await
            .map(drop),
    ];
    for error in errors {
        assert_eq!(told(&error.unwrap_err()), exhausted(20));
    }

    // Replication and forwarded calls: of a peer that was connected before, and of one that comes anew.
    publish(&mut plain(cluster.address(3)).await, &topic, &["forwarded"])
        .await
        .unwrap();
    cluster.stop_peer(5).await;
    // The place that it leaves is taken.
    let more = fill(cluster.address(4)).await;
    cluster.start_peer(5).await;
    cluster.ready().await;
    publish(
        &mut plain(cluster.address(5)).await,
        &topic,
        &["forwarded anew"],
    )
    .await
    .unwrap();
    cluster.assert_replicas_equal().await;
    for wire in &served {
        wire.call(CHEAP, Bytes::new()).await.unwrap();
    }

    drop((served, refused, client, more));
    until_served(cluster.address(4)).await;
    assert_healthy(&mut plain(cluster.address(0)).await, "after-full").await;
    cluster.stop().await;
}

// Limits: to be a peer it does not do to say so, neither for a place nor for a call.
#[tokio::test(flavor = "multi_thread")]
async fn stranger_that_says_it_is_a_peer_is_taken_for_a_client() {
    let mut cluster = TestCluster::with_settings(&[("limits.connections_max", "20")]).await;
    let topic = name_owned_by("stranger", 4);
    let mut client = plain(cluster.address(3)).await;
    create_topic(&mut client, &topic).await;
    let forwarded = || {
        let mut request = Request::new(PublishRequest {
            topic: topic.clone(),
            messages: vec![message("x")],
            ..Default::default()
        });
        let metadata = request.metadata_mut();
        metadata.insert("cubecast-forwarded-by", "5".parse().unwrap());
        request
    };
    // Peer 3 has no replica of the shard: it would answer that it does not lead.
    client.publish(forwarded()).await.unwrap();

    let (_served, refused, _) = fill(cluster.address(4)).await;
    let error = refused.client().publish(forwarded()).await.unwrap_err();
    assert_eq!(told(&error), exhausted(20));
    let greet = "/cubecast.peer.v1.RaftService/Greet";
    let error = refused.call(greet, Bytes::new()).await.unwrap_err();
    assert_eq!(told(&error), exhausted(20));
    // And it goes as soon as others that are refused.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = refused.call(greet, Bytes::new()).await
        && error.get_details_error_info().is_some()
    {
        assert!(Instant::now() < deadline, "it stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.stop().await;
}

// Limits: whoever connects and says nothing, or stops in the middle of the first words, loses the place to those who speak.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_keep_their_places() {
    let mut cluster = TestCluster::with_settings(&[("limits.connections_max", "20")]).await;
    let mut silent = Vec::new();
    for number in 0..50 {
        let mut stream = TcpStream::connect(host(cluster.address(4))).await.unwrap();
        if number % 2 == 0 {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"PRI * HTTP")
                .await
                .unwrap();
        }
        silent.push(stream);
    }
    until_served(cluster.address(4)).await;
    for mut stream in silent {
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "a silent connection is closed");
    }
    let topic = name_owned_by("silent", 4);
    create_topic(&mut plain(cluster.address(4)).await, &topic).await;
    assert_healthy(&mut plain(cluster.address(4)).await, "after-silence").await;
    cluster.stop().await;
}

/// Open files that the test needs: both ends of the connections that are held, and of those that are tried at once.
const FILES: u64 = 2 * (1024 + 256) + 1024;

/// Allows this process as many files as it may have; false when they are too few.
fn allow_files() -> bool {
    let soft = || {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let number = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
        number.unwrap_or(u64::MAX)
    };
    if soft() < FILES {
        let pid = std::process::id().to_string();
        let raise = format!("--nofile={FILES}:");
        let _ = std::process::Command::new("prlimit")
            .args(["--pid", &pid, &raise])
            .status();
    }
    soft() >= FILES
}

/// One client: a connection that is served, and stays open, or why it is not. One that was too slow to hear why, so that the peer had hung up
/// (an error of the transport that says nothing was done), comes again.
async fn attempt(address: &str) -> Result<Wire, Status> {
    loop {
        let Ok(wire) = Wire::connect(address).await else {
            continue;
        };
        match wire.call(CHEAP, Bytes::new()).await {
            Ok(_) => return Ok(wire),
            Err(status) if status.get_details_error_info().is_some() => return Err(status),
            Err(_) => {}
        }
    }
}

// Limits: ten thousand clients at the default limit; each is served or told why not.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_are_served_or_refused_politely() {
    const CLIENTS: usize = 10_000;
    const AT_ONCE: usize = 256;
    if !allow_files() {
        eprintln!("SKIPPED: this system does not allow {FILES} open files; raise `ulimit -n`");
        return;
    }
    let mut cluster = TestCluster::start().await;
    let address = cluster.address(4).to_owned();
    let attempts = futures::stream::iter(0..CLIENTS).map(|_| attempt(&address));
    let mut attempts = attempts.buffer_unordered(AT_ONCE);
    let (mut served, mut refused) = (Vec::new(), 0);
    while let Some(result) = attempts.next().await {
        match result {
            Ok(wire) => served.push(wire),
            Err(status) => {
                assert_eq!(told(&status), exhausted(1024));
                refused += 1;
            }
        }
    }
    drop(attempts);
    assert_eq!(served.len() + refused, CLIENTS);
    assert!(
        (1024 - 8..=1024).contains(&served.len()),
        "{} are served",
        served.len()
    );
    // Those that are in are served still, and the peers go on.
    for wire in served.iter().step_by(100) {
        wire.call(CHEAP, Bytes::new()).await.unwrap();
    }
    assert_healthy(&mut plain(cluster.address(3)).await, "meanwhile").await;
    drop(served);
    until_served(&address).await;
    assert_healthy(&mut plain(&address).await, "after-the-rush").await;
    cluster.stop().await;
}

// Limits: readers that do not say what they want to read have a seat among the streams, and take no place of a call.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_not_opened_take_no_place_of_a_call() {
    const CALLS_MAX: u32 = 8;
    let mut cluster = TestCluster::with_settings(&[("limits.calls_max", "8")]).await;
    let topic = name_owned_by("silent", 4);
    let mut client = plain(cluster.address(4)).await;
    create_topic(&mut client, &topic).await;
    let silent = |mut client: crate::support::Plain| async move {
        client.stream_pull(futures::stream::pending()).await
    };
    let mut waiting: FuturesUnordered<_> =
        (0..2 * CALLS_MAX).map(|_| silent(client.clone())).collect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert!(futures::poll!(waiting.next()).is_pending());
        publish(&mut client, &topic, &["x"]).await.unwrap();
    }
    drop(waiting);
    cluster.stop().await;
}

// Limits: calls beyond the limit are refused at once, not queued, and probes still answer.
#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_limit_are_refused_at_once() {
    const CALLS_MAX: usize = 8;
    let mut cluster = TestCluster::with_settings(&[("limits.calls_max", "8")]).await;
    let topic = name_owned_by("busy", 4);
    let mut client = plain(cluster.address(4)).await;
    create_topic(&mut client, &topic).await;
    create_subscriber(&mut client, "s").await;
    subscribe(&mut client, &topic, "s").await;
    let wait = Some(prost_types::Duration {
        seconds: 60,
        nanos: 0,
    });
    let request = PullRequest {
        topic: topic.clone(),
        subscriber: "s".into(),
        wait,
        ..Default::default()
    };
    let pull = || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.pull(request).await }
    };
    let mut waiting: FuturesUnordered<_> = (0..=CALLS_MAX).map(|_| pull()).collect();
    // One too many: it is the first to end.
    let first = tokio::time::timeout(PATIENCE, waiting.next())
        .await
        .unwrap()
        .unwrap();
    let overloaded = expected(Code::ResourceExhausted, "OVERLOADED", &[("limit", "8")]);
    let check = |status: &Status| {
        assert_eq!(told(status), overloaded);
        assert!(
            status
                .get_details_retry_info()
                .unwrap()
                .retry_delay
                .is_some()
        );
        assert_eq!(
            status.get_details_quota_failure().unwrap().violations.len(),
            1
        );
    };
    check(&first.unwrap_err());
    check(&publish(&mut client, &topic, &["x"]).await.unwrap_err());
    // Through another peer the answer is the same, for the peer that must answer is busy.
    check(
        &publish(&mut plain(cluster.address(3)).await, &topic, &["x"])
            .await
            .unwrap_err(),
    );
    let wire = Wire::connect(cluster.address(4)).await.unwrap();
    wire.call("/grpc.health.v1.Health/Check", Bytes::new())
        .await
        .unwrap();

    // The callers hang up, which makes room.
    drop(waiting);
    let deadline = Instant::now() + PATIENCE;
    while let Err(status) = publish(&mut client, &topic, &["room"]).await {
        check(&status);
        assert!(Instant::now() < deadline, "there is no room");
    }
    assert_healthy(&mut client, "after-overload").await;
    cluster.stop().await;
}
