//! Links that are cut while every peer lives: calls and Raft go round them, and nobody notices but the clock.

use std::time::Duration;

use cubecast::link::{Fault, LinkMap, Passage};
use cubecast::testing::TestCluster;
use cubecast::types::PeerId;
use cubecast_sdk::proto::v1::{PublishRequest, PublishSequence, PullRequest, ReadConsistency};
use tonic::{Request, Status};

use crate::support::{
    Plain, bits, create_publisher, create_subscriber, create_topic, message, name_owned_by, plain,
    publish_as, subscribe, texts,
};
use crate::wire::PATIENCE;

/// Faults are allowed, and silence is found sooner than by default.
const SETTINGS: [(&str, &str); 3] = [
    ("fault_injection", "true"),
    ("link.interval", "100ms"),
    ("link.silence", "500ms"),
];

const PEERS: u16 = 8;

/// Eight topics, one of each vertex, and a client of every peer.
struct Scene {
    cluster: TestCluster,
    topics: Vec<String>,
    clients: Vec<Plain>,
    /// Messages of each topic so far.
    count: u64,
}

impl Scene {
    async fn new() -> Self {
        let cluster = TestCluster::with_settings(&SETTINGS).await;
        let mut clients = Vec::new();
        for peer in 0..PEERS {
            clients.push(plain(cluster.address(usize::from(peer))).await);
        }
        let topics: Vec<String> = (0..PEERS)
            .map(|owner| name_owned_by("partial", owner))
            .collect();
        let client = &mut clients[0];
        create_publisher(client, "p").await;
        create_subscriber(client, "s").await;
        for topic in &topics {
            create_topic(client, topic).await;
            subscribe(client, topic, "s").await;
        }
        let scene = Self {
            cluster,
            topics,
            clients,
            count: 0,
        };
        for peer in 0..PEERS {
            let is_whole = |map: &LinkMap| (0..PEERS).all(|to| map.is_up(PeerId(peer), PeerId(to)));
            scene.until(peer, is_whole).await;
        }
        scene
    }

    async fn until(&self, peer: u16, is_so: impl Fn(&LinkMap) -> bool) {
        let node = self.cluster.node(usize::from(peer));
        let links = node.peers().links();
        let mut map = links.watch();
        let is_so = map.wait_for(|map| is_so(map));
        let in_time = tokio::time::timeout(PATIENCE, is_so).await;
        assert!(matches!(in_time, Ok(Ok(_))), "{:?}", links.now());
    }

    /// Cuts both ways between these peers until the next [`Self::heal`], and waits until both ends know.
    async fn cut(&self, a: u16, b: u16) {
        for (from, to) in [(a, b), (b, a)] {
            let node = self.cluster.node(usize::from(from));
            node.peers().faults().inject(Fault {
                peers: vec![PeerId(to)],
                passage: Passage::Cut,
                ..Fault::default()
            });
        }
        for end in [a, b] {
            self.until(end, |map| !map.is_up(PeerId(a), PeerId(b)))
                .await;
        }
    }

    async fn heal(&self) {
        for peer in 0..PEERS {
            let node = self.cluster.node(usize::from(peer));
            node.peers().faults().clear(&[]);
        }
        for peer in 0..PEERS {
            let is_whole = |map: &LinkMap| (0..PEERS).all(|to| map.is_up(PeerId(peer), PeerId(to)));
            self.until(peer, is_whole).await;
        }
    }

    /// Every topic takes a message and gives its newest one to a linearizable read, through these peers.
    async fn serves_all_through(&mut self, peers: &[u16]) {
        for peer in peers {
            let client = &mut self.clients[usize::from(*peer)];
            for topic in &self.topics {
                let text = format!("m{}", self.count);
                let published = publish_as(client, topic, ("p", 1, self.count), &text).await;
                let published = published.unwrap_or_else(|e| panic!("{peer}, {topic}: {e:?}"));
                assert_eq!(published.first_offset, self.count);
                let mut pull = Request::new(PullRequest {
                    topic: topic.clone(),
                    subscriber: "s".to_owned(),
                    acknowledge_to: Some(self.count),
                    consistency: ReadConsistency::Linearizable.into(),
                    ..PullRequest::default()
                });
                pull.set_timeout(PATIENCE);
                let pulled = client.pull(pull).await;
                let pulled = pulled.unwrap_or_else(|e| panic!("{peer}, {topic}: {e:?}"));
                assert_eq!(texts(pulled.get_ref()), [text]);
            }
            self.count += 1;
        }
    }
}

