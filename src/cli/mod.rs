//! The command line: one file per command.
//!
//! Data goes to standard output, words to standard error, and both only through `output`. Exit codes are in `exit`, the fields of the JSON
//! lines in `record`. Commands of a client speak to the cluster only through the SDK; `dev` and `node` only through `node`. It never decides
//! anything that a peer could decide. Begin with [`run`].

mod acknowledge;
mod argument;
mod batch;
mod bench;
mod config;
mod dev;
mod exit;
mod fault;
mod health;
mod message;
mod node;
mod output;
mod publish;
mod publisher;
mod pull;
mod record;
mod replica;
mod retention;
mod seek;
mod session;
mod sharing;
mod signal;
mod status;
mod subscriber;
mod subscription;
mod tail;
mod text;
mod topic;
mod verify;
mod verify_replicas;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use argument::Global;
use output::Output;
use session::Session;

/// What is left to do when a server has stopped takes less.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Try this:
  cubecast dev                                          eight peers in one process; leave it running
  cubecast topic create news
  cubecast publish news 'hello' 'world'
  cubecast subscriber create alice
  cubecast subscribe news --subscriber alice
  cubecast pull news --subscriber alice

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 unavailable.";

/// A replicated publish/subscribe log on a hypercube.
#[derive(Debug, Parser)]
#[command(name = "cubecast", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Arguments),
    Node(node::Arguments),
    #[command(subcommand)]
    Topic(topic::Command),
    #[command(subcommand)]
    Publisher(publisher::Command),
    #[command(subcommand)]
    Subscriber(subscriber::Command),
    #[command(subcommand)]
    Subscription(subscription::Command),
    Publish(publish::Arguments),
    Subscribe(subscription::Subscribe),
    Unsubscribe(subscription::Unsubscribe),
    Pull(pull::Arguments),
    Tail(tail::Arguments),
    Acknowledge(acknowledge::Arguments),
    Seek(seek::Arguments),
    Status(status::Arguments),
    Watch(watch::Arguments),
    #[command(subcommand)]
    Replica(replica::Command),
    VerifyReplicas(verify_replicas::Arguments),
    #[command(subcommand)]
    Fault(fault::Command),
    StopNode(fault::StopNode),
    #[command(subcommand)]
    Bench(bench::Command),
    Health(health::Arguments),
    Verify(verify::Arguments),
    #[command(subcommand)]
    Config(config::Command),
}

/// Does what the arguments say, the program's name first, and says how it went.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return exit::print_usage(&error),
    };
    let mut output = Output::standard(cli.global.output);
    let done = execute(cli, &mut output).and_then(|()| Ok(output.flush()?));
    exit::report(done, &mut output)
}

fn execute(cli: Cli, output: &mut Output) -> Result<()> {
    match cli.command {
        Command::Dev(arguments) => serve(dev::run(arguments, output)),
        Command::Node(arguments) => serve(node::run(arguments, output)),
        Command::Config(command) => config::run(command, output),
        Command::Verify(arguments) => verify::run(&arguments, output),
        Command::Health(arguments) => ask(health::run(arguments, &cli.global, output)),
        Command::Bench(command) => serve(load(command, &cli.global, output)),
        command => ask(call(command, &cli.global, output)),
    }
}

/// A client that is to be as fast as it can.
async fn load(command: bench::Command, global: &Global, output: &mut Output) -> Result<()> {
    let mut session = Session::connect(global, output).await?;
    bench::run(command, &mut session).await
}

/// The commands that need a client.
async fn call(command: Command, global: &Global, output: &mut Output) -> Result<()> {
    let mut session = Session::connect(global, output).await?;
    let session = &mut session;
    match command {
        Command::Topic(command) => topic::run(command, session).await,
        Command::Publisher(command) => publisher::run(command, session).await,
        Command::Subscriber(command) => subscriber::run(command, session).await,
        Command::Subscription(command) => subscription::run(command, session).await,
        Command::Publish(arguments) => publish::run(arguments, session).await,
        Command::Subscribe(arguments) => subscription::subscribe(arguments, session).await,
        Command::Unsubscribe(arguments) => subscription::unsubscribe(arguments, session).await,
        Command::Pull(arguments) => pull::run(arguments, session).await,
        Command::Tail(arguments) => tail::run(arguments, session).await,
        Command::Acknowledge(arguments) => acknowledge::run(arguments, session).await,
        Command::Seek(arguments) => seek::run(arguments, session).await,
        Command::Status(arguments) => status::run(arguments, session).await,
        Command::Watch(arguments) => watch::run(arguments, session).await,
        Command::Replica(command) => replica::run(command, session).await,
        Command::Fault(command) => fault::run(command, session).await,
        Command::StopNode(arguments) => fault::stop_node(arguments, session).await,
        Command::VerifyReplicas(arguments) => verify_replicas::run(arguments, session).await,
        Command::Dev(_)
        | Command::Node(_)
        | Command::Config(_)
        | Command::Health(_)
        | Command::Bench(_)
        | Command::Verify(_) => Ok(()),
    }
}

/// Runs a server on all processors.
fn serve(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(command);
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    done
}

/// Runs a client on one thread. It does not wait for a read of standard input that nobody answers.
fn ask(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime: Runtime = Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(Box::pin(command));
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests;
