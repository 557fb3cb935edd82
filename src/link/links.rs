//! What is known of links, as a handle; and the task that keeps it true.
//!
//! The state has one lock, held for moments and never while waiting. Decides nothing about calls but which road they take.
//! Begin with [`Links::run`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::map::{LinkMap, LinkState};
use super::state::{Effects, Rhythm, State};
use super::{Core, Peers, heartbeat, wire};
use crate::proto::peer::v1::Heartbeat;
use crate::types::{PeerId, Term, Vertex};

/// What others say is passed on at once, but not more often than this: many links change together when a peer dies. What this peer itself has found
/// never waits; it is rare, as links that flap are damped.
const NEWS_PAUSE: Duration = Duration::from_millis(20);
/// When so many connections in a row could not be made, …
const CONNECT_FAILURES_MAX: u32 = 2;
/// … calls go through others, and one tries again after this. Longer than an attempt to connect may take.
const CONNECT_PAUSE: Duration = Duration::from_secs(5);
/// A link that works again is trusted with long streams after this: one that flaps would break them each time.
const STRAIGHT_MIN: Duration = Duration::from_secs(1);
/// Streams of one peer that wait to be heard; each takes the place of the one before.
const INCOMING_MAX: usize = 4;

/// The heartbeats that come in on one stream.
pub(super) type Beats = BoxStream<'static, Heartbeat>;

/// What is known of links. A cheap handle.
#[derive(Clone)]
pub struct Links {
    inner: Arc<Inner>,
}

struct Inner {
    this: PeerId,
    rhythm: Rhythm,
    map: watch::Sender<Arc<LinkMap>>,
    state: Mutex<State>,
    /// The tables as every stream of heartbeats is to send them next.
    rounds: watch::Sender<Bytes>,
    /// This peer has found something out about its own links.
    own_news: Notify,
    /// There is news of others to pass on.
    news: Notify,
    ends: BTreeMap<PeerId, End>,
    /// `None`: the map is a test's.
    core: Option<Arc<Core>>,
}

/// The other end of one link.
struct End {
    /// Somebody doubts that the peer is there.
    doubt: Notify,
    incoming: mpsc::Sender<Beats>,
    /// Until the task takes it.
    waiting: Mutex<Option<mpsc::Receiver<Beats>>>,
    /// Cancelled when the link goes silent or dies, and then another one.
    standing: Mutex<CancellationToken>,
    outgoing: Mutex<Outgoing>,
}

/// Whether this peer's own connection to another one can be made. Heartbeats say nothing of that at the peer with the higher number: they come
/// and go over the connection that the lower one made.
#[derive(Default)]
struct Outgoing {
    /// Connections in a row that could not be made.
    failures: u32,
    /// Calls go another way. From then on one of them may try to connect.
    barred: Option<Instant>,
}

impl Outgoing {
    /// A call could not connect.
    fn fail(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= CONNECT_FAILURES_MAX {
            self.barred = Some(now + CONNECT_PAUSE);
        }
    }

    /// A call is about to be made: whether it is to go another way. After each pause one tries to connect, and the others go on as before.
    fn bars(&mut self, now: Instant) -> bool {
        match &mut self.barred {
            Some(until) if *until <= now => {
                *until = now + CONNECT_PAUSE;
                false
            }
            barred => barred.is_some(),
        }
    }
}

impl Links {
    pub(super) fn new(state: State, rhythm: Rhythm, core: Option<Arc<Core>>) -> Self {
        let map = state.map();
        let others = map.members().filter(|(peer, _)| *peer != map.this());
        let ends = others.map(|(peer, _)| {
            let (incoming, waiting) = mpsc::channel(INCOMING_MAX);
            let end = End {
                doubt: Notify::new(),
                incoming,
                waiting: Mutex::new(Some(waiting)),
                standing: Mutex::default(),
                outgoing: Mutex::default(),
            };
            (peer, end)
        });
        Self {
            inner: Arc::new(Inner {
                this: map.this(),
                rhythm,
                ends: ends.collect(),
                rounds: watch::Sender::new(wire::encode(state.tables())),
                state: Mutex::new(state),
                map: watch::Sender::new(Arc::new(map)),
                own_news: Notify::new(),
                news: Notify::new(),
                core,
            }),
        }
    }

    /// The map as it is now.
    pub fn now(&self) -> Arc<LinkMap> {
        Arc::clone(&self.inner.map.borrow())
    }

    /// The map as it is and will be.
    pub fn watch(&self) -> watch::Receiver<Arc<LinkMap>> {
        self.inner.map.subscribe()
    }

