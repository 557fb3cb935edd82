//! Topics by the thousand, through one call.

use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::topic_creation::Result as Creation;
use cubecast_sdk::proto::v1::{
    BatchCreateTopicsRequest, ErrorReason, GetNodeStatusRequest, Retention, TopicCreation,
    TopicToCreate,
};
use cubecast_sdk::{Client, TopicFilter};
use futures::TryStreamExt;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    Plain, all_know_gone, bits, create_publisher, create_topic, name_owned_by, plain, reason,
};
use crate::wire::field;

const REQUEST_ID: &str = "123e4567-e89b-12d3-a456-426614174000";

fn batch(names: &[&str]) -> BatchCreateTopicsRequest {
    let topics = names.iter().map(|name| TopicToCreate {
        topic: (*name).to_owned(),
        retention: None,
    });
    BatchCreateTopicsRequest {
        topics: topics.collect(),
        ..Default::default()
    }
}

async fn send(
    client: &mut Plain,
    request: BatchCreateTopicsRequest,
) -> Result<Vec<TopicCreation>, Status> {
    let answer = client.batch_create_topics(request).await?;
    Ok(answer.into_inner().results)
}

/// The name of a created topic, or why it was not.
fn fate(creation: &TopicCreation) -> Result<&str, ErrorReason> {
    match creation.result.as_ref().unwrap() {
        Creation::Created(created) => Ok(&created.topic.as_ref().unwrap().name),
        Creation::Error(error) => Err(error.reason()),
    }
}

