//! The client: its settings, its start, and what is the same for every call of the API.
//!
//! The other modules add methods to [`Client`], one module per kind of task. It never looks into a request or an answer: `call` does
//! the rest. Begin with [`Client::connect`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::debug;

use crate::address::Address;
use crate::attempt::Answer;
use crate::call::{self, Call, Target};
use crate::connect::{ChannelOptions, PeerKey, Peers};
use crate::course;
use crate::error::Error;
use crate::event::Event;
use crate::hedge::{Budget, Delays};
use crate::model::ReadSource;
use crate::proto::v1;
use crate::retry::Backoff;

/// How often at most the client looks anew for who listens where.
const DISCOVERY_PAUSE: Duration = Duration::from_secs(5);

/// How a client behaves. Made by [`Client::builder`].
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// For a whole call with all its attempts.
    pub(crate) deadline: Duration,
    /// For the first attempt of a call that may be repeated; doubled for each further one.
    pub(crate) attempt_timeout: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) delays: Delays,
    /// Bytes of one answer.
    pub(crate) answer_bytes_max: usize,
    pub(crate) channel: ChannelOptions,
    /// How long peers may say that there is no majority before a call believes it.
    pub(crate) no_quorum_patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            // Longer than a slow answer, shorter than anyone's patience with a peer that hangs.
            attempt_timeout: Duration::from_secs(2),
            backoff: Backoff {
                first: Duration::from_millis(10),
                max: Duration::from_secs(1),
            },
            delays: Delays {
                // Several times what a publish takes on a slow disk, and short beside the time in which peers notice that one is silent.
                usual: Duration::from_millis(300),
                soon: Duration::from_millis(25),
            },
            // The peers' default of 4 MiB of messages, with room for their envelopes and for larger settings.
            answer_bytes_max: 64 << 20,
            channel: ChannelOptions {
                connect_timeout: Duration::from_secs(1),
                // Peers count 800 ms without a word as silence and elect another leader; who waits much longer than that waits for nobody. It costs
                // one frame of 17 bytes each way and second.
                keep_alive_interval: Duration::from_secs(1),
                keep_alive_timeout: Duration::from_secs(1),
            },
            // A peer that is started again, and the election after that, take less.
            no_quorum_patience: Duration::from_secs(5),
        }
    }
}

/// Settings of a client that is to be made.
///
/// ```no_run
/// # async fn run() -> Result<(), cubecast_sdk::Error> {
/// use std::time::Duration;
///
/// let client = cubecast_sdk::Client::builder()
///     .peer("http://127.0.0.1:8000")
///     .peer("http://127.0.0.1:8001")
///     .deadline(Duration::from_secs(3))
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Builder {
    addresses: Vec<String>,
    options: Options,
}

impl Builder {
    /// Knows a peer. One is enough, more are found through it; more here make the start survive the loss of one.
    pub fn peer(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// How long a call may take with all its attempts. Default: 10 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options.deadline = deadline;
        self
    }

    /// How long the first attempt of a call that may be repeated waits for an answer before another peer is asked; doubled for each
    /// further attempt. Default: 2 s.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.options.attempt_timeout = timeout;
        self
    }

    /// Upper bounds of the pause before the first repetition (default 10 ms, doubled each time) and of every pause (default 1 s).
    pub fn backoff(mut self, first: Duration, max: Duration) -> Self {
        self.options.backoff = Backoff { first, max };
        self
    }

    /// How long a call that may be repeated waits for an answer before a second peer is asked, too (default 300 ms), and how long a read does that
    /// any replica may answer (default 25 ms). The first answer counts. A third peer is asked after as long again.
    pub fn hedge(mut self, usual: Duration, eventual: Duration) -> Self {
        self.options.delays = Delays {
            usual,
            soon: eventual,
        };
        self
    }

    /// How long a call goes on while peers say that too few replicas can be reached (`NO_QUORUM`): so long it may be over soon, as when a peer is
    /// started again; then the call ends with that error, [`Reason::NoQuorum`](crate::Reason::NoQuorum), though its deadline has not come. Zero: at
    /// the first time. Default: 5 s.
    pub fn no_quorum_patience(mut self, patience: Duration) -> Self {
        self.options.no_quorum_patience = patience;
        self
    }

    /// The largest answer that is taken, in bytes. Default: 64 MiB.
    pub fn answer_bytes_max(mut self, bytes: usize) -> Self {
        self.options.answer_bytes_max = bytes;
        self
    }

    /// How long the handshake with a peer may take. Default: 1 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.channel.connect_timeout = timeout;
        self
    }

    /// How often a connection is asked for a sign of life (default 1 s), and how long that may take (default 1 s).
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.options.channel.keep_alive_interval = interval;
        self.options.channel.keep_alive_timeout = timeout;
        self
    }

    /// Makes the client without calling anyone. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Address`] when an address is not one, or there is none.
    pub fn build(self) -> Result<Client, Error> {
        let addresses = self
            .addresses
            .iter()
            .map(|text| Address::parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        let peers = Peers::new(self.options.channel.clone(), &addresses)?;
        Ok(Client {
            shared: Arc::new(Shared {
                peers,
                options: self.options,
                seeds: addresses,
                discovery: Mutex::default(),
                budget: Budget::default(),
                probes: Mutex::default(),
                message_bytes_max: AtomicU64::new(0),
            }),
        })
    }

    /// Makes the client and waits until one of the peers has answered.
    ///
    /// # Errors
    /// [`Error::Address`] as [`Self::build`]; [`Error::Unreachable`], [`Error::Refused`] or [`Error::DeadlineExceeded`] when no peer answers.
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.build()?;
        let (sender, receiver) = oneshot::channel();
        client.discover(Some(sender));
        let deadline = client.shared.options.deadline;
        match tokio::time::timeout(deadline, receiver).await {
            Ok(Ok(outcome)) => outcome.map(|()| client),
            Ok(Err(_)) | Err(_) => Err(Error::DeadlineExceeded {
                method: "connect",
                deadline,
            }),
        }
    }
}

