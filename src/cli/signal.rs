//! The signals that end a command: Ctrl-C, and what a supervisor sends; and the one that brings a peer back. Begin with [`Signals::next`].

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for signals. Once made, they no longer end the process by themselves.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Waits for SIGUSR1. Once made, it no longer ends the process.
#[derive(Debug)]
pub(super) struct Returns {
    user: Signal,
}

impl Returns {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            user: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        if self.user.recv().await.is_none() {
            // There is no signal driver any more: the process ends.
            std::future::pending::<()>().await;
        }
    }
}
