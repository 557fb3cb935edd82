//! Which data directory each peer had when this peer first met it.
//!
//! A peer that comes back with an emptied directory has forgotten how it voted. Were it let in under its old Raft id, two leaders could be
//! elected in one term (openraft, "node ids must not be reused"). So every peer remembers the directory of each other one, on disk and before
//! it answers for the first time, and talks Raft with another only when that comes with a greater incarnation, which is a part of the Raft id.
//! It then never talks again with the directory before, whose disk may turn up once more.
//!
//! ```text
//! cubecast acquaintances 1
//! <peer> <directory, 32 hexadecimal digits> <incarnation>      one line for each peer
//! crc32c <8 hexadecimal digits>                                of all lines above
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tracing::{info, warn};

use crate::env::disk::{self, Disk};
use crate::types::{Incarnation, PeerId};

const HEADER: &str = "cubecast acquaintances 1\n";
const FILE: &str = "acquaintances";

/// A line for each of 2^12 peers; a longer file is not ours.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// A peer as it was when it was last let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquaintance {
    /// The directory it had.
    pub directory: u128,
    /// How often it had begun anew.
    pub incarnation: Incarnation,
}

/// The peers that this one has met.
#[derive(Debug)]
pub struct Acquaintances {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    known: RwLock<BTreeMap<PeerId, Acquaintance>>,
    /// How each peer was when it was refused last. Only configured peers come this far, so it is bounded.
    refused: Mutex<BTreeMap<PeerId, Acquaintance>>,
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
                read(&text, path)?
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

    /// Lets a peer in when it is new, has the directory that it had before, or has begun anew under a greater incarnation. What is new about it
    /// is remembered on disk before this returns.
    ///
    /// # Errors
    /// [`Error::Forgetful`] when it has another directory or has fallen back, [`Error::Disk`] when it cannot be remembered.
    pub fn meet(
        &self,
        peer: PeerId,
        directory: u128,
        incarnation: Incarnation,
    ) -> Result<(), Error> {
        let found = Acquaintance {
            directory,
            incarnation,
        };
        if self.known(peer) == Some(found) {
            return Ok(());
        }
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match all.get(&peer).copied() {
            Some(known) if known == found => return Ok(()),
            Some(known) if known.incarnation < found.incarnation => {
                info!(%peer, incarnation = %found.incarnation, "a peer began anew");
            }
            Some(known) => return Err(self.refuse(peer, known, found)),
            None => {}
        }
        let mut next = all.clone();
        next.insert(peer, found);
        self.save(&next)?;
        *all = next;
        Ok(())
    }

    /// How a peer was when it was last let in; `None` when it never was.
    pub fn known(&self, peer: PeerId) -> Option<Acquaintance> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&peer).copied()
    }

    /// The first refusal is worth a word; a peer asks again and again.
    fn refuse(&self, peer: PeerId, known: Acquaintance, found: Acquaintance) -> Error {
        let error = Error::Forgetful { peer, known, found };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.insert(peer, found) != Some(found) {
            warn!(%error, "refused a peer");
        }
        error
    }

    fn save(&self, known: &BTreeMap<PeerId, Acquaintance>) -> Result<(), disk::Error> {
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

fn format(known: &BTreeMap<PeerId, Acquaintance>) -> String {
    let mut text = HEADER.to_owned();
    for (peer, known) in known {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{peer} {:032x} {}",
            known.directory, known.incarnation
        );
    }
    let checksum = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, "crc32c {checksum:08x}");
    text
}

/// What a file says, which is told from one that a newer program wrote.
fn read(text: &[u8], path: PathBuf) -> Result<BTreeMap<PeerId, Acquaintance>, Error> {
    if let Some(known) = parse(text) {
        return Ok(known);
    }
    let text = std::str::from_utf8(text).unwrap_or_default();
    let header = text.lines().next().unwrap_or_default();
    let sum = text.rsplit_once("crc32c ");
    let is_intact =
        sum.is_some_and(|(body, sum)| sum == format!("{:08x}\n", crc32c::crc32c(body.as_bytes())));
    if is_intact && header != HEADER.trim_end() {
        return Err(Error::Version {
            path,
            found: header.to_owned(),
            known: HEADER.trim_end(),
        });
    }
    Err(Error::Damaged { path })
}

