//! Peers that stop: which topics serve and which refuse, what comes back, and who leads then.

use std::time::Duration;

use cubecast::consensus::Role;
use cubecast::testing::TestCluster;
use cubecast_sdk::proto::v1::{
    DeleteTopicRequest, GetTopicRequest, GetTopicResponse, ReadConsistency,
};
use futures::future::join_all;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::support::{
    Plain, all_know_gone, create_subscriber, create_topic, name_owned_by, plain, publish, pull,
    reason, subscribe, vertex,
};
use crate::wire::PATIENCE;

/// Voters stay whom they are, and leadership comes home soon.
const SAME_VOTERS: [(&str, &str); 2] = [
    ("failover.standby_after", "60s"),
    ("failover.return_after", "100ms"),
];

/// The standby steps in soon, and leadership comes home soon.
const QUICK: [(&str, &str); 2] = [
    ("failover.standby_after", "50ms"),
    ("failover.return_after", "100ms"),
];

/// Far less than any deadline of these calls, far more than a round of refusals takes on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A topic of each vertex.
fn topics() -> Vec<String> {
    (0..8).map(|owner| name_owned_by("news", owner)).collect()
}

/// The peers that vote at first for the shard of a vertex, and the one that stands by.
fn replicas(owner: u16) -> ([usize; 3], usize) {
    let at = |bits: u16| usize::from(owner ^ bits);
    ([at(0), at(1), at(2)], at(4))
}

async fn get(
    mut client: Plain,
    topic: &str,
    consistency: ReadConsistency,
) -> Result<GetTopicResponse, Status> {
    let request = GetTopicRequest {
        topic: topic.to_owned(),
        consistency: consistency.into(),
    };
    let answer = client.get_topic(request).await;
    answer.map(tonic::Response::into_inner)
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The peers that vote for the shard of a vertex, as its leader says.
fn voters(cluster: &TestCluster, owner: u16, up: &[usize]) -> Option<Vec<u16>> {
    let mut statuses = up
        .iter()
        .filter_map(|peer| cluster.node(*peer).replicas().get(vertex(owner)))
        .map(|replica| replica.status());
    let leader = statuses.find(|status| status.role == Role::Leader)?;
    let voters = leader.replicas.iter().filter(|member| member.is_voter);
    Some(voters.map(|member| member.peer.0).collect())
}

/// Whether every shard is led by its owner.
fn are_all_home(cluster: &TestCluster) -> bool {
    (0..8).all(|owner| {
        let replica = cluster
            .node(usize::from(owner))
            .replicas()
            .get(vertex(owner));
        replica.is_some_and(|replica| replica.leader().borrow().is_ready)
    })
}

/// One topic while these two are dead: a publish and what reads see, or a refusal at once.
async fn check_topic(
    client: &Plain,
    owner: u16,
    topic: &str,
    dead: [usize; 2],
    published: &mut u64,
) {
    let (voters, _) = replicas(owner);
    let lost = voters.iter().filter(|peer| dead.contains(peer)).count();
    let began = Instant::now();
    let result = publish(&mut client.clone(), topic, &["m"]).await;
    if lost < 2 {
        let response = result.unwrap_or_else(|error| panic!("{topic} without {dead:?}: {error:?}"));
        assert_eq!(
            response.first_offset, *published,
            "{topic} without {dead:?}"
        );
        *published += 1;
        let read = get(client.clone(), topic, ReadConsistency::Linearizable).await;
        assert_eq!(read.unwrap().topic.unwrap().next_offset, *published);
    } else {
        for refused in [
            result.map(|_| ()),
            get(client.clone(), topic, ReadConsistency::Linearizable)
                .await
                .map(|_| ()),
        ] {
            let status = refused.unwrap_err();
            let told = (Code::Unavailable, "NO_QUORUM".to_owned());
            assert_eq!(
                reason(&status),
                told,
                "{topic} without {dead:?}: {status:?}"
            );
        }
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    }
    let read = get(client.clone(), topic, ReadConsistency::Eventual).await;
    assert!(read.is_ok(), "{topic} without {dead:?}: {read:?}");
}

// REQ D7, G6: two peers die within a moment, each pair once. A shard that keeps two of its three voters serves, another refuses at once; all can be
// read. Nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn every_pair_of_peers_may_be_dead() {
    let mut cluster = TestCluster::with_settings(&SAME_VOTERS).await;
    let topics = topics();
    let mut client = plain(cluster.address(0)).await;
    for topic in &topics {
        create_topic(&mut client, topic).await;
    }
    let mut published = [0; 8];
    for first in 0..8 {
        for second in first + 1..8 {
            cluster.stop_peer(first).await;
            cluster.stop_peer(second).await;
            let dead = [first, second].map(|peer| u16::try_from(peer).unwrap());
            all_know_gone(&cluster, &dead).await;
            let asked = (0..8).find(|peer| ![first, second].contains(peer)).unwrap();
            let client = plain(cluster.address(asked)).await;
            let checks = topics.iter().zip(0..).zip(&mut published);
            let checks = checks.map(|((topic, owner), published)| {
                check_topic(&client, owner, topic, [first, second], published)
            });
            join_all(checks).await;
            cluster.start_peer(first).await;
            cluster.start_peer(second).await;
            cluster.ready().await;
        }
    }
    cluster.assert_replicas_equal().await;
    let client = plain(cluster.address(0)).await;
    for (topic, published) in topics.iter().zip(published) {
        let read = get(client.clone(), topic, ReadConsistency::Linearizable).await;
        assert_eq!(
            read.unwrap().topic.unwrap().next_offset,
            published,
            "{topic}"
        );
    }
    cluster.stop().await;
}

