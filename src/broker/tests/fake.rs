//! A replica without consensus and a directory that is a set.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::{
    Access, Broker, Call, CreateTopic, Directory, Error, Kind, Options, Publish, Published, Pull,
    Pulled, Unresolved, Watch,
};
use crate::consensus::{Member, Role, Status};
use crate::replica::{self, Consistency, Proposed, Read};
use crate::shard::{Command, Machine, Start};
use crate::store::MemoryStore;
use crate::types::{
    LogIndex, LogPosition, Name, Offset, PeerId, Retention, SubscriberId, Term, Timestamp,
    TopicName, Vertex,
};

/// A broker with one replica.
pub(super) struct World {
    pub(super) broker: Arc<Broker>,
    pub(super) replica: Fake,
    pub(super) directory: Names,
}

impl World {
    pub(super) fn new() -> Self {
        let broker = Arc::new(Broker::new(Options {
            clock: Arc::new(|| Timestamp(1)),
        }));
        Self {
            broker,
            replica: Fake::new(),
            directory: Names::default(),
        }
    }

    pub(super) fn call(&self) -> Call<'_, Fake, Names> {
        let deadline = Instant::now() + Duration::from_secs(60);
        Call {
            replica: &self.replica,
            directory: &self.directory,
            deadline,
        }
    }

    /// Publishes what must not be refused.
    pub(super) async fn publish(&self, publish: &Publish) -> Published {
        self.broker.publish(&self.call(), publish).await.unwrap()
    }

    /// Pulls what must not be refused.
    pub(super) async fn pull(&self, pull: &Pull) -> Pulled {
        self.broker.pull(&self.call(), pull).await.unwrap()
    }

    /// Creates a topic that keeps its messages for ever.
    pub(super) async fn create(&self, topic: &TopicName) {
        let create = CreateTopic {
            topic: topic.clone(),
            creator: None,
            request_id: None,
            retention: Retention::FOR_EVER,
        };
        let created = self.broker.create_topic(&self.call(), &create).await;
        created.unwrap();
    }

    /// Gives a subscriber a cursor at the beginning of a topic.
    pub(super) async fn subscribe(&self, topic: &TopicName, subscriber: &SubscriberId) {
        let (call, whose) = (self.call(), (topic, subscriber));
        let subscribed = self.broker.subscribe(&call, whose, (Start::Earliest, None));
        subscribed.await.unwrap();
    }

    /// Pulls in the background.
    pub(super) fn spawn_pull(&self, pull: Pull) -> JoinHandle<Result<Pulled, Error>> {
        let (broker, replica, directory) = (
            Arc::clone(&self.broker),
            self.replica.clone(),
            self.directory.clone(),
        );
        #[expect(clippy::disallowed_methods, reason = "the test awaits it")]
        tokio::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(60);
            broker
                .pull(
                    &Call {
                        replica: &replica,
                        directory: &directory,
                        deadline,
                    },
                    &pull,
                )
                .await
        })
    }

    /// Returns when a pull waits.
    pub(super) async fn waiting(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.replica.shared.waiting.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < end, "no pull waits");
            tokio::task::yield_now().await;
        }
    }
}

/// A leader that is its own majority.
#[derive(Clone)]
pub(super) struct Fake {
    shared: Arc<Shared>,
}

struct Shared {
    machine: Mutex<Machine>,
    index: AtomicU64,
    changes: watch::Sender<u64>,
    /// Nobody is to wait any more.
    closed: CancellationToken,
    waiting: AtomicU32,
    /// How many acknowledgements are overtaken by another subscriber's.
    disturbances: AtomicU32,
    /// Replicas that store what is published.
    stored: AtomicU32,
}

impl Fake {
    fn new() -> Self {
        let machine = Machine::open("100".parse().unwrap(), Arc::new(MemoryStore::new())).unwrap();
        Self {
            shared: Arc::new(Shared {
                machine: Mutex::new(machine),
                index: AtomicU64::new(0),
                changes: watch::channel(0).0,
                closed: CancellationToken::new(),
                waiting: AtomicU32::new(0),
                disturbances: AtomicU32::new(0),
                stored: AtomicU32::new(4),
            }),
        }
    }

    /// Lets somebody else acknowledge one message before each of the next `times` conditional acknowledgements.
    pub(super) fn disturb(&self, times: u32) {
        self.shared.disturbances.store(times, Ordering::SeqCst);
    }