    /// A call to this peer failed to connect, or broke: look whether it is there. Where heartbeats say enough, nothing is done.
    pub fn suspect(&self, peer: PeerId) {
        if let Some(end) = self.inner.ends.get(&peer)
            && self.state().is_doubtful(peer, Instant::now())
        {
            end.doubt.notify_one();
        }
    }

    /// Takes the stream of heartbeats that a peer with a lower number opened, and gives what goes back on it. `None`: that peer is not to open
    /// one, or nobody listens here (any more).
    pub fn accept(
        &self,
        peer: PeerId,
        beats: BoxStream<'static, Heartbeat>,
    ) -> Option<impl Stream<Item = Heartbeat> + Send + use<>> {
        let end = self.inner.ends.get(&peer)?;
        if peer > self.inner.this {
            return None;
        }
        end.incoming.try_send(beats).ok()?;
        self.outgoing(peer)
    }

    /// Tells the others that this peer is about to stop: they pass nothing more on through it, unless there is no other way.
    pub fn leave(&self) {
        self.change(State::leave);
    }

    /// Tells the others that this peer leads a shard in this term, or that it does not lead it.
    pub fn lead(&self, shard: Vertex, term: Option<Term>) {
        // The map of a test says nothing but what the test says.
        if self.inner.core.is_some() {
            self.change(|state| state.lead(shard, term));
        }
    }

