//! Calls on a replica that applies commands to a real state machine in memory, without consensus.

mod delivery;
mod fake;
mod retention;
mod share;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    AckLevel, Acknowledgement, Error, Kind, Publish, Pull, SubscriptionsAsked, TopicsAsked,
};
use crate::replica::Consistency;
use crate::shard::{Refusal, Start};
use crate::types::{
    Batch, ByteCount, Name, Offset, PublisherId, Sequence, SessionId, SubscriberId, TopicName,
};
use fake::World;

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn subscriber(name: &str) -> SubscriberId {
    SubscriberId::new(name).unwrap()
}

/// A batch of `count` messages with a payload of one byte each.
fn batch(count: usize) -> Batch {
    let message = [0x22, 3, 0x12, 1, 7];
    Batch::new(Bytes::from(message.repeat(count))).unwrap()
}

fn publish(count: usize) -> Publish {
    Publish {
        topic: topic("t"),
        publisher: None,
        sequence: None,
        batch: batch(count),
        acks: AckLevel::Quorum,
    }
}

fn pull(wait: Duration) -> Pull {
    Pull {
        topic: topic("t"),
        subscriber: subscriber("s"),
        count_max: 100,
        bytes_max: ByteCount(1 << 20),
        wait,
        acknowledge_to: None,
        acknowledgement: Acknowledgement::Caller,
        consistency: Consistency::Leader,
    }
}

/// A world with topic `t` and subscriber `s` subscribed to it.
async fn world() -> World {
    let world = World::new();
    world.directory.add(Kind::Subscriber, "s");
    world.create(&topic("t")).await;
    world.subscribe(&topic("t"), &subscriber("s")).await;
    world
}

#[tokio::test]
async fn published_messages_are_pulled_in_order_until_acknowledged() {
    let world = world().await;
    let published = world.publish(&publish(3)).await;
    assert_eq!(
        (published.first_offset, published.count, published.reached),
        (Offset(0), 3, AckLevel::Quorum)
    );
    for _ in 0..2 {
        let pulled = world.pull(&pull(Duration::ZERO)).await;
        assert_eq!(
            (pulled.next_offset, pulled.cursor, pulled.head_offset),
            (Offset(3), Offset(0), Offset(3))
        );
    }
    let acknowledging = Pull {
        acknowledge_to: Some(Offset(3)),
        ..pull(Duration::ZERO)
    };
    let pulled = world.pull(&acknowledging).await;
    assert!(pulled.batches.is_empty());
    assert_eq!((pulled.next_offset, pulled.cursor), (Offset(3), Offset(3)));
}

#[tokio::test]
async fn pull_waits_for_the_first_message() {
    let world = world().await;
    let waiting = world.spawn_pull(pull(Duration::from_secs(30)));
    world.waiting().await;
    world.publish(&publish(1)).await;
    let pulled = waiting.await.unwrap().unwrap();
    assert_eq!(pulled.next_offset, Offset(1));
}

#[tokio::test]
async fn pull_answers_empty_when_the_wait_is_over() {
    let world = world().await;
    let begin = Instant::now();
    let pulled = world.pull(&pull(Duration::from_millis(20))).await;
    assert!(pulled.batches.is_empty());
    assert!(begin.elapsed() >= Duration::from_millis(20));
}

#[tokio::test]
async fn pull_waits_no_longer_when_its_peer_stops() {
    let world = world().await;
    let wait = Duration::from_secs(20);
    let begin = Instant::now();
    let waiting = world.spawn_pull(pull(wait));
    world.waiting().await;
    world.replica.drain();
    let pulled = waiting.await.unwrap().unwrap();
    assert!(pulled.batches.is_empty());
    assert!(begin.elapsed() < wait);
}

#[tokio::test]
async fn pull_ends_when_its_topic_is_deleted_even_if_the_name_lives_again() {
    let world = world().await;
    let waiting = world.spawn_pull(pull(Duration::from_secs(30)));
    world.waiting().await;
    world
        .broker
        .delete_topic(&world.call(), &topic("t"))
        .await
        .unwrap();
    world.create(&topic("t")).await;
    assert!(matches!(
        waiting.await.unwrap(),
        Err(Error::TopicDeleted { .. })
    ));
}

#[tokio::test]
async fn pull_that_acknowledges_gives_each_message_once() {
    let world = world().await;
    world.publish(&publish(2)).await;
    let automatic = Pull {
        acknowledgement: Acknowledgement::Pull,
        ..pull(Duration::ZERO)
    };
    let pulled = world.pull(&automatic).await;
    assert_eq!((pulled.next_offset, pulled.cursor), (Offset(2), Offset(2)));
    let pulled = world.pull(&automatic).await;
    assert!(pulled.batches.is_empty());
}

#[tokio::test]
async fn pull_reads_again_when_others_move_the_cursor() {
    let world = world().await;
    for _ in 0..20 {
        world.publish(&publish(1)).await;
    }
    let one = Pull {
        acknowledgement: Acknowledgement::Pull,
        count_max: 1,
        ..pull(Duration::ZERO)
    };
    world.replica.disturb(2);
    let pulled = world.pull(&one).await;
    assert_eq!(
        (pulled.batches[0].base_offset, pulled.cursor),
        (Offset(2), Offset(3))
    );
    world.replica.disturb(16);
    let contended = world.broker.pull(&world.call(), &one).await;
    assert!(matches!(
        contended,
        Err(Error::CursorContended { attempts: 16, .. })
    ));
}

