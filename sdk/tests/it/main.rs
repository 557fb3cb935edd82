//! The SDK against peers that fail on command. The real peers are in the tests of the root package.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test proves things with these"
)]

mod batch;
mod failover;
mod fake;
mod producer;
mod raw;
mod script;
mod stream;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use cubecast_sdk::proto::v1;
use cubecast_sdk::{Builder, Client, Code, Error, Message, PullOptions, Reason, Start};
use fake::{FakeCluster, Fault};
use futures::StreamExt;
use prost::Message as _;

fn builder(cluster: &FakeCluster) -> Builder {
    let builder = Client::builder()
        .deadline(Duration::from_secs(2))
        .attempt_timeout(Duration::from_millis(200));
    cluster.addresses.iter().fold(builder, Builder::peer)
}

async fn client(cluster: &FakeCluster) -> Client {
    builder(cluster).connect().await.unwrap()
}

fn refuse(code: tonic::Code, reason: &'static str) -> Fault {
    Fault::Refuse(code, reason, "key", String::new())
}

#[tokio::test]
async fn publish_whose_answer_is_lost_is_repeated_and_not_doubled() {
    let cluster = FakeCluster::start(2).await;
    let publisher = client(&cluster).await.publisher("agency");
    cluster.fail(0, Fault::LoseAnswer);
    cluster.fail(1, Fault::LoseAnswer);
    let published = publisher.publish("news", ["a", "b"]).await.unwrap();
    assert!(published.is_duplicate);
    assert_eq!(cluster.payloads(), ["a", "b"]);
    assert_eq!(
        publisher.publish("news", ["c"]).await.unwrap().first_offset,
        2
    );
}

#[tokio::test]
async fn bare_publish_whose_answer_is_lost_has_an_unknown_outcome() {
    let cluster = FakeCluster::start(2).await;
    let client = client(&cluster).await;
    cluster.fail(0, Fault::LoseAnswer);
    cluster.fail(1, Fault::LoseAnswer);
    let error = client.publish("news", ["a"]).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert_eq!(cluster.seen("Publish").len(), 1);
}

#[tokio::test]
async fn bare_publish_goes_on_after_definite_refusals() {
    let cluster = FakeCluster::start(2).await;
    let client = client(&cluster).await;
    cluster.fail(0, refuse(tonic::Code::Unavailable, "NO_LEADER"));
    cluster.fail(1, refuse(tonic::Code::ResourceExhausted, "OVERLOADED"));
    client.publish("news", ["a"]).await.unwrap();
    assert_eq!(cluster.payloads(), ["a"]);
}

#[tokio::test]
async fn dead_peer_is_passed_over() {
    let cluster = FakeCluster::start(1).await;
    let client = Client::connect(["127.0.0.1:1", cluster.addresses[0].as_str()])
        .await
        .unwrap();
    for _ in 0..4 {
        client.publish("news", ["a"]).await.unwrap();
    }
    assert_eq!(cluster.payloads().len(), 4);
}

