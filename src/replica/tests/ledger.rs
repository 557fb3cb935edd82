//! A ledger in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::sync::watch;

use super::*;
use crate::env::disk;
use crate::types::Incarnation;

/// Remembers as long as the test holds it.
pub(super) struct MemoryLedger {
    settled: watch::Sender<bool>,
    base: Incarnation,
    shards: Mutex<BTreeMap<Vertex, Standing>>,
}

impl MemoryLedger {
    pub(super) fn new(base: Incarnation) -> Self {
        Self {
            settled: watch::Sender::new(true),
            base,
            shards: Mutex::default(),
        }
    }

    /// The replicas begin when the test says so.
    pub(super) fn unsettled(base: Incarnation) -> Self {
        Self {
            settled: watch::Sender::new(false),
            ..Self::new(base)
        }
    }

    pub(super) fn settle(&self) {
        self.settled.send_replace(true);
    }
}

impl Ledger for MemoryLedger {
    fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    fn standing(&self, shard: Vertex) -> Standing {
        let own = self.shards.lock().unwrap().get(&shard).copied();
        own.unwrap_or(Standing {
            incarnation: self.base,
            is_reset_due: false,
        })
    }

    fn renew(&self, shard: Vertex, incarnation: Incarnation) -> Result<(), disk::Error> {
        let standing = Standing {
            incarnation,
            is_reset_due: true,
        };
        self.shards.lock().unwrap().insert(shard, standing);
        Ok(())
    }

    fn reset_done(&self, shard: Vertex) -> Result<(), disk::Error> {
        if let Some(standing) = self.shards.lock().unwrap().get_mut(&shard) {
            standing.is_reset_due = false;
        }
        Ok(())
    }

    fn lose_store(&self, why: String) {
        panic!("no store is lost in these tests: {why}");
    }
}
