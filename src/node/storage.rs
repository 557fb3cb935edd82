//! Opens what a peer keeps on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tracing::warn;

use super::{Error, directory};
use crate::config::Config;
use crate::env::disk::{self, Disk, LOCK_FILE, SystemDisk};
use crate::env::entropy::{Entropy, SystemEntropy};
use crate::link::Acquaintances;
use crate::store::{self, FjallStore, TopicStore};
use crate::types::{Name, PeerId};
use crate::wal::{self, RaftLog, Wal};

/// A peer's disk, opened.
pub(super) struct Storage {
    pub(super) directory: directory::Directory,
    pub(super) wal: Arc<dyn RaftLog>,
    pub(super) store: Arc<dyn TopicStore>,
    pub(super) acquaintances: Arc<Acquaintances>,
}

impl Storage {
    /// Takes the peer's directory and reads the log and the store. Blocks: call it where that is allowed.
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        let owner = directory::Owner {
            cluster: config.cluster.clone(),
            dimension: config.dimension,
            peer: config.peer,
        };
        let directory = directory::Directory::open(&disk, &config.peer_dir(), &owner, random_id())?;
        let identity = wal::Identity {
            cluster: cluster_id(&config.cluster),
            peer: config.peer,
            incarnation: directory.incarnation,
        };
        let acquaintances = Arc::new(Acquaintances::open(Arc::clone(&disk), &directory.path)?);
        let wal_path = directory.path.join("wal");
        if !acquaintances.is_empty() {
            check_log(&*disk, &wal_path)?;
        }
        let wal = open_wal(Arc::clone(&disk), wal_path, identity, config)?;
        let store = open_store(&directory.path.join("store"), config.peer, config)?;
        Ok(Self {
            directory,
            wal,
            store,
            acquaintances,
        })
    }

    /// Closes the log and flushes the store, then lets the directory go. Blocks.
    pub(super) fn close(self) {
        self.wal.shutdown();
        // A flushed store saves the replay of the log at the next start; nothing else depends on it.
        if let Err(error) = self.store.checkpoint() {
            warn!(%error, "the store was not flushed; the log will be replayed");
        }
    }
}

/// A peer that others know has a log. Without it, it has forgotten its votes as one with an emptied directory has, but nobody would notice.
fn check_log(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    let is_there = match disk.list(path) {
        Ok(names) => names.iter().any(|name| name != LOCK_FILE),
        Err(disk::Error::NotFound { .. }) => false,
        Err(error) => return Err(wal::Error::from(error).into()),
    };
    let path = path.to_owned();
    if is_there {
        Ok(())
    } else {
        Err(Error::LogMissing { path })
    }
}

fn open_wal(
    disk: Arc<dyn Disk>,
    path: PathBuf,
    identity: wal::Identity,
    config: &Config,
) -> Result<Arc<dyn RaftLog>, Error> {
    let options = wal::Options {
        segment_bytes: config.wal_segment_bytes_max,
        ..wal::Options::new(path, identity)
    };
    Ok(Arc::new(Wal::open(options, disk, Arc::new(SystemEntropy))?))
}

fn open_store(path: &Path, peer: PeerId, config: &Config) -> Result<Arc<dyn TopicStore>, Error> {
    let options = store::Options {
        cache_bytes: config.store_cache_bytes,
        ..store::Options::default()
    };
    let store = FjallStore::open(path, options).map_err(|source| Error::Store { peer, source })?;
    Ok(Arc::new(store))
}

/// A number that nobody else draws.
pub(super) fn random_id() -> u128 {
    let mut id = [0; 16];
    SystemEntropy.fill(&mut id);
    u128::from_le_bytes(id)
}

/// Marks the files of a cluster: the first half of the SHA-256 of its name.
fn cluster_id(name: &Name) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(name.as_str().as_bytes()).into();
    let mut id = [0; 16];
    id.copy_from_slice(digest.split_at(16).0);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_peer_without_its_log_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let wal = folder.path().join("wal");
        let is_missing = || {
            let checked = check_log(&SystemDisk, &wal);
            matches!(checked, Err(Error::LogMissing { .. }))
        };
        assert!(is_missing(), "there is no directory");
        std::fs::create_dir(&wal).unwrap();
        std::fs::write(wal.join(LOCK_FILE), "").unwrap();
        assert!(is_missing(), "there is only the lock");
        std::fs::write(wal.join("00000001.wal"), "").unwrap();
        assert!(!is_missing());
    }
}
