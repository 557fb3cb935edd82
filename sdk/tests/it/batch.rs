//! Many topics at once: order, chunks, and what is tried again.

use std::collections::BTreeMap;
use std::time::Duration;

use cubecast_sdk::proto::v1;
use cubecast_sdk::{Error, NewTopic, Reason, Retention};
use prost::Message as _;

use crate::fake::{FakeCluster, Fault};
use crate::{builder, client, refuse};

fn requests(cluster: &FakeCluster) -> Vec<v1::BatchCreateTopicsRequest> {
    let seen = cluster.seen("BatchCreateTopics");
    seen.into_iter()
        .map(|seen| v1::BatchCreateTopicsRequest::decode(seen.request).unwrap())
        .collect()
}

#[tokio::test]
async fn many_topics_go_a_thousand_at_a_time() {
    let cluster = FakeCluster::start(2).await;
    let client = client(&cluster).await;
    let names = (0..2500).map(|number| format!("t{number}"));
    let results = client.publisher("agency").create_topics(names).await;
    assert_eq!(results.len(), 2500);
    assert!(results.iter().all(Result::is_ok));
    let requests = requests(&cluster);
    // On a busy machine an attempt may be given up and made again.
    let counts: BTreeMap<_, _> = requests
        .iter()
        .map(|request| (request.topics[0].topic.as_str(), request.topics.len()))
        .collect();
    let expected = [("t0", 1000), ("t1000", 1000), ("t2000", 500)];
    assert_eq!(counts, expected.into());
    assert!(requests.iter().all(|request| request.publisher == "agency"));
}

#[tokio::test]
async fn each_topic_has_its_own_fate_and_what_may_work_later_is_tried_again() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    client.create_topic("taken").await.unwrap();
    cluster.refuse_topic("later", Reason::NoLeader);
    cluster.refuse_topic("lost", Reason::OutcomeUnknown);
    let week = Retention::new().with_age(Duration::from_secs(7 * 86_400));
    let topics = [
        NewTopic::new("first").with_retention(week),
        "taken".into(),
        "later".into(),
        "lost".into(),
    ];
    let results = client.create_topics(topics).await;
    let reasons: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().and_then(Error::reason))
        .collect();
    assert_eq!(
        reasons,
        [None, Some(Reason::TopicAlreadyExists), None, None]
    );
    let requests = requests(&cluster);
    assert_eq!(requests[0].topics[0].retention, Some(week.into()));
    assert_eq!(requests[0].topics[1].retention, None);
    let again: Vec<_> = requests[1]
        .topics
        .iter()
        .map(|topic| topic.topic.as_str())
        .collect();
    assert_eq!(again, ["later", "lost"]);
    assert_eq!(requests[0].request_id, requests[1].request_id);
}

#[tokio::test]
async fn batch_whose_answer_is_lost_is_repeated_and_finds_its_own_topics() {
    let cluster = FakeCluster::start(2).await;
    let client = client(&cluster).await;
    cluster.fail(0, Fault::LoseAnswer);
    cluster.fail(1, Fault::LoseAnswer);
    let results = client.create_topics(["a", "b"]).await;
    assert!(results.iter().all(Result::is_ok));
}

#[tokio::test]
async fn refusal_of_the_call_is_that_of_every_topic() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    cluster.fail(0, refuse(tonic::Code::NotFound, "PUBLISHER_NOT_FOUND"));
    for result in client.create_topics(["a", "b"]).await {
        assert_eq!(
            result.unwrap_err().reason(),
            Some(Reason::PublisherNotFound)
        );
    }
}

#[tokio::test]
async fn fate_that_stays_unknown_is_told_so_at_the_deadline() {
    let cluster = FakeCluster::start(1).await;
    let client = builder(&cluster)
        .deadline(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    cluster.refuse_topic("lost", Reason::OutcomeUnknown);
    for _ in 0..1000 {
        cluster.refuse_topic("lost", Reason::NoLeader);
    }
    let results = client.create_topics(["lost", "made"]).await;
    assert!(
        matches!(results[0], Err(Error::OutcomeUnknown { .. })),
        "{:?}",
        results[0]
    );
    assert!(results[1].is_ok());
}
