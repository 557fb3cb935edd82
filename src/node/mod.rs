//! The composition root: one peer, built from its settings, until it is stopped.
//!
//! Here, and nowhere else, is decided who works with whom: the disk under the log and the store, those under the replicas, the replicas under
//! the calls, the calls behind the listener. It does no work of its own. Begin with [`Node::start`]; a peer that may be made to fail is in a [`Switch`].

mod aside;
mod compose;
mod directory;
mod error;
mod greeting;
mod identity;
pub mod inspect;
mod server;
mod storage;
mod switch;
mod upkeep;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::cluster::Cluster;
use crate::config::Config;
use crate::env::clock::{Clock, SystemClock};
use crate::env::disk::{Disk, Level, Room};
use crate::env::net::{self, Listener};
use crate::link::Peers;
use crate::replica::{Replica, Replicas};
use crate::rpc::Order;
use crate::types::{ByteCount, PeerId};
use crate::{rpc, store, wal};
use greeting::Greeter;
use storage::Storage;

pub use directory::Error as DirectoryError;
pub use error::{Error, Failure};
pub use switch::{State, Switch};

/// Ports that are tried after a busy one.
const NEXT_PORTS_MAX: u16 = 100;
/// With less, the store's engine may have stopped for want of room: it writes files of up to 64 MiB when it merges.
const ENGINE_ROOM_MIN: ByteCount = ByteCount(128 << 20);

/// A running peer.
pub struct Node {
    config: Config,
    address: SocketAddr,
    replicas: Replicas,
    /// Kept until the end: while it lives, no other process can take the directory.
    storage: Storage,
    failed: watch::Sender<Option<Arc<Failure>>>,
    stop: server::Stop,
    tasks: TaskTracker,
    peers: Peers,
    api: rpc::Api,
    health: rpc::HealthSwitch,
    outage: watch::Receiver<Option<Order>>,
}

impl Node {
    /// Starts a peer: opens its disk, joins its shards and serves. It listens on what `listener` is, or on what the settings say.
    ///
    /// # Errors
    /// [`Error`] says in one sentence what to mend: the port, the directory, damage.
    pub async fn start(config: Config, listener: Option<Listener>) -> Result<Self, Error> {
        let listener = match listener {
            Some(listener) => listener,
            None => listen(&config)?,
        };
        let address = listener.address();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let storage = open(&config, &*clock).await?;
        let cluster = Cluster::new(compose::cluster_options(&config))?;
        compose::log_neighbours(&cluster);
        let peers = Peers::new(
            &compose::link_options(&config, (&cluster, &storage.directory), &*clock),
            Arc::clone(&storage.acquaintances),
        )?;
        let replicas = compose::replicas(&config, &cluster, (&storage, &peers), &clock);
        let stop = server::Stop::default();
        let drain = || stop.drain.clone();
        let (outage, outages) = watch::channel(None);
        let api = rpc::Api::new(rpc::Parts {
            cluster: cluster.clone(),
            replicas: replicas.clone(),
            peers: peers.clone(),
            broker: compose::broker(&clock),
            limits: config.limits,
            facts: compose::facts(&config, &storage, drain(), &clock),
            outage,
            drain: drain(),
        });
        let health = rpc::Health::new().await;
        let switch = health.switch();
        let raft = rpc::raft::service(replicas.clone(), peers.clone());
        let link = rpc::link::service(peers.clone());
        let routes = rpc::routes(&api, health, |routes| {
            routes.add_service(raft).add_service(link)
        })?;
        let options = compose::server_options(&config);
        let tasks = TaskTracker::new();
        let server = server::Server::new(listener, routes, peers.clone(), options);
        tasks.spawn(server.run(stop.clone()));
        // Until the connections are cut: a peer that drains still lives.
        tasks.spawn(peers.links().clone().run(stop.cut.clone()));
        // Only now: the other peers wait for this one's answer as it waits for theirs.
        let greeter = Greeter {
            directory: Arc::clone(&storage.directory),
            cluster,
            peers: peers.clone(),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
        };
        tasks.spawn(greeter.run(drain()));
        let upkeep = compose::upkeep(&config, &storage, (&replicas, &tasks), &clock);
        tasks.spawn(upkeep.run(drain()));
        switch.serve().await;
        let failed = watch::Sender::new(None);
        let watcher = FailureWatch::new(&storage, failed.clone(), switch.clone());
        tasks.spawn(watcher.run(drain()));
        info!(peer = %config.peer, %address, "serving");
        Ok(Self {
            config,
            address,
            replicas,
            storage,
            failed,
            stop,
            tasks,
            peers,
            api,
            health: switch,
            outage: outages,
        })
    }

    /// The peer's number.
    pub fn peer(&self) -> PeerId {
        self.config.peer
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its replicas.
    pub fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    /// The other peers, with what is known of the links to them.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Waits until every replica of this peer serves and knows a leader; false when the deadline came first.
    pub async fn ready(&self, deadline: Instant) -> bool {
        for replica in self.replicas.all() {
            let mut leader = replica.leader();
            let led = leader.wait_for(|now| now.leader.is_some());
            if !matches!(tokio::time::timeout_at(deadline, led).await, Ok(Ok(_))) {
                return false;
            }
        }
        true
    }

    /// Turns to why the peer cannot go on: its disk could not be written. What it had acknowledged is on disk; it must be stopped.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<Failure>>> {
        self.failed.subscribe()
    }

