//! What a peer has heard of links, and what follows from it: no task, no clock, no socket; time comes as an argument.
//!
//! Each peer keeps a table of whom it hears and what it leads, and sends it to all, with those of the others: flooding, in which the greatest sequence wins. From
//! all tables comes the [`LinkMap`]. Every method that may change something returns [`Effects`] for its caller to carry out. Begin with
//! [`State::hear`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::map::{LinkMap, LinkState, Own};
use super::pulse::Pulse;
use super::wire::Table;
use crate::types::{PeerId, Term, Vertex};

/// A link that went down so often …
const DOWNS_MAX: usize = 3;
/// … within this time …
const DOWNS_WINDOW: Duration = Duration::from_secs(10);
/// … is up again only when heartbeats came steadily for so long: whoever reacts to links is spared the flapping.
const STEADY_MIN: Duration = Duration::from_secs(1);

/// How often heartbeats go out, and how long none may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// Each end of each link sends a heartbeat so often.
    pub interval: Duration,
    /// A link without a heartbeat for so long is silent. More than two intervals.
    pub silence: Duration,
}

impl Default for Rhythm {
    /// Three heartbeats may be late by a little before a link counts as silent.
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(250),
            silence: Duration::from_millis(800),
        }
    }
}

/// What follows from something that was heard or not.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// The new map, when anything in it changed.
    pub(super) map: Option<LinkMap>,
    /// This peer's own table is another: the others are to be told at once.
    pub(super) is_own_changed: bool,
    /// There are newer tables of others to pass on.
    pub(super) has_news: bool,
    /// Own links that are in another state now: before, after.
    pub(super) turned: Vec<(PeerId, LinkState, LinkState)>,
}

/// What this peer hears of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hearing {
    Never,
    Heard,
    /// The connection broke a moment ago; whether a process is still there is being found out. The others are not told yet: mostly a new
    /// connection is there before they could have done anything about it.
    Broken,
    Silent,
    Dead,
}

#[derive(Debug)]
struct Ear {
    hearing: Hearing,
    /// When `hearing` became what it is.
    since: Instant,
    heard: Option<Instant>,
    /// While the link is damped: since when heartbeats come steadily.
    steady: Option<Instant>,
    /// When the link went down last, the latest at the end. At most [`DOWNS_MAX`].
    downs: VecDeque<Instant>,
    /// What the map says.
    shown: LinkState,
    pulse: Arc<Pulse>,
}

impl Ear {
    /// Whether the others are told that this peer hears it.
    fn is_told(&self) -> bool {
        matches!(self.hearing, Hearing::Heard | Hearing::Broken)
    }

    fn is_flapping(&self, now: Instant) -> bool {
        let first = self.downs.front();
        self.downs.len() >= DOWNS_MAX && first.is_some_and(|first| now - *first < DOWNS_WINDOW)
    }

    fn turn(&mut self, hearing: Hearing, now: Instant) {
        let goes_down = matches!(hearing, Hearing::Silent | Hearing::Dead) && self.is_told();
        if goes_down {
            self.downs.push_back(now);
            if self.downs.len() > DOWNS_MAX {
                self.downs.pop_front();
            }
        }
        self.hearing = hearing;
        self.since = now;
        self.steady = None;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    this: PeerId,
    members: Arc<BTreeMap<PeerId, Vertex>>,
    rhythm: Rhythm,
    ears: BTreeMap<PeerId, Ear>,
    /// Of every peer that ever said something, this one too.
    tables: BTreeMap<PeerId, Table>,
    /// Silence does not begin before this.
    floor: Instant,
}

impl State {
    /// Begins with nothing heard. `sequence` must be greater than any that this peer used in an earlier life.
    pub(super) fn new(
        this: PeerId,
        members: impl IntoIterator<Item = (PeerId, Vertex)>,
        rhythm: Rhythm,
        sequence: u64,
        now: Instant,
    ) -> Self {
        let members: Arc<BTreeMap<PeerId, Vertex>> = Arc::new(members.into_iter().collect());
        let ear = || Ear {
            hearing: Hearing::Never,
            since: now,
            heard: None,
            steady: None,
            downs: VecDeque::new(),
            shown: LinkState::Unknown,
            pulse: Arc::default(),
        };
        let others = members.keys().filter(|peer| **peer != this);
        let own = Table::new(this, sequence);
        Self {
            this,
            ears: others.map(|peer| (*peer, ear())).collect(),
            members,
            rhythm,
            tables: BTreeMap::from([(this, own)]),
            floor: now,
        }
    }

    /// The task begins: only from now on is silence silence.
    pub(super) fn begin(&mut self, now: Instant) {
        self.floor = now;
    }