/// A client of a cluster. Cheap to clone; clones share connections.
///
/// It sends each call to the peer that leads the topic, as far as it knows, and otherwise to any; tries again at another peer when one fails,
/// as long as the call may be repeated and the deadline allows; and never says that something failed when it may have happened.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) peers: Peers,
    pub(crate) options: Options,
    /// The addresses that the application gave.
    seeds: Vec<Address>,
    discovery: Mutex<Discovery>,
    pub(crate) budget: Budget,
    /// One for each peer that does not answer. They end with the client.
    pub(crate) probes: Mutex<JoinSet<()>>,
    /// The most that any peer said to take. 0: none has said so.
    message_bytes_max: AtomicU64,
}

impl Shared {
    /// Takes note of what a peer accepts.
    pub(crate) fn learn_limits(&self, status: &v1::GetNodeStatusResponse) {
        let limits = status.limits.as_ref();
        let bytes = limits.map_or(0, |limits| limits.message_bytes_max);
        self.message_bytes_max.fetch_max(bytes, Ordering::Relaxed);
    }

    /// No peer takes a message of more bytes, as far as is known.
    pub(crate) fn message_bytes_max(&self) -> usize {
        match self.message_bytes_max.load(Ordering::Relaxed) {
            0 => usize::MAX,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
        }
    }
}

#[derive(Debug, Default)]
struct Discovery {
    /// When the last one began.
    begun: Option<Instant>,
    /// Ends with the client.
    tasks: JoinSet<()>,
}

