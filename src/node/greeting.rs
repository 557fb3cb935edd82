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
            let written =
                tokio::task::spawn_blocking(move || directory.write_incarnation(incarnation)).await;
            match written {
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

    /// In which incarnation this peer is, if the others know of it what they said.
    fn judge(&self, answers: &BTreeMap<PeerId, Greeting>) -> Incarnation {
        let own = self.directory.id();
        let is_other = |greeting: &Greeting| {
            let known = greeting.known.is_some_and(|known| known.directory != own);
            // In its first life it may be a member by the word of a founder, before it ever spoke.
            known || greeting.highest > Some(Incarnation(1))
        };
        if !answers.values().any(is_other) {
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

    /// Whether of each shard's other voters as many answered as any majority must have one of.
    fn is_enough(&self, answers: &BTreeMap<PeerId, Greeting>) -> bool {
        let this = self.cluster.this();
        shards(&self.cluster).into_iter().all(|shard| {
            let voters = self.cluster.voters(shard);
            let majority = voters.len() / 2 + 1;
            let others = voters.iter().filter(|voter| **voter != this);
            let needed = majority.min(others.clone().count());
            let answered = others.filter(|voter| answers.contains_key(voter));
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
