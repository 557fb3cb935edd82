//! `node`: one peer, until it is told to stop or its disk fails. One that a caller made to fail returns by itself, or at SIGUSR1. Begin with [`run`].

use anyhow::Result;
use clap::Args;
use futures::future::{join_all, select_all};

use super::argument::NodeSettings;
use super::exit::Failure;
use super::output::Output;
use super::signal::{Returns, Signals};
use crate::node::Switch;
use crate::telemetry;

/// Run one peer; SIGTERM or Ctrl-C stop it after its calls are done, SIGUSR1 ends an outage that was ordered with stop-node
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: NodeSettings,
}

pub(super) async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let config = arguments.settings.0.load()?;
    telemetry::start_log(&config.log)?;
    let mut signals = Signals::new()?;
    let returns = Returns::new()?;
    let peer = tokio::select! {
        peer = Box::pin(Switch::start(config, None)) => peer?,
        () = signals.next() => return Ok(()),
    };
    let peers = [peer];
    let done = tokio::select! {
        () = signals.next() => Ok(()),
        failure = failure(&peers) => Err(failure.into()),
        () = resume(&peers, returns) => Ok(()),
    };
    stop(&peers, &mut signals, output).await?;
    done
}

/// Waits until a peer cannot go on. One that was made to fail returns, so that it is none.
pub(super) async fn failure(peers: &[Switch]) -> Failure {
    let failures = peers.iter().map(|peer| {
        Box::pin(async move {
            let why = peer.failed().await;
            Failure::Failed(format!("peer {} stops: {why}", peer.peer()))
        })
    });
    let (failure, _, _) = select_all(failures).await;
    failure
}

/// Has the peers that were made to fail return whenever the process is told so. Never ends.
pub(super) async fn resume(peers: &[Switch], mut returns: Returns) {
    loop {
        returns.next().await;
        for peer in peers {
            peer.resume();
        }
    }
}

/// Stops peers, all at once. A second signal ends the wait: what was acknowledged is on disk.
pub(super) async fn stop(
    peers: &[Switch],
    signals: &mut Signals,
    output: &mut Output,
) -> Result<()> {
    tokio::select! {
        _ = join_all(peers.iter().map(Switch::stop)) => Ok(()),
        () = signals.next() => Ok(output.word("stopped without waiting for calls under way")?),
    }
}
