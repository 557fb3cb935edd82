//! The settings as they are written, before they are checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;
use super::source::Layers;
use crate::telemetry::Format;
use crate::types::{Dimension, Limits};

/// The shape of the file. What is `None` is derived from the rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Raw {
    pub(super) cluster: String,
    pub(super) dimension: u8,
    pub(super) peer: u16,
    pub(super) listen_host: IpAddr,
    pub(super) base_port: u16,
    pub(super) port: Option<u16>,
    pub(super) next_free_port: bool,
    pub(super) advertise: Option<String>,
    pub(super) peers: Option<Vec<String>>,
    pub(super) data_dir: PathBuf,
    pub(super) replication_factor: Option<u8>,
    #[serde(with = "humantime_serde")]
    pub(super) heartbeat_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub(super) election_timeout_min: Duration,
    #[serde(with = "humantime_serde")]
    pub(super) election_timeout_max: Duration,
    #[serde(with = "humantime_serde")]
    pub(super) call_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub(super) shutdown_grace: Duration,
    pub(super) fault_injection: bool,
    pub(super) link: Link,
    pub(super) limits: Limits,
    pub(super) wal: Wal,
    pub(super) store: Store,
    pub(super) disk: Disk,
    pub(super) retention: Retention,
    pub(super) failover: Failover,
    pub(super) log: Log,
}

/// The table `link`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Link {
    #[serde(with = "humantime_serde")]
    pub(super) interval: Duration,
    #[serde(with = "humantime_serde")]
    pub(super) silence: Duration,
}

/// The table `wal`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Wal {
    pub(super) segment_bytes_max: u64,
    pub(super) keep_bytes: u64,
}

/// The table `store`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Store {
    pub(super) cache_bytes: u64,
    pub(super) memtable_bytes: u64,
    #[serde(with = "humantime_serde")]
    pub(super) flush_interval: Duration,
}

/// The table `disk`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Disk {
    pub(super) reserve_bytes: u64,
}

/// The table `retention`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Retention {
    #[serde(with = "humantime_serde")]
    pub(super) interval: Duration,
}

/// The table `failover`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Failover {
    #[serde(with = "humantime_serde")]
    pub(super) standby_after: Duration,
    #[serde(with = "humantime_serde")]
    pub(super) return_after: Duration,
}

/// The table `log`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Log {
    pub(super) filter: String,
    pub(super) format: Format,
}

/// The consensus library warns of every attempt to reach a peer that is down; `consensus` says once who leads.
const LOG_FILTER: &str = "info,openraft=error,fjall=warn,lsm_tree=warn";

impl Default for Raw {
    fn default() -> Self {
        Self {
            cluster: "cubecast".to_owned(),
            dimension: 3,
            peer: 0,
            listen_host: IpAddr::from([127, 0, 0, 1]),
            base_port: 8000,
            port: None,
            next_free_port: false,
            advertise: None,
            peers: None,
            data_dir: PathBuf::from("./cubecast-data"),
            replication_factor: None,
            heartbeat_interval: Duration::from_millis(500),
            election_timeout_min: Duration::from_millis(1500),
            election_timeout_max: Duration::from_secs(3),
            call_timeout: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(10),
            fault_injection: false,
            link: Link {
                interval: Duration::from_millis(250),
                silence: Duration::from_millis(800),
            },
            limits: Limits::default(),
            wal: Wal {
                segment_bytes_max: 64 << 20,
                keep_bytes: 128 << 20,
            },
            store: Store {
                cache_bytes: 16 << 20,
                memtable_bytes: 32 << 20,
                flush_interval: Duration::from_secs(5),
            },
            disk: Disk {
                reserve_bytes: 256 << 20,
            },
            retention: Retention {
                interval: Duration::from_secs(5),
            },
            failover: Failover {
                standby_after: Duration::from_millis(300),
                return_after: Duration::from_secs(1),
            },
            log: Log {
                filter: LOG_FILTER.to_owned(),
                format: Format::Text,
            },
        }
    }
}

impl Raw {
    /// Fills in what follows from the rest.
    ///
    /// # Errors
    /// When nothing follows from the rest: no such cube, or no such port.
    pub(super) fn derived(mut self, layers: &Layers) -> Result<Self, Error> {
        let dimension = Dimension::new(self.dimension)
            .map_err(|error| layers.wrong("dimension", error.to_string()))?;
        let port = match self.port {
            Some(port) => port,
            None => self.port_of(self.peer, layers)?,
        };
        if self.peers.is_none() {
            let ports: Result<Vec<u16>, Error> = (0..dimension.vertex_count())
                .map(|peer| match peer {
                    own if own == self.peer => Ok(port),
                    other => self.port_of(other, layers),
                })
                .collect();
            let address = |port| address(SocketAddr::new(self.listen_host, port));
            self.peers = Some(ports?.into_iter().map(address).collect());
        }
        let mut peers = self.peers.iter().flatten();
        let own = peers.nth(usize::from(self.peer)).cloned();
        // A peer beyond the list is refused by the check, in a better sentence than could be said here.
        self.advertise = self.advertise.take().or(own);
        self.port = Some(port);
        self.replication_factor.get_or_insert(dimension.bits() + 1);
        Ok(self)
    }

    /// The port of a peer of this machine.
    fn port_of(&self, peer: u16, layers: &Layers) -> Result<u16, Error> {
        let base = self.base_port;
        base.checked_add(peer).ok_or_else(|| {
            let problem = format!("{base} leaves no port for peer {peer}: the last port is 65535");
            layers.wrong("base_port", problem)
        })
    }
}

/// The address at which this machine reaches what listens there.
pub(super) fn address(listen: SocketAddr) -> String {
    let host = match listen.ip() {
        host if !host.is_unspecified() => host,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    format!("http://{}", SocketAddr::new(host, listen.port()))
}
