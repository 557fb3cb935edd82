//! A leader that falls silent with calls in its hands: those who passed them on do not wait for it.

use std::time::Duration;

use cubecast::link::{Fault, LinkState, Passage};
use cubecast::testing::TestCluster;
use cubecast::types::PeerId;
use cubecast_sdk::proto::v1::{
    GetTopicRequest, GetTopicResponse, PublishRequest, PublishResponse, PublishSequence,
    ReadConsistency,
};
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use crate::support::{
    Plain, create_publisher, create_topic, message, name_owned_by, plain, publish_as, reason,
};
use crate::wire::PATIENCE;

const SETTINGS: [(&str, &str); 3] = [
    ("fault_injection", "true"),
    ("link.interval", "100ms"),
    ("link.silence", "500ms"),
];

/// The deadline of each call: no answer may need it.
const DEADLINE: Duration = Duration::from_secs(60);
/// Silence, an election and the call itself, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// The owner of the topic, which leads; and a peer without a replica of it, which passes calls on.
const LEADER: u16 = 4;
const ASKED: u16 = 3;

struct Scene {
    cluster: TestCluster,
    client: Plain,
    topic: String,
}

impl Scene {
    /// A topic with one message.
    async fn new() -> Self {
        let cluster = TestCluster::with_settings(&SETTINGS).await;
        let mut client = plain(cluster.address(usize::from(ASKED))).await;
        let topic = name_owned_by("silent", LEADER);
        create_topic(&mut client, &topic).await;
        // Of a shard that stays as it is.
        create_publisher(&mut client, &publisher()).await;
        publish_as(&mut client, &topic, (&publisher(), 1, 0), "m0")
            .await
            .unwrap();
        let scene = Self {
            cluster,
            client,
            topic,
        };
        scene.until_link(LinkState::Up).await;
        scene
    }

    /// Waits until the peer that is asked says this of its link to the leader.
    async fn until_link(&self, state: LinkState) {
        let mut links = self
            .cluster
            .node(usize::from(ASKED))
            .peers()
            .links()
            .watch();
        let is_so = links.wait_for(|map| map.state(PeerId(LEADER)) == state);
        let in_time = tokio::time::timeout(PATIENCE, is_so).await;
        assert!(matches!(in_time, Ok(Ok(_))), "the link is not {state:?}");
    }

    /// From now on a peer sends nothing to these, or to nobody when none is named; it still takes what they send, as one that is paused does.
    fn silence(&self, peer: u16, to: &[u16]) {
        self.cluster
            .node(usize::from(peer))
            .peers()
            .faults()
            .inject(Fault {
                peers: to.iter().copied().map(PeerId).collect(),
                passage: Passage::Cut,
                ..Fault::default()
            });
    }

    fn publish(
        &self,
        sequence: Option<u64>,
    ) -> impl Future<Output = Result<PublishResponse, Status>> {
        let mut request = Request::new(PublishRequest {
            topic: self.topic.clone(),
            publisher: sequence.map_or_else(String::new, |_| publisher()),
            sequence: sequence.map(|sequence| PublishSequence {
                session: 1,
                sequence,
            }),
            messages: vec![message("m")],
            ..PublishRequest::default()
        });
        request.set_timeout(DEADLINE);
        let mut client = self.client.clone();
        async move {
            client
                .publish(request)
                .await
                .map(tonic::Response::into_inner)
        }
    }

    fn read(&self) -> impl Future<Output = Result<GetTopicResponse, Status>> {
        let mut request = Request::new(GetTopicRequest {
            topic: self.topic.clone(),
            consistency: ReadConsistency::Linearizable.into(),
        });
        request.set_timeout(DEADLINE);
        let mut client = self.client.clone();
        async move {
            client
                .get_topic(request)
                .await
                .map(tonic::Response::into_inner)
        }
    }

    /// Three calls that the leader takes and does not answer.
    async fn calls_end_soon(&self) {
        let begun = Instant::now();
        let (bare, numbered, read) =
            tokio::join!(self.publish(None), self.publish(Some(1)), self.read());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        let unknown = (Code::Unknown, "OUTCOME_UNKNOWN".to_owned());
        assert_eq!(reason(&bare.unwrap_err()), unknown);
        assert!(numbered.unwrap().first_offset >= 1);
        assert!(read.unwrap().topic.unwrap().next_offset >= 1);
    }

    /// What was numbered is there once, and replicas hold the same.
    async fn settles(mut self) {
        for peer in 0..8 {
            self.cluster.node(peer).peers().faults().clear(&[]);
        }
        self.until_link(LinkState::Up).await;
        let again = self.publish(Some(1)).await.unwrap();
        assert!(again.is_duplicate);
        self.publish(Some(2)).await.unwrap();
        self.cluster.assert_replicas_equal().await;
        self.cluster.stop().await;
    }
}

fn publisher() -> String {
    name_owned_by("p", 1)
}

// REQ F4, G8
#[tokio::test(flavor = "multi_thread")]
async fn calls_in_the_hands_of_a_silent_leader_end_when_it_is_found_silent() {
    let scene = Scene::new().await;
    scene.silence(LEADER, &[]);
    scene.calls_end_soon().await;
    scene.settles().await;
}

// REQ F4, F6, G8: the peer that was asked hears the leader through others alone.
#[tokio::test(flavor = "multi_thread")]
async fn calls_on_the_way_round_to_a_silent_leader_end_too() {
    let scene = Scene::new().await;
    scene.silence(ASKED, &[LEADER]);
    scene.until_link(LinkState::Silent).await;
    scene.silence(LEADER, &[]);
    scene.calls_end_soon().await;
    scene.settles().await;
}

// REQ F6, G3, G8: the leader lives, and another way leads there.
#[tokio::test(flavor = "multi_thread")]
async fn calls_on_a_link_that_is_cut_are_passed_on_by_another_way() {
    let scene = Scene::new().await;
    scene.silence(LEADER, &[ASKED]);
    scene.calls_end_soon().await;
    let read = scene.read().await.unwrap();
    // The bare one has arrived, too.
    assert_eq!(read.topic.unwrap().next_offset, 3);
    scene.settles().await;
}