#[tokio::test]
async fn envelopes_count_towards_the_bytes_of_a_pull() {
    let world = world().await;
    for _ in 0..10 {
        world.publish(&publish(1)).await;
    }
    let small = Pull {
        bytes_max: ByteCount(200),
        ..pull(Duration::ZERO)
    };
    assert_eq!(world.pull(&small).await.batches.len(), 2);
    let least = Pull {
        bytes_max: ByteCount(1),
        ..pull(Duration::ZERO)
    };
    assert_eq!(world.pull(&least).await.batches.len(), 1);
}

#[tokio::test]
async fn unknown_publisher_is_refused_and_a_found_one_is_remembered() {
    let world = world().await;
    let publisher = PublisherId::new("p").unwrap();
    let sequence = Some((SessionId(1), Sequence(0)));
    let asked = Publish {
        publisher: Some(publisher),
        sequence,
        ..publish(1)
    };
    let refused = world.broker.publish(&world.call(), &asked).await;
    assert!(matches!(
        refused,
        Err(Error::Refused(Refusal::PublisherNotFound { .. }))
    ));
    world.directory.add(Kind::Publisher, "p");
    assert!(!world.publish(&asked).await.is_duplicate);
    let again = world.publish(&asked).await;
    assert_eq!((again.is_duplicate, again.first_offset), (true, Offset(0)));
    assert_eq!(
        world.directory.asked(),
        3,
        "subscriber once, publisher in vain, publisher found, and then no more"
    );
}

#[tokio::test]
async fn acknowledgement_by_all_says_what_was_reached() {
    let world = world().await;
    let all = Publish {
        acks: AckLevel::All,
        ..publish(1)
    };
    assert_eq!(world.publish(&all).await.reached, AckLevel::All);
    world.replica.lag();
    let published = world.publish(&all).await;
    assert_eq!(
        (published.reached, published.stored_by.len()),
        (AckLevel::Quorum, 2)
    );
}

#[tokio::test]
async fn subscriber_must_exist_and_subscribing_again_moves_nothing() {
    let world = world().await;
    let (topic, known, unknown) = (topic("t"), subscriber("s"), subscriber("x"));
    let refused = world
        .broker
        .subscribe(&world.call(), (&topic, &unknown), (Start::Earliest, None))
        .await;
    assert!(matches!(
        refused,
        Err(Error::Refused(Refusal::SubscriberNotFound { .. }))
    ));
    world.publish(&publish(4)).await;
    let again = world
        .broker
        .subscribe(&world.call(), (&topic, &known), (Start::Latest, None))
        .await
        .unwrap();
    assert_eq!(
        (
            again.is_existing,
            again.subscription.cursor,
            again.head_offset
        ),
        (true, Offset(0), Offset(4))
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "each list in turn")]
async fn lists_go_on_where_they_ended() {
    let world = World::new();
    world.directory.add(Kind::Subscriber, "s");
    for name in ["a1", "a2", "a3", "b1"] {
        world.create(&topic(name)).await;
        world.subscribe(&topic(name), &subscriber("s")).await;
        world
            .broker
            .create_identity(
                &world.call(),
                (Kind::Publisher, &Name::new(name).unwrap()),
                None,
            )
            .await
            .unwrap();
    }
    let asked = TopicsAsked {
        prefix: "a".to_owned(),
        ..TopicsAsked::default()
    };
    let first = world
        .broker
        .topics(&world.call(), asked.clone(), 2)
        .await
        .unwrap();
    let names: Vec<&str> = first
        .entries
        .iter()
        .map(|topic| topic.name.as_str())
        .collect();
    assert_eq!(names, ["a1", "a2"]);
    let rest = TopicsAsked {
        after: first.resume.map(TopicName),
        ..asked
    };
    let second = world.broker.topics(&world.call(), rest, 2).await.unwrap();
    assert_eq!((second.entries.len(), second.resume), (1, None));

    let named = (Kind::Publisher, "b".to_owned());
    let publishers = world
        .broker
        .identities(&world.call(), named, None, 2)
        .await
        .unwrap();
    assert_eq!(
        publishers
            .entries
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>(),
        ["b1"]
    );

    let mut asked = SubscriptionsAsked::default();
    let mut found = Vec::new();
    loop {
        let page = world
            .broker
            .subscriptions(&world.call(), asked.clone(), 3)
            .await
            .unwrap();
        found.extend(
            page.entries
                .into_iter()
                .map(|(subscription, _)| subscription.topic.to_string()),
        );
        asked.after = page.resume;
        if asked.after.is_none() {
            break;
        }
    }
    assert_eq!(found, ["a1", "a2", "a3", "b1"]);
    assert_eq!(
        world
            .broker
            .remove_subscriptions(&world.call(), &subscriber("s"))
            .await
            .unwrap(),
        4
    );
    assert_eq!(
        world
            .broker
            .remove_subscriptions(&world.call(), &subscriber("s"))
            .await
            .unwrap(),
        0
    );
}
