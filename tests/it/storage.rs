//! Disks over time: the log stays bounded, replicas that lost something are made again, topics are trimmed, a full disk refuses and recovers.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cubecast::replica::Replica;
use cubecast::shard::Command;
use cubecast::testing::TestCluster;
use cubecast::types::{ByteCount, Retention, TopicName};
use cubecast_sdk::proto::v1::{GetNodeStatusRequest, StorageStatus};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Code;

use crate::support::{Plain, create_topic, name_owned_by, plain, publish, reason, vertex};

/// How long eight debug builds on a busy machine may take until all is whole again.
const HEAL_MAX: Duration = Duration::from_secs(120);
/// Everything is small and eager, so that little load makes what else takes days.
const SMALL: [(&str, &str); 7] = [
    ("limits.message_bytes_max", "16384"),
    ("limits.request_bytes_max", "65536"),
    ("wal.segment_bytes_max", "262144"),
    ("wal.keep_bytes", "262144"),
    ("store.memtable_bytes", "1048576"),
    ("store.flush_interval", "100ms"),
    ("retention.interval", "100ms"),
];
/// More than the log keeps, several times.
const LOAD_MESSAGES: usize = 300;

fn deadline() -> Instant {
    Instant::now() + HEAL_MAX
}

/// Eight kilobytes that tell themselves from others.
fn text(number: u64) -> String {
    format!("{number:>8192}")
}

/// A topic for each peer to own.
async fn topics(client: &mut Plain) -> Vec<String> {
    let topics: Vec<String> = (0..8).map(|owner| name_owned_by("disk-", owner)).collect();
    for topic in &topics {
        create_topic(client, topic).await;
    }
    topics
}

async fn load(client: &mut Plain, topics: &[String]) {
    for number in 0..LOAD_MESSAGES {
        let topic = &topics[number % topics.len()];
        publish_surely(client, topic, &text(number as u64)).await;
    }
}

/// Publishes, twice if need be: a replica that finds damage begins anew, and what is published at that moment without a number is of unknown fate.
async fn publish_surely(client: &mut Plain, topic: &str, text: &str) {
    let end = deadline();
    while let Err(status) = publish(client, topic, &[text]).await {
        assert_eq!(reason(&status).1, "OUTCOME_UNKNOWN", "{status:?}");
        assert!(Instant::now() < end, "{status:?}");
    }
}

