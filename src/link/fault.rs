//! Links that fail on purpose: for tests, rehearsals and experiments.
//!
//! A fault works on what this peer sends over its links to others: requests, and answers to their calls. It never touches what comes in, nor
//! what clients send. Without a fault a message costs one look at a flag; a peer whose settings forbid faults does not even look.
//! Begin with [`Faults::inject`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::env::entropy::Entropy;
use crate::types::PeerId;

/// A person sets a handful, an experiment a few for each pair of links. Beyond it the oldest one ends.
const FAULTS_MAX: usize = 4096;
/// As many bits of chance as a float has: the least share that can be told from 0.
const CHANCE_BITS: u32 = 53;

/// Whether faults may be set at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Injection {
    /// They may.
    Allowed,
    /// What is set has no effect.
    #[default]
    Forbidden,
}

/// Whether anything passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passage {
    /// Messages pass, with what else the fault says.
    #[default]
    Open,
    /// Nothing passes: messages and dials are held back without a word until the fault ends, as by a packet filter that drops.
    Cut,
}

/// What is wrong with links on purpose. Faults of one link add up.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fault {
    /// The peers at the other ends. Empty: all.
    pub peers: Vec<PeerId>,
    /// Every message is held back so long.
    pub delay: Duration,
    /// Up to so much more, by chance. Messages of one call stay in order.
    pub jitter: Duration,
    /// The share of messages that are lost, 0 to 1. A lost message breaks its call, as a broken connection would.
    pub loss: f64,
    /// Whether anything passes.
    pub passage: Passage,
    /// Ends by itself after this time. `None`: when it is cleared, or the peer stops.
    pub duration: Option<Duration>,
}

/// Names a fault of one peer. Never used again while the peer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultId(pub u64);

#[derive(Debug, Clone)]
pub(super) struct Active {
    fault: Fault,
    until: Option<Instant>,
}

impl Active {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    fn concerns(&self, peer: PeerId) -> bool {
        self.fault.peers.is_empty() || self.fault.peers.contains(&peer)
    }
}

pub(super) type Table = BTreeMap<FaultId, Active>;

/// What the faults of one link come to at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rule {
    pub(super) passage: Passage,
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) loss: f64,
    /// When the rule may be another one, though nobody sets or clears a fault.
    pub(super) until: Option<Instant>,
}

/// The faults of this peer's links. A cheap handle.
#[derive(Debug, Clone)]
pub struct Faults {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    injection: Injection,
    /// There may be a fault.
    is_any: AtomicBool,
    /// Faults ever set.
    count: AtomicU64,
    table: watch::Sender<Table>,
    entropy: Arc<dyn Entropy>,
}

