//! Refuses calls beyond the limit at once, instead of letting all become slow, and all calls once the peer stops.

use std::sync::{Arc, Mutex, PoisonError};

use cubecast_sdk::proto::v1::ErrorReason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::rpc::refusal;
use crate::rpc::status::Fault;
use crate::types::PeerId;

/// Counts the calls that are worked on. A streaming call counts until its stream is set up. A cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    peer: PeerId,
    limit: u32,
    free: Arc<Semaphore>,
    drain: CancellationToken,
}

impl Gate {
    /// The gate of this peer, which lets nobody in any more once the drain begins.
    pub(super) fn new(peer: PeerId, limit: u32, drain: CancellationToken) -> Self {
        // The semaphore takes as many permits as fit in 61 bits.
        let permits = usize::try_from(limit).unwrap_or(usize::MAX >> 3);
        Self {
            peer,
            limit,
            free: Arc::new(Semaphore::new(permits)),
            drain,
        }
    }

    /// A place among the calls that are worked on, free again when it is dropped.
    fn enter(&self) -> Result<OwnedSemaphorePermit, Status> {
        // Before the count: whoever waits for the last call has taken what is free.
        if self.drain.is_cancelled() {
            return Err(refusal::stopping(self.peer));
        }
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

    /// Waits until no call is worked on. Once the drain has begun none comes meanwhile.
    pub(super) async fn drained(&self) {
        // Fails only when the semaphore is closed, which it never is.
        let _ = self.free.acquire_many(self.limit).await;
    }
}

/// The place of one call among those that are worked on. Goes with the request to a method that waits for its caller and gives it up meanwhile.
#[derive(Debug, Clone)]
pub struct Place {
    gate: Gate,
    permit: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Place {
    /// A place behind this gate.
    pub(super) fn take(gate: &Gate) -> Result<Self, Status> {
        let place = Self {
            gate: gate.clone(),
            permit: Arc::default(),
        };
        place.enter()?;
        Ok(place)
    }

    /// Nothing is worked on until [`Self::enter`].
    pub fn leave(&self) {
        self.put(None);
    }

    /// The call is worked on again.
    ///
    /// # Errors
    /// `OVERLOADED` when there are too many others by now, `SHUTTING_DOWN` when the peer stops.
    pub fn enter(&self) -> Result<(), Status> {
        self.put(Some(self.gate.enter()?));
        Ok(())
    }

    fn put(&self, permit: Option<OwnedSemaphorePermit>) {
        let mut place = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *place, permit);
        drop(place);
        drop(before);
    }
}
