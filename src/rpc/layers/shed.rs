//! Refuses calls beyond the limit at once, instead of letting all become slow.

use std::sync::Arc;

use cubecast_sdk::proto::v1::ErrorReason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::rpc::status::Fault;

/// Counts the calls that are worked on. A streaming call counts until its stream is set up.
#[derive(Debug)]
pub(super) struct Gate {
    limit: u32,
    free: Arc<Semaphore>,
}

impl Gate {
    pub(super) fn new(limit: u32) -> Self {
        // The semaphore takes as many permits as fit in 61 bits.
        Self {
            limit,
            free: Arc::new(Semaphore::new(
                usize::try_from(limit).unwrap_or(usize::MAX >> 3),
            )),
        }
    }

    /// A place among the calls that are worked on, free again when it is dropped.
    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.free).try_acquire_owned().map_err(|_| {
            let text = format!("this peer works on {} calls already", self.limit);
            Fault::new(ErrorReason::Overloaded, text)
                .with("limit", self.limit)
                .into_status()
        })
    }

    /// How many calls are worked on.
    pub(super) fn calls(&self) -> u32 {
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        self.limit.saturating_sub(free)
    }

    /// Waits until no call is worked on. Calls that come meanwhile are still taken.
    pub(super) async fn drained(&self) {
        // Fails only when the semaphore is closed, which it never is.
        let _ = self.free.acquire_many(self.limit).await;
    }
}
