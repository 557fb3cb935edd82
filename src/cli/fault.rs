//! `fault` and `stop-node`: rehearse failures, where the peers' setting `fault_injection` is on. Begin with [`run`] and [`stop_node`].

use std::time::Duration;

use anyhow::Result;
use clap::{ArgGroup, Args, Subcommand};
use cubecast_sdk::{Fault, InjectedFault, Outage};
use serde::Serialize;

use super::output::Row;
use super::session::Session;
use super::text;

/// Make links of a peer fail on purpose; its setting fault_injection must be on
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make links of a peer fail: what it sends
    Inject(Inject),
    /// End faults of a peer, all of them unless some are named
    Clear {
        /// Vertex or address of the peer
        peer: String,
        /// The faults to end, as `fault list` numbers them
        #[arg(value_name = "ID")]
        ids: Vec<u64>,
    },
    /// List the faults of a peer
    List {
        /// Vertex or address of the peer
        peer: String,
    },
}

/// What is to go wrong
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true)
    .args(["delay", "jitter", "loss", "cut"]))]
pub(super) struct Inject {
    /// Vertex or address of the peer
    peer: String,
    /// Only on the links to these peers, by number; several with commas or by repetition [default: all]
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    to: Vec<u32>,
    /// Hold every message back so long, such as 20ms
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// Hold every message back up to so much longer, at random
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    jitter: Option<Duration>,
    /// Lose this share of messages, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    loss: Option<f64>,
    /// Let nothing pass
    #[arg(long)]
    cut: bool,
    /// End by itself after so long [default: when it is cleared, or the peer stops]
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

/// Make a peer fail: connections cut, memory dropped; it returns from its disk. Its setting fault_injection must be on
#[derive(Debug, Args)]
pub(super) struct StopNode {
    /// Vertex or address of the peer
    peer: String,
    /// Stay down so long, such as 5s, at most 1h [default: 10s]
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    down_time: Option<Duration>,
    /// Stay down until the process is started again or gets SIGUSR1
    #[arg(long, conflicts_with = "down_time")]
    stay_down: bool,
}

pub(super) async fn run(command: Command, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    match command {
        Command::Inject(inject) => {
            let (peer, fault) = inject.parts();
            let injected = session
                .call("InjectFault", client.inject_fault(&peer, fault))
                .await?;
            let record = Injected::new(&injected);
            let words = format!("fault {} of {peer}: {}", record.fault_id, record.sentence());
            Ok(session.output.line(words, &record)?)
        }
        Command::Clear { peer, ids } => {
            let cleared = session
                .call("ClearFaults", client.clear_faults(&peer, &ids))
                .await?;
            tell(&cleared, session)?;
            let faults = text::count(cleared.len() as u64, "fault");
            Ok(session
                .output
                .word(format_args!("{faults} of {peer} ended"))?)
        }
        Command::List { peer } => {
            let faults = session.call("ListFaults", client.faults(&peer)).await?;
            if faults.is_empty() {
                return Ok(session.output.word("no faults")?);
            }
            tell(&faults, session)
        }
    }
}

pub(super) async fn stop_node(arguments: StopNode, session: &mut Session<'_>) -> Result<()> {
    let outage = match (arguments.down_time, arguments.stay_down) {
        (_, true) => Outage::UntilTold,
        (Some(time), false) => Outage::For(time),
        (None, false) => Outage::Usual,
    };
    let client = session.client();
    let stopped = session
        .call("StopNode", client.stop_node(&arguments.peer, outage))
        .await?;
    let time = stopped.return_time;
    let record = Stopped {
        peer: stopped.peer,
        return_time: time.map(|time| humantime::format_rfc3339_millis(time).to_string()),
    };
    Ok(session.output.line(record.sentence(), &record)?)
}

fn tell(faults: &[InjectedFault], session: &mut Session<'_>) -> Result<()> {
    let rows: Vec<Injected> = faults.iter().map(Injected::new).collect();
    let header = (!rows.is_empty()).then_some(Injected::HEADER);
    Ok(session.output.table(header, &rows)?)
}

impl Inject {
    fn parts(self) -> (String, Fault) {
        let mut fault = Fault::new();
        fault.peers = self.to;
        fault.delay = self.delay;
        fault.jitter = self.jitter;
        fault.loss = self.loss.unwrap_or_default();
        fault.is_cut = self.cut;
        fault.duration = self.duration;
        (self.peer, fault)
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: Option<f64> = text.parse().ok();
    let share = share.filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "it is not a number from 0 to 1".to_owned())
}

/// A fault: `fault inject`, `fault clear`, `fault list`.
#[derive(Debug, Serialize)]
struct Injected {
    fault_id: u64,
    /// The numbers of the peers at the other ends; none: all.
    peers: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter_us: Option<u64>,
    /// The share of messages that are lost.
    loss: f64,
    /// Nothing passes.
    is_cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
}

impl Injected {
    fn new(injected: &InjectedFault) -> Self {
        let fault = &injected.fault;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            fault_id: injected.id,
            peers: fault.peers.clone(),
            delay_us: fault.delay.map(micros),
            jitter_us: fault.jitter.map(micros),
            loss: fault.loss,
            is_cut: fault.is_cut,
            duration_ms: fault.duration.map(millis),
        }
    }

