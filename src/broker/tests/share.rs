//! Streams of a shared subscription, with a post that fails at times.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::super::{
    Access, Consumer, Delivered, Error, Letter, OpenDelivery, Post, Returned, Which,
};
use super::fake::World;
use super::{batch, publish, subscriber, topic};
use crate::broker::Publish;
use crate::replica::Consistency;
use crate::shard::{DeadLetters, Refusal, Sharing, Start};
use crate::types::{ByteCount, Offset, Offsets, TopicName};

/// Takes letters, after some failures.
#[derive(Clone, Default)]
struct Postman {
    tried: Arc<Mutex<Vec<Letter>>>,
    failures: Arc<AtomicU32>,
}

impl Post for Postman {
    async fn publish(&self, letter: Letter, _: Instant) -> Result<(), Returned> {
        self.tried.lock().unwrap().push(letter);
        let fails = |left: u32| left.checked_sub(1);
        let order = Ordering::SeqCst;
        match self.failures.fetch_update(order, order, fails) {
            Ok(_) => Err(Returned::Later("nobody is at home".to_owned())),
            Err(_) => Ok(()),
        }
    }
}

async fn shared_world(max_deliveries: u32) -> World {
    let world = World::new();
    world.directory.add(super::Kind::Subscriber, "s");
    world.create(&topic("t")).await;
    let dead_letters = DeadLetters {
        max_deliveries,
        topic: TopicName::new("dead").unwrap(),
    };
    let sharing = Sharing {
        lease: Duration::from_secs(10),
        dead_letters: Some(dead_letters),
    };
    let (call, whose) = (world.call(), (&topic("t"), &subscriber("s")));
    let subscribing = world
        .broker
        .subscribe(&call, whose, (Start::Earliest, Some(sharing)));
    subscribing.await.unwrap();
    world
}

async fn join(world: &World, post: &Postman, credit: u32) -> Consumer {
    let open = OpenDelivery {
        topic: topic("t"),
        subscriber: subscriber("s"),
        lease: None,
        heartbeat: Duration::from_secs(600),
    };
    let opened = world.broker.open_share(&world.call(), &open, post).await;
    let (_, consumer) = opened.unwrap();
    consumer.give(credit, ByteCount(0)).await;
    consumer
}

/// The next messages: the first, how many, and which time.
async fn delivery(consumer: &mut Consumer) -> (u64, u32, u32) {
    loop {
        if let Delivered::Batch { batch, attempt, .. } = consumer.next().await.unwrap() {
            return (batch.base_offset.0, batch.batch.count(), attempt);
        }
    }
}

async fn cursor(world: &World) -> Offset {
    let deadline = Instant::now() + Duration::from_secs(1);
    let read = world.replica.read(Consistency::Leader, deadline).await;
    let view = read.unwrap().view;
    let row = view.topic(&topic("t")).unwrap().unwrap();
    let subscription = view.subscription(&row, &subscriber("s")).unwrap();
    subscription.unwrap().cursor
}

fn offsets(start: u64, end: u64) -> Offsets {
    std::iter::once(Offset(start)..Offset(end)).collect()
}

#[tokio::test(start_paused = true)]
async fn streams_share_messages_and_hear_of_what_is_stored() {
    let (world, post) = (shared_world(5).await, Postman::default());
    let mut one = join(&world, &post, 2).await;
    let mut two = join(&world, &post, 9).await;
    world
        .publish(&Publish {
            batch: batch(5),
            ..publish(5)
        })
        .await;
    assert_eq!(delivery(&mut one).await, (0, 2, 1));
    assert_eq!(delivery(&mut two).await, (2, 3, 1));
    one.acknowledge(offsets(1, 2)).await;
    let settled = one.next().await.unwrap();
    assert_eq!(
        settled,
        Delivered::Settled {
            ranges: offsets(1, 2)
        }
    );
    drop(one);
    assert_eq!(delivery(&mut two).await, (0, 1, 2));
    // All leases end.
    let mut again = [delivery(&mut two).await, delivery(&mut two).await];
    again.sort_unstable();
    assert_eq!(again, [(0, 1, 3), (2, 3, 2)]);
    two.acknowledge(offsets(0, 5)).await;
    two.finish().await.unwrap();
    assert_eq!(cursor(&world).await, Offset(5));
    two.acknowledge(offsets(0, 6)).await;
    let beyond = loop {
        if let Err(error) = two.next().await {
            break error;
        }
    };
    let is_it = matches!(beyond, Error::Refused(Refusal::OffsetOutOfRange { .. }));
    assert!(is_it, "{beyond:?}");
}

#[tokio::test(start_paused = true)]
async fn dead_letter_is_tried_under_one_number_until_it_is_taken() {
    let (world, post) = (shared_world(2).await, Postman::default());
    post.failures.store(3, Ordering::SeqCst);
    let mut consumer = join(&world, &post, 99).await;
    world.publish(&publish(2)).await;
    for attempt in 1..=2 {
        assert_eq!(delivery(&mut consumer).await, (0, 2, attempt));
        consumer.reject(Which::All, Duration::ZERO).await;
    }
    while cursor(&world).await < Offset(2) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let tried = post.tried.lock().unwrap().clone();
    let (first, second) = (tried.first().unwrap(), tried.last().unwrap());
    assert_eq!(tried.iter().filter(|letter| *letter == first).count(), 4);
    assert_eq!(tried.len(), 5);
    assert_eq!((first.origin.2.0, second.origin.2.0), (0, 1));
    assert_eq!(first.origin.1, second.origin.1);
    world.publish(&publish(1)).await;
    assert_eq!(delivery(&mut consumer).await, (2, 1, 1));
}
