//! The data directory of a peer, taken by one process at a time.
//!
//! A directory is made for one peer of one cluster and says so in its file `identity`; a peer that finds another's directory refuses to start. The
//! file is also the ledger of the lives of the peer's replicas. Its form is at the top of `identity.rs`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::identity::{Identity, Owner};
use crate::env::disk::{self, Disk, Lock};
use crate::replica::{Ledger, Standing};
use crate::types::{Incarnation, Vertex};

const FILE: &str = "identity";
const FILE_BYTES_MAX: u64 = 4096;

/// A directory that is ours, locked.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    disk: Arc<dyn Disk>,
    owner: Owner,
    /// As the file says; held while the file is written.
    identity: Mutex<Identity>,
    settled: watch::Sender<bool>,
    lost_store: watch::Sender<Option<String>>,
    _lock: Lock,
}

impl Directory {
    /// Takes the directory, and makes it ours when it is new.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        path: &Path,
        owner: &Owner,
        fresh_id: u128,
    ) -> Result<Self, Error> {
        let unusable = |source| Error::Unusable {
            path: path.to_owned(),
            source,
        };
        disk.create_directory(path).map_err(unusable)?;
        let lock = match disk.lock(path) {
            Err(disk::Error::Locked { .. }) => {
                return Err(Error::InUse {
                    path: path.to_owned(),
                });
            }
            lock => lock.map_err(unusable)?,
        };
        let file = path.join(FILE);
        let identity = match read(&**disk, &file).map_err(unusable)? {
            Some(text) => Identity::parse(&text, owner, &file)?,
            None => {
                let fresh = Identity::fresh(fresh_id);
                write(&**disk, path, &fresh.format(owner)).map_err(unusable)?;
                fresh
            }
        };
        Ok(Self {
            path: path.to_owned(),
            disk: Arc::clone(disk),
            owner: owner.clone(),
            settled: watch::Sender::new(identity.incarnation != Incarnation(0)),
            lost_store: watch::Sender::new(None),
            identity: Mutex::new(identity),
            _lock: lock,
        })
    }

    /// Tells this directory from any other that was ever made.
    pub(super) fn id(&self) -> u128 {
        self.identity().directory
    }

    /// In which incarnation the peer is; 0 while it is not known.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.identity().incarnation
    }

    /// Which log of this directory is in use.
    pub(super) fn log(&self) -> u32 {
        self.identity().log
    }

    /// Writes down in which incarnation the peer is, now that it is known. Durable on return.
    pub(super) fn write_incarnation(&self, incarnation: Incarnation) -> Result<(), disk::Error> {
        self.change(|identity| identity.incarnation = incarnation)
    }

    /// Lets the replicas begin: the incarnation is written, and the other peers are told it.
    pub(super) fn release(&self) {
        self.settled.send_replace(true);
    }

    /// Turns to why the store must be made anew at the next start.
    pub(super) fn lost_store(&self) -> watch::Receiver<Option<String>> {
        self.lost_store.subscribe()
    }

    /// The log is lost, and with it the votes of all replicas: the peer begins anew, with another log. Durable on return.
    pub(super) fn lose_log(&self, now: Incarnation) -> Result<(), disk::Error> {
        self.change(|identity| {
            let next = Incarnation(identity.latest().0.saturating_add(1)).max(now);
            identity.log += 1;
            // Who never was anybody has nothing to forget.
            if identity.incarnation != Incarnation(0) {
                identity.incarnation = next;
                // What was due for one is now due for all that do not fit the new log, and found by that.
                identity.shards.clear();
            }
        })
    }

    fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Identity)) -> Result<(), disk::Error> {
        let mut identity = self.identity();
        let mut next = identity.clone();
        change(&mut next);
        write(&*self.disk, &self.path, &next.format(&self.owner))?;
        *identity = next;
        Ok(())
    }
}

impl Ledger for Directory {
    fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    fn standing(&self, shard: Vertex) -> Standing {
        let identity = self.identity();
        let own = identity.shards.get(&shard.index()).copied();
        own.unwrap_or(Standing {
            incarnation: identity.incarnation,
            is_reset_due: false,
        })
    }

    fn renew(&self, shard: Vertex, incarnation: Incarnation) -> Result<(), disk::Error> {
        self.change(|identity| {
            let standing = Standing {
                incarnation,
                is_reset_due: true,
            };
            identity.shards.insert(shard.index(), standing);
        })
    }

    fn reset_done(&self, shard: Vertex) -> Result<(), disk::Error> {
        self.change(|identity| {
            if let Some(standing) = identity.shards.get_mut(&shard.index()) {
                standing.is_reset_due = false;
            }
        })
    }

