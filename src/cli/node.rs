//! `node`: one peer, until it is told to stop or its disk fails. Begin with [`run`].

use anyhow::Result;
use clap::Args;
use futures::future::join_all;

use super::argument::NodeSettings;
use super::exit::Failure;
use super::output::Output;
use super::signal::Signals;
use crate::node::Node;
use crate::telemetry;

/// Run one peer; SIGTERM or Ctrl-C stop it after its calls are done
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: NodeSettings,
}

pub(super) async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let config = arguments.settings.0.load()?;
    telemetry::start_log(&config.log)?;
    let mut signals = Signals::new()?;
    let node = tokio::select! {
        node = Box::pin(Node::start(config, None)) => node?,
        () = signals.next() => return Ok(()),
    };
    let done = tokio::select! {
        () = signals.next() => Ok(()),
        failure = failure(&node) => Err(failure.into()),
    };
    stop(vec![node], &mut signals, output).await?;
    done
}

/// Waits until a peer cannot go on.
pub(super) async fn failure(node: &Node) -> Failure {
    let mut failed = node.failed();
    let why = match failed.wait_for(Option::is_some).await {
        Ok(why) => why.as_ref().map(ToString::to_string),
        Err(_) => None,
    };
    match why {
        Some(why) => Failure::Failed(format!("peer {} stops: {why}", node.peer())),
        // The node is gone, and with it what it could say.
        None => std::future::pending().await,
    }
}

/// Stops peers, all at once. A second signal ends the wait: what was acknowledged is on disk.
pub(super) async fn stop(
    nodes: Vec<Node>,
    signals: &mut Signals,
    output: &mut Output,
) -> Result<()> {
    tokio::select! {
        _ = join_all(nodes.into_iter().map(Node::stop)) => Ok(()),
        () = signals.next() => Ok(output.word("stopped without waiting for calls under way")?),
    }
}