#[tokio::test]
async fn no_peer_at_all_is_unreachable() {
    let builder = Client::builder()
        .peer("127.0.0.1:1")
        .deadline(Duration::from_millis(300));
    let error = builder
        .clone()
        .attempt_timeout(Duration::from_millis(100))
        .connect()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let client = builder.build().unwrap();
    let error = client.publish("news", ["a"]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn peer_that_hangs_is_left_for_another() {
    let cluster = FakeCluster::start(2).await;
    let client = client(&cluster).await;
    cluster.fail(0, Fault::Hang);
    cluster.fail(1, Fault::Hang);
    let begun = Instant::now();
    client
        .publisher("agency")
        .publish("news", ["a"])
        .await
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(cluster.payloads(), ["a"]);
}

#[tokio::test]
async fn leader_is_learned_from_answers() {
    let cluster = FakeCluster::start(4).await;
    let client = client(&cluster).await;
    // The clients' questions who is who are answered by now, or soon.
    while cluster.seen("GetNodeStatus").len() < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    cluster.lead("010");
    for _ in 0..5 {
        client.publish("news", ["a"]).await.unwrap();
    }
    let peers: Vec<_> = cluster
        .seen("Publish")
        .iter()
        .skip(1)
        .map(|seen| seen.peer)
        .collect();
    assert_eq!(peers, [2, 2, 2, 2]);
}

#[tokio::test]
async fn not_leader_is_followed_to_an_address_that_was_not_known() {
    let cluster = FakeCluster::start(2).await;
    let client = Client::connect([cluster.addresses[0].as_str()])
        .await
        .unwrap();
    let leader = cluster.addresses[1].clone();
    cluster.fail(
        0,
        Fault::Refuse(
            tonic::Code::FailedPrecondition,
            "NOT_LEADER",
            "leader_address",
            leader,
        ),
    );
    client.publish("news", ["a"]).await.unwrap();
    let peers: Vec<_> = cluster
        .seen("Publish")
        .iter()
        .map(|seen| seen.peer)
        .collect();
    assert_eq!(peers, [0, 1]);
}

#[tokio::test]
async fn many_publishes_at_once_are_few_requests_and_all_in_order() {
    let cluster = FakeCluster::start(2).await;
    let publisher = client(&cluster).await.publisher("agency");
    cluster.fail(0, Fault::LoseAnswer);
    let all = (0..500).map(|number| {
        let publisher = publisher.clone();
        async move {
            publisher
                .publish("news", [number.to_string()])
                .await
                .unwrap()
                .first_offset
        }
    });
    let offsets = futures::future::join_all(all).await;
    assert_eq!(offsets, (0..500).collect::<Vec<_>>());
    let expected: Vec<_> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(cluster.payloads(), expected);
    assert!(
        cluster.seen("Publish").len() < 50,
        "{} requests",
        cluster.seen("Publish").len()
    );
}

#[tokio::test]
async fn message_that_is_refused_harms_no_other_publish() {
    let cluster = FakeCluster::start(1).await;
    let publisher = client(&cluster).await.publisher("agency");
    let payloads = [
        "a".to_owned(),
        "b".to_owned(),
        "x".repeat(2000),
        "c".to_owned(),
    ];
    let all = payloads.map(|payload| publisher.publish("news", [payload]));
    let results = futures::future::join_all(all).await;
    let reasons: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().and_then(Error::reason))
        .collect();
    assert_eq!(reasons, [None, None, Some(Reason::MessageTooLarge), None]);
    assert_eq!(cluster.payloads(), ["a", "b", "c"]);
}

#[tokio::test]
async fn forgotten_session_is_begun_anew() {
    let cluster = FakeCluster::start(1).await;
    let publisher = client(&cluster).await.publisher("agency");
    publisher.publish("news", ["a"]).await.unwrap();
    cluster.forget_sessions();
    publisher.publish("news", ["b"]).await.unwrap();
    assert_eq!(cluster.payloads(), ["a", "b"]);
}

#[tokio::test]
async fn no_sequence_is_used_for_two_contents() {
    let cluster = FakeCluster::start(1).await;
    let publisher = client(&cluster).await.publisher("agency");
    publisher.publish("news", ["a"]).await.unwrap();
    cluster.fail(0, refuse(tonic::Code::NotFound, "TOPIC_NOT_FOUND"));
    let error = publisher.publish("news", ["b"]).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    publisher.publish("news", ["c"]).await.unwrap();
    let requests = cluster.seen("Publish");
    let sequences: HashSet<_> = requests
        .iter()
        .map(|seen| {
            v1::PublishRequest::decode(seen.request.clone())
                .unwrap()
                .sequence
                .unwrap()
        })
        .map(|sequence| (sequence.session, sequence.sequence))
        .collect();
    assert_eq!((requests.len(), sequences.len()), (3, 3));
}

#[tokio::test]
async fn unknown_outcome_is_not_hidden_by_a_later_refusal() {
    let cluster = FakeCluster::start(1).await;
    let publisher = client(&cluster).await.publisher("agency");
    cluster.fail(0, Fault::LoseAnswer);
    cluster.fail(0, refuse(tonic::Code::NotFound, "TOPIC_NOT_FOUND"));
    let error = publisher.publish("news", ["a"]).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

#[tokio::test]
async fn create_is_repeated_under_one_request_id_and_delete_may_find_nothing() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    cluster.fail(0, Fault::LoseAnswer);
    assert_eq!(
        client.create_topic("news").await.unwrap().placement.owner,
        "100"
    );
    let error = client.create_topic("news").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::TopicAlreadyExists));
    assert_eq!(error.fact("topic"), Some("news"));
    cluster.fail(0, Fault::LoseAnswer);
    client.delete_topic("news").await.unwrap();
    assert_eq!(
        client.delete_topic("news").await.unwrap_err().reason(),
        Some(Reason::TopicNotFound)
    );
}

#[tokio::test]
async fn refusals_last_no_longer_than_the_deadline() {
    let cluster = FakeCluster::start(1).await;
    let client = builder(&cluster)
        .deadline(Duration::from_millis(300))
        .connect()
        .await
        .unwrap();
    for _ in 0..1000 {
        cluster.fail(0, refuse(tonic::Code::Unavailable, "NO_QUORUM"));
    }
    let begun = Instant::now();
    let error = client.publish("news", ["a"]).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::NoQuorum));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

