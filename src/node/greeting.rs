//! A peer with a new directory asks the others who it is.
//!
//! A directory may be new because the cluster is, or because the peer's disk was lost. Only the others know. If one of them knows this peer under another
//! directory, it takes a new incarnation: its replicas then have Raft ids that never voted. As long as too few have answered, no replica
//! starts: whoever had a part in a vote of this peer's earlier life must be among those who were asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info};

use super::compose::shards;
use super::directory::Directory;
use crate::cluster::Cluster;
use crate::consensus::{self, Greeting};
use crate::env::clock::Clock;
use crate::link::Peers;
use crate::types::{Incarnation, PeerId};

/// When enough have answered, the rest may take this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// A peer that does not answer is asked again after this, …
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// … and each time after twice as long, up to this.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Seconds since 1970: greater than any incarnation that a peer had before, unless it begins anew twice within a second.
pub(super) fn incarnation_at(clock: &dyn Clock) -> Incarnation {
    let seconds = clock.now().0 / 1_000_000_000;
    Incarnation(u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// Finds out who this peer is.
pub(super) struct Greeter {
    pub(super) directory: Arc<Directory>,
    pub(super) cluster: Cluster,
    pub(super) peers: Peers,
    pub(super) clock: Arc<dyn Clock>,
    /// What was begun to be written is waited for, also when the peer stops meanwhile: the directory is free for others after that.
    pub(super) tasks: TaskTracker,
}

impl Greeter {
    /// Asks, until enough have answered; writes down what follows, and lets the replicas begin.
    pub(super) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.settle() => {}
        }
    }

    async fn settle(&self) {
        // Who knows who it is keeps to it, whatever others think.
        if self.directory.incarnation() != Incarnation(0) {
            return;
        }
        let answers = self.ask_all().await;
        let incarnation = self.judge(&answers);
        let mut pause = PAUSE_MIN;
        loop {
            let directory = Arc::clone(&self.directory);
            let write = move || directory.write_incarnation(incarnation);
            match self.tasks.spawn_blocking(write).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    error!(%error, "could not write down who this peer is; trying again");
                }
                Err(_) => return,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        // The others are told before the first replica starts, and only what is on disk.
        self.peers.begin_anew(incarnation);
        self.directory.release();
    }

    /// Whether another peer knows this one by another directory, or in another life.
    fn is_other(&self, greeting: &Greeting) -> bool {
        let own = self.directory.id();
        let known = greeting.known.is_some_and(|known| known.directory != own);
        // In its first life it may be a member by the word of a founder, before it ever spoke.
        known || greeting.highest > Some(Incarnation(1))
    }

    /// In which incarnation this peer is, if the others know of it what they said.
    fn judge(&self, answers: &BTreeMap<PeerId, Greeting>) -> Incarnation {
        if !answers.values().any(|greeting| self.is_other(greeting)) {
            return Incarnation(1);
        }
        let latest = answers.values().filter_map(Greeting::latest).max();
        let next = Incarnation(latest.map_or(2, |latest| latest.0.saturating_add(1)));
        let incarnation = next.max(incarnation_at(&*self.clock));
        info!(%incarnation, "other peers know this one under another data directory: it begins anew, and its replicas are made again");
        incarnation
    }

    /// Asks all that share a shard with this peer, until all have answered, or enough have and the rest had their time.
    async fn ask_all(&self) -> BTreeMap<PeerId, Greeting> {
        let this = self.cluster.this();
        let mut others: BTreeSet<PeerId> = BTreeSet::new();
        for shard in shards(&self.cluster) {
            others.extend(self.cluster.replicas(shard));
        }
        others.remove(&this);
        let mut asked: FuturesUnordered<_> = others.iter().map(|peer| self.ask(*peer)).collect();
        let mut answers = BTreeMap::new();
        let mut end: Option<Instant> = None;
        loop {
            if end.is_none() && self.is_enough(&answers) {
                end = Some(Instant::now() + PATIENCE);
            }
            let next = match end {
                Some(end) => tokio::time::timeout_at(end, asked.next()).await,
                None => Ok(asked.next().await),
            };
            match next {
                Ok(Some((peer, greeting))) => answers.insert(peer, greeting),
                Ok(None) | Err(_) => return answers,
            };
        }
    }

    /// Whether the answers decide. One of a peer that knows this one otherwise does: a new incarnation never voted. That nobody knows it counts only when of
    /// each shard's other replicas so many say so that one of any majority with this peer is among them; standbys too, since each may have voted.
    fn is_enough(&self, answers: &BTreeMap<PeerId, Greeting>) -> bool {
        if answers.values().any(|greeting| self.is_other(greeting)) {
            return true;
        }
        let this = self.cluster.this();
        shards(&self.cluster).into_iter().all(|shard| {
            let majority = self.cluster.voters(shard).len() / 2 + 1;
            let mut others = self.cluster.replicas(shard);
            others.retain(|peer| *peer != this);
            let needed = (others.len() + 2)
                .saturating_sub(majority)
                .min(others.len());
            let answered = others.iter().filter(|peer| answers.contains_key(peer));
            answered.count() >= needed
        })
    }

    async fn ask(&self, peer: PeerId) -> (PeerId, Greeting) {
        let mut pause = PAUSE_MIN;
        loop {
            match consensus::greet(&self.peers, peer).await {
                Ok(greeting) => return (peer, greeting),
                Err(error) => debug!(%peer, %error, "a peer does not greet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::identity::Owner;
    use super::*;
    use crate::cluster::{Member, Options};
    use crate::env::clock::SystemClock;
    use crate::env::disk::{Disk, SystemDisk};
    use crate::link::{self, Acquaintances};
    use crate::types::{Dimension, Name};

    /// A peer that holds its shards alone, and so has nobody to ask.
    fn greeter(folder: &std::path::Path) -> Greeter {
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        let dimension = Dimension::new(1).unwrap();
        let owner = Owner {
            cluster: Name::new("test").unwrap(),
            dimension,
            peer: PeerId(0),
        };
        let members = dimension.vertices().map(|vertex| Member {
            peer: PeerId(vertex.index()),
            vertex,
            address: "http://127.0.0.1:1".to_owned(),
        });
        let cluster = Cluster::new(Options {
            this: PeerId(0),
            members: members.collect(),
            dimension,
            replication_factor: 1,
        });
        let identity = link::Identity {
            cluster: "test".to_owned(),
            peer: PeerId(0),
            directory: 7,
            incarnation: Incarnation(0),
        };
        let link = link::Options::new(identity, BTreeMap::new());
        let known = Acquaintances::open(Arc::clone(&disk), folder).unwrap();
        Greeter {
            directory: Arc::new(Directory::open(&disk, folder, &owner, 7).unwrap()),
            cluster: cluster.unwrap(),
            peers: Peers::new(&link, Arc::new(known)).unwrap(),
            clock: Arc::new(SystemClock::default()),
            tasks: TaskTracker::new(),
        }
    }

    // The directory is given to others when the peer has stopped; nobody may be writing there then.
    #[test]
    fn stop_waits_for_what_is_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (release, held) = mpsc::sync_channel::<()>(1);
            let busy = tokio::task::spawn_blocking(move || held.recv());
            let greeter = greeter(folder.path());
            let (directory, tasks) = (Arc::clone(&greeter.directory), greeter.tasks.clone());
            let stop = CancellationToken::new();
            let running = tasks.spawn(greeter.run(stop.clone()));
            // The greeter, and what it writes.
            while tasks.len() < 2 {
                tokio::task::yield_now().await;
            }
            stop.cancel();
            running.await.unwrap();
            tasks.close();
            assert_eq!((tasks.len(), directory.incarnation()), (1, Incarnation(0)));
            release.send(()).unwrap();
            busy.await.unwrap().unwrap();
            tasks.wait().await;
            assert_eq!(directory.incarnation(), Incarnation(1));
        });
    }
}
