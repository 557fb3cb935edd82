//! How a replica that is not whole is made again from the others.
//!
//! It hands leadership over, asks the leader whether the others can do without it, and keeps everything until they can. Then, in this order: its group is
//! stopped; it asks once more, because only now it cannot take on more that the others lack; its next incarnation is written down, with the duty to drop what it
//! held; the log and the rows of the shard are dropped; that is written down; the group starts under the new Raft id, and asks to be let in. A peer that is killed
//! in between goes on at the next start. The only replica of a shard is never dropped, whatever it lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::error::in_full;
use super::life::{End, Life, Phase};
use crate::consensus::{self, Admission, Answer, Group, Intent, LEAVE_MAX};
use crate::types::{ByteCount, Incarnation, LogIndex, PeerId};
use crate::wal::Op;

/// The leader is asked again after this, …
const ASK_PAUSE_MIN: Duration = Duration::from_millis(50);
/// … and each time after twice as long, up to this.
const ASK_PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often a replica whose group is stopped asks for leave before it takes part again: the others may need its vote.
const LEAVE_TRIES: usize = 5;
/// What is read at once of a log that is looked through for damage.
const LOG_STEP: ByteCount = ByteCount(1 << 20);

impl Life {
    /// The damage that the store has met in this shard, when there is any; else waits for it.
    pub(super) async fn damage(&self) -> String {
        let index = self.shared.shard.index();
        let mut damaged = self.parts.store.damaged();
        let found = damaged.wait_for(|all| all.contains_key(&index)).await;
        let found = found.ok().and_then(|all| all.get(&index).map(Arc::clone));
        match found {
            Some(error) => in_full(&*error),
            // The store is gone, and with it what it could tell.
            None => std::future::pending().await,
        }
    }

    /// Why the group cannot have gone on, if what it reads is damaged.
    pub(super) async fn find_damage(&self) -> Option<String> {
        let damaged = self.parts.store.damaged();
        let met = damaged
            .borrow()
            .get(&self.shared.shard.index())
            .map(Arc::clone);
        match met {
            Some(error) => Some(in_full(&*error)),
            None => self.find_damage_in_log().await,
        }
    }

    /// Reads all of the shard's log. Rare: only when the group has failed.
    async fn find_damage_in_log(&self) -> Option<String> {
        let (wal, shard) = (Arc::clone(&self.parts.wal), self.shared.shard);
        let look = move || {
            let bounds = wal.bounds(shard);
            let (mut next, last) = (bounds.first?, bounds.last?.index);
            while next <= last {
                let end = LogIndex(last.0 + 1);
                match wal.entries(shard, next..end, LOG_STEP) {
                    Ok(entries) => next = entries.last()?.position.index.next(),
                    Err(error) if error.is_damage() => return Some(in_full(&error)),
                    Err(_) => return None,
                }
            }
            None
        };
        self.shared.tasks.spawn_blocking(look).await.ok().flatten()
    }

    /// Waits for leave to drop what this replica holds. Its group may run meanwhile.
    pub(super) async fn part(&self, group: Option<&Group>, reason: String) -> End {
        let shard = self.shared.shard;
        let phase = Phase::Rebuilding {
            reason: Arc::from(reason.as_str()),
        };
        if self.phase() != phase {
            error!(%shard, reason, "this replica is not whole; it is made again when the other replicas can do without it");
        }
        self.show(phase, group);
        if self.others().next().is_none() {
            error!(%shard, "there is no other replica: what is left is kept as it is");
            self.shared.stop.cancelled().await;
            return End::Stopped;
        }
        let mut pause = ASK_PAUSE_MIN;
        while !self.shared.stop.is_cancelled() {
            if let Some(group) = group {
                group.hand_over().await;
            }
            if self.has_leave().await {
                return End::Released;
            }
            self.rest(pause).await;
            pause = (pause * 2).min(ASK_PAUSE_MAX);
        }
        End::Stopped
    }

    /// Asks for leave again, now that the group is stopped. What this replica acknowledged until then the others have to hold, too.
    pub(super) async fn take_leave(&self) -> End {
        let mut pause = ASK_PAUSE_MIN;
        for _ in 0..LEAVE_TRIES {
            if self.has_leave().await {
                info!(shard = %self.shared.shard, "the other replicas can do without this one");
                return End::Over;
            }
            self.rest(pause).await;
            pause *= 2;
        }
        End::Failed("the other replicas cannot do without this one now".to_owned())
    }

    async fn has_leave(&self) -> bool {
        let (shard, asked) = (self.shared.shard, Instant::now());
        match self.ask(Intent::Leaving).await {
            // Later on another leader may have allowed it to another replica.
            Some(Answer::MayLeave) => asked.elapsed() <= LEAVE_MAX,
            answer => {
                debug!(%shard, ?answer, "this replica must keep what it holds for now");
                false
            }
        }
    }

    /// Writes down that a new life begins. When that fails the old one goes on.
    pub(super) async fn begin_anew(&self) -> Result<(), String> {
        if self.shared.stop.is_cancelled() {
            return Ok(());
        }
        let (ledger, shard) = (Arc::clone(&self.parts.ledger), self.shared.shard);
        let seconds = self.parts.clock.now().0 / 1_000_000_000;
        let now = Incarnation(u32::try_from(seconds).unwrap_or(u32::MAX));
        let renewed = self.shared.tasks.spawn_blocking(move || {
            let next = Incarnation(ledger.standing(shard).incarnation.0.saturating_add(1));
            ledger.renew(shard, next.max(now))
        });
        let renewed = renewed.await.map_err(|error| error.to_string())?;
        renewed.map_err(|error| {
            format!(
                "its next life could not be written down: {}",
                in_full(&error)
            )
        })
    }

