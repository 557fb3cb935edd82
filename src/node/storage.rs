//! Opens what a peer keeps on disk.
//!
//! What is damaged as a whole is moved aside, and the peer goes on without it: the log, and then every replica begins anew; or the store, which each
//! shard then lacks. What each shard can do with what is left is found by the life of its replica (`replica/life.rs`). A directory that is
//! somebody else's, or that nobody knows whose it is, is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tracing::{error, warn};

use super::Error;
use super::aside::move_aside;
use super::directory::Directory;
use super::identity::Owner;
use crate::config::Config;
use crate::env::disk::{self, Disk, LOCK_FILE, Room, SystemDisk};
use crate::env::entropy::{Entropy, SystemEntropy};
use crate::link::Acquaintances;
use crate::store::{self, FjallStore, TopicStore};
use crate::types::{Incarnation, Name};
use crate::wal::{self, RaftLog, Wal};

const LOG: &str = "wal";
const STORE: &str = "store";
/// A file that says that the store is to be moved aside at the next start.
const STORE_NOTE: &str = "store.damaged";
/// Snapshots on their way in.
pub(super) const STAGING: &str = "staging";

/// A peer's disk, opened. A cheap handle: the directory is ours until the last one is dropped.
#[derive(Clone)]
pub(super) struct Storage {
    pub(super) directory: Arc<Directory>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) room: Arc<Room>,
    pub(super) wal: Arc<dyn RaftLog>,
    pub(super) store: Arc<dyn TopicStore>,
    pub(super) acquaintances: Arc<Acquaintances>,
}

impl Storage {
    /// Takes the peer's directory and reads the log and the store. `now` is the incarnation that a peer would get that begins anew now. Blocks:
    /// call it where that is allowed.
    pub(super) fn open(config: &Config, now: Incarnation) -> Result<Self, Error> {
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        let owner = Owner {
            cluster: config.cluster.clone(),
            dimension: config.dimension,
            peer: config.peer,
        };
        let directory = Directory::open(&disk, &config.peer_dir(), &owner, random_id())?;
        let acquaintances = Arc::new(Acquaintances::open(Arc::clone(&disk), &directory.path)?);
        let room = Arc::new(Room::new(config.disk_reserve_bytes));
        measure(&room, &*disk, &directory.path);
        let opening = Opening {
            config,
            directory: &directory,
            disk: &disk,
        };
        let wal = opening.log(now)?;
        let store = opening.store()?;
        Ok(Self {
            directory: Arc::new(directory),
            disk,
            room,
            wal,
            store,
            acquaintances,
        })
    }

    /// Where snapshots that come in are put down.
    pub(super) fn staging(&self) -> PathBuf {
        self.directory.path.join(STAGING)
    }

    /// Closes the log and leaves the store as it is. Blocks.
    pub(super) fn abandon(self) {
        self.wal.shutdown();
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

/// Looks how much room there is.
pub(super) fn measure(room: &Room, disk: &dyn Disk, directory: &Path) {
    if let Err(error) = room.measure(disk, directory) {
        warn!(%error, "could not tell how much room the disk has");
    }
}

/// Notes that the store is to be moved aside at the next start, or the peer would meet the same damage again and again. Blocks.
pub(super) fn note_damaged_store(disk: &dyn Disk, directory: &Path) -> Result<(), disk::Error> {
    match disk.create(&directory.join(STORE_NOTE)) {
        Ok(file) => file.sync_all()?,
        Err(disk::Error::Exists { .. }) => {}
        Err(error) => return Err(error),
    }
    disk.sync_directory(directory)
}

/// What the parts of the disk are opened with.
struct Opening<'a> {
    config: &'a Config,
    directory: &'a Directory,
    disk: &'a Arc<dyn Disk>,
}

impl Opening<'_> {
    /// Opens the log. One that is lost or damaged is moved aside, and the peer begins anew with an empty one.
    fn log(&self, now: Incarnation) -> Result<Arc<dyn RaftLog>, Error> {
        let path = self.directory.path.join(LOG);
        // Who is somebody has a log. Without it, it has forgotten its votes as one with an emptied directory has, but nobody would notice.
        let is_missing =
            self.directory.incarnation() != Incarnation(0) && !has_log(&**self.disk, &path)?;
        let why = if is_missing {
            format!("{} is missing", path.display())
        } else {
            match self.try_log(&path) {
                Err(error) if is_lost(&error) => error.to_string(),
                opened => return Ok(opened?),
            }
        };
        error!(
            why,
            "the write-ahead log is not whole: the peer begins anew with an empty one, and its replicas are made again from the other peers"
        );
        self.aside(LOG)?;
        self.directory.lose_log(now).map_err(wal::Error::from)?;
        Ok(self.try_log(&path)?)
    }

