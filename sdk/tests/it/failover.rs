//! Peers that fall silent, which refuse nothing: who is asked instead, how soon, and what the application hears of it.

use std::time::{Duration, Instant};

use cubecast_sdk::{
    AckLevel, Client, Consistency, Error, Event, Events, Published, Publisher, PullOptions,
};
use futures::FutureExt;

use crate::builder;
use crate::fake::{FakeCluster, Fault};

/// Far longer than any of this takes, and far shorter than an attempt.
const SOON: Duration = Duration::from_secs(5);

/// Attempts are not given up; only hedges help.
async fn client(cluster: &FakeCluster) -> Client {
    let client = builder(cluster)
        .deadline(Duration::from_secs(60))
        .attempt_timeout(Duration::from_secs(30))
        .hedge(Duration::from_millis(40), Duration::from_millis(10))
        .connect()
        .await
        .unwrap();
    // Who is who is found out in the background.
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    for peer in 0..cluster.addresses.len() {
        while let Err(error) = client.node_status(&format!("{peer:03b}")).await {
            assert!(tokio::time::Instant::now() < end, "peer {peer}: {error}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    client
}

async fn next(events: &mut Events) -> Event {
    let event = tokio::time::timeout(SOON, events.next()).await;
    event.unwrap().unwrap()
}

/// Peer 0 is known to lead; then it falls silent, and peer 1 leads.
async fn lose_the_leader(cluster: &FakeCluster, publisher: &Publisher) -> Published {
    cluster.lead("000");
    let first = publisher.publish("news", ["a"]).await.unwrap();
    cluster.lead("001");
    cluster.silence(0);
    first
}

fn peer(cluster: &FakeCluster, peer: usize) -> (String, Option<String>) {
    let address = cluster.addresses.get(peer).cloned();
    (address.unwrap(), Some(format!("{peer:03b}")))
}

// REQ A14, F4
#[tokio::test]
async fn silent_leader_costs_a_moment_and_the_application_is_told() {
    let cluster = FakeCluster::start(2).await;
    cluster.own("000");
    let client = client(&cluster).await;
    let mut events = client.events();
    let publisher = client.publisher("agency");
    let first = lose_the_leader(&cluster, &publisher).await;
    assert_eq!((first.first_offset, first.note), (0, None));
    let begun = Instant::now();
    let second = publisher.publish("news", ["b"]).await.unwrap();
    assert!(begun.elapsed() < SOON);
    let words = "cannot reach owner 000; served by replica 001";
    assert_eq!(second.note.as_deref(), Some(words));
    assert_eq!(cluster.payloads(), ["a", "b"]);
    let mut heard = vec![next(&mut events).await, next(&mut events).await];
    let moved = Event::LeaderMoved {
        topic: "news".to_owned(),
        from: Some("000".to_owned()),
        to: "001".to_owned(),
    };
    let in_place = Event::OwnerUnreachable {
        owner: "000".to_owned(),
        served_by: "001".to_owned(),
    };
    heard.retain(|event| *event != moved && *event != in_place);
    assert_eq!(heard, []);
    let (address, vertex) = peer(&cluster, 0);
    let down = Event::PeerDown {
        address: address.clone(),
        vertex: vertex.clone(),
    };
    assert_eq!(next(&mut events).await, down);
    cluster.wake(0);
    assert_eq!(next(&mut events).await, Event::PeerUp { address, vertex });
}

// REQ A14
#[tokio::test]
async fn reads_tell_who_serves_in_place_of_an_owner_that_cannot_be_reached() {
    let cluster = FakeCluster::start(2).await;
    cluster.own("000");
    let client = client(&cluster).await;
    let mut events = client.events();
    let news = client.subscriber("reader").subscription("news");
    let options = || PullOptions::new().max_messages(2);
    // Any replica may answer, also while the owner does: nobody stands in for anybody.
    for _ in 0..4 {
        let topic = client.topic("news", Consistency::Eventual).await.unwrap();
        assert!(!topic.source.unwrap().is_owner_unreached);
        let pulled = news.pull(options().consistency(Consistency::Eventual));
        assert!(!pulled.await.unwrap().source.unwrap().is_owner_unreached);
    }
    while let Some(Some(event)) = events.next().now_or_never() {
        let stands_in = matches!(event, Event::OwnerUnreachable { .. });
        assert!(!stands_in, "{event}");
    }
    cluster.silence(0);
    let is_down = async { while !matches!(next(&mut events).await, Event::PeerDown { .. }) {} };
    let read = async {
        loop {
            client.topic("news", Consistency::Leader).await.unwrap();
        }
    };
    tokio::select! {
        () = read => {}
        () = is_down => {}
    }
    let words = Some("cannot reach owner 000; served by replica 001");
    let topic = client.topic("news", Consistency::Leader).await.unwrap();
    let source = topic.source.unwrap();
    assert_eq!(
        (source.note.as_deref(), source.is_owner_unreached),
        (words, true)
    );
    let pulled = news.pull(options()).await.unwrap();
    let source = pulled.source.unwrap();
    assert_eq!(
        (source.note.as_deref(), source.is_owner_unreached),
        (words, true)
    );
}

#[tokio::test]
async fn eventual_reads_are_hedged_and_then_avoid_the_silent_peer() {
    let cluster = FakeCluster::start(2).await;
    let client = client(&cluster).await;
    client.publish("news", ["a", "b"]).await.unwrap();
    cluster.silence(0);
    let begun = Instant::now();
    let news = client.subscriber("reader").subscription("news");
    for _ in 0..20 {
        let options = PullOptions::new()
            .max_messages(2)
            .consistency(Consistency::Eventual);
        assert_eq!(news.pull(options).await.unwrap().len(), 2);
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let asked = cluster.seen("Pull");
    let in_vain = asked.iter().filter(|seen| seen.peer == 0).count();
    assert!(
        in_vain < 10,
        "{in_vain} reads of a peer that is known to be silent"
    );
}

#[tokio::test]
async fn long_poll_leaves_a_peer_that_another_call_found_silent() {
    let cluster = FakeCluster::start(2).await;
    let client = client(&cluster).await;
    let publisher = client.publisher("agency");
    lose_the_leader(&cluster, &publisher).await;
    let news = client.subscriber("reader").subscription("news");
    // The leader that was learned is the silent peer; the wait alone would keep the pull there for a minute.
    let pull = news.pull(
        PullOptions::new()
            .max_messages(1)
            .wait(Duration::from_secs(60)),
    );
    let (pulled, published) = tokio::join!(
        tokio::time::timeout(SOON, pull),
        publisher.publish("news", ["b"])
    );
    assert_eq!(pulled.unwrap().unwrap().len(), 1);
    published.unwrap();
}

#[tokio::test]
async fn bare_publish_is_never_sent_twice() {
    let cluster = FakeCluster::start(2).await;
    let client = client(&cluster).await;
    cluster.silence(0);
    cluster.silence(1);
    let publish = client.publish("news", ["a"]);
    let silent = tokio::time::timeout(Duration::from_millis(300), publish).await;
    assert!(silent.is_err());
    assert!(cluster.seen("Publish").len() <= 1);
}

/// A peer whose connections are taken and never served.
async fn mute() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn watching_a_silent_cluster_is_given_up() {
    let (_first, first) = mute().await;
    let (_second, second) = mute().await;
    let builder = Client::builder().peer(first).peer(second);
    let client = builder.attempt_timeout(Duration::from_millis(50)).build();
    let watching = client.as_ref().unwrap().watch_cluster();
    let opened = tokio::time::timeout(SOON, watching).await.unwrap();
    assert!(matches!(opened, Err(Error::DeadlineExceeded { .. })));
}

#[tokio::test]
async fn deadline_may_be_as_long_as_can_be_written() {
    let cluster = FakeCluster::start(1).await;
    let client = builder(&cluster).deadline(Duration::MAX).build().unwrap();
    client.publish("news", ["a"]).await.unwrap();
    let publisher = client.publisher("agency");
    publisher.publish("news", ["b"]).await.unwrap();
    let pull = PullOptions::new().wait(Duration::MAX).max_messages(10);
    let news = client.subscriber("reader").subscription("news");
    assert_eq!(news.pull(pull).await.unwrap().len(), 2);
}

// A replica that is away makes each of these wait for its deadline: that must not use up the second attempts that a silent peer would need.
#[tokio::test]
async fn publish_to_all_replicas_asks_no_second_peer_while_the_first_is_there() {
    let cluster = FakeCluster::start(2).await;
    let client = builder(&cluster)
        .attempt_timeout(Duration::from_millis(300))
        .hedge(Duration::from_millis(20), Duration::from_millis(20))
        .connect()
        .await
        .unwrap();
    cluster.fail(0, Fault::Hang);
    cluster.fail(1, Fault::Hang);
    let begun = Instant::now();
    let publisher = client.publisher("agency").with_acks(AckLevel::All);
    let publishing = publisher.publish("news", ["a"]);
    let early = tokio::time::timeout(Duration::from_millis(200), publishing).await;
    assert!(early.is_err(), "{:?}", begun.elapsed());
    assert_eq!(cluster.seen("Publish").len(), 1);
}
