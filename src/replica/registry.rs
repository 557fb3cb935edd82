//! The replicas of this peer.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Replica;
use crate::types::Vertex;

/// The replicas of this peer. A cheap handle.
#[derive(Clone, Default)]
pub struct Replicas {
    replicas: Arc<BTreeMap<Vertex, Replica>>,
}

impl Replicas {
    /// Gathers replicas. They may be at any point of their lives: a replica that cannot serve yet says so itself.
    pub fn new(replicas: impl IntoIterator<Item = Replica>) -> Self {
        let replicas = replicas
            .into_iter()
            .map(|replica| (replica.shard(), replica));
        Self {
            replicas: Arc::new(replicas.collect()),
        }
    }

    /// The replica of a shard, when this peer has one.
    pub fn get(&self, shard: Vertex) -> Option<Replica> {
        self.replicas.get(&shard).cloned()
    }

    /// The replica of the shard whose vertex has this index, as messages between peers name it.
    pub fn with_index(&self, index: u32) -> Option<Replica> {
        let mut replicas = self.replicas.values();
        replicas
            .find(|replica| u32::from(replica.shard().index()) == index)
            .cloned()
    }

    /// All of them, in the order of their vertices.
    pub fn all(&self) -> Vec<Replica> {
        self.replicas.values().cloned().collect()
    }
}
