//! A stand-in for the composition root, with its signatures and without its work. Begin with [`Node`].

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Config;
use crate::types::PeerId;

/// A running peer.
#[derive(Debug)]
pub struct Node {
    config: Config,
    address: SocketAddr,
    failed: watch::Sender<Option<Arc<Error>>>,
    _listener: TcpListener,
}

impl Node {
    /// Starts a peer.
    ///
    /// # Errors
    /// [`Error`] says what to mend.
    pub async fn start(config: Config, listener: Option<TcpListener>) -> Result<Self, Error> {
        let listener = match listener {
            Some(listener) => listener,
            None => listen(&config)?,
        };
        let address = listener.local_addr()?;
        tokio::task::yield_now().await;
        Ok(Self {
            config,
            address,
            failed: watch::Sender::new(None),
            _listener: listener,
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

    /// Waits until every shard of this peer has a leader; false when the deadline came first.
    pub async fn ready(&self, deadline: Instant) -> bool {
        tokio::task::yield_now().await;
        deadline > Instant::now()
    }

    /// Turns to why the peer cannot go on.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<Error>>> {
        self.failed.subscribe()
    }

    /// Stops.
    pub async fn stop(self) {
        tokio::task::yield_now().await;
    }
}

/// Takes the port of a peer, or the next free one if its settings say so.
///
/// # Errors
/// [`Error`] names the port.
pub fn listen(config: &Config) -> Result<TcpListener, Error> {
    let mut address = config.listen;
    loop {
        match std::net::TcpListener::bind(address) {
            Err(_)
                if config.next_free_port
                    && address.port() < config.listen.port().saturating_add(100) =>
            {
                address.set_port(address.port().saturating_add(1));
            }
            listener => {
                let listener = listener?;
                listener.set_nonblocking(true)?;
                return Ok(TcpListener::from_std(listener)?);
            }
        }
    }
}

/// Why a peer does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot listen.
    #[error("cannot listen: {0}")]
    Listen(#[from] std::io::Error),
}
