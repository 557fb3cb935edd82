//! The stream of heartbeats between this peer and one other, for as long as this peer lives.
//!
//! The peer with the lower number opens it, to every other peer and not only to its neighbours on the cube: two neighbours of a vertex share its
//! shard, and are at distance two. When the stream ends either side dials: refused twice, the other process is gone, and that is known within
//! milliseconds. A dial that is neither taken nor refused says nothing; the limit of silence decides then. Begin with [`keep`].

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

/// Between the two dials that show that nobody listens: a process that ends closes its connections before its listener.
const DIAL_GAP: Duration = Duration::from_millis(3);
/// A machine that is there takes or refuses a connection sooner.
const DIAL_WAIT: Duration = Duration::from_millis(500);
/// A stream that could not be opened is tried again after this, …
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// … when nobody listened there after this at least, …
const DEAD_PAUSE_MIN: Duration = Duration::from_millis(50);
/// … and each time after twice as long, up to this: a peer that returns is seen soon.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Has heartbeats exchanged with one peer; never ends by itself.
pub(super) async fn keep(peers: Peers, peer: PeerId, incoming: mpsc::Receiver<Beats>) {
    let is_lower = peers.core.identity.peer < peer;
    let keeper = Keeper { peers, peer };
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
}

impl Keeper {
    /// Opens one stream after the other.
    async fn open_streams(&self) {
        let mut pause = PAUSE_MIN;
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
                    pause = PAUSE_MIN;
                    continue;
                }
            } else {
                pause = pause.max(DEAD_PAUSE_MIN);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.peers.links.doubted(self.peer) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
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
        let mut pause = DIAL_GAP;
        loop {
            // One that listens may be about to end: it closes its connections before its listener. So it is asked again until a new stream comes.
            if self.dial().await == Finding::Listens && pause < PAUSE_MAX {
                tokio::time::sleep(pause).await;
                pause *= 2;
            } else {
                self.peers.links.doubted(self.peer).await;
                pause = DIAL_GAP;
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
        loop {
            let beat = tokio::select! {
                biased;
                beat = beats.next() => beat,
                () = self.peers.links.doubted(self.peer) => {
                    self.dial().await;
                    continue;
                }
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

    /// Finds out whether a process listens there.
    async fn dial(&self) -> Finding {
        let Some(address) = self.peers.core.addresses.get(&self.peer) else {
            return Finding::Unsure;
        };
        for is_second in [false, true] {
            if is_second {
                tokio::time::sleep(DIAL_GAP).await;
            }
            if self.peers.core.faults.pass(self.peer).await.is_err() {
                return Finding::Unsure;
            }
            match net::knock(address, DIAL_WAIT).await {
                Ok(()) => return Finding::Listens,
                Err(net::Error::Refused { .. }) => {}
                Err(error) => {
                    debug!(peer = %self.peer, %error, "cannot say whether a peer is there");
                    return Finding::Unsure;
                }
            }
        }
        self.peers.links.bury(self.peer);
        Finding::Dead
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
