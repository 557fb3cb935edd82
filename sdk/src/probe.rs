//! Looking after a peer that failed a call, in the background, so that no caller has to find out whether it is back.
//!
//! One task for each peer whose circuit is open; it ends when the peer answers, or with the client. Begin with [`Shared::suspect`].

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tracing::debug;

use crate::attempt::{self, Parcel};
use crate::call;
use crate::circuit::Round;
use crate::client::Shared;
use crate::connect::PeerKey;
use crate::proto::v1;

/// How long a probe waits for its answer: the call needs no disk and no other peer.
const PROBE_MAX: Duration = Duration::from_millis(500);

impl Shared {
    /// The peer failed a call: others are asked until it answers a probe.
    pub(crate) fn suspect(self: &Arc<Self>, key: PeerKey) {
        let Some(round) = self.peers.trip(key) else {
            return;
        };
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        while probes.try_join_next().is_some() {}
        probes.spawn(probe(Arc::downgrade(self), key, round));
    }
}

/// Probes a peer until it answers, or another round has begun.
async fn probe(shared: Weak<Shared>, key: PeerKey, round: Round) {
    loop {
        let pause = shared.upgrade();
        let Some(pause) = pause.and_then(|shared| shared.peers.pause(key, round)) else {
            return;
        };
        tokio::time::sleep(pause).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.peers.probe(key);
        if answers(&shared, key).await {
            shared.peers.mark_up(key);
            return;
        }
        shared.peers.confirm(key);
    }
}

/// Any answer will do: what the peer cannot do at the moment it says itself.
async fn answers(shared: &Shared, key: PeerKey) -> bool {
    let Some(chosen) = shared.peers.get(key) else {
        return false;
    };
    let parcel = Parcel {
        path: call::GET_NODE_STATUS.path(),
        request: Bytes::new(),
        trace: None,
        timeout: PROBE_MAX,
        answer_bytes_max: shared.options.answer_bytes_max,
        repeat: call::GET_NODE_STATUS.repeat(),
    };
    match attempt::send::<v1::GetNodeStatusResponse>(chosen, parcel).await {
        Ok(answer) => {
            shared.learn_limits(&answer.message);
            true
        }
        Err(failure) => {
            debug!(%failure, "a peer does not answer");
            failure.reason().is_some()
        }
    }
}