    /// Sends and hears heartbeats until the token is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let Some(core) = self.inner.core.clone() else {
            return stop.cancelled().await;
        };
        let peers = Peers {
            core,
            links: self.clone(),
        };
        self.state().begin(Instant::now());
        let mut tasks = JoinSet::new();
        for (peer, end) in &self.inner.ends {
            let waiting = lock(&end.waiting).take();
            if let Some(incoming) = waiting {
                tasks.spawn(heartbeat::keep(peers.clone(), *peer, incoming));
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.beat() => {}
        }
        tasks.shutdown().await;
    }

    /// Sends rounds of heartbeats, and looks for silence.
    async fn beat(&self) {
        let mut tick = tokio::time::interval(self.inner.rhythm.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Instant::now();
        let mut passing_on: Option<Instant> = None;
        loop {
            let due = self.state().next_check();
            let check = async {
                until(due).await;
                due
            };
            tokio::select! {
                _ = tick.tick() => self.send_round(),
                () = self.inner.own_news.notified() => {
                    (told, passing_on) = (Instant::now(), None);
                    self.send_round();
                }
                () = self.inner.news.notified() => {
                    passing_on.get_or_insert(told + NEWS_PAUSE);
                }
                () = until(passing_on) => {
                    (told, passing_on) = (Instant::now(), None);
                    self.send_round();
                }
                due = check => self.check(due.unwrap_or_else(Instant::now)),
            }
        }
    }

    fn send_round(&self) {
        let round = wire::encode(self.state().tables());
        self.inner.rounds.send_replace(round);
    }

    /// Looks who was silent. When this is later than it was meant to be, this peer itself was held up, and what the others sent meanwhile may lie
    /// unread: they get a little longer.
    fn check(&self, due: Instant) {
        let now = Instant::now();
        let is_late = now.saturating_duration_since(due) > self.inner.rhythm.interval / 2;
        self.change(|state| {
            if is_late {
                state.forgive(now);
            }
            state.check(now)
        });
    }

    /// What goes out on a stream to a peer: the tables as they are, and again with each round.
    pub(super) fn outgoing(
        &self,
        peer: PeerId,
    ) -> Option<impl Stream<Item = Heartbeat> + Send + use<>> {
        let pulse = self.state().pulse(peer)?;
        let rounds = WatchStream::new(self.inner.rounds.subscribe());
        Some(rounds.map(move |tables| {
            let (clock, echo, held) = pulse.reply(Instant::now());
            Heartbeat {
                tables,
                clock,
                echo,
                held,
            }
        }))
    }

    /// A heartbeat came, with tables unless they are those of the one before.
    pub(super) fn hear(&self, peer: PeerId, beat: &Heartbeat, tables: Vec<wire::Table>) {
        let now = Instant::now();
        self.change(|state| {
            if let Some(pulse) = state.pulse(peer) {
                pulse.beat(now, beat.clock, beat.echo, beat.held);
            }
            state.hear(peer, tables, now)
        });
    }

    /// The stream of a peer's heartbeats ended.
    pub(super) fn lose(&self, peer: PeerId) {
        self.change(|state| state.lose(peer, Instant::now()));
    }

    /// A peer refused two dials.
    pub(super) fn bury(&self, peer: PeerId) {
        self.change(|state| state.bury(peer, Instant::now()));
    }

    /// Whether it is being found out if a peer is there.
    pub(super) fn is_open(&self, peer: PeerId) -> bool {
        self.state().is_open(peer)
    }

    /// Waits until somebody doubts that a peer is there.
    pub(super) async fn doubted(&self, peer: PeerId) {
        match self.inner.ends.get(&peer) {
            Some(end) => end.doubt.notified().await,
            None => std::future::pending().await,
        }
    }

    /// The peers that a call would pass, the one that it is for last. Without any way there the link is tried, for what is known may be late.
    pub(super) fn road(&self, to: PeerId) -> Vec<PeerId> {
        self.find_road(to, |outgoing| outgoing.barred.is_some())
    }

    /// As [`Self::road`], for a call that is made now.
    pub(super) fn take_road(&self, to: PeerId) -> Vec<PeerId> {
        self.find_road(to, |outgoing| outgoing.bars(Instant::now()))
    }

    fn find_road(&self, to: PeerId, bars: impl Fn(&mut Outgoing) -> bool) -> Vec<PeerId> {
        let map = self.now();
        let is_barred = || {
            let end = self.inner.ends.get(&to);
            end.is_some_and(|end| bars(&mut lock(&end.outgoing)))
        };
        let road = match map.state(to) {
            LinkState::Silent | LinkState::Dead => map.route(to),
            LinkState::Up | LinkState::Unknown if is_barred() => map.detour(to),
            LinkState::Up | LinkState::Unknown => None,
        };
        road.unwrap_or_else(|| vec![to])
    }

    /// A call reached a peer over this one's own connection.
    pub(super) fn connected(&self, peer: PeerId) {
        if let Some(end) = self.inner.ends.get(&peer) {
            *lock(&end.outgoing) = Outgoing::default();
        }
    }

    /// A call could not connect to a peer.
    pub(super) fn unconnected(&self, peer: PeerId) {
        if let Some(end) = self.inner.ends.get(&peer) {
            lock(&end.outgoing).fail(Instant::now());
        }
    }

    /// Waits until a call that had to go round the link to a peer could go straight, and that has been so for some time. For ever, when the call
    /// goes straight.
    pub async fn straightened(&self, peer: PeerId) {
        if self.road(peer).len() <= 1 {
            return std::future::pending().await;
        }
        let mut map = self.watch();
        loop {
            let is_up = |map: &Arc<LinkMap>| map.state(peer) == LinkState::Up;
            if map.wait_for(is_up).await.is_err() {
                return std::future::pending().await;
            }
            let is_down = map.wait_for(|map| !is_up(map));
            let has_lasted = tokio::time::timeout(STRAIGHT_MIN, is_down).await.is_err();
            if has_lasted && self.road(peer).len() <= 1 {
                return;
            }
        }
    }

    /// Cancelled when the link to a peer goes silent or dies.
    pub(super) fn standing(&self, peer: PeerId) -> CancellationToken {
        let end = self.inner.ends.get(&peer);
        end.map_or_else(CancellationToken::new, |end| lock(&end.standing).clone())
    }

    /// Changes the state and does what follows. The lock is held for both, so that maps are published in the order in which they came to be.
    fn change(&self, change: impl FnOnce(&mut State) -> Effects) {
        let mut state = self.state();
        let effects = change(&mut state);
        if let Some(map) = effects.map {
            self.inner.map.send_replace(Arc::new(map));
        }
        for (peer, before, after) in effects.turned {
            self.turned(peer, before, after);
        }
        if effects.is_own_changed {
            self.inner.own_news.notify_one();
        } else if effects.has_news {
            self.inner.news.notify_one();
        }
    }

    fn turned(&self, peer: PeerId, before: LinkState, after: LinkState) {
        match after {
            LinkState::Up => {
                info!(%peer, "link is up");
                // What could not be reached before it was there may be reached now.
                self.connected(peer);
            }
            LinkState::Unknown => debug!(%peer, "the connection of a link broke"),
            LinkState::Silent | LinkState::Dead => {
                if before == LinkState::Up || before == LinkState::Unknown {
                    info!(%peer, state = ?after, "link is down");
                }
                if let Some(end) = self.inner.ends.get(&peer) {
                    std::mem::take(&mut *lock(&end.standing)).cancel();
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.inner.state)
    }
}

/// Fixed maps, for tests of those who use them.
#[cfg(any(test, feature = "testing"))]
impl Links {
    /// Links that are as this map says, and as what is sent later says. They never beat.
    pub fn fixed(map: LinkMap) -> (Self, watch::Sender<Arc<LinkMap>>) {
        let rhythm = Rhythm::default();
        let state = State::new(map.this(), map.members(), rhythm, 0, Instant::now());
        let links = Self::new(state, rhythm, None);
        links.inner.map.send_replace(Arc::new(map));
        let sender = links.inner.map.clone();
        (links, sender)
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("this", &self.inner.this)
            .finish_non_exhaustive()
    }
}

/// Waits for an instant, or for ever.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
