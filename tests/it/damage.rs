//! Flipped bits and cut files on the disks of peers (guarantee G7).
//!
//! Peers are stopped, their files are damaged at random, they come back while the others take load. Whatever was hit: nothing acknowledged is lost, nothing
//! wrong is served, and in the end all replicas are equal again. The seed is printed; `CUBECAST_DAMAGE_SEED` repeats a run.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cubecast::testing::TestCluster;
use cubecast_sdk::{Client, Consistency, PullOptions, Start};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::support::name_owned_by;

/// Bits flipped in each peer that is damaged.
const FLIPS: usize = 12;
/// How long damaged peers may take until all is whole again, with a debug build on a busy machine.
const HEAL_MAX: Duration = Duration::from_secs(120);

/// Small files and an eager store, so that everything there is has been on disk, in every kind of file.
const SETTINGS: [(&str, &str); 7] = [
    ("limits.request_bytes_max", "65536"),
    ("limits.message_bytes_max", "32768"),
    ("wal.segment_bytes_max", "262144"),
    ("wal.keep_bytes", "262144"),
    ("store.memtable_bytes", "1048576"),
    ("store.flush_interval", "200ms"),
    // Voters stay whom they are, so that it is known who is a minority.
    ("failover.standby_after", "10min"),
];

/// What was acknowledged: topic, offset, text.
#[derive(Default)]
struct Truth {
    acknowledged: BTreeMap<String, BTreeMap<u64, String>>,
    written: u64,
}

impl Truth {
    /// Publishes so many messages to each topic; a publish that fails may have happened and counts as neither.
    async fn publish(&mut self, client: &Client, topics: &[String], count: usize) {
        for _ in 0..count {
            for topic in topics {
                let text = format!("{:>200}", self.written);
                self.written += 1;
                if let Ok(published) = client.publish(topic, [text.clone()]).await {
                    let offsets = self.acknowledged.entry(topic.clone()).or_default();
                    let earlier = offsets.insert(published.first_offset, text);
                    assert_eq!(earlier, None, "an offset is given once");
                }
            }
        }
    }

    /// Reads everything back, as somebody who comes now.
    async fn check(&self, client: &Client, name: &str) {
        client.create_subscriber(name).await.unwrap();
        for (topic, acknowledged) in &self.acknowledged {
            let subscriber = client.subscriber(name);
            let subscription = subscriber.subscribe(topic, Start::Earliest).await.unwrap();
            let mut found = BTreeMap::new();
            let mut next = 0;
            loop {
                let options = PullOptions::new()
                    .consistency(Consistency::Linearizable)
                    .acknowledge_to(next);
                let pulled = subscription.pull(options).await.unwrap();
                let end = pulled.next_offset;
                for received in pulled {
                    let text = String::from_utf8(received.payload.to_vec()).unwrap();
                    found.insert(received.offset, text);
                }
                if end == next {
                    break;
                }
                next = end;
            }
            for (offset, text) in acknowledged {
                assert_eq!(found.get(offset), Some(text), "{topic} at {offset}");
            }
        }
    }
}

/// All files of a peer, without the locks.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("lock") && fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Flips bits and cuts one file; what was done, for the reader of a failure.
fn damage(folder: &Path, random: &mut StdRng) -> Vec<String> {
    let files = files(folder);
    let mut done = Vec::new();
    while done.len() < FLIPS {
        let path = files.choose(random).unwrap();
        // The store's engine may still remove files that it has merged; others were cut to nothing before.
        let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else {
            continue;
        };
        let length = file.metadata().unwrap().len();
        if length == 0 {
            continue;
        }
        let (at, bit) = (random.random_range(0..length), random.random_range(0..8));
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
        done.push(format!(
            "flipped bit {bit} of byte {at} of {}",
            path.display()
        ));
    }
    let path = files.choose(random).unwrap();
    if random.random_bool(0.5)
        && let Ok(file) = OpenOptions::new().write(true).open(path)
    {
        let length = file.metadata().unwrap().len();
        let kept = random.random_range(0..=length);
        file.set_len(kept).unwrap();
        done.push(format!("cut {} to {kept} of {length}", path.display()));
    }
    done
}

/// Waits until every replica serves, is a member in its place, can be read to the last byte, and equals the others.
/// A peer that cannot go on ends by itself; here nobody starts it again but this test.
async fn heal(cluster: &mut TestCluster, done: &mut Vec<String>) {
    let deadline = Instant::now() + HEAL_MAX;
    loop {
        for peer in 0..8 {
            let why = cluster.node(peer).failed().borrow().clone();
            if let Some(why) = why {
                done.push(format!("peer {peer} ended: {why}"));
                cluster.stop_peer(peer).await;
                start(cluster, peer, done).await;
            }
        }
        let Some(problem) = cluster.replicas_differ().await else {
            return;
        };
        assert!(
            Instant::now() < deadline,
            "not whole again: {problem}; {done:#?}"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Starts a peer. One that refuses has said so, and what to do: a peer that does not know who it is comes back as a new one.
async fn start(cluster: &mut TestCluster, peer: usize, done: &mut Vec<String>) {
    if let Err(error) = cluster.try_start_peer(peer).await {
        done.push(format!("peer {peer} refused: {error}"));
        cluster.wipe_peer(peer);
        cluster.start_peer(peer).await;
    }
}

/// Damages these peers at the same time.
async fn round(
    cluster: &mut TestCluster,
    victims: &[usize],
    (client, truth, topics): (&Client, &mut Truth, &[String]),
    random: &mut StdRng,
) {
    let mut done = Vec::new();
    for victim in victims {
        cluster.stop_peer(*victim).await;
        done.extend(damage(&cluster.peer_dir(*victim), random));
    }
    truth.publish(client, topics, 2).await;
    for victim in victims {
        start(cluster, *victim, &mut done).await;
    }
    truth.publish(client, topics, 2).await;
    heal(cluster, &mut done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_peers_are_made_whole_and_nothing_acknowledged_is_lost() {
    let seed = std::env::var("CUBECAST_DAMAGE_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("CUBECAST_DAMAGE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = TestCluster::with_settings(&SETTINGS).await;
    let client = Client::connect(cluster.addresses().to_vec()).await.unwrap();
    let topics: Vec<String> = (0..8).map(|owner| name_owned_by("whole-", owner)).collect();
    for topic in &topics {
        client.create_topic(topic).await.unwrap();
    }
    let mut truth = Truth::default();
    truth.publish(&client, &topics, 200).await;

    // One peer, again and again; a minority of each shard's voters: no two of them vote together; then each peer in turn.
    let alone = (0..4).map(|_| vec![random.random_range(0..8)]);
    let minorities = (0..4).map(|peer| vec![peer, peer + 4]);
    let in_turn = (0..8).map(|peer| vec![peer]);
    let rounds: Vec<Vec<usize>> = alone.chain(minorities).chain(in_turn).collect();
    for victims in rounds {
        round(
            &mut cluster,
            &victims,
            (&client, &mut truth, &topics),
            &mut random,
        )
        .await;
    }
    truth.check(&client, "afterwards").await;
    cluster.stop().await;
}