    /// This peer was not able to look for a while, so that it cannot say who was silent.
    pub(super) fn forgive(&mut self, now: Instant) {
        let grace = self.rhythm.interval;
        let floor = (now + grace).checked_sub(self.rhythm.silence);
        self.floor = self.floor.max(floor.unwrap_or(now));
    }

    pub(super) fn map(&self) -> LinkMap {
        let own = |ear: &Ear| Own {
            state: ear.shown,
            pulse: Arc::clone(&ear.pulse),
        };
        LinkMap::from_parts(
            self.this,
            Arc::clone(&self.members),
            self.ears.iter().map(|(p, ear)| (*p, own(ear))).collect(),
            self.tables.values(),
        )
    }

    /// All tables, as the others are to know them.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.values()
    }

    /// The figures of the link to a peer.
    pub(super) fn pulse(&self, peer: PeerId) -> Option<Arc<Pulse>> {
        self.ears.get(&peer).map(|ear| Arc::clone(&ear.pulse))
    }

    /// Whether a failed call to this peer says anything that its heartbeats do not: they are late, or there were none yet.
    pub(super) fn is_doubtful(&self, peer: PeerId, now: Instant) -> bool {
        let limit = self.rhythm.interval * 3 / 2;
        let ear = self.ears.get(&peer);
        ear.is_some_and(|ear| match ear.hearing {
            Hearing::Never | Hearing::Broken => true,
            Hearing::Heard => ear.heard.is_none_or(|heard| now - heard > limit),
            Hearing::Silent | Hearing::Dead => false,
        })
    }

    /// Whether it is being found out if a peer is there: none of heartbeats, silence and refused dials has told yet.
    pub(super) fn is_open(&self, peer: PeerId) -> bool {
        let ear = self.ears.get(&peer);
        ear.is_some_and(|ear| matches!(ear.hearing, Hearing::Never | Hearing::Broken))
    }

    /// A heartbeat came from a peer, with tables that are worth a look.
    pub(super) fn hear(&mut self, peer: PeerId, tables: Vec<Table>, now: Instant) -> Effects {
        let silence = self.rhythm.silence;
        if let Some(ear) = self.ears.get_mut(&peer) {
            let before = ear.heard.replace(now);
            match ear.hearing {
                Hearing::Heard => {}
                Hearing::Never | Hearing::Broken => ear.turn(Hearing::Heard, now),
                Hearing::Silent | Hearing::Dead if ear.is_flapping(now) => {
                    if before.is_none_or(|before| now - before > silence) {
                        ear.steady = None;
                    }
                    let steady = *ear.steady.get_or_insert(now);
                    if now - steady >= STEADY_MIN {
                        ear.turn(Hearing::Heard, now);
                    }
                }
                Hearing::Silent | Hearing::Dead => ear.turn(Hearing::Heard, now),
            }
        }
        let mut has_news = false;
        let mut is_changed = false;
        for table in tables {
            let (is_newer, is_other) = self.take(table);
            has_news |= is_newer;
            is_changed |= is_other;
        }
        self.settle(now, has_news, is_changed)
    }

    /// Takes a table that is newer than the known one. Whether it was, and whether it says anything else.
    fn take(&mut self, table: Table) -> (bool, bool) {
        if !self.members.contains_key(&table.peer) {
            return (false, false);
        }
        if table.peer == self.this {
            // Another peer has a later word of this one than this one itself: of an earlier life, when the clock went back since.
            let own = self.tables.get_mut(&self.this);
            let Some(own) = own.filter(|own| own.sequence < table.sequence) else {
                return (false, false);
            };
            own.supersede(table.sequence);
            return (true, false);
        }
        let known = self.tables.get(&table.peer);
        if known.is_some_and(|known| known.sequence >= table.sequence) {
            return (false, false);
        }
        let is_other = known.is_none_or(|known| table.differs_from(known));
        self.tables.insert(table.peer, table);
        (true, is_other)
    }

    /// This peer is about to stop: the others are to pass nothing on through it.
    pub(super) fn leave(&mut self) -> Effects {
        self.say(|own| own.is_leaving = true)
    }

    /// This peer leads a shard in this term, or does not lead it.
    pub(super) fn lead(&mut self, shard: Vertex, term: Option<Term>) -> Effects {
        self.say(|own| {
            if own.leads.get(&shard.index()).copied() == term {
                return;
            }
            let leads = Arc::make_mut(&mut own.leads);
            match term {
                Some(term) => leads.insert(shard.index(), term),
                None => leads.remove(&shard.index()),
            };
        })
    }

