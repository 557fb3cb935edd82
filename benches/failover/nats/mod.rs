//! JetStream with three replicas of each stream on three servers, under the same loops.
//!
//! Each topic is a stream. A publish carries an id, so that a repetition is known for one, as with cubecast; an attempt without an answer is repeated
//! at another server. It never harms a server but by `SIGKILL`. Begin with [`Nats::start`].

mod server;
mod wire;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::system::{self, DEADLINE, Harm, Level, System, TOPICS};
use server::{SERVERS, Servers};
use wire::{Connection, Message};

/// How long an attempt waits for its answer. Far longer than an answer takes, far shorter than an election.
const ATTEMPT_MAX: Duration = Duration::from_millis(250);
/// Between an attempt that failed and the next.
const PAUSE: Duration = Duration::from_millis(5);
/// How long servers may take to start, elect and make streams.
const START_MAX: Duration = Duration::from_secs(60);
/// Messages that may wait to be checked.
const CHECK_ROOM: usize = 1024;

/// The servers. Killed when dropped.
pub struct Nats {
    name: String,
    servers: Servers,
    operator: Caller,
}

/// Publishes and reads through whichever server answers.
#[derive(Clone)]
pub struct Caller(Arc<Shared>);

struct Shared {
    addresses: Vec<String>,
    connections: Mutex<Vec<Option<Arc<Connection>>>>,
    /// The server that is asked first.
    turn: AtomicUsize,
}

fn stream(topic: usize) -> String {
    format!("bench-{topic}")
}