// Long before the deadline, and not at the first word of it: a peer may be starting again.
#[tokio::test]
async fn lost_majority_ends_a_call_when_the_patience_for_it_does() {
    let cluster = FakeCluster::start(1).await;
    let patience = Duration::from_millis(200);
    let client = builder(&cluster)
        .deadline(Duration::from_secs(60))
        .backoff(Duration::from_millis(5), Duration::from_millis(20))
        .no_quorum_patience(patience)
        .connect()
        .await
        .unwrap();
    let lose_majority = || {
        for _ in 0..1000 {
            cluster.fail(0, refuse(tonic::Code::Unavailable, "NO_QUORUM"));
        }
    };
    let publisher = client.publisher("agency");
    lose_majority();
    for is_numbered in [false, true] {
        let begun = Instant::now();
        let refused = match is_numbered {
            false => client.publish("news", ["a"]).await,
            true => publisher.publish("news", ["a"]).await,
        };
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error:?}");
        assert_eq!(error.reason(), Some(Reason::NoQuorum));
        let took = begun.elapsed();
        assert!(
            took >= patience && took < Duration::from_secs(30),
            "{took:?}"
        );
    }
    let created = client.create_topic("sport").await.unwrap_err();
    assert_eq!(created.reason(), Some(Reason::NoQuorum));
}

#[tokio::test]
async fn topics_of_a_shard_without_a_majority_are_given_up_alone() {
    let cluster = FakeCluster::start(1).await;
    let client = builder(&cluster)
        .deadline(Duration::from_secs(60))
        .backoff(Duration::from_millis(5), Duration::from_millis(20))
        .no_quorum_patience(Duration::from_millis(100))
        .connect()
        .await
        .unwrap();
    for _ in 0..1000 {
        cluster.refuse_topic("lost", v1::ErrorReason::NoQuorum);
    }
    cluster.refuse_topic("slow", v1::ErrorReason::NoQuorum);
    let begun = Instant::now();
    let created = client.create_topics(["lost", "slow"]).await;
    assert!(begun.elapsed() < Duration::from_secs(30));
    let reasons: Vec<_> = created
        .iter()
        .map(|created| created.as_ref().err().and_then(Error::reason))
        .collect();
    assert_eq!(reasons, [Some(Reason::NoQuorum), None]);
}

#[tokio::test]
async fn full_disk_is_waited_for_within_the_deadline() {
    let cluster = FakeCluster::start(2).await;
    let client = client(&cluster).await;
    for peer in [0, 1] {
        cluster.fail(peer, refuse(tonic::Code::ResourceExhausted, "STORAGE_FULL"));
    }
    client.publish("news", ["a"]).await.unwrap();
    assert_eq!(cluster.payloads(), ["a"]);
}

#[tokio::test]
async fn removed_messages_are_told_with_the_first_that_is_left() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    client.publish("news", ["a", "b", "c", "d"]).await.unwrap();
    cluster.trim(2);
    let news = client.subscriber("reader").subscription("news");
    let pulled = news.pull(PullOptions::new().max_messages(2)).await.unwrap();
    assert_eq!((pulled.missed, pulled.cursor), (2, 2));
    let mut messages = news.messages(PullOptions::new().max_messages(1));
    for expected in [("c", 2), ("d", 0)] {
        let message = messages.next().await.unwrap().unwrap();
        assert_eq!(
            (message.payload, message.missed),
            (expected.0.into(), expected.1)
        );
    }
}

#[tokio::test]
async fn stream_acknowledges_only_what_was_had() {
    let cluster = FakeCluster::start(2).await;
    let client = client(&cluster).await;
    client
        .publish("news", ["a", "b", "c", "d", "e"].map(Message::from))
        .await
        .unwrap();
    let news = client
        .subscriber("reader")
        .subscribe("news", Start::Earliest)
        .await
        .unwrap();
    let mut messages = news.messages(PullOptions::new().max_messages(2));
    for (offset, payload) in ["a", "b", "c"].into_iter().enumerate() {
        if offset == 2 {
            cluster.fail(0, Fault::LoseAnswer);
            cluster.fail(1, Fault::LoseAnswer);
        }
        let message = messages.next().await.unwrap().unwrap();
        assert_eq!(
            (message.offset, message.payload),
            (offset as u64, payload.into())
        );
    }
    assert_eq!(cluster.cursor(), 2);
}
