//! Clusters in two parts: each shard is served where its majority is, and refused at once elsewhere; together again they are one.

use std::time::Duration;

use cubecast::link::{Fault, LinkMap, LinkState, Passage};
use cubecast::testing::TestCluster;
use cubecast::types::PeerId;
use cubecast_sdk::proto::v1::{GetTopicRequest, ReadConsistency};
use futures::future::join_all;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::support::{Plain, create_topic, name_owned_by, plain, publish, reason};
use crate::wire::PATIENCE;

const ENABLED: &[(&str, &str)] = &[("fault_injection", "true")];
/// A refusal for want of a majority comes long before the deadline of a call, which is 10 s.
const AT_ONCE: Duration = Duration::from_secs(2);
/// The peers that vote for a shard at first, as bits in which they differ from its owner.
const VOTERS: [u16; 3] = [0, 1, 2];

struct World {
    cluster: TestCluster,
    /// One for each peer, which is asked for everything.
    clients: Vec<Plain>,
    /// One for each vertex.
    topics: Vec<String>,
}

impl World {
    async fn new() -> Self {
        let cluster = TestCluster::with_settings(ENABLED).await;
        let mut clients = join_all((0..8).map(|peer| plain(cluster.address(peer)))).await;
        let topics: Vec<String> = (0..8).map(|owner| name_owned_by("news", owner)).collect();
        for topic in &topics {
            create_topic(&mut clients[0], topic).await;
        }
        let world = Self {
            cluster,
            clients,
            topics,
        };
        world.until(LinkMap::is_up).await;
        world
    }

    /// Cuts all links between some peers and the others, and waits until everybody knows.
    async fn split(&self, few: &[u16]) {
        let is_across = |a: PeerId, b: PeerId| few.contains(&a.0) != few.contains(&b.0);
        for from in 0..8 {
            let across = (0..8).map(PeerId).filter(|to| is_across(PeerId(from), *to));
            let node = self.cluster.node(usize::from(from));
            node.peers().faults().inject(Fault {
                peers: across.collect(),
                passage: Passage::Cut,
                ..Fault::default()
            });
        }
        let is_split = |links: &LinkMap, from, to| {
            is_across(from, to) == matches!(links.state(to), LinkState::Silent | LinkState::Dead)
        };
        self.until(is_split).await;
    }

    async fn heal(&self) {
        for peer in 0..8 {
            self.cluster.node(peer).peers().faults().clear(&[]);
        }
        self.until(|links, _, to| links.state(to) == LinkState::Up)
            .await;
    }

    /// Waits until each peer says this of its link to each other one.
    async fn until(&self, is_so: impl Fn(&LinkMap, PeerId, PeerId) -> bool) {
        for from in 0..8_u16 {
            let mut watch = self.cluster.node(usize::from(from)).peers().links().watch();
            let others = || (0..8).filter(|to| *to != from).map(PeerId);
            let all = watch.wait_for(|links| others().all(|to| is_so(links, PeerId(from), to)));
            let in_time = tokio::time::timeout(PATIENCE, all).await;
            assert!(matches!(in_time, Ok(Ok(_))), "the links of peer {from}");
        }
    }

    /// As [`Self::use_topic`], again while it is not known what became of a publish: leadership may move meanwhile.
    async fn insist(&self, peer: u16, owner: u16) -> Result<(), Status> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.use_topic(peer, owner).await {
                Err(status) if status.code() == Code::Unknown && Instant::now() < deadline => {}
                done => return done,
            }
        }
    }

    /// Publishes to a topic and reads it, through this peer.
    async fn use_topic(&self, peer: u16, owner: u16) -> Result<(), Status> {
        let mut client = self.clients[usize::from(peer)].clone();
        let topic = &self.topics[usize::from(owner)];
        let published = publish(&mut client, topic, &["x"]).await?;
        let found = client
            .get_topic(GetTopicRequest {
                topic: topic.clone(),
                consistency: ReadConsistency::Linearizable.into(),
            })
            .await?;
        let next = found.into_inner().topic.unwrap().next_offset;
        assert!(next > published.first_offset, "the read misses the publish");
        Ok(())
    }

    /// Waits until all replicas hold the same, to the last byte.
    async fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(problem) = self.cluster.replicas_differ().await {
            assert!(Instant::now() < deadline, "{problem}");
        }
    }
}

fn everybody_and_everything() -> impl Iterator<Item = (u16, u16)> {
    (0..8).flat_map(|peer| (0..8).map(move |owner| (peer, owner)))
}

/// Cuts some peers from the others and looks who serves what.
async fn cut_off(few: &[u16]) {
    let mut world = World::new().await;
    world.split(few).await;
    join_all(everybody_and_everything().map(|(peer, owner)| {
        let world = &world;
        async move {
            let is_here = |voter: &&u16| few.contains(&(owner ^ **voter)) == few.contains(&peer);
            let has_majority = VOTERS.iter().filter(is_here).count() >= 2;
            let begun = Instant::now();
            let done = world.insist(peer, owner).await;
            let what = format!("topic of {owner} through {peer}: {done:?}");
            let Err(status) = done else {
                assert!(has_majority, "{what}");
                return;
            };
            assert!(!has_majority, "{what}");
            let no_quorum = (Code::Unavailable, "NO_QUORUM".to_owned());
            assert_eq!(reason(&status), no_quorum, "{what}");
            assert!(
                begun.elapsed() < AT_ONCE,
                "{what} after {:?}",
                begun.elapsed()
            );
        }
    }))
    .await;
    world.heal().await;
    join_all(everybody_and_everything().map(|(peer, owner)| {
        let world = &world;
        async move {
            let done = world.insist(peer, owner).await;
            done.unwrap_or_else(|status| panic!("topic of {owner} through {peer}: {status:?}"));
        }
    }))
    .await;
    world.settle().await;
    world.cluster.stop().await;
}

// REQ E20, G6: five and three.
#[tokio::test(flavor = "multi_thread")]
async fn three_are_cut_from_five() {
    cut_off(&[0, 1, 4]).await;
}

// REQ E20, G6: two faces of the cube.
#[tokio::test(flavor = "multi_thread")]
async fn four_are_cut_from_four() {
    cut_off(&[0, 1, 2, 3]).await;
}

// REQ E20, G6: one alone.
#[tokio::test(flavor = "multi_thread")]
async fn one_is_cut_from_seven() {
    cut_off(&[5]).await;
}
