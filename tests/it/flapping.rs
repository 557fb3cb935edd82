//! Links that break and heal again and again: nobody is elected more often than somebody was lost.

use std::collections::BTreeMap;
use std::time::Duration;

use cubecast::link::{Fault, LinkState, Passage};
use cubecast::testing::TestCluster;
use cubecast::types::PeerId;

use crate::support::{
    Plain, create_publisher, create_topic, name_owned_by, plain, publish_as, vertex,
};
use crate::wire::PATIENCE;

const SETTINGS: [(&str, &str); 2] = [
    ("fault_injection", "true"),
    ("failover.return_after", "100ms"),
];
/// How often a link is cut within some ten seconds.
const FLAPS: u64 = 8;
/// A link that is let up again is up within this; one that flaps is not.
const UP_SOON: Duration = Duration::from_millis(400);

/// Elections that a busy machine may cause by itself, where there should be none.
const STRAY_MAX: u64 = 1;

struct Scene {
    cluster: TestCluster,
    client: Plain,
    topic: String,
    published: u64,
}

impl Scene {
    async fn new() -> Self {
        let cluster = TestCluster::with_settings(&SETTINGS).await;
        let mut client = plain(cluster.address(3)).await;
        let topic = name_owned_by("flap", 4);
        create_topic(&mut client, &topic).await;
        create_publisher(&mut client, &name_owned_by("p", 3)).await;
        let scene = Self {
            cluster,
            client,
            topic,
            published: 0,
        };
        scene
            .until_state(&[4], &[0, 1, 2, 3, 5, 6, 7], LinkState::Up)
            .await;
        scene
    }

    /// The greatest term of each shard.
    fn terms(&self) -> BTreeMap<u16, u64> {
        let term = |shard: u16| {
            let statuses = (0..8).filter_map(|peer| {
                let replica = self.cluster.node(peer).replicas().get(vertex(shard))?;
                Some(replica.status().term.0)
            });
            (shard, statuses.max().unwrap())
        };
        (0..8).map(term).collect()
    }

    /// Cuts all links between a peer and these, for both.
    fn cut(&self, peer: u16, others: &[u16]) {
        let both = others
            .iter()
            .flat_map(|other| [(peer, *other), (*other, peer)]);
        for (from, to) in both {
            self.cluster
                .node(usize::from(from))
                .peers()
                .faults()
                .inject(Fault {
                    peers: vec![PeerId(to)],
                    passage: Passage::Cut,
                    ..Fault::default()
                });
        }
    }

    fn heal(&self) {
        for peer in 0..8 {
            self.cluster.node(peer).peers().faults().clear(&[]);
        }
    }

    /// Waits until these peers say this of their links to those.
    async fn until_state(&self, peers: &[u16], others: &[u16], state: LinkState) {
        let is_so = self.reaches_state(peers, others, state);
        let in_time = tokio::time::timeout(PATIENCE, is_so).await;
        assert!(
            in_time.is_ok(),
            "the links between {peers:?} and {others:?} are not {state:?}"
        );
    }

    async fn reaches_state(&self, peers: &[u16], others: &[u16], state: LinkState) {
        for peer in peers {
            let mut links = self
                .cluster
                .node(usize::from(*peer))
                .peers()
                .links()
                .watch();
            let is_so = links.wait_for(|map| {
                let others = others.iter().filter(|other| *other != peer);
                others
                    .copied()
                    .all(|other| map.state(PeerId(other)) == state)
            });
            is_so.await.unwrap();
        }
    }

    async fn publish(&mut self) {
        let number = (name_owned_by("p", 3), 1, self.published);
        let number = (number.0.as_str(), number.1, number.2);
        let published = publish_as(&mut self.client, &self.topic, number, "m").await;
        assert_eq!(published.unwrap().first_offset, self.published);
        self.published += 1;
    }

    /// Cuts and heals until it was done [`FLAPS`] times, with a publish after each. Gives how often the link was up again before the next cut.
    async fn flap(&mut self, peer: u16, others: &[u16]) -> u64 {
        let mut ups = 0;
        for _ in 0..FLAPS {
            self.cut(peer, others);
            self.until_state(&[peer], others, LinkState::Silent).await;
            self.publish().await;
            self.heal();
            let ends = [peer];
            let up = self.reaches_state(&ends, others, LinkState::Up);
            ups += u64::from(tokio::time::timeout(UP_SOON, up).await.is_ok());
        }
        self.until_state(&[peer], others, LinkState::Up).await;
        self.publish().await;
        ups
    }

    /// Looks how many elections there were.
    fn rose_by_at_most(&self, before: &BTreeMap<u16, u64>, limit: impl Fn(u16) -> u64) {
        for (shard, term) in self.terms() {
            let (rise, limit) = (term - before[&shard], limit(shard));
            assert!(rise <= limit, "shard {shard}: {rise} terms, not {limit}");
        }
    }

    async fn settles(mut self) {
        self.cluster.assert_replicas_equal().await;
        self.cluster.stop().await;
    }
}

// REQ F5: Raft goes round the link, so that nobody has a reason to stand.
#[tokio::test(flavor = "multi_thread")]
async fn flapping_link_between_leader_and_voter_causes_no_election() {
    let mut scene = Scene::new().await;
    let before = scene.terms();
    let ups = scene.flap(4, &[5]).await;
    assert!(ups < FLAPS, "the link is left down after the third time");
    scene.rose_by_at_most(&before, |_| STRAY_MAX);
    scene.settles().await;
}

// REQ F5: each loss of the leader that is seen costs an election, and each return a transfer; no more.
#[tokio::test(flavor = "multi_thread")]
async fn flapping_leader_causes_no_election_storm() {
    let mut scene = Scene::new().await;
    let before = scene.terms();
    let ups = scene.flap(4, &[0, 1, 2, 3, 5, 6, 7]).await;
    // It leads one shard, and follows in the others.
    let limit = |shard| if shard == 4 { 2 * (ups + 1) } else { 0 };
    scene.rose_by_at_most(&before, |shard| limit(shard) + STRAY_MAX);
    scene.settles().await;
}
