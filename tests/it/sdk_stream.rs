//! The SDK's producer and stream on real peers: order and exactly once through a kill of the leader, compression, one reader at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use cubecast::testing::TestCluster;
use cubecast_sdk::{
    Client, Compression, Consistency, Producer, ProducerOptions, PullOptions, Reason, Receipt,
    Received, Start, StreamOptions, Subscription,
};
use futures::StreamExt;
use tokio::time::Instant;

use crate::support::name_owned_by;
use crate::wire::PATIENCE;

struct World {
    cluster: TestCluster,
    client: Client,
    topic: String,
}

impl World {
    /// A topic of vertex 4, whose publisher and reader live elsewhere.
    async fn new(settings: &[(&'static str, &str)]) -> Self {
        let cluster = TestCluster::with_settings(settings).await;
        let builder = Client::builder().deadline(Duration::from_secs(60));
        let builder = cluster
            .addresses()
            .iter()
            .fold(builder, cubecast_sdk::Builder::peer);
        let client = builder.connect().await.unwrap();
        let topic = name_owned_by("fast", 4);
        client.create_topic(topic.as_str()).await.unwrap();
        client
            .create_publisher(&name_owned_by("agency", 1))
            .await
            .unwrap();
        client
            .create_subscriber(&name_owned_by("reader", 1))
            .await
            .unwrap();
        Self {
            cluster,
            client,
            topic,
        }
    }

    fn producer(&self, options: ProducerOptions) -> Producer {
        let publisher = self.client.publisher(name_owned_by("agency", 1));
        publisher.producer(&self.topic, options)
    }

    async fn subscription(&self) -> Subscription {
        let reader = self.client.subscriber(name_owned_by("reader", 1));
        reader
            .subscribe(&self.topic, Start::Earliest)
            .await
            .unwrap()
    }
}

async fn next<S>(messages: &mut S) -> Received
where
    S: futures::Stream<Item = Result<Received, cubecast_sdk::Error>> + Unpin,
{
    let end = Instant::now() + 2 * PATIENCE;
    loop {
        match tokio::time::timeout_at(end, messages.next()).await {
            Ok(Some(Ok(message))) => return message,
            Ok(Some(Err(error))) if error.is_transient() => {}
            other => panic!("{other:?}"),
        }
    }
}

fn text(message: &Received) -> String {
    String::from_utf8(message.payload.to_vec()).unwrap()
}

// REQ D5, G3, G5: the leader is killed, and comes back, while messages are produced and read.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_out_of_order_when_the_leader_is_killed() {
    const COUNT: u64 = 6_000;
    let mut world = World::new(&[("failover.return_after", "100ms")]).await;
    let options = ProducerOptions::new()
        .bundle_bytes(200)
        .linger(Duration::ZERO)
        .in_flight(32)
        .waiting_bytes(20_000);
    let producer = world.producer(options);
    let mut messages = world
        .subscription()
        .await
        .stream(StreamOptions::new().max_messages(500));
    let (sender, mut receipts) = tokio::sync::mpsc::channel::<Receipt>(10_000);
    let sending = async {
        for number in 0..COUNT {
            let receipt = producer.send(format!("{number}")).await.unwrap();
            sender.send(receipt).await.unwrap();
        }
        drop(sender);
    };
    let checking = async {
        let mut number = 0;
        while let Some(receipt) = receipts.recv().await {
            let appended = receipt.await.unwrap();
            assert_eq!((appended.offset, appended.index), (number, 0));
            number += 1;
        }
        assert_eq!(number, COUNT);
    };
    let cluster = &mut world.cluster;
    let reading = async {
        for number in 0..COUNT {
            if number == COUNT / 3 {
                cluster.fail_peer(4).await;
            }
            if number == 2 * COUNT / 3 {
                cluster.start_peer(4).await;
            }
            let message = next(&mut messages).await;
            assert_eq!(
                (message.offset, text(&message)),
                (number, number.to_string())
            );
        }
    };
    tokio::join!(sending, checking, reading);
    world.cluster.ready().await;
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_are_read_as_they_were_published() {
    const COUNT: u32 = 1_000;
    let mut world = World::new(&[]).await;
    let options = ProducerOptions::new()
        .bundle_bytes(10_000)
        .linger(Duration::from_secs(60))
        .compression(Compression::Lz4);
    let producer = world.producer(options);
    let mut receipts = Vec::new();
    for number in 0..COUNT {
        let message = format!("a message that compresses well, number {number}");
        receipts.push(producer.send(message).await.unwrap());
    }
    producer.flush().await;
    let mut places = BTreeSet::new();
    for receipt in receipts {
        let appended = receipt.await.unwrap();
        places.insert((appended.offset, appended.index));
    }
    assert_eq!(places.len(), COUNT as usize);
    let topic = world
        .client
        .topic(&world.topic, Consistency::Leader)
        .await
        .unwrap();
    assert!(topic.item.next_offset < u64::from(COUNT) / 20);
    assert!(topic.item.bytes < u64::from(COUNT) * 20);
    let news = world.subscription().await;
    let pulled = news.pull(PullOptions::new()).await.unwrap();
    assert_eq!(pulled.len(), COUNT as usize);
    let mut messages = news.stream(StreamOptions::new());
    for (pulled, (number, place)) in pulled.into_iter().zip((0..).zip(&places)) {
        let streamed = next(&mut messages).await;
        assert_eq!(streamed, pulled);
        assert_eq!((streamed.offset, streamed.index), *place);
        let expected = format!("a message that compresses well, number {number}");
        assert_eq!(text(&streamed), expected);
    }
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_that_is_too_large_fails_alone_and_the_others_are_published() {
    let mut world = World::new(&[("limits.message_bytes_max", "2000")]).await;
    let options = ProducerOptions::new().linger(Duration::from_secs(60));
    let producer = world.producer(options);
    let sizes = [10, 3_000, 20, 0, 30];
    let receipts = producer
        .send_all(sizes.map(|bytes| vec![7_u8; bytes]))
        .await;
    producer.flush().await;
    let mut outcomes = Vec::new();
    for receipt in receipts {
        let outcome = receipt.await;
        outcomes.push(
            outcome
                .map(|appended| appended.offset)
                .map_err(|error| error.reason()),
        );
    }
    let expected = [
        Ok(0),
        Err(Some(Reason::MessageTooLarge)),
        Ok(1),
        Err(Some(Reason::MessageEmpty)),
        Ok(2),
    ];
    assert_eq!(outcomes, expected);
    // Of a topic that is not there every message is told so.
    let publisher = world.client.publisher(name_owned_by("agency", 1));
    let missing = publisher.producer(&name_owned_by("missing", 5), ProducerOptions::new());
    let refused = missing.send("a").await.unwrap().await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::TopicNotFound));
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_that_is_replaced_is_told_so_and_the_newer_one_goes_on() {
    let mut world = World::new(&[]).await;
    let producer = world.producer(ProducerOptions::new());
    for number in 0..10 {
        let receipt = producer.send(format!("{number}")).await.unwrap();
        receipt.await.unwrap();
    }
    let news = world.subscription().await;
    let mut older = news.stream(StreamOptions::new().manual());
    let control = older.control();
    for offset in 0..6 {
        assert_eq!(next(&mut older).await.offset, offset);
    }
    // Rejected messages come again, and those after them, in order.
    control.acknowledge(2);
    control.reject(4, Duration::ZERO);
    for offset in 4..10 {
        assert_eq!(next(&mut older).await.offset, offset);
    }
    let end = Instant::now() + PATIENCE;
    while news.pull(PullOptions::new()).await.unwrap().cursor < 2 {
        assert!(Instant::now() < end, "the acknowledgement does not arrive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut newer = news.stream(StreamOptions::new().manual());
    assert_eq!(next(&mut newer).await.offset, 2);
    let lost = older.next().await.unwrap().unwrap_err();
    assert_eq!(lost.reason(), Some(Reason::LeaseLost));
    assert!(older.next().await.is_none());
    assert_eq!(next(&mut newer).await.offset, 3);
    world.cluster.stop().await;
}

// REQ G5: a topic of the same name has another life, and a cursor that is moved back stays there.
#[tokio::test(flavor = "multi_thread")]
async fn stream_follows_a_seek_back_and_a_topic_that_is_made_anew_has_its_own_cursor() {
    let mut world = World::new(&[]).await;
    let producer = world.producer(ProducerOptions::new());
    let news = world.subscription().await;
    let mut messages = news.stream(StreamOptions::new());
    let receipts = producer.send_all((0..10).map(|number| number.to_string()));
    receipts.await.wait().await.unwrap();
    for offset in 0..10 {
        assert_eq!(next(&mut messages).await.offset, offset);
    }
    let end = Instant::now() + PATIENCE;
    while messages.control().cursor() < 10 {
        assert!(Instant::now() < end, "nothing is acknowledged");
        // Asked for more, it acknowledges what it gave.
        let more = tokio::time::timeout(Duration::from_millis(20), messages.next()).await;
        assert!(more.is_err(), "{more:?}");
    }
    news.seek(Start::Offset(3)).await.unwrap();
    for offset in 3..10 {
        assert_eq!(next(&mut messages).await.offset, offset);
    }
    world.client.delete_topic(&world.topic).await.unwrap();
    world
        .client
        .create_topic(world.topic.as_str())
        .await
        .unwrap();
    let news = world.subscription().await;
    let ended = messages.next().await.unwrap().unwrap_err();
    assert_eq!(ended.reason(), Some(Reason::TopicDeleted));
    let pulled = news.pull(PullOptions::new()).await.unwrap();
    assert_eq!(pulled.cursor, 0);
    world.cluster.stop().await;
}