    fn peers(&self) -> String {
        let peers: Vec<String> = self.peers.iter().map(ToString::to_string).collect();
        if peers.is_empty() {
            "all".to_owned()
        } else {
            peers.join(", ")
        }
    }

    fn what(&self) -> String {
        let span = |micros: u64| humantime::format_duration(Duration::from_micros(micros));
        let delay = self.delay_us.map(|delay| format!("delay {}", span(delay)));
        let jitter = self.jitter_us.map(|more| format!("jitter {}", span(more)));
        let loss = (self.loss > 0.0).then(|| format!("loss {}", self.loss));
        let cut = self.is_cut.then(|| "cut".to_owned());
        let parts: Vec<String> = [cut, delay, jitter, loss].into_iter().flatten().collect();
        parts.join(", ")
    }

    fn time(&self) -> Option<String> {
        let time = self.duration_ms.map(Duration::from_millis)?;
        Some(humantime::format_duration(time).to_string())
    }

    /// `delay 20ms, loss 0.1 on what is sent to 5, 6, for 10s`.
    fn sentence(&self) -> String {
        let time = self
            .time()
            .map_or_else(String::new, |time| format!(", for {time}"));
        format!("{} on what is sent to {}{time}", self.what(), self.peers())
    }
}

impl Row for Injected {
    const HEADER: &'static [&'static str] = &["FAULT", "TO PEERS", "WHAT", "FOR"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.fault_id.to_string(),
            self.peers(),
            self.what(),
            self.time().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

/// A peer that fails: `stop-node`.
#[derive(Debug, Serialize)]
struct Stopped {
    peer: u32,
    /// Absent: it stays down until it is told to return.
    #[serde(skip_serializing_if = "Option::is_none")]
    return_time: Option<String>,
}

impl Stopped {
    fn sentence(&self) -> String {
        let peer = self.peer;
        match &self.return_time {
            Some(time) => format!("peer {peer} fails now and returns at {time}"),
            None => format!("peer {peer} fails now and stays down until it is told to return"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::{Format, Output};
    use super::*;

    fn fault() -> Fault {
        Fault::new()
            .with_peer(5)
            .with_peer(6)
            .with_delay(Duration::from_millis(20))
            .with_loss(0.1)
            .with_duration(Duration::from_secs(10))
    }

    fn injected(fault: Fault) -> Injected {
        let wire = cubecast_sdk::proto::v1::Fault {
            fault_id: 3,
            ..fault.into()
        };
        Injected::new(&wire.into())
    }

    #[test]
    fn fault_is_a_sentence_and_an_object() {
        let some = injected(fault());
        let sentence = "delay 20ms, loss 0.1 on what is sent to 5, 6, for 10s";
        assert_eq!(some.sentence(), sentence);
        let all = injected(Fault::new().with_cut());
        assert_eq!(all.sentence(), "cut on what is sent to all");
        let (mut output, written) = Output::captured(Format::Json);
        output.line("", &some).unwrap();
        assert_eq!(
            written.data(),
            "{\"fault_id\":3,\"peers\":[5,6],\"delay_us\":20000,\"loss\":0.1,\"is_cut\":false,\"duration_ms\":10000}\n"
        );
    }

    #[test]
    fn share_is_a_number_from_0_to_1() {
        assert_eq!(share("0.25"), Ok(0.25));
        for wrong in ["", "-1", "1.5", "NaN", "some"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