impl Client {
    /// Connects to a cluster through any of its peers, with the default settings.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), cubecast_sdk::Error> {
    /// let client = cubecast_sdk::Client::connect(["http://127.0.0.1:8000", "http://127.0.0.1:8001"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Self, Error> {
        let addresses = addresses.into_iter().map(Into::into).collect();
        Builder {
            addresses,
            options: Options::default(),
        }
        .connect()
        .await
    }

    /// A client with other settings.
    ///
    /// ```no_run
    /// # fn run() -> Result<(), cubecast_sdk::Error> {
    /// let client = cubecast_sdk::Client::builder().peer("127.0.0.1:8000").build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The addresses of all peers that are known by now.
    ///
    /// ```no_run
    /// # fn run(client: &cubecast_sdk::Client) {
    /// for address in client.addresses() {
    ///     println!("{address}");
    /// }
    /// # }
    /// ```
    pub fn addresses(&self) -> Vec<String> {
        self.shared
            .peers
            .addresses()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Sends a request until it has an answer, an error that is final, or no time.
    pub(crate) async fn call<Q, A>(&self, call: Call<'_>, request: &Q) -> Result<A, Error>
    where
        Q: prost::Message,
        A: prost::Message + Default + 'static,
    {
        let answer = self.call_whole(call, request.encode_to_vec().into()).await;
        answer.map(|answer| answer.message)
    }

    /// As [`Self::call`], with the request encoded already, and with who answered.
    pub(crate) async fn call_whole<A>(
        &self,
        call: Call<'_>,
        request: bytes::Bytes,
    ) -> Result<Answer<A>, Error>
    where
        A: prost::Message + Default + 'static,
    {
        let answer = course::run(&self.shared, call, request).await;
        if let (Some(topic), Ok(answer)) = (call.topic, &answer)
            && let Some(vertex) = &answer.served_by
            && !self.shared.peers.learn(topic, vertex)
        {
            self.discover(None);
        }
        answer
    }

    /// Takes note of who answered in place of an owner that does not. Gives the words for it.
    pub(crate) fn stand_in(&self, owner: &str, served_by: Option<&str>) -> Option<String> {
        let (peers, served_by) = (&self.shared.peers, served_by?);
        if served_by == owner {
            peers.stand_back(owner);
            return None;
        }
        if !peers.is_down(owner) {
            return None;
        }
        peers.stand_in(owner, served_by);
        let event = Event::OwnerUnreachable {
            owner: owner.to_owned(),
            served_by: served_by.to_owned(),
        };
        Some(event.to_string())
    }

    /// Takes note of what a read says of who answered it, and adds what this client knows: that the owner cannot be reached.
    pub(crate) fn note(&self, source: Option<ReadSource>) -> Option<ReadSource> {
        let mut source = source?;
        if source.is_owner_unreached {
            self.shared.peers.stand_in(&source.owner, &source.served_by);
        } else if let Some(note) = self.stand_in(&source.owner, Some(&source.served_by)) {
            (source.note, source.is_owner_unreached) = (Some(note), true);
        }
        Some(source)
    }

    /// Looks in the background for who listens where, unless it did so lately. `first` hears as soon as one peer has answered, or all have
    /// failed.
    fn discover(&self, first: Option<oneshot::Sender<Result<(), Error>>>) {
        let mut discovery = self
            .shared
            .discovery
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if discovery
            .begun
            .is_some_and(|begun| begun.elapsed() < DISCOVERY_PAUSE)
        {
            return;
        }
        discovery.begun = Some(Instant::now());
        while discovery.tasks.try_join_next().is_some() {}
        discovery
            .tasks
            .spawn(discover(Arc::clone(&self.shared), first));
    }
}

/// Asks every peer that the application named who it is, and one of them who else there is.
async fn discover(shared: Arc<Shared>, mut first: Option<oneshot::Sender<Result<(), Error>>>) {
    let mut asked: FuturesUnordered<_> = shared
        .seeds
        .iter()
        .map(|address| ask(&shared, address))
        .collect();
    let mut last = Ok(());
    let mut met = None;
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(key) => {
                met = met.or(Some(key));
                if let Some(first) = first.take() {
                    let _gone = first.send(Ok(()));
                }
            }
            Err(error) => last = Err(error),
        }
    }
    drop(asked);
    if let Some(first) = first {
        let _gone = first.send(last);
    }
    let Some(key) = met else { return };
    if let Err(error) = ask_for_members(&shared, key).await {
        debug!(%error, "the peer does not tell who is in the cluster");
    }
}

/// Asks one peer who it is, and who its neighbours are.
async fn ask(shared: &Arc<Shared>, address: &Address) -> Result<PeerKey, Error> {
    let key = shared.peers.add(address)?;
    let call = Call::new(&call::GET_NODE_STATUS)
        .at(Target::Only(key))
        .within(shared.options.attempt_timeout);
    let status: v1::GetNodeStatusResponse = course::run(shared, call, bytes::Bytes::new())
        .await?
        .message;
    shared.learn_limits(&status);
    for vertex in status.vertices.iter().chain([&status.vertex]) {
        shared.peers.settle(vertex, key, true);
    }
    for neighbour in &status.neighbours {
        hear_of(shared, &[&neighbour.vertex], &neighbour.address);
    }
    Ok(key)
}

/// Asks one peer who else there is.
async fn ask_for_members(shared: &Arc<Shared>, key: PeerKey) -> Result<(), Error> {
    let call = Call::new(&call::GET_CLUSTER)
        .at(Target::Only(key))
        .within(shared.options.attempt_timeout);
    let answer: v1::GetClusterResponse = course::run(shared, call, bytes::Bytes::new())
        .await?
        .message;
    for member in answer.cluster.unwrap_or_default().members {
        let vertices: Vec<&str> = member
            .vertices
            .iter()
            .chain([&member.vertex])
            .map(String::as_str)
            .collect();
        hear_of(shared, &vertices, &member.address);
    }
    Ok(())
}

/// Knows a peer by hearsay, unless all its vertices are known to have an address.
fn hear_of(shared: &Shared, vertices: &[&str], address: &str) {
    let news: Vec<_> = vertices
        .iter()
        .filter(|vertex| !vertex.is_empty() && shared.peers.at_vertex(vertex).is_none())
        .collect();
    if news.is_empty() {
        return;
    }
    if let Ok(key) = Address::parse(address).and_then(|address| shared.peers.add(&address)) {
        for vertex in news {
            shared.peers.settle(vertex, key, false);
        }
    }
}
