//! The life of a replica: opened, serving, failed and begun again, damaged and made again from the others, stopped.
//!
//! One task owns it. The group runs only within one round of the loop in [`Life::run`], so no two groups of a shard ever share its log; what
//! must outlive a round is in the ledger. A failed write or sync is not for here: the peer stops.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::error::in_full;
use super::{Parts, Shared, Standing};
use crate::consensus::{self, Group, Leadership, Observed};
use crate::shard;
use crate::types::Term;

/// Nobody is known to lead.
pub(super) const NOBODY: Leadership = Leadership {
    leader: None,
    term: Term(0),
    is_ready: false,
};

/// A group that failed is begun again after this; after twice as long the next time, …
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// … but at least this often.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Where a replica is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It is being opened.
    Starting,
    /// It takes calls.
    Serving,
    /// It lost something, or is new in a group that is not, and does not answer before it holds what the others hold.
    Rebuilding {
        /// What was found.
        reason: Arc<str>,
    },
    /// Its peer is stopping.
    Stopped,
}

/// What the handles see of a life.
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) group: Option<Group>,
    pub(super) installing: Installing,
}

/// Whether a snapshot takes the place of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Installing {
    Now,
    No,
}

impl State {
    /// The phase, as it matters to those who read.
    pub(super) fn seen(&self) -> Phase {
        match (&self.phase, self.installing) {
            (Phase::Serving, Installing::Now) => Phase::Rebuilding {
                reason: Arc::from(
                    "it was far behind, and a snapshot takes the place of what it holds",
                ),
            },
            (phase, _) => phase.clone(),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Starting,
            group: None,
            installing: Installing::No,
        }
    }
}

/// How a round ended.
pub(super) enum End {
    /// The peer is stopping.
    Stopped,
    /// The group ended for a reason that may be gone the next time.
    Failed(String),
    /// What the replica holds is not whole.
    Damaged(String),
    /// The others hold everything: what is here may go, when they say so again of a replica that no longer takes part.
    Released,
    /// What is here is dropped, and a new life begins.
    Over,
}

pub(super) struct Life {
    pub(super) shared: Arc<Shared>,
    pub(super) options: consensus::Options,
    pub(super) parts: Parts,
}

impl Life {
    pub(super) fn new(shared: Arc<Shared>, options: consensus::Options, parts: Parts) -> Self {
        Self {
            shared,
            options,
            parts,
        }
    }