async fn heal(cluster: &mut TestCluster) {
    let end = deadline();
    while let Some(problem) = cluster.replicas_differ().await {
        assert!(Instant::now() < end, "not whole: {problem}");
        cluster.restart_failed().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn storage(client: &mut Plain) -> StorageStatus {
    let status = client.get_node_status(GetNodeStatusRequest {}).await;
    status.unwrap().into_inner().storage.unwrap()
}

async fn wait_for_short_log(cluster: &TestCluster, peer: usize) {
    let mut client = plain(cluster.address(peer)).await;
    let end = deadline();
    loop {
        let now = storage(&mut client).await;
        // One is written, as many are kept as are asked for, one may be on its way out.
        if now.wal_segments <= 4 {
            return;
        }
        assert!(Instant::now() < end, "peer {peer} keeps its log: {now:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Publishes until it is told to stop, whatever fails meanwhile.
struct Loader {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Loader {
    fn start(client: Plain, topics: Vec<String>) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (is_stopped, count) = (Arc::clone(&stop), Arc::<AtomicU64>::clone(&acknowledged));
        let task = tokio::spawn(async move {
            let mut client = client;
            for topic in topics.iter().cycle() {
                if is_stopped.load(Ordering::Relaxed) {
                    return;
                }
                if publish(&mut client, topic, &[&text(7)]).await.is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self {
            stop,
            acknowledged,
            task,
        }
    }

    /// Waits until so many more were acknowledged.
    async fn goes_on(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        let end = deadline();
        while self.acknowledged.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < end, "publishes do not go on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

/// Largest files first.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    found
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    let file = file.unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn has_folder(cluster: &TestCluster, peer: usize, prefix: &str) -> bool {
    let names = fs::read_dir(cluster.peer_dir(peer)).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.any(|name| name.starts_with(prefix))
}

// The log is let go of when the store holds what was in it; a peer that missed more than is left gets a snapshot (F5).
#[tokio::test(flavor = "multi_thread")]
async fn log_stays_short_and_a_peer_far_behind_gets_a_snapshot() {
    let mut cluster = TestCluster::with_settings(&SMALL).await;
    let mut client = plain(cluster.address(3)).await;
    let topics = topics(&mut client).await;
    load(&mut client, &topics).await;
    for peer in 0..8 {
        wait_for_short_log(&cluster, peer).await;
    }
    cluster.stop_peer(5).await;
    // What the others lead goes on at once; the shard of the stopped peer as soon as another leads it.
    let others: Vec<String> = topics.iter().take(5).cloned().collect();
    load(&mut client, &others).await;
    for peer in [0, 4, 6, 7] {
        wait_for_short_log(&cluster, peer).await;
    }
    cluster.start_peer(5).await;
    heal(&mut cluster).await;
    cluster.stop().await;
}

// REQ F6: a peer whose directory was emptied, with the shard that it led, while the others take load.
#[tokio::test(flavor = "multi_thread")]
async fn wiped_peer_comes_back_as_another_and_votes_again() {
    let mut cluster = TestCluster::with_settings(&SMALL).await;
    let mut client = plain(cluster.address(3)).await;
    let topics = topics(&mut client).await;
    load(&mut client, &topics).await;
    let loader = Loader::start(client.clone(), topics);
    cluster.stop_peer(5).await;
    cluster.wipe_peer(5);
    loader.goes_on(20).await;
    cluster.start_peer(5).await;
    loader.goes_on(20).await;
    // It is let in while the load goes on.
    assert!(cluster.node(5).ready(deadline()).await);
    loader.stop().await;
    heal(&mut cluster).await;
    let mut wiped = plain(cluster.address(5)).await;
    let status = wiped.get_node_status(GetNodeStatusRequest {}).await;
    assert!(status.unwrap().get_ref().incarnation > 1);
    let own = |shard: u16| {
        let replica = cluster.node(5).replicas().get(vertex(shard)).unwrap();
        let members = replica.status().replicas;
        members.into_iter().find(|member| member.peer.0 == 5)
    };
    // Its own shard it votes in again; in others the standby may have its vote by now.
    let end = deadline();
    while !own(5).is_some_and(|own| own.is_voter) {
        assert!(Instant::now() < end, "{:?}", own(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for shard in [4, 7] {
        assert!(own(shard).is_some(), "shard {shard}");
    }
    // The new life survives a restart, and is worth as much as the one before: the other voters may go.
    let node = |cluster: &TestCluster| {
        let replica = cluster.node(5).replicas().get(vertex(5)).unwrap();
        replica.group().unwrap().node()
    };
    let before = node(&cluster);
    cluster.stop_peer(5).await;
    cluster.start_peer(5).await;
    cluster.ready().await;
    assert_eq!(node(&cluster), before, "it is the same life");
    cluster.stop_peer(4).await;
    let loader = Loader::start(
        plain(cluster.address(7)).await,
        vec![name_owned_by("disk-", 5)],
    );
    loader.goes_on(3).await;
    loader.stop().await;
    cluster.start_peer(4).await;
    heal(&mut cluster).await;
    cluster.stop().await;
}

// G7: what a peer's store holds is damaged; it is found, and made again from the others.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_store_is_made_again_from_the_others() {
    let mut cluster = TestCluster::with_settings(&SMALL).await;
    let mut client = plain(cluster.address(3)).await;
    let topics = topics(&mut client).await;
    load(&mut client, &topics).await;
    wait_for_short_log(&cluster, 5).await;
    cluster.stop_peer(5).await;
    let files = files(&cluster.peer_dir(5).join("store"));
    for path in files.iter().take(3) {
        let length = fs::metadata(path).unwrap().len();
        for part in 1..8 {
            flip(path, length * part / 8);
        }
    }
    cluster.start_peer(5).await;
    // Reading everything finds it.
    heal(&mut cluster).await;
    load(&mut client, &topics).await;
    heal(&mut cluster).await;
    cluster.stop().await;
}

// G7: a damaged log is moved aside, and the peer begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_log_is_moved_aside_and_the_peer_begins_anew() {
    let mut cluster = TestCluster::with_settings(&SMALL).await;
    let mut client = plain(cluster.address(3)).await;
    let topics = topics(&mut client).await;
    load(&mut client, &topics).await;
    cluster.stop_peer(5).await;
    let mut segments = files(&cluster.peer_dir(5).join("wal"));
    segments.retain(|path| path.extension().is_some_and(|end| end == "wal"));
    segments.sort();
    flip(&segments[0], 64 + 20);
    cluster.start_peer(5).await;
    assert!(has_folder(&cluster, 5, "wal.damaged-"));
    heal(&mut cluster).await;
    load(&mut client, &topics).await;
    heal(&mut cluster).await;
    cluster.stop().await;
}

/// The replica that leads the shard of a peer now.
async fn leader_of(cluster: &TestCluster, peer: u16) -> Replica {
    let end = deadline();
    loop {
        let replicas = [0, 4, 5, 6].map(|holder| cluster.node(holder).replicas().get(vertex(peer)));
        let mut replicas = replicas.into_iter().flatten();
        if let Some(leader) = replicas.find(|replica| replica.leader().borrow().is_ready) {
            return leader;
        }
        assert!(Instant::now() < end, "nobody leads");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_trimmed_on_all_replicas_alike() {
    let mut cluster = TestCluster::with_settings(&SMALL).await;
    let mut client = plain(cluster.address(3)).await;
    let topics = topics(&mut client).await;
    let topic = TopicName::new(&topics[4]).unwrap();
    let keep = Retention {
        bytes: Some(ByteCount(100_000)),
        ..Retention::default()
    };
    let end = deadline();
    loop {
        let command = Command::SetRetention {
            topic: topic.clone(),
            retention: keep,
        };
        match leader_of(&cluster, 4).await.propose(command, end).await {
            Ok(set) => break assert!(set.outcome.is_ok(), "{set:?}"),
            // Leadership may move on a busy machine.
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
    load(&mut client, &topics[4..5]).await;
    loop {
        let view = leader_of(&cluster, 4).await.view();
        let row = view.topic(&topic).unwrap().unwrap();
        if row.first_offset.0 > 200 && row.bytes.0 < 200_000 {
            break;
        }
        assert!(Instant::now() < end, "not trimmed: {row:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    heal(&mut cluster).await;
    cluster.stop().await;
}

/// A small file system of its own; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Program::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1g", "tmpfs"])
            .arg(folder.path())
            .output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        is_mounted.then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Program::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_refuses_publishes_and_recovers() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: this process may not mount a file system");
        return;
    };
    let mut settings = SMALL.to_vec();
    settings.push(("disk.reserve_bytes", "67108864"));
    let mut cluster = TestCluster::reopen(disk.0.path(), &settings).await;
    let mut client = plain(cluster.address(3)).await;
    let topics = topics(&mut client).await;
    load(&mut client, &topics).await;
    let free = storage(&mut client).await.disk_free_bytes.unwrap();
    // Between the reserve and half of it.
    let filler = fs::File::create(disk.0.path().join("filler")).unwrap();
    let filled = Program::new("fallocate")
        .args(["-l", &(free - 50_000_000).to_string()])
        .arg(disk.0.path().join("filler"))
        .status();
    assert!(filled.unwrap().success());
    let end = deadline();
    loop {
        match publish(&mut client, &topics[0], &["one more"]).await {
            Ok(_) => {}
            Err(status) => {
                let (code, why) = reason(&status);
                assert_eq!(
                    (code, why.as_str()),
                    (Code::ResourceExhausted, "STORAGE_FULL")
                );
                break;
            }
        }
        assert!(Instant::now() < end, "publishes are still taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(filler);
    fs::remove_file(disk.0.path().join("filler")).unwrap();
    let end = deadline();
    while let Err(status) = publish(&mut client, &topics[0], &["again"]).await {
        assert!(Instant::now() < end, "{status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    heal(&mut cluster).await;
    cluster.stop().await;
}
