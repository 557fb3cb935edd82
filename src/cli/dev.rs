//! `dev`: all peers of a cube in one process, for a first try and for development.
//!
//! They are real peers that speak TCP with each other; only the process is one. Ports are taken before any peer starts, so that all know all
//! addresses. Begin with [`run`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use futures::future::join_all;
use tokio::time::Instant;

use super::argument::{self, DevSettings};
use super::node::{failure, resume, stop};
use super::output::{Output, Row};
use super::record::DevPeer;
use super::signal::{Returns, Signals};
use super::text;
use crate::config::{Config, Origin, Setting, Sources};
use crate::node::{Switch, listen};
use crate::telemetry;
use crate::types::Vertex;

/// A start that takes longer is told of, and goes on.
const READY_MAX: Duration = Duration::from_secs(30);
/// What eight peers log at `info` would hide what is to be read. A setting says otherwise.
const LOG_FILTER: &str = "warn,openraft=error";
/// Where the client commands begin to look unless told otherwise.
const USUAL_ADDRESS: &str = "http://127.0.0.1:8000";

/// Run all peers of a cube in one process: eight, unless told otherwise; Ctrl-C stops them
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: DevSettings,
}

pub(super) async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let begun = Instant::now();
    let plan = Plan::new(arguments.settings.0.sources())?;
    telemetry::start_log(&plan.first.log)?;
    let mut signals = Signals::new()?;
    let returns = Returns::new()?;
    let peers = tokio::select! {
        peers = Box::pin(start(&plan)) => peers?,
        () = signals.next() => return Ok(()),
    };
    let done = tokio::select! {
        done = serve(&plan, &peers, begun, &mut signals, output) => done,
        () = resume(&peers, returns) => Ok(()),
    };
    output.word("stopping")?;
    stop(&peers, &mut signals, output).await?;
    done
}

/// Until the signal, or the first peer that cannot go on.
async fn serve(
    plan: &Plan,
    peers: &[Switch],
    begun: Instant,
    signals: &mut Signals,
    output: &mut Output,
) -> Result<()> {
    let deadline = Instant::now() + READY_MAX;
    let ready = tokio::select! {
        ready = join_all(peers.iter().map(|peer| peer.ready(deadline))) => ready,
        () = signals.next() => return Ok(()),
    };
    announce(plan, peers, begun.elapsed(), output)?;
    if ready.contains(&false) {
        output.word("some shards have no leader yet; calls to them wait")?;
    }
    tokio::select! {
        () = signals.next() => Ok(()),
        failure = failure(peers) => Err(failure.into()),
    }
}

/// The settings from which those of each peer are made.
struct Plan {
    sources: Sources,
    /// Those of peer 0, before its port is known.
    first: Config,
}

impl Plan {
    fn new(sources: Sources) -> Result<Self> {
        let first = argument::config(&set(sources.clone(), "peer", "0"))?;
        let is_default = |key: &str| {
            first
                .rows
                .iter()
                .any(|row| row.key == key && row.origin == Origin::Default)
        };
        if !is_default("log.filter") {
            return Ok(Self { sources, first });
        }
        let sources = set(sources, "log.filter", LOG_FILTER);
        let first = argument::config(&set(sources.clone(), "peer", "0"))?;
        Ok(Self { sources, first })
    }

    /// The settings of one peer at this port; `peers` are the addresses of all, when they are known.
    fn config(&self, peer: u16, port: u16, peers: Option<&[String]>) -> Result<Config> {
        let mut sources = set(self.sources.clone(), "peer", &peer.to_string());
        sources = set(sources, "port", &port.to_string());
        if let Some(peers) = peers {
            sources = set(sources, "peers", &peers.join(","));
            sources = set(sources, "advertise", &self.address(port));
        }
        argument::config(&sources)
    }

    /// The port to try first.
    fn port(&self, peer: u16) -> u16 {
        let base = self.first.rows.iter().find(|row| row.key == "base_port");
        let base: u16 = base
            .and_then(|row| row.value.parse().ok())
            .unwrap_or_default();
        base.saturating_add(peer)
    }

