//! What is removed before it was read, and many topics at once.

use std::time::Duration;

use futures::FutureExt;

use super::fake::{Fake, World};
use super::{publish, pull, subscriber, topic, world};
use crate::broker::access::Access;
use crate::broker::{
    Acknowledgement, Call, CreateTopics, Delivered, Delivery, Error, OpenDelivery, Pull,
};
use crate::shard::{Command, NewTopic, Refusal};
use crate::types::{ByteCount, Offset, RequestId, Retention};

/// Removes the messages of topic `t` before an offset, as the leader does.
async fn trim(world: &World, before: u64) {
    let call = world.call();
    let found = world
        .broker
        .topic(&call, &topic("t"), crate::replica::Consistency::Leader)
        .await
        .unwrap();
    let command = Command::Trim {
        topic: topic("t"),
        topic_id: found.topic.id,
        before: Offset(before),
        bytes: ByteCount(1),
    };
    let Call {
        replica, deadline, ..
    } = call;
    replica
        .propose(command, deadline)
        .await
        .unwrap()
        .outcome
        .unwrap();
}

#[tokio::test]
async fn pull_tells_what_was_missed_until_the_cursor_moves() {
    let world = world().await;
    for _ in 0..4 {
        world.publish(&publish(2)).await;
    }
    trim(&world, 4).await;
    for _ in 0..2 {
        let pulled = world.pull(&pull(Duration::ZERO)).await;
        assert_eq!(
            (pulled.missed, pulled.cursor, pulled.next_offset),
            (4, Offset(4), Offset(8))
        );
        assert_eq!(pulled.batches[0].base_offset, Offset(4));
    }
    let all = Pull {
        acknowledgement: Acknowledgement::Pull,
        ..pull(Duration::ZERO)
    };
    let pulled = world.pull(&all).await;
    assert_eq!((pulled.missed, pulled.cursor), (4, Offset(8)));
    let pulled = world.pull(&all).await;
    assert_eq!((pulled.missed, pulled.batches.len()), (0, 0));
}

#[tokio::test]
async fn stream_tells_what_it_never_delivered_and_tells_it_once() {
    let world = world().await;
    for _ in 0..6 {
        world.publish(&publish(1)).await;
    }
    let open = OpenDelivery {
        topic: topic("t"),
        subscriber: subscriber("s"),
        lease: Some(Duration::from_secs(600)),
        heartbeat: Duration::from_secs(600),
    };
    let opened = world.broker.open_delivery(&world.call(), open).await;
    let (_, mut delivery) = opened.unwrap();
    delivery.give(4, ByteCount(0));
    for offset in 0..4 {
        assert_eq!(next(&mut delivery).await, (offset, 0));
    }
    // Those were delivered and come no more; the fifth is missed.
    trim(&world, 5).await;
    // There is no credit, but it looks at what has changed, and tells of the cursor.
    while delivery.next().now_or_never().is_some() {}
    delivery.reject(Offset(0), Duration::ZERO);
    delivery.give(1, ByteCount(0));
    assert_eq!(next(&mut delivery).await, (5, 1));
}

/// The next message, and how many were missed right before it.
async fn next(delivery: &mut Delivery<Fake>) -> (u64, u64) {
    loop {
        if let Delivered::Batch { batch, missed, .. } = delivery.next().await.unwrap() {
            return (batch.base_offset.0, missed);
        }
    }
}

#[tokio::test]
async fn acknowledgement_of_removed_messages_is_harmless() {
    let world = world().await;
    for _ in 0..4 {
        world.publish(&publish(2)).await;
    }
    trim(&world, 4).await;
    let acknowledging = Pull {
        acknowledge_to: Some(Offset(2)),
        ..pull(Duration::ZERO)
    };
    let pulled = world.pull(&acknowledging).await;
    assert_eq!(
        (pulled.cursor, pulled.batches[0].base_offset),
        (Offset(4), Offset(4))
    );
}

#[tokio::test]
async fn each_topic_of_a_batch_has_its_own_fate() {
    let world = world().await;
    let retention = Retention {
        messages: Some(7),
        ..Retention::FOR_EVER
    };
    let create = CreateTopics {
        topics: ["a", "t", "b"]
            .map(|name| NewTopic {
                topic: topic(name),
                retention,
            })
            .into(),
        creator: None,
        request_id: Some(RequestId([1; 16])),
    };
    for _ in 0..2 {
        let results = world
            .broker
            .create_topics(&world.call(), create.clone())
            .await
            .unwrap();
        assert_eq!(results[0].as_ref().unwrap().retention, retention);
        assert_eq!(results[1], Err(Refusal::TopicExists { topic: topic("t") }));
        assert_eq!(results[2].as_ref().unwrap().name, topic("b"));
    }
}

#[tokio::test]
async fn retention_is_replaced_as_a_whole() {
    let world = world().await;
    let age = Retention {
        age: Some(Duration::from_secs(5)),
        ..Retention::FOR_EVER
    };
    let (broker, call) = (&world.broker, world.call());
    let row = broker.set_retention(&call, &topic("t"), age).await.unwrap();
    assert_eq!(row.retention, age);
    let row = broker
        .set_retention(&call, &topic("t"), Retention::FOR_EVER)
        .await
        .unwrap();
    assert_eq!(row.retention, Retention::FOR_EVER);
    let missing = broker.set_retention(&call, &topic("x"), age).await;
    assert!(matches!(
        missing,
        Err(Error::Refused(Refusal::TopicNotFound { .. }))
    ));
}