    /// Changes what this peer says of itself, and has it told at once when it is anything new.
    fn say(&mut self, change: impl FnOnce(&mut Table)) -> Effects {
        let Some(own) = self.tables.get_mut(&self.this) else {
            return Effects::default();
        };
        let before = own.clone();
        change(own);
        if !own.differs_from(&before) {
            return Effects::default();
        }
        own.supersede(own.sequence);
        Effects {
            map: Some(self.map()),
            is_own_changed: true,
            has_news: false,
            turned: Vec::new(),
        }
    }

    /// The connection that brought a peer's heartbeats ended.
    pub(super) fn lose(&mut self, peer: PeerId, now: Instant) -> Effects {
        if let Some(ear) = self.ears.get_mut(&peer) {
            match ear.hearing {
                Hearing::Heard => ear.turn(Hearing::Broken, now),
                _ => ear.steady = None,
            }
        }
        self.settle(now, false, false)
    }

    /// A peer refused two dials.
    pub(super) fn bury(&mut self, peer: PeerId, now: Instant) -> Effects {
        if let Some(ear) = self.ears.get_mut(&peer)
            && ear.hearing != Hearing::Dead
        {
            ear.turn(Hearing::Dead, now);
        }
        self.settle(now, false, false)
    }

    /// Looks who was silent for too long.
    pub(super) fn check(&mut self, now: Instant) -> Effects {
        let (floor, rhythm) = (self.floor, self.rhythm);
        for ear in self.ears.values_mut() {
            if silent_from(ear, floor, rhythm).is_some_and(|from| from <= now) {
                ear.turn(Hearing::Silent, now);
            }
        }
        self.settle(now, false, false)
    }

    /// When [`Self::check`] may find something next. `None`: only after something else has happened.
    pub(super) fn next_check(&self) -> Option<Instant> {
        let silence = self.rhythm.silence;
        let next = |ear: &Ear| match ear.hearing {
            Hearing::Heard if ear.shown == LinkState::Unknown => {
                Some((last_sign(ear, self.floor)).min(ear.since) + silence)
            }
            _ => silent_from(ear, self.floor, self.rhythm),
        };
        self.ears.values().filter_map(next).min()
    }

    /// Brings the own table and what the map says in line with what is heard.
    fn settle(&mut self, now: Instant, has_news: bool, is_changed: bool) -> Effects {
        let told = self.ears.iter().filter(|(_, ear)| ear.is_told());
        let told: BTreeSet<PeerId> = told.map(|(peer, _)| *peer).collect();
        let mut is_own_changed = false;
        if let Some(own) = self.tables.get_mut(&self.this)
            && *own.hears != told
        {
            own.hears = Arc::new(told);
            own.supersede(own.sequence);
            is_own_changed = true;
        }
        let mut turned = Vec::new();
        for (peer, ear) in &mut self.ears {
            let table = self.tables.get(peer);
            let is_answered = table.is_some_and(|table| table.hears.contains(&self.this));
            let state = match ear.hearing {
                Hearing::Never | Hearing::Broken => LinkState::Unknown,
                Hearing::Silent => LinkState::Silent,
                Hearing::Dead => LinkState::Dead,
                Hearing::Heard if is_answered => LinkState::Up,
                // Its answer may still be on the way.
                Hearing::Heard
                    if ear.shown == LinkState::Unknown && now < ear.since + self.rhythm.silence =>
                {
                    LinkState::Unknown
                }
                Hearing::Heard => LinkState::Silent,
            };
            if state != ear.shown {
                turned.push((*peer, ear.shown, state));
                ear.shown = state;
            }
        }
        let is_map_changed = is_changed || is_own_changed || !turned.is_empty();
        Effects {
            map: is_map_changed.then(|| self.map()),
            is_own_changed,
            has_news,
            turned,
        }
    }
}

/// When a peer counts as silent unless it gives a sign of life before. A connection that broke and did not come back within an interval says more than
/// heartbeats that are late.
fn silent_from(ear: &Ear, floor: Instant, rhythm: Rhythm) -> Option<Instant> {
    let silent = last_sign(ear, floor) + rhythm.silence;
    match ear.hearing {
        Hearing::Silent | Hearing::Dead => None,
        Hearing::Broken => Some(silent.min(ear.since.max(floor) + rhythm.interval)),
        Hearing::Never | Hearing::Heard => Some(silent),
    }
}

/// When a peer last gave a sign of life, as far as this one could have noticed.
fn last_sign(ear: &Ear, floor: Instant) -> Instant {
    ear.heard.map_or(floor, |heard| heard.max(floor))
}