// REQ F4, D7: the standby steps in, so that the owner and a neighbour may die one after the other; with the third voter nothing is left but reads.
#[tokio::test(flavor = "multi_thread")]
async fn shard_survives_a_second_death_after_the_standby_has_stepped_in() {
    let mut cluster = TestCluster::with_settings(&QUICK).await;
    let topic = name_owned_by("second", 4);
    let mut client = plain(cluster.address(3)).await;
    create_topic(&mut client, &topic).await;
    publish(&mut client, &topic, &["a"]).await.unwrap();
    cluster.stop_peer(4).await;
    let up = [0, 5, 6];
    until("the standby votes", || {
        voters(&cluster, 4, &up) == Some(vec![0, 5, 6])
    })
    .await;
    publish(&mut client, &topic, &["b"]).await.unwrap();
    cluster.stop_peer(5).await;
    all_know_gone(&cluster, &[4, 5]).await;
    let served = publish(&mut client, &topic, &["c"]).await.unwrap();
    assert_eq!(served.first_offset, 2);
    // A follower may have an acknowledged message without knowing yet that it is committed; only then may it read it.
    let last = plain(cluster.address(0)).await;
    let end = Instant::now() + PATIENCE;
    loop {
        let read = get(last.clone(), &topic, ReadConsistency::Eventual).await;
        if read.unwrap().topic.unwrap().next_offset == 3 {
            break;
        }
        assert!(Instant::now() < end, "the last replica has not applied it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.stop_peer(6).await;
    all_know_gone(&cluster, &[4, 5, 6]).await;
    let refused = publish(&mut client, &topic, &["d"]).await.unwrap_err();
    assert_eq!(
        reason(&refused),
        (Code::Unavailable, "NO_QUORUM".to_owned()),
        "{refused:?}"
    );
    let read = get(client.clone(), &topic, ReadConsistency::Eventual).await;
    assert_eq!(read.unwrap().topic.unwrap().next_offset, 3);
    for peer in [6, 5, 4] {
        cluster.start_peer(peer).await;
    }
    cluster.ready().await;
    until("all owners lead", || are_all_home(&cluster)).await;
    let served = publish(&mut client, &topic, &["d"]).await.unwrap();
    assert_eq!(served.first_offset, 3);
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}

// REQ D2, D4, D8, E4, E5, E6: the owner is away while its topics are written to, subscribed to and deleted, through three peers; it comes back and
// has it all before it serves it.
#[tokio::test(flavor = "multi_thread")]
async fn owner_that_returns_has_what_happened_without_it() {
    let mut cluster = TestCluster::with_settings(&QUICK).await;
    let (news, gone) = (name_owned_by("outage", 4), name_owned_by("deleted", 4));
    let mut client = plain(cluster.address(3)).await;
    for topic in [&news, &gone] {
        create_topic(&mut client, topic).await;
    }
    // Of another shard, whose owner stays.
    let subscriber = name_owned_by("s", 1);
    create_subscriber(&mut client, &subscriber).await;
    publish(&mut client, &news, &["a", "b"]).await.unwrap();
    cluster.stop_peer(4).await;
    // A publish without a number that meets the connection while it breaks is of unknown fate.
    all_know_gone(&cluster, &[4]).await;
    for (peer, text) in [(0, "c"), (5, "d"), (7, "e")] {
        let mut client = plain(cluster.address(peer)).await;
        publish(&mut client, &news, &[text]).await.unwrap();
    }
    subscribe(&mut client, &news, &subscriber).await;
    assert_eq!(
        pull(&mut client, &news, &subscriber).await,
        ["a", "b", "c", "d", "e"]
    );
    publish(&mut client, &news, &["f"]).await.unwrap();
    let delete = DeleteTopicRequest {
        topic: gone.clone(),
    };
    client.delete_topic(delete).await.unwrap();
    cluster.start_peer(4).await;
    until("the owner leads", || {
        let replica = cluster.node(4).replicas().get(vertex(4)).unwrap();
        replica.leader().borrow().is_ready
    })
    .await;
    let mut owner = plain(cluster.address(4)).await;
    assert_eq!(pull(&mut owner, &news, &subscriber).await, ["f"]);
    let deleted = get(owner, &gone, ReadConsistency::Eventual).await;
    assert_eq!(deleted.unwrap_err().code(), Code::NotFound);
    let all = (0..8).collect::<Vec<usize>>();
    until("the owner votes", || {
        voters(&cluster, 4, &all) == Some(vec![4, 5, 6])
    })
    .await;
    cluster.assert_replicas_equal().await;
    cluster.stop().await;
}

// REQ F6: an owner with an emptied disk, whose vote the standby has by then.
#[tokio::test(flavor = "multi_thread")]
async fn owner_that_lost_its_disk_votes_and_leads_again() {
    let mut cluster = TestCluster::with_settings(&QUICK).await;
    let topic = name_owned_by("wiped", 2);
    let mut client = plain(cluster.address(5)).await;
    create_topic(&mut client, &topic).await;
    cluster.stop_peer(2).await;
    let up = [0, 1, 3, 4, 5, 6, 7];
    until("the standby votes", || {
        voters(&cluster, 2, &up) == Some(vec![0, 3, 6])
    })
    .await;
    publish(&mut client, &topic, &["a"]).await.unwrap();
    cluster.wipe_peer(2);
    cluster.start_peer(2).await;
    until("all owners lead", || are_all_home(&cluster)).await;
    publish(&mut client, &topic, &["b"]).await.unwrap();
    let end = Instant::now() + PATIENCE;
    while let Some(problem) = cluster.replicas_differ().await {
        assert!(Instant::now() < end, "{problem}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.stop().await;
}