    /// From now on two replicas do not store anything.
    pub(super) fn lag(&self) {
        self.shared.stored.store(2, Ordering::SeqCst);
    }

    /// Lets nobody wait any more, as a peer does that stops.
    pub(super) fn drain(&self) {
        self.shared.closed.cancel();
    }

    fn apply(&self, command: &Command) -> Proposed {
        let mut machine = self.shared.machine.lock().unwrap();
        let position = LogPosition {
            term: Term(1),
            index: LogIndex(self.shared.index.fetch_add(1, Ordering::SeqCst)),
        };
        let applied = machine
            .apply(vec![(position, Some(command.encode()))], Bytes::new())
            .unwrap();
        self.shared.changes.send_modify(|changes| *changes += 1);
        let outcome = applied.outcomes.into_iter().next().unwrap().unwrap();
        Proposed {
            outcome,
            position,
            stored_by: vec![PeerId(4), PeerId(5)],
        }
    }

    fn overtake(&self, command: &Command) {
        if let Command::Acknowledge {
            topic,
            subscriber,
            expected: Some(cursor),
            ..
        } = command
            && self.shared.disturbances.load(Ordering::SeqCst) > 0
        {
            self.shared.disturbances.fetch_sub(1, Ordering::SeqCst);
            let (topic, subscriber, next_offset) =
                (topic.clone(), subscriber.clone(), Offset(cursor.0 + 1));
            let other = Command::Acknowledge {
                topic,
                subscriber,
                next_offset,
                expected: None,
            };
            self.apply(&other).outcome.unwrap();
        }
    }
}

impl Access for Fake {
    type Watch = FakeWatch;

    fn shard(&self) -> Vertex {
        "100".parse().unwrap()
    }

    async fn propose(&self, command: Command, _: Instant) -> Result<Proposed, replica::Error> {
        self.overtake(&command);
        Ok(self.apply(&command))
    }

    async fn read(&self, _: Consistency, _: Instant) -> Result<Read, replica::Error> {
        let view = self.shared.machine.lock().unwrap().view();
        Ok(Read {
            view,
            lag: Some(0),
            is_leader: true,
            leader: Some(PeerId(4)),
        })
    }

    async fn stored_by_all(&self, _: LogPosition, _: Instant) -> Vec<PeerId> {
        let stored = self.shared.stored.load(Ordering::SeqCst);
        (0..stored)
            .map(|peer| PeerId(u16::try_from(peer).unwrap()))
            .collect()
    }

    fn subscribe_topic(&self, _: &TopicName) -> FakeWatch {
        FakeWatch {
            changes: self.shared.changes.subscribe(),
            shared: Arc::clone(&self.shared),
        }
    }

    fn status(&self) -> Status {
        let member = |peer| Member {
            peer: PeerId(peer),
            is_voter: peer < 3,
            stored: None,
        };
        Status {
            role: Role::Leader,
            term: Term(1),
            leader: Some(PeerId(4)),
            last: None,
            committed: None,
            applied: None,
            replicas: (0..4).map(member).collect(),
            quorum: crate::consensus::Quorum {
                voters: 3,
                reachable: 3,
            },
        }
    }
}

pub(super) struct FakeWatch {
    changes: watch::Receiver<u64>,
    shared: Arc<Shared>,
}

impl Watch for FakeWatch {
    async fn changed(&mut self, deadline: Instant) -> bool {
        self.shared.waiting.fetch_add(1, Ordering::SeqCst);
        let has_changed = tokio::select! {
            biased;
            () = self.shared.closed.cancelled() => false,
            changed = tokio::time::timeout_at(deadline, self.changes.changed()) => changed.is_ok(),
        };
        self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
        has_changed
    }
}

/// The publishers and subscribers that exist.
#[derive(Clone, Default)]
pub(super) struct Names {
    known: Arc<Mutex<BTreeSet<(Kind, Name)>>>,
    asked: Arc<AtomicU32>,
}

impl Names {
    pub(super) fn add(&self, kind: Kind, name: &str) {
        self.known
            .lock()
            .unwrap()
            .insert((kind, Name::new(name).unwrap()));
    }

    pub(super) fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Directory for Names {
    async fn exists(&self, kind: Kind, name: &Name, _: Instant) -> Result<bool, Unresolved> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.known.lock().unwrap().contains(&(kind, name.clone())))
    }

    async fn has_topic(&self, _: &TopicName, _: Instant) -> Result<bool, Unresolved> {
        Ok(true)
    }
}