/// Publishes the next message of the topic through peer 3: the way that the call took.
async fn way_of_a_publish(mut client: Plain, topic: &str, sequence: u64) -> Result<String, Status> {
    let request = PublishRequest {
        topic: topic.to_owned(),
        publisher: "p".to_owned(),
        sequence: Some(PublishSequence {
            session: 1,
            sequence,
        }),
        messages: vec![message("m")],
        ..PublishRequest::default()
    };
    let answer = client.publish(request).await?;
    let way = answer.metadata().get("cubecast-route").unwrap();
    Ok(way.to_str().unwrap().to_owned())
}

// REQ F6: a peer that is about to stop passes on what it has, and nobody chooses it; the direct link is taken again as soon as it heals.
#[tokio::test(flavor = "multi_thread")]
async fn calls_leave_a_relay_that_is_about_to_stop_and_come_back_to_the_link() {
    let mut scene = Scene::new().await;
    let (client, topic) = (scene.clients[3].clone(), scene.topics[4].clone());
    scene.cut(3, 4).await;
    let road = |scene: &Scene| scene.cluster.node(3).peers().road(PeerId(4));
    let first = road(&scene)[0];
    assert_ne!(first, PeerId(4));
    let around = |relay: PeerId| format!("{}>{}>{}", bits(3), bits(relay.0), bits(4));
    let way = way_of_a_publish(client.clone(), &topic, 0).await.unwrap();
    assert_eq!(way, around(first));
    let leaving = scene.cluster.node(usize::from(first.0));
    leaving.peers().links().leave();
    drop(leaving);
    let avoids = |map: &LinkMap| map.route(PeerId(4)).is_some_and(|road| road[0] != first);
    scene.until(3, avoids).await;
    let way = way_of_a_publish(client.clone(), &topic, 1).await.unwrap();
    assert_eq!(way, around(road(&scene)[0]));
    // Now it does stop: no call is lost with it.
    let publishing = async {
        for sequence in 2..40 {
            let way = way_of_a_publish(client.clone(), &topic, sequence)
                .await
                .unwrap();
            assert_ne!(way, around(first));
        }
    };
    tokio::join!(publishing, scene.cluster.stop_peer(usize::from(first.0)));
    scene.cluster.start_peer(usize::from(first.0)).await;
    scene.heal().await;
    let way = way_of_a_publish(client, &topic, 40).await.unwrap();
    assert_eq!(way, format!("{}>{}", bits(3), bits(4)));
    scene.cluster.stop().await;
}

// REQ F6: any two peers are cut from each other.
#[tokio::test(flavor = "multi_thread")]
async fn every_topic_is_served_from_everywhere_whichever_pair_is_cut() {
    let mut scene = Scene::new().await;
    for a in 0..PEERS {
        for b in a + 1..PEERS {
            scene.cut(a, b).await;
            let another = (0..PEERS).find(|peer| *peer != a && *peer != b).unwrap();
            scene.serves_all_through(&[a, b, another]).await;
            scene.heal().await;
        }
    }
    scene.cluster.assert_replicas_equal().await;
    scene.cluster.stop().await;
}

// REQ F6: one peer sees a single other.
#[tokio::test(flavor = "multi_thread")]
async fn peer_with_one_link_left_is_served_through_it() {
    let mut scene = Scene::new().await;
    for alone in [0, 5] {
        let left = alone ^ 0b001;
        for other in (0..PEERS).filter(|other| *other != alone && *other != left) {
            scene.cut(alone, other).await;
        }
        let all: Vec<u16> = (0..PEERS).collect();
        scene.serves_all_through(&all).await;
        scene.heal().await;
    }
    tokio::time::timeout(
        Duration::from_secs(60),
        scene.cluster.assert_replicas_equal(),
    )
    .await
    .unwrap();
    scene.cluster.stop().await;
}
