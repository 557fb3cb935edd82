//! The stream of heartbeats between this peer and one other, for as long as this peer lives.
//!
//! The peer with the lower number opens it, to every other peer and not only to its neighbours on the cube: two neighbours of a vertex share its
//! shard, and are at distance two. When the stream ends either side dials until it knows: refused twice, the other process is gone, and that is known
//! within milliseconds. A dial that is neither taken nor refused says nothing; the limit of silence decides then. Begin with [`keep`].

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::links::Beats;
use super::{Channel, Error, Peers, wire};
use crate::env::net;
use crate::proto::peer::v1::link_service_client::LinkServiceClient;
use crate::proto::peer::v1::{BeatRequest, Heartbeat};
use crate::types::PeerId;

/// Between the dials that show that nobody listens: a process that ends closes its connections before its listener.
const DIAL_GAP: Duration = Duration::from_millis(3);
/// Dials in a row that may be broken off before anything else is done.
const DIALS_MAX: u32 = 10;
/// A machine that is there takes or refuses a connection sooner.
const DIAL_WAIT: Duration = Duration::from_millis(500);
/// A process under load may take so long to end. Until then nothing is left undone to find out whether a peer whose connection broke is there.
const ENDING_MAX: Duration = Duration::from_millis(250);
/// Then, and where nobody listened, it is dialled after this, …
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// … and each time after twice as long, up to this: a peer that returns is seen soon.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Has heartbeats exchanged with one peer; never ends by itself.
pub(super) async fn keep(peers: Peers, peer: PeerId, incoming: mpsc::Receiver<Beats>) {
    let is_lower = peers.core.identity.peer < peer;
    let keeper = Keeper {
        peers,
        peer,
        address: Mutex::default(),
    };
    if is_lower {
        keeper.open_streams().await;
    } else {
        keeper.take_streams(incoming).await;
    }
}

/// What a dial has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    Listens,
    Dead,
    Unsure,
}

struct Keeper {
    peers: Peers,
    peer: PeerId,
    /// Where a process listened last: the name of a machine that ends may end before it.
    address: Mutex<Option<SocketAddr>>,
}

/// When to dial again.
struct Pauses {
    begun: Instant,
    next: Duration,
}

impl Pauses {
    fn begin() -> Self {
        Self {
            begun: Instant::now(),
            next: PAUSE_MIN,
        }
    }

    /// After this, when nobody listened or it is not being found out whether anybody does.
    fn long(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE_MAX);
        pause
    }

    /// After this, when a peer may be about to end or to come back.
    fn short(&mut self) -> Duration {
        if self.begun.elapsed() < ENDING_MAX {
            DIAL_GAP
        } else {
            self.long()
        }
    }
}

impl Keeper {
    /// Opens one stream after the other.
    async fn open_streams(&self) {
        let mut pauses = Pauses::begin();
        loop {
            let finding = self.dial().await;
            if finding == Finding::Listens {
                let begun = Instant::now();
                match self.open().await {
                    Ok(mut beats) => self.listen(&mut beats).await,
                    Err(error) => debug!(peer = %self.peer, %error, "no heartbeats"),
                }
                self.peers.links.lose(self.peer);
                if begun.elapsed() > self.peers.core.rhythm.interval {
                    pauses = Pauses::begin();
                    continue;
                }
            }
            let pause = if finding != Finding::Dead && self.peers.links.is_open(self.peer) {
                pauses.short()
            } else {
                pauses.long()
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.peers.links.doubted(self.peer) => {}
            }
        }
    }

    /// Hears the stream that the other peer opened last.
    async fn take_streams(&self, mut incoming: mpsc::Receiver<Beats>) {
        let mut beats: Option<Beats> = None;
        loop {
            // What is interrupted keeps nothing: a heartbeat is either taken or still in its stream, which ends.
            tokio::select! {
                next = incoming.recv() => {
                    self.peers.links.lose(self.peer);
                    beats = next;
                }
                () = self.attend(beats.take()) => {}
            }
        }
    }