impl Nats {
    /// Starts the servers and makes the streams. `None`: there is no such program.
    pub async fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some((binary, version)) = server::version() else {
            return Ok(None);
        };
        let servers = Servers::start(&binary, folder)?;
        let operator = Caller::new(servers.addresses());
        let nats = Self {
            name: format!("{version}, R3 on {SERVERS} servers"),
            servers,
            operator,
        };
        for topic in 0..TOPICS {
            nats.create_stream(topic).await?;
        }
        Ok(Some(nats))
    }

    async fn create_stream(&self, topic: usize) -> anyhow::Result<()> {
        let name = stream(topic);
        let settings = json!({
            "name": name,
            "subjects": [name],
            "num_replicas": SERVERS,
            "storage": "file",
            "retention": "limits",
            "allow_direct": true,
        });
        let begun = Instant::now();
        loop {
            let subject = format!("$JS.API.STREAM.CREATE.{name}");
            let made = self.operator.ask(&subject, &settings).await;
            match made {
                Ok(answer) if answer.get("config").is_some() => return Ok(()),
                other if begun.elapsed() > START_MAX => bail!("{name} is not made: {other:?}"),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn info(&self, topic: usize) -> anyhow::Result<Value> {
        let subject = format!("$JS.API.STREAM.INFO.{}", stream(topic));
        self.operator.ask(&subject, &json!({})).await
    }

    /// The server leads the topic's stream, or has all of it.
    async fn is_current(&self, topic: usize, server: &str) -> bool {
        let Ok(info) = self.info(topic).await else {
            return false;
        };
        let cluster = info.get("cluster").cloned().unwrap_or_default();
        let leads = cluster.get("leader").and_then(Value::as_str) == Some(server);
        let replicas = cluster.get("replicas").and_then(Value::as_array);
        let is_whole = |replica: &Value| {
            let is = |field| replica.get(field).and_then(Value::as_bool).unwrap_or(false);
            replica.get("name").and_then(Value::as_str) == Some(server)
                && is("current")
                && !is("offline")
        };
        leads || replicas.is_some_and(|replicas| replicas.iter().any(is_whole))
    }
}

impl Caller {
    fn new(addresses: Vec<String>) -> Self {
        let connections = addresses.iter().map(|_| None).collect();
        Self(Arc::new(Shared {
            addresses,
            connections: Mutex::new(connections),
            turn: AtomicUsize::new(0),
        }))
    }

    /// The connection to a server, made where there is none that works.
    async fn connection(&self, server: usize) -> anyhow::Result<Arc<Connection>> {
        let known = self.slots().get(server).cloned().flatten();
        if let Some(known) = known.filter(|known| !known.is_closed()) {
            return Ok(known);
        }
        let address = self.0.addresses.get(server).context("a server of ours")?;
        let made = Arc::new(Connection::open(address).await?);
        if let Some(slot) = self.slots().get_mut(server) {
            *slot = Some(Arc::clone(&made));
        }
        Ok(made)
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Vec<Option<Arc<Connection>>>> {
        let slots = self.0.connections.lock();
        slots.unwrap_or_else(PoisonError::into_inner)
    }

    /// One attempt, at the server that answered last; after a failure it is the next one's turn.
    async fn attempt(
        &self,
        subject: &str,
        headers: &str,
        payload: &[u8],
    ) -> anyhow::Result<Message> {
        let turn = self.0.turn.load(Ordering::Relaxed);
        let sent = async {
            let connection = self.connection(turn % SERVERS).await?;
            connection.request(subject, headers, payload).await
        };
        let answer = tokio::time::timeout(ATTEMPT_MAX, sent).await;
        let answer = answer
            .map_err(anyhow::Error::from)
            .and_then(|answer| answer);
        let is_good = answer
            .as_ref()
            .is_ok_and(|answer| !answer.is_without_responder());
        if !is_good {
            // Only once, when many fail together.
            let _other =
                self.0
                    .turn
                    .compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        let answer = answer?;
        ensure!(
            !answer.is_without_responder(),
            "nobody listens to {subject}"
        );
        Ok(answer)
    }

    /// One call of JetStream's API, in JSON.
    async fn ask(&self, subject: &str, request: &Value) -> anyhow::Result<Value> {
        let answer = self
            .attempt(subject, "", request.to_string().as_bytes())
            .await?;
        Ok(serde_json::from_slice(&answer.payload)?)
    }

    /// Attempts until one succeeds, or the deadline.
    async fn until_done<T, F: Future<Output = anyhow::Result<T>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) if begun.elapsed() > DEADLINE => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn publish_once(&self, topic: usize, number: u64) -> anyhow::Result<u64> {
        let headers = format!("Nats-Msg-Id: {number}");
        let payload = system::payload(number);
        let answer = self.attempt(&stream(topic), &headers, &payload).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        let sequence = answer.get("seq").and_then(Value::as_u64);
        // Streams count from 1.
        let offset = sequence.and_then(|sequence| sequence.checked_sub(1));
        offset.with_context(|| answer.to_string())
    }

    /// The leader's last message, or that of any replica.
    async fn read_once(&self, topic: usize, level: Level) -> anyhow::Result<u64> {
        let stream = stream(topic);
        let request = json!({ "last_by_subj": stream });
        match level {
            Level::Linearizable => {
                let subject = format!("$JS.API.STREAM.MSG.GET.{stream}");
                let answer = self.ask(&subject, &request).await?;
                let sequence = answer.pointer("/message/seq").and_then(Value::as_u64);
                sequence.with_context(|| answer.to_string())
            }
            Level::Eventual => {
                let subject = format!("$JS.API.DIRECT.GET.{stream}");
                let request = request.to_string();
                let answer = self.attempt(&subject, "", request.as_bytes()).await?;
                let sequence = answer.header("Nats-Sequence").map(str::parse::<u64>);
                Ok(sequence.context("no message")??)
            }
        }
    }
}

impl system::Client for Caller {
    async fn publish(&self, topic: usize, number: u64) -> anyhow::Result<u64> {
        self.until_done(|| self.publish_once(topic, number)).await
    }

    async fn read(&self, topic: usize, level: Level) -> anyhow::Result<u64> {
        self.until_done(|| self.read_once(topic, level)).await
    }
}

impl System for Nats {
    type Client = Caller;

    fn name(&self) -> &str {
        &self.name
    }

    async fn client(&self) -> anyhow::Result<Caller> {
        Ok(Caller::new(self.servers.addresses()))
    }

    async fn leader(&mut self, topic: usize) -> anyhow::Result<usize> {
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            let info = self.info(topic).await.unwrap_or_default();
            let leader = info.pointer("/cluster/leader").and_then(Value::as_str);
            let server = (0..SERVERS).find(|server| leader == Some(&server::name(*server)));
            if let Some(server) = server {
                return Ok(server);
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("nobody leads topic {topic} for {START_MAX:?}")
    }

    fn home(&self, _process: usize) -> Option<usize> {
        None
    }

    fn harm(&mut self, process: usize, harm: Harm) -> anyhow::Result<()> {
        ensure!(harm == Harm::Kill, "only SIGKILL is compared");
        self.servers.kill(process)
    }

    fn has_ended(&mut self, _process: usize) -> anyhow::Result<bool> {
        Ok(true)
    }

    fn heal(&mut self, process: usize) -> anyhow::Result<()> {
        self.servers.start_one(process)
    }

    async fn is_back(&mut self, process: usize) -> bool {
        let name = server::name(process);
        for topic in 0..TOPICS {
            if !self.is_current(topic, &name).await {
                return false;
            }
        }
        true
    }

    async fn numbers(&mut self, topic: usize) -> anyhow::Result<Vec<u64>> {
        let connection = self
            .operator
            .until_done(|| self.operator.connection(0))
            .await?;
        let (inbox, mut messages) = connection.listen(CHECK_ROOM).await?;
        let stream = stream(topic);
        let request = json!({
            "stream_name": stream,
            "config": { "deliver_subject": inbox, "deliver_policy": "all", "ack_policy": "none" },
        });
        let subject = format!("$JS.API.CONSUMER.CREATE.{stream}");
        let made = self.operator.ask(&subject, &request).await?;
        ensure!(made.get("config").is_some(), "no consumer: {made}");
        let mut numbers = Vec::new();
        loop {
            let message = tokio::time::timeout(DEADLINE, messages.recv()).await?;
            let message = message.context("the connection broke")?;
            // $JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>
            let mut position = message.reply.rsplit('.');
            let pending: u64 = position.next().context("a position")?.parse()?;
            let sequence: usize = position.nth(2).context("a position")?.parse()?;
            ensure!(sequence == numbers.len() + 1, "sequences are dense");
            numbers.push(system::number(&message.payload)?);
            if pending == 0 {
                return Ok(numbers);
            }
        }
    }

    async fn disagreement(&mut self) -> anyhow::Result<Option<String>> {
        Ok(None)
    }
}