// REQ D13, E14: every peer takes a batch with topics of every owner, and each is told in its place.
#[tokio::test(flavor = "multi_thread")]
async fn thousand_topics_are_one_call_through_any_peer() {
    let mut cluster = TestCluster::start().await;
    for peer in [0, 5] {
        let mut client = plain(cluster.address(peer)).await;
        let names: Vec<String> = (0..1000)
            .map(|number| format!("t{peer}-{number}"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let results = send(&mut client, batch(&names)).await.unwrap();
        let fates: Vec<&str> = results
            .iter()
            .map(|creation| fate(creation).unwrap())
            .collect();
        assert_eq!(fates, names);
        for creation in results {
            let Some(Creation::Created(created)) = creation.result else {
                panic!("it was created")
            };
            let (topic, placement) = (created.topic.unwrap(), created.placement.unwrap());
            assert_eq!(topic.owner, placement.owner);
            assert_eq!((placement.replicas.len(), placement.leader.len()), (3, 3));
        }
    }
    let mut counted = 0;
    for peer in 0..8 {
        let mut client = plain(cluster.address(peer)).await;
        let status = client.get_node_status(GetNodeStatusRequest {}).await;
        let shards = status.unwrap().into_inner().shards;
        let own = bits(u16::try_from(peer).unwrap());
        let shard = shards.iter().find(|shard| shard.shard == own);
        counted += shard.unwrap().topic_count;
    }
    assert_eq!(counted, 2000);
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_topics_of_a_batch_do_not_hinder_the_others() {
    let mut cluster = TestCluster::start().await;
    let mut client = plain(cluster.address(1)).await;
    create_topic(&mut client, "taken").await;
    let mut request = batch(&["good", "no name", "taken", "twice", "twice", "wrong"]);
    request.topics[5].retention = Some(Retention {
        bytes: Some(0),
        ..Retention::default()
    });
    let results = send(&mut client, request.clone()).await.unwrap();
    let fates: Vec<_> = results.iter().map(fate).collect();
    assert_eq!(
        fates,
        [
            Ok("good"),
            Err(ErrorReason::NameInvalid),
            Err(ErrorReason::TopicAlreadyExists),
            Ok("twice"),
            Err(ErrorReason::TopicAlreadyExists),
            Err(ErrorReason::FieldInvalid)
        ]
    );
    let Some(Creation::Error(wrong)) = &results[5].result else {
        panic!("it was refused")
    };
    assert_eq!(wrong.code, i32::from(Code::InvalidArgument));
    assert_eq!(wrong.metadata["field"], "retention.bytes");
    // Without a request id a repetition is somebody else's.
    let again = send(&mut client, request).await.unwrap();
    assert_eq!(fate(&again[0]), Err(ErrorReason::TopicAlreadyExists));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_with_a_request_id_is_repeatable_through_another_peer() {
    let mut cluster = TestCluster::start().await;
    let request = BatchCreateTopicsRequest {
        request_id: REQUEST_ID.to_owned(),
        ..batch(&["a", "b", "c", "a"])
    };
    for peer in [0, 6] {
        let mut client = plain(cluster.address(peer)).await;
        let results = send(&mut client, request.clone()).await.unwrap();
        let fates: Vec<_> = results.iter().map(fate).collect();
        assert_eq!(fates, [Ok("a"), Ok("b"), Ok("c"), Ok("a")]);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_that_is_wrong_as_a_whole_creates_nothing() {
    let mut cluster = TestCluster::start().await;
    let mut client = plain(cluster.address(3)).await;
    let names: Vec<String> = (0..1001).map(|number| format!("t{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (request, name) in [
        (batch(&[]), "topics"),
        (batch(&names), "topics"),
        (
            BatchCreateTopicsRequest {
                request_id: "no uuid".to_owned(),
                ..batch(&["a"])
            },
            "request_id",
        ),
    ] {
        let status = send(&mut client, request).await.unwrap_err();
        assert_eq!(
            reason(&status),
            (Code::InvalidArgument, "FIELD_INVALID".to_owned())
        );
        assert_eq!(field(&status), name);
    }
    let too_many = send(&mut client, batch(&names)).await.unwrap_err();
    assert_eq!(
        too_many.get_details_error_info().unwrap().metadata["limit"],
        "1000"
    );
    let by = |publisher: &str| BatchCreateTopicsRequest {
        publisher: publisher.to_owned(),
        ..batch(&["a", "b"])
    };
    let status = send(&mut client, by("nobody")).await.unwrap_err();
    assert_eq!(
        reason(&status),
        (Code::NotFound, "PUBLISHER_NOT_FOUND".to_owned())
    );
    create_publisher(&mut client, "agency").await;
    let results = send(&mut client, by("agency")).await.unwrap();
    assert!(results.iter().all(|creation| fate(creation).is_ok()));
    cluster.stop().await;
}

// REQ E14: a shard that cannot be written does not hinder those that can.
#[tokio::test(flavor = "multi_thread")]
async fn topics_of_a_shard_without_a_majority_fail_alone() {
    let same_voters = [("failover.standby_after", "60s")];
    let mut cluster = TestCluster::with_settings(&same_voters).await;
    // Shard 000 votes on 000, 001 and 010.
    for peer in [0, 1] {
        cluster.stop_peer(peer).await;
    }
    all_know_gone(&cluster, &[0, 1]).await;
    let mut client = plain(cluster.address(7)).await;
    let lost = name_owned_by("lost", 0);
    let made = name_owned_by("made", 7);
    let results = send(&mut client, batch(&[&lost, &made])).await.unwrap();
    assert_eq!(fate(&results[1]), Ok(made.as_str()));
    let why = fate(&results[0]).unwrap_err();
    assert!(
        matches!(
            why,
            ErrorReason::NoQuorum | ErrorReason::NoLeader | ErrorReason::PeerUnreachable
        ),
        "{why:?}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_creates_thousands_and_lists_them_in_pages() {
    let mut cluster = TestCluster::start().await;
    let client = Client::connect([cluster.address(2)]).await.unwrap();
    let names = (0..3000).map(|number| format!("many-{number}"));
    let results = client.create_topics(names).await;
    assert!(results.iter().all(Result::is_ok));
    let listed: Vec<_> = client
        .topics(TopicFilter::default())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(listed.len(), 3000);
    cluster.stop().await;
}
