//! Which data directory each peer had when this peer first met it.
//!
//! A peer that comes back with an emptied directory has forgotten how it voted. Were it let in under its old Raft id, two leaders could be
//! elected in one term (openraft, "node ids must not be reused"). So every peer remembers the directory of each other one, on disk and before
//! it answers for the first time, and refuses to talk Raft with another.
//!
//! ```text
//! cubecast acquaintances 1
//! <peer> <directory, 32 hexadecimal digits>      one line for each peer
//! crc32c <8 hexadecimal digits>                  of all lines above
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tracing::warn;

use crate::env::disk::{self, Disk};
use crate::types::PeerId;

const HEADER: &str = "cubecast acquaintances 1\n";
const FILE: &str = "acquaintances";

/// A line for each of 2^12 peers; a longer file is not ours.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// The peers that this one has met.
#[derive(Debug)]
pub struct Acquaintances {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    known: RwLock<BTreeMap<PeerId, u128>>,
    /// The directory with which each peer was refused last. Only configured peers come this far, so it is bounded.
    refused: Mutex<BTreeMap<PeerId, u128>>,
}

impl Acquaintances {
    /// Reads who was met before from the file in this directory; without one, nobody was.
    ///
    /// # Errors
    /// [`Error::Disk`] when it cannot be read, [`Error::Damaged`] when it is not as it was written.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let known = match disk.open(&path) {
            Ok(file) => {
                let bytes = file.length()?.min(FILE_BYTES_MAX);
                let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
                file.read_at(0, &mut text)?;
                parse(&text).ok_or(Error::Damaged { path })?
            }
            Err(disk::Error::NotFound { .. }) => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            disk,
            directory: directory.to_owned(),
            known: RwLock::new(known),
            refused: Mutex::default(),
        })
    }

    /// Whether no peer was met: this one has then never voted for another, nor told one that it stored an entry.
    pub fn is_empty(&self) -> bool {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Lets a peer in when it is new or has the directory that it had before. A new one is remembered on disk before this returns.
    ///
    /// # Errors
    /// [`Error::Forgetful`] when it has another directory, [`Error::Disk`] when it cannot be remembered.
    pub fn meet(&self, peer: PeerId, directory: u128) -> Result<(), Error> {
        if let Some(known) = self.known(peer) {
            return self.judge(peer, known, directory);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&peer) {
            return self.judge(peer, *known, directory);
        }
        let mut next = known.clone();
        next.insert(peer, directory);
        self.save(&next)?;
        *known = next;
        Ok(())
    }

    fn known(&self, peer: PeerId) -> Option<u128> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&peer).copied()
    }

    /// Whether the directory is the known one. The first refusal of another one is worth a word; a peer asks again and again.
    fn judge(&self, peer: PeerId, known: u128, found: u128) -> Result<(), Error> {
        if known == found {
            return Ok(());
        }
        let error = Error::Forgetful { peer, known, found };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.insert(peer, found) != Some(found) {
            warn!(%error, "refused a peer");
        }
        Err(error)
    }

    fn save(&self, known: &BTreeMap<PeerId, u128>) -> Result<(), disk::Error> {
        let temporary = self.directory.join("acquaintances.new");
        match self.disk.remove(&temporary) {
            Ok(()) | Err(disk::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let file = self.disk.create(&temporary)?;
        file.write_all_at(0, format(known).as_bytes())?;
        file.sync_all()?;
        self.disk.rename(&temporary, &self.directory.join(FILE))?;
        self.disk.sync_directory(&self.directory)
    }
}

fn format(known: &BTreeMap<PeerId, u128>) -> String {
    let mut text = HEADER.to_owned();
    for (peer, directory) in known {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{peer} {directory:032x}");
    }
    let checksum = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, "crc32c {checksum:08x}");
    text
}

fn parse(text: &[u8]) -> Option<BTreeMap<PeerId, u128>> {
    let text = std::str::from_utf8(text).ok()?;
    let lines = text.strip_prefix(HEADER)?;
    let mut known = BTreeMap::new();
    for line in lines.lines().take_while(|line| !line.starts_with("crc32c")) {
        let (peer, directory) = line.split_once(' ')?;
        known.insert(
            PeerId(peer.parse().ok()?),
            u128::from_str_radix(directory, 16).ok()?,
        );
    }
    // Written again it must be the same to the letter, checksum and all.
    (format(&known) == text).then_some(known)
}

/// Why a peer is not let in, or the list cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer lost its disk.
    #[error(
        "peer {peer} came back with another data directory ({found:032x}, it had {known:032x}): it has forgotten its votes and may not \
         take part under its old identity"
    )]
    Forgetful {
        /// The peer.
        peer: PeerId,
        /// The directory it had.
        known: u128,
        /// The directory it has.
        found: u128,
    },
    /// The file is not as it was written.
    #[error("{path} is damaged: its checksum does not match", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] disk::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::disk::SystemDisk;

    fn open(directory: &Path) -> Result<Acquaintances, Error> {
        Acquaintances::open(Arc::new(SystemDisk), directory)
    }

    #[test]
    fn peer_with_an_emptied_directory_is_refused_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let known = open(directory.path()).unwrap();
        known.meet(PeerId(3), 7).unwrap();
        known.meet(PeerId(3), 7).unwrap();
        known.meet(PeerId(1), u128::MAX).unwrap();
        drop(known);
        let known = open(directory.path()).unwrap();
        known.meet(PeerId(3), 7).unwrap();
        assert!(matches!(
            known.meet(PeerId(3), 8),
            Err(Error::Forgetful {
                known: 7,
                found: 8,
                ..
            })
        ));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path()).unwrap().meet(PeerId(3), 7).unwrap();
        let path = directory.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let mut bent = whole.clone();
            bent[position] ^= 1;
            std::fs::write(&path, &bent).unwrap();
            assert!(
                matches!(open(directory.path()), Err(Error::Damaged { .. })),
                "byte {position}"
            );
        }
    }
}
