//! `bench`: puts load on a cluster that runs, and tells what came of it: rates, latencies, and whether every message arrived.
//!
//! It makes topics, publishers and subscribers of its own and removes them at the end. What is loaded is in `publish` and `read`, what is measured in
//! `meter` and `summary`, what is shown in `progress`, `report` and `plot`. It judges nothing but loss. Begin with [`run`].

mod meter;
mod names;
mod payload;
mod plot;
mod progress;
mod publish;
mod read;
mod report;

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use cubecast_sdk::Client;
use serde_json::{Map, Value, json};

use super::argument::Acks;
use super::exit::Failure;
use super::session::Session;
use super::signal::Signals;
use meter::{Meters, Series, Watch};
use names::{Made, Names};
use progress::Progress;
use report::Report;

/// Most of what a peer takes in one message by default.
const SIZE_MAX: u32 = 1 << 20;
const TOPICS_MAX: u32 = 100_000;
/// Of one kind, on one topic.
const TASKS_MAX: u32 = 1_000;

/// Put load on a cluster and measure it
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Publish as fast as it goes, or at a rate
    Publish(Publish),
    /// Store messages, then read them with Pull and Acknowledge
    Pull(Read),
    /// Store messages, then read them with StreamPull
    Stream(Read),
    /// Publish, and deliver to subscribers at the same time
    Mixed(Mixed),
}

/// What every kind of load takes.
#[derive(Debug, Clone, Args)]
struct Load {
    /// How many topics, named NAME-0 and so on
    #[arg(long, default_value_t = 8, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(TOPICS_MAX)))]
    topics: u32,
    /// Bytes of a message's payload
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=i64::from(SIZE_MAX)))]
    size: u32,
    /// Begin of the names of topics, publishers and subscribers; it says where they are, so that runs can be compared
    #[arg(long, default_value = "bench", value_name = "NAME")]
    name: String,
    /// Leave the topics, publishers and subscribers behind
    #[arg(long)]
    keep: bool,
    /// Write a report with curves to standard output, and the figures to standard error
    #[arg(long, value_enum, value_name = "FORM")]
    report: Option<plot::Form>,
}

/// How messages are published.
#[derive(Debug, Clone, Args)]
struct Publishing {
    /// Producers on each topic
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(TASKS_MAX)))]
    producers: u32,
    /// Requests that a producer has under way
    #[arg(long, default_value_t = 16, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    in_flight: u32,
    /// Bytes of messages that go together in one request
    #[arg(long, default_value_t = 64 << 10, value_name = "BYTES")]
    bundle: u32,
    /// How long a message waits for others
    #[arg(long, default_value = "1ms", value_name = "TIME", value_parser = humantime::parse_duration)]
    linger: Duration,
    /// Each message is a call of its own; --in-flight says how many calls of a producer are under way
    #[arg(long)]
    single: bool,
    /// When a message counts as published
    #[arg(long, value_enum, default_value_t = Acks::Quorum)]
    acks: Acks,
    /// Messages per second in all; a latency is then counted from when a message was due [default: as fast as it goes]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How long it is measured
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// How long it runs before
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = humantime::parse_duration)]
    warm_up: Duration,
}

/// `bench publish`.
#[derive(Debug, Args)]
pub(super) struct Publish {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    publishing: Publishing,
}

/// `bench pull` and `bench stream`.
#[derive(Debug, Args)]
pub(super) struct Read {
    #[command(flatten)]
    load: Load,
    /// Messages that are stored in each topic first
    #[arg(long, default_value_t = 100_000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// Subscribers of each topic; each gets all messages
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(TASKS_MAX)))]
    subscribers: u32,
    /// Messages of one pull, or on their way on a stream
    #[arg(long, default_value_t = 10_000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    page: u32,
}

/// `bench mixed`.
#[derive(Debug, Args)]
pub(super) struct Mixed {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    publishing: Publishing,
    /// Subscribers of each topic; each gets all messages
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(TASKS_MAX)))]
    subscribers: u32,
}

impl Command {
    fn load(&self) -> &Load {
        match self {
            Self::Publish(publish) => &publish.load,
            Self::Pull(read) | Self::Stream(read) => &read.load,
            Self::Mixed(mixed) => &mixed.load,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Publish(_) => "publish",
            Self::Pull(_) => "pull",
            Self::Stream(_) => "stream",
            Self::Mixed(_) => "mixed",
        }
    }