    /// Where a peer at this port is reached from this machine.
    fn address(&self, port: u16) -> String {
        let host = match self.first.listen.ip() {
            host if !host.is_unspecified() => host,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        format!("http://{}", SocketAddr::new(host, port))
    }

    fn vertices(&self) -> impl Iterator<Item = Vertex> {
        self.first.dimension.vertices()
    }
}

fn set(sources: Sources, key: &str, value: &str) -> Sources {
    match Setting::with_key(key) {
        Some(setting) => sources.flag(setting, value),
        None => sources,
    }
}

/// Takes all ports, then starts all peers at the same time. When one does not start, none stays.
async fn start(plan: &Plan) -> Result<Vec<Switch>> {
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for vertex in plan.vertices() {
        let peer = vertex.index();
        let listener = listen(&plan.config(peer, plan.port(peer), None)?)?;
        let port = listener.address().port();
        addresses.push(plan.address(port));
        listeners.push((peer, port, listener));
    }
    let mut starts = Vec::new();
    for (peer, port, listener) in listeners {
        let config = plan.config(peer, port, Some(&addresses))?;
        starts.push(Box::pin(Switch::start(config, Some(listener))));
    }
    let mut peers = Vec::new();
    let mut failed = None;
    for started in join_all(starts).await {
        match started {
            Ok(peer) => peers.push(peer),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        None => Ok(peers),
        Some(error) => {
            join_all(peers.iter().map(Switch::stop)).await;
            Err(error.into())
        }
    }
}

/// Says who listens where, and what to try.
fn announce(plan: &Plan, running: &[Switch], after: Duration, output: &mut Output) -> Result<()> {
    let peers: Vec<DevPeer> = plan
        .vertices()
        .zip(running)
        .map(|(vertex, peer)| DevPeer {
            vertex: vertex.to_string(),
            peer: peer.peer().0,
            address: plan.address(peer.address().port()),
            neighbours: neighbours(vertex),
        })
        .collect();
    output.table(Some(<DevPeer as Row>::HEADER), &peers)?;
    let (count, time) = (peers.len(), text::milliseconds(after));
    let data = plan.first.data_dir.display();
    output.word(format_args!(
        "\n{count} peers are ready after {time}; their data is in {data}"
    ))?;
    let first = peers.first().map(|peer| peer.address.as_str());
    Ok(output.word(advice(first.filter(|address| *address != USUAL_ADDRESS)))?)
}

/// One flipped bit each, in bit order.
fn neighbours(vertex: Vertex) -> Vec<String> {
    (0..vertex.dimension().bits())
        .map(|bit| vertex.flip(bit).to_string())
        .collect()
}

/// What to try. `address`: where the commands have to be told to go.
fn advice(address: Option<&str>) -> String {
    let export = address.map_or_else(String::new, |address| {
        format!("  export CUBECAST_ADDRESS={address}\n")
    });
    format!(
        "Any of them takes any call. Try, in another terminal:\n{export}  \
         cubecast topic create news\n  \
         cubecast publish news 'hello' 'world'\n  \
         cubecast subscriber create alice\n  \
         cubecast subscribe news --subscriber alice\n  \
         cubecast pull news --subscriber alice\n  \
         cubecast status\n\
         Ctrl-C stops them."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(flags: &[(&str, &str)]) -> Plan {
        Plan::new(
            flags
                .iter()
                .fold(Sources::default(), |sources, (key, value)| {
                    set(sources, key, value)
                }),
        )
        .unwrap()
    }

    #[test]
    fn each_peer_knows_all_addresses_and_its_own() {
        let plan = plan(&[
            ("dimension", "1"),
            ("base_port", "9100"),
            ("listen_host", "0.0.0.0"),
        ]);
        let addresses: Vec<String> = [9100, 9105].map(|port| plan.address(port)).into();
        let config = plan.config(1, 9105, Some(&addresses)).unwrap();
        assert_eq!(
            config.peers,
            ["http://127.0.0.1:9100", "http://127.0.0.1:9105"]
        );
        assert_eq!(
            (
                config.peer.0,
                config.listen.port(),
                config.advertise.as_str()
            ),
            (1, 9105, "http://127.0.0.1:9105")
        );
        assert_eq!(plan.port(1), 9101);
    }

    #[test]
    fn log_is_quiet_unless_a_setting_says_otherwise() {
        assert_eq!(
            plan(&[]).config(3, 8003, None).unwrap().log.filter(),
            LOG_FILTER
        );
        assert_eq!(plan(&[("log.filter", "debug")]).first.log.filter(), "debug");
    }

    #[test]
    fn neighbours_are_in_bit_order() {
        // REQ T3
        assert_eq!(neighbours("100".parse().unwrap()), ["101", "110", "000"]);
    }

    #[test]
    fn advice_names_the_address_only_when_it_is_not_the_usual_one() {
        assert!(!advice(None).contains("CUBECAST_ADDRESS"));
        let told = advice(Some("http://a:1"));
        assert!(told.contains("export CUBECAST_ADDRESS=http://a:1\n  cubecast topic"));
    }
}