    /// Waits until a caller has ordered this peer to fail. It has to be carried out by [`Node::fail`], when the order has been answered.
    pub async fn told_to_fail(&self) -> Order {
        let mut outage = self.outage.clone();
        let order = match outage.wait_for(Option::is_some).await {
            Ok(order) => order.clone(),
            Err(_) => None,
        };
        match order {
            Some(order) => order,
            // Nobody is left who could order it.
            None => std::future::pending().await,
        }
    }

    /// Ends as a process that is killed does: connections are cut with the calls on them, nobody is told, nothing more is flushed. What it had
    /// acknowledged is on disk; the memory goes with the value.
    pub async fn fail(&self) {
        self.stop.cut.cancel();
        self.stop.drain.cancel();
        let replicas = self.replicas.all();
        for replica in &replicas {
            replica.drain();
        }
        join_all(replicas.iter().map(Replica::stop)).await;
        self.tasks.close();
        self.tasks.wait().await;
        let storage = self.storage.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || storage.abandon()).await {
            warn!(%error, "leaving the disk did not end well");
        }
        info!(peer = %self.config.peer, "failed");
    }

    /// Stops: hands leadership over, takes no new connections, lets the calls that run finish for the grace time, leaves the shards, closes the log.
    pub async fn stop(&self) {
        let Self {
            config,
            replicas,
            storage,
            stop,
            tasks,
            api,
            health,
            ..
        } = self;
        // While this peer still takes calls, and passes on those for shards that it leads no more: none is refused.
        self.peers.links().leave();
        let deadline = Instant::now() + config.election_timeout_max;
        let led = replicas.all();
        join_all(led.iter().map(|replica| replica.hand_over(deadline))).await;
        health.stop().await;
        stop.drain.cancel();
        for replica in replicas.all() {
            replica.drain();
        }
        if tokio::time::timeout(config.shutdown_grace, api.drained())
            .await
            .is_err()
        {
            warn!(grace = ?config.shutdown_grace, "calls were still open after the grace time");
        }
        for replica in replicas.all() {
            replica.stop().await;
        }
        stop.cut.cancel();
        tasks.close();
        tasks.wait().await;
        let storage = storage.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || storage.close()).await {
            warn!(%error, "closing the disk did not end well");
        }
        info!(peer = %config.peer, "stopped");
    }
}

/// Opens the listener that the settings name, or the next free port when they allow it.
///
/// # Errors
/// [`Error::PortBusy`] or [`Error::Listen`].
pub fn listen(config: &Config) -> Result<Listener, Error> {
    let mut address = config.listen;
    loop {
        match net::listen(address) {
            Err(net::Error::InUse { .. })
                if config.next_free_port
                    && address.port() < config.listen.port().saturating_add(NEXT_PORTS_MAX) =>
            {
                address.set_port(address.port() + 1);
            }
            Err(net::Error::InUse { .. }) => return Err(Error::PortBusy { address }),
            listener => return Ok(listener?),
        }
    }
}

async fn open(config: &Config, clock: &dyn Clock) -> Result<Storage, Error> {
    let (config, now) = (config.clone(), greeting::incarnation_at(clock));
    let opened = tokio::task::spawn_blocking(move || Storage::open(&config, now)).await;
    opened.map_err(|_| Error::Interrupted)?
}

/// Waits until the disk under the peer has failed, and lets everybody know. A replica that fails by itself is not for here: it begins again.
struct FailureWatch {
    wal: watch::Receiver<Option<Arc<wal::Error>>>,
    store: watch::Receiver<Option<Arc<store::Error>>>,
    lost_store: watch::Receiver<Option<String>>,
    room: Arc<Room>,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    failed: watch::Sender<Option<Arc<Failure>>>,
    health: rpc::HealthSwitch,
}

impl FailureWatch {
    fn new(
        storage: &Storage,
        failed: watch::Sender<Option<Arc<Failure>>>,
        health: rpc::HealthSwitch,
    ) -> Self {
        Self {
            wal: storage.wal.failed(),
            store: storage.store.failed(),
            lost_store: storage.directory.lost_store(),
            room: Arc::clone(&storage.room),
            disk: Arc::clone(&storage.disk),
            path: storage.directory.path.clone(),
            failed,
            health,
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        let failure = tokio::select! {
            () = stop.cancelled() => return,
            Ok(why) = self.wal.wait_for(Option::is_some) => why.clone().map(Failure::Wal),
            Ok(why) = self.store.wait_for(Option::is_some) => why.clone().map(Failure::Store),
            Ok(why) = self.lost_store.wait_for(Option::is_some) => why.clone().map(Failure::LostStore),
            else => return,
        };
        let Some(failure) = failure else { return };
        error!(why = %failure, "the peer cannot go on and is to be stopped");
        self.health.stop().await;
        let is_damaged = match &failure {
            Failure::Wal(_) => false,
            Failure::Store(why) => storage::is_damage(why),
            Failure::LostStore(_) => true,
        };
        if is_damaged {
            self.note_damage().await;
        }
        self.failed.send_replace(Some(Arc::new(failure)));
    }

    /// Sees to it that the next start does not meet the same damage. An engine that ran out of room stops itself as one that met damage does, and without
    /// a word of it; such a store is not given up.
    async fn note_damage(&self) {
        let (room, disk, path) = (
            Arc::clone(&self.room),
            Arc::clone(&self.disk),
            self.path.clone(),
        );
        let note = move || {
            storage::measure(&room, &*disk, &path);
            if room.level() != Level::Ample || room.free() < ENGINE_ROOM_MIN {
                return Ok(());
            }
            storage::note_damaged_store(&*disk, &path)
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(note).await {
            warn!(%error, "could not note that the store is damaged");
        }
    }
}
