//! A peer that can be made to fail: it loses everything but its disk, and returns after a while or when it is told to.
//!
//! ```text
//! up ──StopNode──► failing ──► down ──time, or resume──► starting ──► up
//!  └──stop───────────────────────└──stop──► stopped
//! ```
//! One task owns the peer over all its lives; others see it through [`Switch`]. It never decides by itself that a peer fails, and never keeps anything of
//! one life for the next but the settings and the address. Begin with [`Switch::start`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::{Error, Failure, Node};
use crate::config::Config;
use crate::env::net::Listener;
use crate::rpc::{Order, Outage};
use crate::types::PeerId;

/// A caller that takes no answer to StopNode, because it reads nothing, is waited for no longer.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);
/// A peer that cannot return, because something of its last life still holds its disk or its port, tries again after this; …
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// … and each time after twice as long, up to this.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A peer over all its lives in this process. Dropping it stops the peer.
pub struct Switch {
    peer: PeerId,
    address: SocketAddr,
    state: watch::Receiver<State>,
    resume: watch::Sender<()>,
    end: CancellationToken,
    /// What is done with a peer that is up at the end.
    last: watch::Sender<Last>,
    tasks: TaskTracker,
}

/// Whether the peer is there.
#[derive(Clone)]
pub enum State {
    /// It runs.
    Up(Arc<Node>),
    /// It was made to fail and has not returned.
    Down,
    /// It is stopped for good.
    Stopped,
}

/// How the last life ends.
#[derive(Debug, Clone, Copy)]
enum Last {
    Stop,
    Fail,
}

impl Switch {
    /// Starts a peer, as [`Node::start`] does, and from then on lets it fail and return as it is told.
    ///
    /// # Errors
    /// Those of [`Node::start`].
    pub async fn start(config: Config, listener: Option<Listener>) -> Result<Self, Error> {
        let node = Box::pin(Node::start(config.clone(), listener)).await?;
        let (peer, address) = (node.peer(), node.address());
        // The others know this address: a peer that returned at another would be lost to them.
        let config = Config {
            listen: address,
            next_free_port: false,
            ..config
        };
        let sender = watch::Sender::new(State::Up(Arc::new(node)));
        let switch = Self {
            peer,
            address,
            state: sender.subscribe(),
            resume: watch::Sender::new(()),
            end: CancellationToken::new(),
            last: watch::Sender::new(Last::Stop),
            tasks: TaskTracker::new(),
        };
        let keeper = Keeper {
            config,
            state: sender,
            resume: switch.resume.subscribe(),
            end: switch.end.clone(),
            last: switch.last.subscribe(),
        };
        switch.tasks.spawn(keeper.run());
        switch.tasks.close();
        Ok(switch)
    }

    /// The peer's number.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Where it listens, in all its lives.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the peer is there, kept up to date. Who holds a [`Node`] longer than needed keeps the peer from returning: it holds the disk.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The peer, while it runs.
    pub fn node(&self) -> Option<Arc<Node>> {
        match &*self.state.borrow() {
            State::Up(node) => Some(Arc::clone(node)),
            State::Down | State::Stopped => None,
        }
    }

    /// As [`Node::ready`]; a peer that is down is not.
    pub async fn ready(&self, deadline: Instant) -> bool {
        match self.node() {
            Some(node) => node.ready(deadline).await,
            None => false,
        }
    }

    /// Tells a peer that is down to return now. One that runs is told nothing.
    pub fn resume(&self) {
        self.resume.send_replace(());
    }

    /// Waits until the peer cannot go on, in whatever life, and says why. It must be stopped then.
    pub async fn failed(&self) -> Arc<Failure> {
        let mut state = self.state.clone();
        loop {
            let failed = match &*state.borrow_and_update() {
                State::Up(node) => Some(node.failed()),
                State::Down | State::Stopped => None,
            };
            let why = async {
                match failed {
                    Some(failed) => await_failure(failed).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                why = why => return why,
                changed = state.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
            }
        }
    }

    /// Stops the peer with [`Node::stop`], for good.
    pub async fn stop(&self) {
        self.end.cancel();
        self.tasks.wait().await;
    }

    /// Ends the peer with [`Node::fail`], for good: what a kill leaves.
    pub async fn fail(&self) {
        self.last.send_replace(Last::Fail);
        self.stop().await;
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

async fn await_failure(mut failed: watch::Receiver<Option<Arc<Failure>>>) -> Arc<Failure> {
    let why = match failed.wait_for(Option::is_some).await {
        Ok(why) => why.clone(),
        Err(_) => None,
    };
    match why {
        Some(why) => why,
        // This life is over, and with it what it could say.
        None => std::future::pending().await,
    }
}

/// Owns the peer.
struct Keeper {
    config: Config,
    state: watch::Sender<State>,
    resume: watch::Receiver<()>,
    end: CancellationToken,
    last: watch::Receiver<Last>,
}

impl Keeper {
    async fn run(mut self) {
        while let Some(outage) = self.live().await {
            if let Some(node) = self.return_from(outage).await {
                self.state.send_replace(State::Up(Arc::new(node)));
            } else {
                self.state.send_replace(State::Stopped);
            }
        }
    }

    /// One life, to its end; `None`: it was the last.
    async fn live(&mut self) -> Option<Outage> {
        let State::Up(node) = self.state.borrow().clone() else {
            return None;
        };
        let order = tokio::select! {
            () = self.end.cancelled() => None,
            order = node.told_to_fail() => Some(order),
        };
        let last = *self.last.borrow();
        let outage = order.as_ref().map(|order| order.outage);
        match (order, last) {
            (Some(Order { outage, answered }), _) => {
                // Either way it fails now.
                let _ = tokio::time::timeout(ANSWER_TIME_MAX, answered.cancelled()).await;
                warn!(peer = %self.config.peer, ?outage, "failing on purpose");
                self.resume.mark_unchanged();
                node.fail().await;
            }
            (None, Last::Fail) => node.fail().await,
            (None, Last::Stop) => node.stop().await,
        }
        let next = if outage.is_some() {
            State::Down
        } else {
            State::Stopped
        };
        let past = self.state.send_replace(next);
        // The log's thread is waited for, and the store may close files.
        let dropped = tokio::task::spawn_blocking(move || drop((past, node)));
        if let Err(error) = dropped.await {
            warn!(%error, "what a peer left behind was not dropped well");
        }
        outage
    }

    /// Waits for the end of the outage, then starts the peer again. `None`: it is not to return.
    async fn return_from(&mut self, outage: Outage) -> Option<Node> {
        let over = async {
            match outage {
                Outage::For(time) => tokio::time::sleep(time).await,
                Outage::UntilTold => std::future::pending().await,
            }
        };
        let resume = &mut self.resume;
        let told = async {
            if resume.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.end.cancelled() => return None,
            () = over => {}
            () = told => {}
        }
        info!(peer = %self.config.peer, "returning");
        let mut pause = PAUSE_MIN;
        loop {
            match Box::pin(Node::start(self.config.clone(), None)).await {
                Ok(node) => return Some(node),
                Err(error) if pause < PAUSE_MAX => debug!(%error, ?pause, "cannot return yet"),
                Err(error) => warn!(%error, ?pause, "cannot return yet"),
            }
            tokio::select! {
                () = self.end.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
