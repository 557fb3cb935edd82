//! Listening and dialling.
//!
//! It never retries and knows no protocol. Begin with [`listen`], [`dial`] and [`knock`].

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel holds until they are accepted: a burst of clients after a failover.
const BACKLOG: i32 = 1024;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Why there is no listener or no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else listens there.
    #[error("{address} is in use by another process")]
    InUse {
        /// Where to listen.
        address: SocketAddr,
    },
    /// The listener cannot be opened.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where to listen.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A connection cannot be taken.
    #[error("cannot take a connection on {address}")]
    Accept {
        /// Where it came to.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody listens there.
    #[error("{address} refused the connection")]
    Refused {
        /// Who was dialled.
        address: SocketAddr,
    },
    /// The time given was too short.
    #[error("{address} did not answer within {wait:?}")]
    Timeout {
        /// Who was dialled.
        address: SocketAddr,
        /// How long the dialler waited.
        wait: Duration,
    },
    /// The name of a machine leads to no address.
    #[error("cannot find the address of {authority}")]
    Resolve {
        /// Host and port.
        authority: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection cannot be made.
    #[error("cannot connect to {address}")]
    Dial {
        /// Who was dialled.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Whether the connection was taken and ended before it was there, as it is when the listener is closed meanwhile.
    pub fn is_broken_off(&self) -> bool {
        let Self::Dial { source, .. } = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
        )
    }
}

/// A connection.
pub type Stream = TcpStream;

/// Takes connections.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, without delay of small segments. Cancel-safe: a connection is either returned or stays in the kernel's queue.
    ///
    /// # Errors
    /// [`Error::Accept`], for instance when no file descriptor is left.
    pub async fn accept(&self) -> Result<Stream, Error> {
        let accepted = self.inner.accept().await.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        accepted.map_err(|source| Error::Accept {
            address: self.address,
            source,
        })
    }
}

/// Listens on the address, also while connections of an earlier listener there die away. Call it inside a tokio runtime.
///
/// # Errors
/// [`Error::InUse`] when another listener is there, [`Error::Listen`] otherwise.
pub fn listen(address: SocketAddr) -> Result<Listener, Error> {
    let open = || -> io::Result<Listener> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let inner = TcpListener::from_std(socket.into())?;
        let address = inner.local_addr()?;
        Ok(Listener { inner, address })
    };
    open().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { address },
        _ => Error::Listen { address, source },
    })
}

/// Connects within `wait`, without delaying small segments.
///
/// # Errors
/// [`Error::Refused`], [`Error::Timeout`] or [`Error::Dial`].
pub async fn dial(address: SocketAddr, wait: Duration) -> Result<TcpStream, Error> {
    let connected = tokio::time::timeout(wait, TcpStream::connect(address))
        .await
        .map_err(|_| Error::Timeout { address, wait })?;
    connected
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|source| match source.kind() {
            io::ErrorKind::ConnectionRefused => Error::Refused { address },
            _ => Error::Dial { address, source },
        })
}

/// Connects to `host:port`, and ends the connection at once: somebody listens there, at the address returned. Each address that the name leads to is
/// tried; when it leads to none, the one where somebody listened last.
///
/// # Errors
/// [`Error::Refused`] when every address refuses, [`Error::Resolve`], [`Error::Timeout`] or [`Error::Dial`].
pub async fn knock(
    authority: &str,
    last: Option<SocketAddr>,
    wait: Duration,
) -> Result<SocketAddr, Error> {
    let unresolved = |source| Error::Resolve {
        authority: authority.to_owned(),
        source,
    };
    let found = tokio::time::timeout(wait, tokio::net::lookup_host(authority)).await;
    let found = found.map_err(io::Error::from).flatten();
    let addresses: Vec<SocketAddr> = match (found, last) {
        (Ok(found), _) => found.take(ADDRESSES_MAX).collect(),
        (Err(_), Some(last)) => vec![last],
        (Err(error), None) => return Err(unresolved(error)),
    };
    let mut problem = None;
    for address in addresses {
        match dial(address, wait).await {
            Ok(_) => return Ok(address),
            // One that does not answer says less than one that refuses, and so weighs more.
            Err(Error::Refused { .. }) if problem.is_some() => {}
            Err(error) => problem = Some(error),
        }
    }
    Err(problem.unwrap_or_else(|| unresolved(io::ErrorKind::NotFound.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn busy_port_and_absent_listener_are_told_apart() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.address();
        assert!(matches!(listen(address), Err(Error::InUse { .. })));
        dial(address, Duration::from_secs(5)).await.unwrap();
        drop(first);
        assert!(matches!(
            dial(address, Duration::from_secs(5)).await,
            Err(Error::Refused { .. })
        ));
    }
}
