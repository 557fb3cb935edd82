//! What is compared: a cluster whose processes can be harmed, and a client of it. The loops and the rounds know nothing else.
//!
//! It never measures. Begin with [`System`]; `cube` and `nats` are the two that there are.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;

/// As many logs as there are, each with a publisher: one for each owner of a cube of eight.
pub const TOPICS: usize = 8;
/// How long a call may take with all its attempts. Longer than any election.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// The payload of every message.
const PAYLOAD_BYTES: usize = 128;

/// What a read is sure to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What some replica has.
    Eventual,
    /// Every publish that was acknowledged before the read began.
    Linearizable,
}

/// What is done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// `SIGKILL`: it is gone, and its connections break.
    Kill,
    /// `SIGSTOP`: it is silent, and its connections stay.
    Pause,
    /// `SIGTERM`: it may hand over first.
    Stop,
}

/// Publishes and reads, and goes on when processes die.
pub trait Client: Clone + Send + Sync + 'static {
    /// Publishes a message until it is acknowledged, or [`DEADLINE`]. Gives its offset.
    fn publish(
        &self,
        topic: usize,
        number: u64,
    ) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// Reads how many messages there are.
    fn read(&self, topic: usize, level: Level) -> impl Future<Output = anyhow::Result<u64>> + Send;
}

/// Processes with replicated logs.
pub trait System {
    /// Its client.
    type Client: Client;

    /// What it is, with its version.
    fn name(&self) -> &str;

    /// A client of its own connections.
    fn client(&self) -> impl Future<Output = anyhow::Result<Self::Client>>;

    /// The process that leads a topic; waits for one.
    fn leader(&mut self, topic: usize) -> impl Future<Output = anyhow::Result<usize>>;

    /// The topic whose leadership goes back to this process when it returns.
    fn home(&self, process: usize) -> Option<usize>;

    /// Does it, and does not wait.
    fn harm(&mut self, process: usize, harm: Harm) -> anyhow::Result<()>;

    /// It is not there any more, after [`Harm::Stop`].
    fn has_ended(&mut self, process: usize) -> anyhow::Result<bool>;

    /// Ends the harm: starts the process again, or lets it go on.
    fn heal(&mut self, process: usize) -> anyhow::Result<()>;

    /// It serves all that it served before, and leads what it is home to.
    fn is_back(&mut self, process: usize) -> impl Future<Output = bool>;

    /// All messages of a topic in the order of their offsets, from 0.
    fn numbers(&mut self, topic: usize) -> impl Future<Output = anyhow::Result<Vec<u64>>>;

    /// What is wrong with the copies, where the system can tell.
    fn disagreement(&mut self) -> impl Future<Output = anyhow::Result<Option<String>>>;
}

/// A message that tells its number.
pub fn payload(number: u64) -> Bytes {
    format!("{number:0PAYLOAD_BYTES$}").into()
}

/// The number of a message.
pub fn number(payload: &[u8]) -> anyhow::Result<u64> {
    ensure!(
        payload.len() == PAYLOAD_BYTES,
        "a message of another length"
    );
    let text = std::str::from_utf8(payload)?;
    text.parse().with_context(|| format!("no number: {text}"))
}

/// Sends a signal; the standard library knows `SIGKILL` alone.
pub fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let status = std::process::Command::new("kill")
        .args([name, &pid.to_string()])
        .status()?;
    ensure!(status.success(), "no signal {name} to process {pid}");
    Ok(())
}
