//! Whose a data directory is.
//!
//! A directory is made for one peer of one cluster and says so in its file `identity`; a peer that finds another's directory refuses to start.
//!
//! ```text
//! cubecast directory 1
//! cluster <name>
//! dimension <d>
//! peer <number>
//! incarnation <number>
//! directory <32 hexadecimal digits, drawn at random when the directory was made>
//! crc32c <8 hexadecimal digits>      of all lines above
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::disk::{self, Disk, Lock};
use crate::types::{Dimension, Incarnation, Name, PeerId};

const HEADER: &str = "cubecast directory 1";
const FILE: &str = "identity";
const FILE_BYTES_MAX: u64 = 4096;

/// Whose a directory should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) cluster: Name,
    pub(super) dimension: Dimension,
    pub(super) peer: PeerId,
}

/// A directory that is ours, locked.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) incarnation: Incarnation,
    /// Tells this directory from any other that was ever made.
    pub(super) id: u128,
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
        let (incarnation, id) = match read(disk, &file).map_err(unusable)? {
            Some(text) => check(&text, owner, &file)?,
            None => {
                let made = (Incarnation(1), fresh_id);
                write(disk, path, &format(owner, made)).map_err(unusable)?;
                made
            }
        };
        Ok(Self {
            path: path.to_owned(),
            incarnation,
            id,
            _lock: lock,
        })
    }
}

fn read(disk: &Arc<dyn Disk>, path: &Path) -> Result<Option<String>, disk::Error> {
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

fn write(disk: &Arc<dyn Disk>, directory: &Path, text: &str) -> Result<(), disk::Error> {
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

fn format(owner: &Owner, (incarnation, id): (Incarnation, u128)) -> String {
    let text = format!(
        "{HEADER}\ncluster {}\ndimension {}\npeer {}\nincarnation {incarnation}\ndirectory {id:032x}\n",
        owner.cluster,
        owner.dimension.bits(),
        owner.peer,
    );
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}crc32c {checksum:08x}\n")
}

fn check(text: &str, owner: &Owner, path: &Path) -> Result<(Incarnation, u128), Error> {
    let damaged = || Error::Damaged {
        path: path.to_owned(),
    };
    let (body, checksum) = text.rsplit_once("crc32c ").ok_or_else(damaged)?;
    if checksum != format!("{:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged());
    }
    let mut lines = body.lines();
    let header = lines.next().unwrap_or_default();
    if header != HEADER {
        return Err(Error::Version {
            path: path.to_owned(),
            found: header.to_owned(),
        });
    }
    let mut field = |key: &str| {
        let line = lines.next().ok_or_else(damaged)?;
        line.strip_prefix(key)
            .and_then(|line| line.strip_prefix(' '))
            .map(str::to_owned)
            .ok_or_else(damaged)
    };
    let belongs = |what: &'static str, expected: String, found: String| {
        if expected == found {
            Ok(())
        } else {
            Err(Error::Foreign {
                path: path.to_owned(),
                what,
                expected,
                found,
            })
        }
    };
    belongs("cluster", owner.cluster.to_string(), field("cluster")?)?;
    belongs(
        "dimension",
        owner.dimension.bits().to_string(),
        field("dimension")?,
    )?;
    belongs("peer", owner.peer.to_string(), field("peer")?)?;
    let incarnation = field("incarnation")?.parse().map_err(|_| damaged())?;
    let id = u128::from_str_radix(&field("directory")?, 16).map_err(|_| damaged())?;
    Ok((Incarnation(incarnation), id))
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
    #[error("{path} is damaged: its checksum does not match what it says", path = path.display())]
    Damaged {
        /// The identity file.
        path: PathBuf,
    },
    /// A newer cubecast wrote it.
    #[error("{path} begins with {found:?}; this version of cubecast reads {HEADER:?}", path = path.display())]
    Version {
        /// The identity file.
        path: PathBuf,
        /// Its first line.
        found: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::disk::SystemDisk;

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
        assert_eq!(open(&path, &owner("a", 4), 77).unwrap().id, 77);
        let again = open(&path, &owner("a", 4), 78).unwrap();
        assert_eq!((again.id, again.incarnation), (77, Incarnation(1)));
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