    /// Waits until all that an earlier group of the shard has given to the log is on disk. A new one takes what it finds there for durable, and would
    /// vouch for entries and votes that a power cut takes back.
    pub(super) async fn settle_log(&self) -> Result<(), String> {
        let (shard, entries) = (self.shared.shard, Vec::new());
        self.submit(Op::Append { shard, entries }).await
    }

    /// Gives an operation to the log and waits until it is on disk, with all before it.
    async fn submit(&self, op: Op) -> Result<(), String> {
        let (done, is_done) = oneshot::channel();
        let wal = Arc::clone(&self.parts.wal);
        let submitted = self.shared.tasks.spawn_blocking(move || {
            let done = Box::new(move |result| drop(done.send(result)));
            wal.submit(vec![op], done)
        });
        let submitted = submitted.await.map_err(|error| error.to_string())?;
        submitted.map_err(|error| in_full(&error))?;
        let written = is_done.await.map_err(|error| error.to_string())?;
        written.map_err(|error| in_full(&error))
    }

    /// Drops what the shard holds on this peer.
    pub(super) async fn reset(&self) -> Result<(), String> {
        let (shard, store) = (self.shared.shard, Arc::clone(&self.parts.store));
        self.submit(Op::Reset { shard }).await?;
        let ledger = Arc::clone(&self.parts.ledger);
        let dropped = self.shared.tasks.spawn_blocking(move || {
            let erased = store.erase(shard);
            if let Err(error) = &erased
                && error.is_damage()
            {
                // Not even what is there can be listed. Opened anew, the store knows that the shard is to be empty, and is given up if it cannot be.
                ledger.lose_store(in_full(error));
            }
            erased.map_err(|error| in_full(&error))?;
            ledger.reset_done(shard).map_err(|error| in_full(&error))
        });
        dropped.await.map_err(|error| error.to_string())??;
        self.shared.frozen.clear();
        info!(%shard, "dropped what the replica held; it is made again from the others");
        Ok(())
    }

    /// Waits until the replica has its place in the group. In the first life of its peer it has that from the founder.
    pub(super) async fn join(&self, group: &Group) -> Result<(), End> {
        let shard = self.shared.shard;
        let standing = self.parts.ledger.standing(shard);
        if standing.incarnation <= Incarnation(1) || group.is_member() {
            return Ok(());
        }
        let reason = Arc::from("it is new here and gets from the others what they hold");
        self.show(Phase::Rebuilding { reason }, Some(group));
        info!(%shard, incarnation = %standing.incarnation, "asking to be let in");
        let mut pause = ASK_PAUSE_MIN;
        while !group.is_member() {
            match self.ask(Intent::Joining).await {
                Some(Answer::Refused { why }) => {
                    warn!(%shard, why, "not let in; trying as a later life");
                    self.rest(ASK_PAUSE_MAX).await;
                    return Err(End::Over);
                }
                // Soon there.
                Some(Answer::CatchingUp | Answer::Member) => pause = ASK_PAUSE_MIN,
                answer => debug!(%shard, ?answer, "not let in yet"),
            }
            self.rest(pause).await;
            if self.shared.stop.is_cancelled() {
                return Err(End::Stopped);
            }
            pause = (pause * 2).min(ASK_PAUSE_MAX);
        }
        info!(%shard, "the replica is whole again");
        Ok(())
    }

    /// Asks until the leader says that nothing is left to do: the earlier life of a standby leaves the group after the new one is in it, and a crash may come in
    /// between. Ends never, or it would end the life that it belongs to.
    pub(super) async fn settle_in(&self, group: &Group) -> End {
        let standing = self.parts.ledger.standing(self.shared.shard);
        let mut pause = ASK_PAUSE_MIN;
        while standing.incarnation > Incarnation(1) {
            let deadline = Instant::now() + ASK_PAUSE_MAX;
            let is_settled = match group.admit(group.node(), deadline).await {
                Ok(admission) => admission == Admission::Member,
                // Another one leads.
                Err(_) => self.ask(Intent::Joining).await == Some(Answer::Member),
            };
            if is_settled {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ASK_PAUSE_MAX);
        }
        std::future::pending().await
    }

    /// Asks the leader; whoever it is, it is among the others. `None`: nobody answers as the leader.
    async fn ask(&self, intent: Intent) -> Option<Answer> {
        let (peers, shard) = (&self.parts.peers, self.shared.shard);
        let standing = self.parts.ledger.standing(shard);
        let node = consensus::node_id(self.this(), standing.incarnation);
        let mut asked: Vec<PeerId> = Vec::new();
        let mut next: Vec<PeerId> = self.others().collect();
        next.reverse();
        while let Some(peer) = next.pop() {
            if asked.contains(&peer) || peer == self.this() {
                continue;
            }
            asked.push(peer);
            match consensus::ask_admission(peers, peer, shard, node, intent).await {
                Ok(Answer::NotLeader { leader }) => next.extend(leader),
                Ok(answer) => return Some(answer),
                Err(error) => debug!(%shard, %peer, %error, "a peer does not answer"),
            }
        }
        None
    }

    fn this(&self) -> PeerId {
        consensus::peer_of(self.options.node)
    }

    /// The other peers that hold the shard.
    fn others(&self) -> impl Iterator<Item = PeerId> + '_ {
        let all = self.options.voters.iter().chain(&self.options.standbys);
        all.copied().filter(|peer| *peer != self.this())
    }
}