impl Faults {
    /// No fault yet.
    pub fn new(injection: Injection, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            inner: Arc::new(Inner {
                injection,
                is_any: AtomicBool::new(false),
                count: AtomicU64::new(0),
                table: watch::Sender::new(Table::new()),
                entropy,
            }),
        }
    }

    /// Sets a fault. It works from the next message on, on open streams too.
    pub fn inject(&self, fault: Fault) -> FaultId {
        let until = fault.duration.map(|duration| Instant::now() + duration);
        let id = FaultId(self.inner.count.fetch_add(1, Ordering::Relaxed) + 1);
        self.inner.table.send_modify(|table| {
            if table.len() >= FAULTS_MAX {
                table.pop_first();
            }
            table.insert(id, Active { fault, until });
            self.inner.is_any.store(true, Ordering::Relaxed);
        });
        id
    }

    /// Ends these faults, or all when none is named. Those that ended; of an unknown id nothing is told.
    pub fn clear(&self, ids: &[FaultId]) -> Vec<(FaultId, Fault)> {
        let mut cleared = Vec::new();
        self.inner.table.send_modify(|table| {
            let now = Instant::now();
            table.retain(|id, active| {
                let is_named = ids.is_empty() || ids.contains(id);
                if is_named && !active.is_over(now) {
                    cleared.push((*id, active.fault.clone()));
                }
                !is_named && !active.is_over(now)
            });
            self.inner
                .is_any
                .store(!table.is_empty(), Ordering::Relaxed);
        });
        cleared
    }

    /// The faults there are, in the order in which they were set.
    pub fn active(&self) -> Vec<(FaultId, Fault)> {
        let now = Instant::now();
        let table = self.inner.table.borrow();
        let active = table.iter().filter(|(_, active)| !active.is_over(now));
        active
            .map(|(id, active)| (*id, active.fault.clone()))
            .collect()
    }

    /// Whether messages have to be looked at at all.
    pub fn is_allowed(&self) -> bool {
        self.inner.injection == Injection::Allowed
    }

    /// What holds for messages to this peer now. `None`: they simply pass.
    pub(super) fn rule(&self, peer: PeerId) -> Option<Rule> {
        if !self.is_allowed() || !self.inner.is_any.load(Ordering::Relaxed) {
            return None;
        }
        let now = Instant::now();
        let table = self.inner.table.borrow();
        let faults = table
            .values()
            .filter(|active| active.concerns(peer) && !active.is_over(now));
        faults.fold(None, |rule: Option<Rule>, active| {
            let fault = &active.fault;
            let before = rule.unwrap_or(Rule {
                passage: Passage::Open,
                delay: Duration::ZERO,
                jitter: Duration::ZERO,
                loss: 0.0,
                until: None,
            });
            let is_cut = Passage::Cut == before.passage || Passage::Cut == fault.passage;
            Some(Rule {
                passage: if is_cut { Passage::Cut } else { Passage::Open },
                delay: before.delay + fault.delay,
                jitter: before.jitter + fault.jitter,
                // Each loses its share of what the others let through.
                loss: 1.0 - (1.0 - before.loss) * (1.0 - fault.loss.clamp(0.0, 1.0)),
                until: match (before.until, active.until) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                },
            })
        })
    }

    /// Tells of every fault that is set or cleared from now on.
    pub(super) fn changed(&self) -> watch::Receiver<Table> {
        self.inner.table.subscribe()
    }

    /// How long a message is held back: the delay, and by chance a part of the jitter.
    pub(super) fn hold(&self, rule: &Rule) -> Duration {
        rule.delay + rule.jitter.mul_f64(self.chance())
    }

    /// Whether a message is lost.
    pub(super) fn loses(&self, rule: &Rule) -> bool {
        rule.loss > 0.0 && self.chance() < rule.loss
    }

    /// Anything from 0 to 1, 1 excluded.
    fn chance(&self) -> f64 {
        let bits = self.inner.entropy.number() >> (u64::BITS - CHANCE_BITS);
        #[expect(
            clippy::cast_precision_loss,
            reason = "as many bits as a float holds exactly"
        )]
        let (bits, all) = (bits as f64, (1_u64 << CHANCE_BITS) as f64);
        bits / all
    }

    /// Lets the head of a message to a peer pass, when and if the faults do.
    ///
    /// # Errors
    /// [`Lost`] when it is lost.
    pub(super) async fn pass(&self, peer: PeerId) -> Result<(), Lost> {
        let mut changed: Option<watch::Receiver<_>> = None;
        while let Some(rule) = self.rule(peer) {
            if rule.passage == Passage::Open {
                if self.loses(&rule) {
                    return Err(Lost { peer });
                }
                let hold = self.hold(&rule);
                if !hold.is_zero() {
                    tokio::time::sleep(hold).await;
                }
                return Ok(());
            }
            let Some(changed) = &mut changed else {
                // Watch first, then look again: nothing falls in between.
                changed = Some(self.changed());
                continue;
            };
            let over = async {
                match rule.until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                // The sender lives as long as this handle.
                _ = changed.changed() => {}
            }
        }
        Ok(())
    }
}

/// A fault lost a message on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message to peer {peer} was lost by an injected fault")]
pub struct Lost {
    /// Where it was to go.
    pub peer: PeerId,
}