    /// Lives until the replica is stopped.
    pub(super) async fn run(self) {
        let mut settled = self.parts.ledger.settled();
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            _ = settled.wait_for(|is_settled| *is_settled) => {}
        }
        let mut pause = PAUSE_MIN;
        while !self.shared.stop.is_cancelled() {
            let end = match self.round().await {
                End::Damaged(reason) => tokio::select! {
                    () = self.shared.stop.cancelled() => End::Stopped,
                    end = self.part(None, reason) => end,
                },
                end => end,
            };
            let why = match end {
                End::Over | End::Released => match self.begin_anew().await {
                    Ok(()) => {
                        pause = PAUSE_MIN;
                        continue;
                    }
                    Err(why) => why,
                },
                End::Failed(why) => why,
                End::Stopped | End::Damaged(_) => continue,
            };
            self.show(Phase::Starting, None);
            warn!(shard = %self.shared.shard, why, ?pause, "the replica failed and is begun again");
            self.rest(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        self.show(Phase::Stopped, None);
    }

    /// One group, from its start to its end.
    async fn round(&self) -> End {
        let shard = self.shared.shard;
        let standing = self.parts.ledger.standing(shard);
        let prepared = async {
            match standing.is_reset_due {
                true => self.reset().await,
                false => self.settle_log().await,
            }
        };
        let prepared = tokio::select! {
            // A full disk may take it never; the next start goes on with it.
            () = self.shared.stop.cancelled() => return End::Stopped,
            prepared = prepared => prepared,
        };
        if let Err(why) = prepared {
            return End::Failed(why);
        }
        let group = match self.open(standing).await {
            Ok(group) => group,
            Err(end) => return end,
        };
        let end = tokio::select! {
            () = self.shared.stop.cancelled() => End::Stopped,
            end = self.attend(&group) => end,
        };
        self.retire();
        group.stop().await;
        match end {
            End::Released => tokio::select! {
                () = self.shared.stop.cancelled() => End::Stopped,
                end = self.take_leave() => end,
            },
            end => end,
        }
    }

    /// Starts the group from what is on disk.
    async fn open(&self, standing: Standing) -> Result<Group, End> {
        let (shard, parts) = (self.shared.shard, &self.parts);
        let store = Arc::clone(&parts.store);
        let open = move || {
            if !store.epoch(shard).is_settled() {
                // A snapshot that was broken off has left something, which the log must not be applied to.
                store.erase(shard)?;
            }
            shard::Machine::open(shard, store)
        };
        let machine = self.shared.tasks.spawn_blocking(open).await;
        let machine = match machine {
            Ok(Ok(machine)) => machine,
            Ok(Err(error)) if error.is_damage() => return Err(End::Damaged(in_full(&error))),
            Ok(Err(error)) => return Err(End::Failed(in_full(&error))),
            Err(error) => return Err(End::Failed(error.to_string())),
        };
        let options = consensus::Options {
            node: consensus::node_id(consensus::peer_of(self.options.node), standing.incarnation),
            ..self.options.clone()
        };
        let shared = Arc::clone(&self.shared);
        let parts = consensus::Parts {
            shard,
            wal: Arc::clone(&parts.wal),
            peers: parts.peers.clone(),
            links: parts.links.clone(),
            mark: machine.mark().cloned(),
            machine,
            observer: Arc::new(move |observed| shared.observe(observed)),
            store: Arc::clone(&parts.store),
            disk: Arc::clone(&parts.disk),
            staging: parts.staging.clone(),
            room: Arc::clone(&parts.room),
        };
        match Group::start(options, parts).await {
            Ok(group) => Ok(group),
            Err(error @ (consensus::Error::Gap { .. } | consensus::Error::Malformed { .. })) => {
                Err(End::Damaged(error.to_string()))
            }
            Err(error) => Err(self.judge(error.to_string()).await),
        }
    }

    /// Goes with the group, until it ends or what it holds may go.
    async fn attend(&self, group: &Group) -> End {
        self.show(Phase::Starting, Some(group));
        let end = tokio::select! {
            why = group.failed() => self.judge(why).await,
            reason = self.damage() => End::Damaged(reason),
            end = self.serve(group) => end,
        };
        let End::Damaged(reason) = end else {
            return end;
        };
        // It may still vote and store what the others have in hand, until they can do without it.
        group.must_not_lead();
        self.tell_nobody();
        tokio::select! {
            _ = group.failed() => End::Damaged(reason),
            end = self.part(Some(group), reason.clone()) => end,
        }
    }

    /// Whether a group that failed may begin again as it is.
    async fn judge(&self, why: String) -> End {
        match self.find_damage().await {
            Some(reason) => End::Damaged(reason),
            None => End::Failed(why),
        }
    }

    /// Takes calls, once the replica has its place in the group, and tells who leads.
    async fn serve(&self, group: &Group) -> End {
        if let Err(end) = self.join(group).await {
            return end;
        }
        self.show(Phase::Serving, Some(group));
        tokio::select! {
            end = self.tell_leadership(group) => end,
            end = self.settle_in(group) => end,
        }
    }

    async fn tell_leadership(&self, group: &Group) -> End {
        let mut leadership = group.leadership();
        loop {
            let now = *leadership.borrow_and_update();
            self.tell(now);
            if leadership.changed().await.is_err() {
                // The group has ended, and says elsewhere why.
                return std::future::pending().await;
            }
        }
    }

    fn tell(&self, now: Leadership) {
        let this = consensus::peer_of(self.options.node);
        let term = (now.leader == Some(this)).then_some(now.term);
        self.parts.links.lead(self.shared.shard, term);
        let is_new = |old: &mut Leadership| std::mem::replace(old, now) != now;
        if self.shared.leadership.send_if_modified(is_new) {
            self.shared.waiters.wake_all();
        }
    }

    fn tell_nobody(&self) {
        let term = self.shared.leadership.borrow().term;
        self.tell(Leadership { term, ..NOBODY });
    }

    /// Lets nobody use the group any more.
    fn retire(&self) {
        let phase = match self.phase() {
            phase @ Phase::Rebuilding { .. } => phase,
            _ => Phase::Starting,
        };
        self.show(phase, None);
        self.tell_nobody();
    }

    pub(super) fn phase(&self) -> Phase {
        self.shared.state.borrow().phase.clone()
    }

    /// Waits, unless the replica is stopped.
    pub(super) async fn rest(&self, pause: Duration) {
        let _ = tokio::time::timeout(pause, self.shared.stop.cancelled()).await;
    }

    /// Tells the handles where the replica is.
    pub(super) fn show(&self, phase: Phase, group: Option<&Group>) {
        let group = group.cloned();
        self.shared.state.send_modify(|state| {
            if group.is_none() {
                state.installing = Installing::No;
            }
            (state.phase, state.group) = (phase, group);
        });
        // Whoever waits for a topic looks again, and goes elsewhere if need be.
        self.shared.waiters.wake_all();
    }
}

impl Shared {
    /// Passes on what happened to the rows.
    fn observe(&self, observed: Observed<'_>) {
        match observed {
            Observed::Events(events) => self.wake(events),
            Observed::Frozen { position, reader } => self.frozen.keep(position.index, reader),
            Observed::Installing => self.install(Installing::Now),
            Observed::Installed => self.install(Installing::No),
        }
    }

    /// While a snapshot takes the place of the rows, nobody reads them.
    fn install(&self, installing: Installing) {
        self.state
            .send_modify(|state| state.installing = installing);
        // Any topic may have grown.
        self.waiters.wake_all();
    }

    fn wake(&self, events: &[shard::Event]) {
        for event in events {
            let (shard::Event::TopicAdvanced { topic, .. }
            | shard::Event::TopicTrimmed { topic, .. }
            | shard::Event::TopicDeleted { topic, .. }
            | shard::Event::CursorMoved { topic, .. }
            | shard::Event::SubscriptionDeleted { topic, .. }) = event;
            self.waiters.wake(topic);
        }
    }
}
