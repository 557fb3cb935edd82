//! Streams of deliveries: what is acknowledged in which life of a topic.

use std::time::Duration;

use super::fake::{Fake, World};
use super::{publish, pull, subscriber, topic, world};
use crate::broker::{Delivered, Delivery, Error, OpenDelivery, Opened};
use crate::types::{ByteCount, Offset};

async fn open(world: &World) -> (Opened, Delivery<Fake>) {
    let open = OpenDelivery {
        topic: topic("t"),
        subscriber: subscriber("s"),
        lease: Some(Duration::from_secs(30)),
        heartbeat: Duration::from_secs(30),
    };
    let (opened, mut delivery) = world
        .broker
        .open_delivery(&world.call(), open)
        .await
        .unwrap();
    delivery.give(10, ByteCount(0));
    (opened, delivery)
}

// REQ G5: the cursor of a topic that was made anew is moved by what was read of it, and by nothing that was read of the one before.
#[tokio::test]
async fn acknowledgement_of_a_topic_that_was_deleted_does_not_count_in_the_next_of_its_name() {
    let world = world().await;
    world.publish(&publish(3)).await;
    let (before, mut delivery) = open(&world).await;
    let delivered = delivery.next().await.unwrap();
    assert!(matches!(delivered, Delivered::Batch { .. }));
    let deleted = world.broker.delete_topic(&world.call(), &topic("t")).await;
    deleted.unwrap();
    world.create(&topic("t")).await;
    world.subscribe(&topic("t"), &subscriber("s")).await;
    world.publish(&publish(3)).await;
    delivery.acknowledge(Offset(3));
    let ended = delivery.finish().await;
    assert!(matches!(ended, Err(Error::TopicDeleted { .. })));
    let pulled = world.pull(&pull(Duration::ZERO)).await;
    assert_eq!(pulled.cursor, Offset(0));
    let (after, _) = open(&world).await;
    assert_ne!(before.topic_id, after.topic_id);
}