    async fn attend(&self, beats: Option<Beats>) {
        if let Some(mut beats) = beats {
            self.listen(&mut beats).await;
            self.peers.links.lose(self.peer);
        }
        let mut pauses = Pauses::begin();
        loop {
            // One that listens may be about to end, so it is dialled until a new stream comes or the matter is settled.
            if self.dial().await != Finding::Dead && self.peers.links.is_open(self.peer) {
                tokio::time::sleep(pauses.short()).await;
            } else {
                self.peers.links.doubted(self.peer).await;
                pauses = Pauses::begin();
            }
        }
    }

    async fn open(&self) -> Result<impl Stream<Item = Heartbeat> + Unpin, OpenError> {
        let (peers, peer) = (&self.peers, self.peer);
        let outgoing = peers.links.outgoing(peer).ok_or(OpenError::Stranger)?;
        let outgoing = outgoing.map(|heartbeat| BeatRequest {
            heartbeat: Some(heartbeat),
        });
        let mut client = LinkServiceClient::new(Channel::on_link(peer, peers.clone()));
        let answer = client.beat(peers.request(outgoing)).await;
        let answer = answer.map_err(|status| OpenError::Call(status.into()))?;
        peers.vouch_answer(peer, answer.metadata())?;
        let beats = answer.into_inner();
        let beats = beats.take_while(|answer| std::future::ready(answer.is_ok()));
        Ok(Box::pin(beats.filter_map(|answer| {
            std::future::ready(answer.ok().and_then(|answer| answer.heartbeat))
        })))
    }

    /// Hears heartbeats until the stream ends.
    async fn listen(&self, beats: &mut (impl Stream<Item = Heartbeat> + Unpin)) {
        let mut tables = Bytes::new();
        // Beside the heartbeats: those that come while it dials are heard.
        let mut looking = std::pin::pin!(self.look_when_doubted());
        loop {
            let beat = tokio::select! {
                biased;
                beat = beats.next() => beat,
                () = &mut looking => return,
            };
            let Some(beat) = beat else { return };
            let mut news = Vec::new();
            if beat.tables != tables {
                let Some(read) = wire::decode(beat.tables.clone()) else {
                    debug!(peer = %self.peer, "heartbeat that cannot be read");
                    return;
                };
                (news, tables) = (read, beat.tables.clone());
            }
            self.peers.links.hear(self.peer, &beat, news);
        }
    }

    /// Dials whenever somebody doubts; never ends.
    async fn look_when_doubted(&self) {
        loop {
            self.peers.links.doubted(self.peer).await;
            self.dial().await;
        }
    }

    /// Finds out whether a process listens there.
    async fn dial(&self) -> Finding {
        let Some(address) = self.peers.core.addresses.get(&self.peer) else {
            return Finding::Unsure;
        };
        let mut refusals = 0;
        for number in 0..DIALS_MAX {
            if number > 0 {
                tokio::time::sleep(DIAL_GAP).await;
            }
            if self.peers.core.faults.pass(self.peer).await.is_err() {
                return Finding::Unsure;
            }
            let last = *self.address.lock().unwrap_or_else(PoisonError::into_inner);
            match net::knock(address, last, DIAL_WAIT).await {
                Ok(address) => {
                    *self.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
                    return Finding::Listens;
                }
                Err(net::Error::Refused { .. }) if refusals > 0 => {
                    self.peers.links.bury(self.peer);
                    return Finding::Dead;
                }
                Err(net::Error::Refused { .. }) => refusals += 1,
                // The listener was closed with the connection in its queue.
                Err(error) if error.is_broken_off() => {}
                Err(error) => {
                    debug!(peer = %self.peer, %error, "cannot say whether a peer is there");
                    return Finding::Unsure;
                }
            }
        }
        Finding::Unsure
    }
}

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("no such peer")]
    Stranger,
    #[error(transparent)]
    Call(Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Link(#[from] Error),
}