    fn try_log(&self, path: &Path) -> Result<Arc<dyn RaftLog>, wal::Error> {
        let identity = wal::Identity {
            cluster: cluster_id(&self.config.cluster),
            peer: self.config.peer,
            incarnation: Incarnation(self.directory.log()),
        };
        let options = wal::Options {
            segment_bytes: self.config.wal_segment_bytes_max,
            ..wal::Options::new(path.to_owned(), identity)
        };
        let wal = Wal::open(options, Arc::clone(self.disk), Arc::new(SystemEntropy))?;
        Ok(Arc::new(wal))
    }

    /// Opens the store. One that does not open is moved aside; the shards find that they lack it.
    fn store(&self) -> Result<Arc<dyn TopicStore>, Error> {
        let (path, note) = (
            self.directory.path.join(STORE),
            self.directory.path.join(STORE_NOTE),
        );
        let unusable = |source| Error::from(wal::Error::Disk(source));
        match self.disk.open_to_read(&note) {
            Ok(_) => {
                self.aside(STORE)?;
                self.disk.remove(&note).map_err(unusable)?;
                // Were the note back after a power cut, what is made from now on would be moved aside as well.
                let gone = self.disk.sync_directory(&self.directory.path);
                gone.map_err(unusable)?;
            }
            Err(disk::Error::NotFound { .. }) => {}
            Err(error) => return Err(unusable(error)),
        }
        let peer = self.config.peer;
        let failed = |source| Error::Store { peer, source };
        // The engine makes the folder, too, but not its name durable, and soon the log is let go of for what is in it.
        let make = || self.disk.create_directory(&path).map_err(unusable);
        make()?;
        match self.try_store(&path) {
            Err(error) if is_damage(&error) => {
                error!(
                    why = %chain(&error),
                    "the topic store does not open: it is made again from the log and from the other peers"
                );
                self.aside(STORE)?;
                make()?;
                self.try_store(&path).map_err(failed)
            }
            opened => opened.map_err(failed),
        }
    }

    fn try_store(&self, path: &Path) -> Result<Arc<dyn TopicStore>, store::Error> {
        let options = store::Options {
            cache_bytes: self.config.store_cache_bytes,
            memtable_bytes: self.config.store_memtable_bytes,
            ..store::Options::default()
        };
        Ok(Arc::new(FjallStore::open(path, options)?))
    }

    fn aside(&self, name: &'static str) -> Result<(), Error> {
        let moved = move_aside(&**self.disk, &self.directory.path, name);
        moved.map_err(|error| wal::Error::from(error).into())
    }
}

fn has_log(disk: &dyn Disk, path: &Path) -> Result<bool, wal::Error> {
    match disk.list(path) {
        Ok(names) => Ok(names.iter().any(|name| name != LOCK_FILE)),
        Err(disk::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the log is not what was written, as opposed to somebody else's, or one that cannot be reached now.
fn is_lost(error: &wal::Error) -> bool {
    matches!(
        error,
        wal::Error::Damaged { .. }
            | wal::Error::SegmentMissing { .. }
            | wal::Error::EntriesMissing { .. }
    )
}

/// Whether a store fails because of what it holds, and not because of the system below it, which another store would meet as well.
pub(super) fn is_damage(error: &store::Error) -> bool {
    if matches!(
        error,
        store::Error::Full(_) | store::Error::Version { .. } | store::Error::Replaced { .. }
    ) {
        return false;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        let system = current.downcast_ref::<std::io::Error>();
        if system.is_some_and(|error| error.raw_os_error().is_some() && !is_lack(error)) {
            return false;
        }
        cause = current.source();
    }
    true
}

/// Whether the system says that a file is not there, which is damage where there must be one.
fn is_lack(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text = format!("{text}: {current}");
        cause = current.source();
    }
    text
}

/// A number that nobody else draws.
pub(super) fn random_id() -> u128 {
    let mut id = [0; 16];
    SystemEntropy.fill(&mut id);
    u128::from_le_bytes(id)
}

/// Marks the files of a cluster: the first half of the SHA-256 of its name.
pub(super) fn cluster_id(name: &Name) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(name.as_str().as_bytes()).into();
    let mut id = [0; 16];
    id.copy_from_slice(digest.split_at(16).0);
    id
}