    /// As the report tells them.
    fn settings(&self) -> Map<String, Value> {
        let load = self.load();
        let mut settings = Map::new();
        let mut set = |name: &str, value: Value| settings.insert(name.to_owned(), value);
        set("topics", json!(load.topics));
        set("size", json!(load.size));
        if let Self::Publish(Publish { publishing, .. }) | Self::Mixed(Mixed { publishing, .. }) =
            self
        {
            let acks = publishing.acks.to_possible_value();
            let acks = acks.map(|acks| acks.get_name().to_owned());
            set("producers", json!(publishing.producers));
            set("in_flight", json!(publishing.in_flight));
            if publishing.single {
                set("single", json!(true));
            } else {
                set("bundle_bytes", json!(publishing.bundle));
                set("linger_ms", json!(publishing.linger.as_secs_f64() * 1e3));
            }
            set("acks", json!(acks));
            set("rate", json!(publishing.rate));
            set("seconds", json!(publishing.duration.as_secs_f64()));
        }
        match self {
            Self::Publish(_) => {}
            Self::Mixed(mixed) => {
                set("subscribers", json!(mixed.subscribers));
            }
            Self::Pull(read) | Self::Stream(read) => {
                set("messages", json!(read.messages));
                set("subscribers", json!(read.subscribers));
                set("page", json!(read.page));
            }
        }
        settings
    }

    /// What its names are needed for.
    fn names(&self) -> Names {
        let (producers, subscribers) = match self {
            Self::Publish(publish) if publish.publishing.single => (0, 0),
            Self::Mixed(mixed) if mixed.publishing.single => (0, mixed.subscribers),
            Self::Publish(publish) => (publish.publishing.producers, 0),
            Self::Pull(read) | Self::Stream(read) => (1, read.subscribers),
            Self::Mixed(mixed) => (mixed.publishing.producers, mixed.subscribers),
        };
        let load = self.load();
        Names::new(&load.name, load.topics, producers, subscribers)
    }

    fn check(&self) -> Result<()> {
        match self {
            Self::Mixed(mixed) if (mixed.load.size as usize) < payload::STAMP_BYTES => {
                let least = payload::STAMP_BYTES;
                let problem =
                    format!("mixed needs messages of at least {least} bytes for their stamp");
                Err(Failure::Usage(problem).into())
            }
            _ => Ok(()),
        }
    }
}

pub(super) async fn run(command: Command, session: &mut Session<'_>) -> Result<()> {
    command.check()?;
    let mut signals = Signals::new()?;
    let client = session.client();
    let names = command.names();
    let mut made = Made::default();
    let done = tokio::select! {
        done = drive(&command, &names, &mut made, &client) => done,
        () = signals.next() => Err(Failure::Failed("stopped by a signal".to_owned()).into()),
    };
    if !command.load().keep {
        let left = made.remove(&client).await;
        for problem in left {
            session.output.word(problem)?;
        }
    }
    let report = done?;
    report.print(command.load().report, session.output)?;
    report.verdict()
}

/// Does what the command says, and sums it up.
async fn drive(
    command: &Command,
    names: &Names,
    made: &mut Made,
    client: &Client,
) -> Result<Report> {
    names.make(client, made).await?;
    let series = match command {
        Command::Publish(publish) => {
            let options = &publish.publishing;
            let meters = Meters::default();
            let published = publish::drive(client, names, &publish.load, options, &meters);
            let watches = vec![Watch::timed("publish", meters.clone(), options)];
            let progress = Progress::timed(options.warm_up + options.duration);
            meter::observe(published, watches, progress).await?.1
        }
        Command::Pull(read) => measure_read(read, read::Way::Pull, names, client).await?,
        Command::Stream(read) => measure_read(read, read::Way::Stream, names, client).await?,
        Command::Mixed(mixed) => mix(mixed, names, client).await?,
    };
    Ok(Report {
        settings: command.settings(),
        name: command.name(),
        size: command.load().size,
        series,
    })
}

/// Stores messages, and reads them.
async fn measure_read(
    read: &Read,
    way: read::Way,
    names: &Names,
    client: &Client,
) -> Result<Vec<Series>> {
    let each = u64::from(read.messages);
    publish::fill(client, names, read).await?;
    let meters = Meters::default();
    let done = read::drive(client, names, (way, read), &meters);
    let watches = vec![Watch::whole(way.name(), meters.clone())];
    let progress = Progress::counted(each * names.reader_count());
    Ok(meter::observe(done, watches, progress).await?.1)
}

/// Publishes, and reads what is published at the same time.
async fn mix(mixed: &Mixed, names: &Names, client: &Client) -> Result<Vec<Series>> {
    let options = &mixed.publishing;
    let (sent, received) = (Meters::default(), Meters::default());
    let listening = read::Listening::begin(client, names, &received).await?;
    let watches = vec![
        Watch::timed("publish", sent.clone(), options),
        Watch::timed("deliver", received.clone(), options),
    ];
    let work = async {
        let ends = publish::drive(client, names, &mixed.load, options, &sent).await?;
        listening.until(&ends).await
    };
    let progress = Progress::timed(options.warm_up + options.duration);
    Ok(meter::observe(work, watches, progress).await?.1)
}
