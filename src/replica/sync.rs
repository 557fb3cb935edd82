//! Waiting until a replica has caught up, whatever befalls it on the way.

use tokio::time::Instant;

use super::{Error, Phase, Replica};
use crate::consensus;
use crate::types::LogIndex;

impl Replica {
    /// Waits until the replica serves and has applied an entry. It may be begun again or made again from the others meanwhile.
    ///
    /// # Errors
    /// [`Error::Deadline`] when that takes too long, or [`Error::Starting`] or [`Error::Damaged`] when it was so to the end;
    /// [`Error::Consensus`] with `Stopped` when its peer stops.
    pub async fn catch_up(&self, index: LogIndex, deadline: Instant) -> Result<(), Error> {
        let shard = self.shared.shard;
        let mut state = self.shared.state.subscribe();
        loop {
            state.mark_unchanged();
            let serving = self.serving();
            if self.phase() == Phase::Stopped {
                return Err(consensus::Error::Stopped { shard }.into());
            }
            let applied = async {
                match &serving {
                    Ok(group) => group.applied(index).await,
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = applied => return Ok(()),
                // The sender is as old as this handle.
                _ = state.changed() => {}
                () = tokio::time::sleep_until(deadline) => {
                    return Err(serving.err().unwrap_or(Error::Deadline { shard }));
                }
            }
        }
    }
}