    fn lose_store(&self, why: String) {
        self.lost_store.send_replace(Some(why));
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<String>, disk::Error> {
    let file = match disk.open(path) {
        Err(disk::Error::NotFound { .. }) => return Ok(None),
        file => file?,
    };
    let bytes = file.length()?.min(FILE_BYTES_MAX);
    let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
    file.read_at(0, &mut text)?;
    // What is not text will not pass for an identity.
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

fn write(disk: &dyn Disk, directory: &Path, text: &str) -> Result<(), disk::Error> {
    let temporary = directory.join("identity.new");
    match disk.remove(&temporary) {
        Ok(()) | Err(disk::Error::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let file = disk.create(&temporary)?;
    file.write_all_at(0, text.as_bytes())?;
    file.sync_all()?;
    disk.rename(&temporary, &directory.join(FILE))?;
    disk.sync_directory(directory)
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be made, read or written.
    #[error("data directory {path} cannot be used: {source}", path = path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: disk::Error,
    },
    /// Another process has it.
    #[error("data directory {path} is in use by another cubecast process", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It was made for somebody else.
    #[error("{path} says that this data directory belongs to {what} {found}, but this peer is configured for {what} {expected}", path = path.display())]
    Foreign {
        /// The identity file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// As configured.
        expected: String,
        /// As the directory says.
        found: String,
    },
    /// The identity file is not as it was written.
    #[error(
        "{path} is damaged: its checksum does not match what it says, so nobody knows whose life this directory holds; empty the directory, and \
         the peer comes back as a new one and is made again from the others", path = path.display()
    )]
    Damaged {
        /// The identity file.
        path: PathBuf,
    },
    /// A newer cubecast wrote it.
    #[error("{path} begins with {found:?}; this version of cubecast reads {known:?}", path = path.display())]
    Version {
        /// The identity file.
        path: PathBuf,
        /// Its first line.
        found: String,
        /// The first line that this program writes.
        known: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::disk::SystemDisk;
    use crate::types::{Dimension, Name, PeerId};

    fn owner(cluster: &str, peer: u16) -> Owner {
        Owner {
            cluster: Name::new(cluster).unwrap(),
            dimension: Dimension::new(3).unwrap(),
            peer: PeerId(peer),
        }
    }

    fn open(path: &Path, owner: &Owner, id: u128) -> Result<Directory, Error> {
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        Directory::open(&disk, path, owner, id)
    }

    #[test]
    fn directory_keeps_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer-004");
        assert_eq!(open(&path, &owner("a", 4), 77).unwrap().id(), 77);
        let again = open(&path, &owner("a", 4), 78).unwrap();
        assert_eq!((again.id(), again.incarnation()), (77, Incarnation(0)));
        assert!(matches!(
            open(&path, &owner("a", 4), 78),
            Err(Error::InUse { .. })
        ));
    }

    #[test]
    fn directory_of_another_cluster_or_peer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path(), &owner("a", 4), 77).unwrap());
        assert!(matches!(
            open(folder.path(), &owner("b", 4), 1),
            Err(Error::Foreign {
                what: "cluster",
                ..
            })
        ));
        assert!(matches!(
            open(folder.path(), &owner("a", 5), 1),
            Err(Error::Foreign { what: "peer", .. })
        ));
    }

    // G7: a peer that is killed between two steps of a new life goes on where it was.
    #[test]
    fn lives_of_replicas_outlast_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let shard: Vertex = "011".parse().unwrap();
        let standing = |incarnation, is_reset_due| Standing {
            incarnation: Incarnation(incarnation),
            is_reset_due,
        };
        let reopened = || open(folder.path(), &owner("a", 4), 77).unwrap();
        let directory = reopened();
        assert!(!*directory.settled().borrow(), "nobody was asked yet");
        directory.write_incarnation(Incarnation(1)).unwrap();
        directory.release();
        assert!(*directory.settled().borrow());
        assert_eq!(directory.standing(shard), standing(1, false));
        directory.renew(shard, Incarnation(1000)).unwrap();
        drop(directory);
        let directory = reopened();
        assert!(*directory.settled().borrow());
        assert_eq!(directory.standing(shard), standing(1000, true));
        directory.reset_done(shard).unwrap();
        drop(directory);
        let directory = reopened();
        assert_eq!(directory.standing(shard), standing(1000, false));
        assert_eq!(directory.log(), 1);
        directory.lose_log(Incarnation(7)).unwrap();
        drop(directory);
        let directory = reopened();
        assert_eq!(directory.standing(shard), standing(1001, false));
        assert_eq!(
            (directory.incarnation(), directory.log()),
            (Incarnation(1001), 2)
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path(), &owner("a", 4), 77).unwrap());
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let mut bent = whole.clone();
            bent[position] ^= 1;
            std::fs::write(&path, &bent).unwrap();
            assert!(
                matches!(
                    open(folder.path(), &owner("a", 4), 1),
                    Err(Error::Damaged { .. })
                ),
                "byte {position}"
            );
        }
    }
}