fn parse(text: &[u8]) -> Option<BTreeMap<PeerId, Acquaintance>> {
    let text = std::str::from_utf8(text).ok()?;
    let lines = text.strip_prefix(HEADER)?;
    let mut known = BTreeMap::new();
    for line in lines.lines().take_while(|line| !line.starts_with("crc32c")) {
        let mut words = line.split(' ');
        let peer = PeerId(words.next()?.parse().ok()?);
        let directory = u128::from_str_radix(words.next()?, 16).ok()?;
        let incarnation = Incarnation(words.next()?.parse().ok()?);
        known.insert(
            peer,
            Acquaintance {
                directory,
                incarnation,
            },
        );
    }
    // Written again it must be the same to the letter, checksum and all.
    (format(&known) == text).then_some(known)
}

/// Why a peer is not let in, or the list cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer lost its disk, or an old disk of it turned up again.
    #[error(
        "peer {peer} came back with data directory {:032x} in incarnation {}, but had {:032x} in incarnation {}: it has forgotten its votes \
         and may not take part under this identity; stop it, empty its data directory and start it again, so that it begins anew \
         under a greater incarnation",
        found.directory, found.incarnation, known.directory, known.incarnation
    )]
    Forgetful {
        /// The peer.
        peer: PeerId,
        /// How it was.
        known: Acquaintance,
        /// How it is.
        found: Acquaintance,
    },
    /// The file is not as it was written.
    #[error(
        "{path} is damaged: its checksum does not match what it says; empty the data directory, and the peer comes back as a new one and is made \
         again from the others", path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A newer cubecast wrote the file.
    #[error("{path} begins with {found:?}; this version of cubecast reads {known:?}", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its first line.
        found: String,
        /// The first line that this program writes.
        known: &'static str,
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

    const FIRST: Incarnation = Incarnation(1);

    #[test]
    fn peer_with_an_emptied_directory_is_refused_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let known = open(directory.path()).unwrap();
        known.meet(PeerId(3), 7, FIRST).unwrap();
        known.meet(PeerId(3), 7, FIRST).unwrap();
        known.meet(PeerId(1), u128::MAX, FIRST).unwrap();
        drop(known);
        let known = open(directory.path()).unwrap();
        known.meet(PeerId(3), 7, FIRST).unwrap();
        let refused = known.meet(PeerId(3), 8, FIRST).unwrap_err();
        assert!(matches!(refused, Error::Forgetful { .. }), "{refused}");
        assert!(
            refused.to_string().contains("empty its data directory"),
            "{refused}"
        );
    }

    #[test]
    fn peer_that_begins_anew_is_let_in_and_its_earlier_life_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let known = open(directory.path()).unwrap();
        known.meet(PeerId(3), 7, FIRST).unwrap();
        known
            .meet(PeerId(3), 8, Incarnation(1_700_000_000))
            .unwrap();
        drop(known);
        let known = open(directory.path()).unwrap();
        let now = Acquaintance {
            directory: 8,
            incarnation: Incarnation(1_700_000_000),
        };
        assert_eq!(known.known(PeerId(3)), Some(now));
        known.meet(PeerId(3), 8, now.incarnation).unwrap();
        for (directory, incarnation) in [(7, FIRST), (8, FIRST), (9, now.incarnation)] {
            let refused = known.meet(PeerId(3), directory, incarnation).unwrap_err();
            assert!(matches!(refused, Error::Forgetful { .. }), "{refused}");
        }
    }

    /// A list with two peers, as version 1 wrote it.
    const VERSION_1: &str = include_str!("testdata/acquaintances_v1.txt");

    #[test]
    fn list_of_version_1_is_read_and_written_alike() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), VERSION_1).unwrap();
        let known = open(directory.path()).unwrap();
        let of = |directory, incarnation| Acquaintance {
            directory,
            incarnation: Incarnation(incarnation),
        };
        assert_eq!(known.known(PeerId(1)), Some(of(0xabc, 1)));
        assert_eq!(known.known(PeerId(3)), Some(of(7, 1_700_000_000)));
        let all = known.known.read().unwrap();
        expect_test::expect_file!["testdata/acquaintances_v1.txt"].assert_eq(&format(&all));
    }

    // The advice for a damaged list would lose a directory that is whole.
    #[test]
    fn list_of_a_newer_version_is_named_and_not_called_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let body = "cubecast acquaintances 2\n1 dir:abc life:1\n";
        let sum = crc32c::crc32c(body.as_bytes());
        let path = directory.path().join(FILE);
        std::fs::write(&path, format!("{body}crc32c {sum:08x}\n")).unwrap();
        let error = open(directory.path()).unwrap_err().to_string();
        let expected = format!(
            "{} begins with \"cubecast acquaintances 2\"; this version of cubecast reads \"cubecast acquaintances 1\"",
            path.display()
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let known = open(directory.path()).unwrap();
        known.meet(PeerId(3), 7, FIRST).unwrap();
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
