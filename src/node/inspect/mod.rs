//! Looks at the directory of a peer that does not run, and says of each thing in it whether it is whole.
//!
//! It repairs nothing and asks no other peer: what is damaged here may be whole elsewhere. Begin with [`inspect`].

mod shards;
#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::storage::{STAGING, cluster_id};
use crate::env::disk::{self, Disk, LOCK_FILE, SystemDisk};
use crate::link::Acquaintances;
use crate::types::{Dimension, Incarnation, Name, PeerId};
use crate::{store, wal};

/// The directories of peers in a data directory begin so.
const PEER_PREFIX: &str = "peer-";
const IDENTITY: &str = "identity";
const IDENTITY_HEADER: &str = "cubecast directory 1";
const IDENTITY_BYTES_MAX: u64 = 1 << 20;
const LOG: &str = "wal";
const STORE: &str = "store";

/// How a thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it was written.
    Whole,
    /// Worth a word, but no damage: the next start deals with it.
    Noted,
    /// Not as it was written, or not there.
    Damaged,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The directory of the peer.
    pub directory: PathBuf,
    /// What: `identity`, `acquaintances`, `log`, `store`, `topics` or `leftover`.
    pub thing: &'static str,
    /// Of which shard, by the index of its vertex; `None` when it is the whole peer's.
    pub shard: Option<u16>,
    /// How it was found.
    pub verdict: Verdict,
    /// What was found, in words.
    pub text: String,
    /// Where damage is, when it is at one place of one file.
    pub place: Option<Place>,
}

/// Where a file is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The first damaged byte, or where what has it begins.
    pub position: u64,
    /// What must be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// Why a directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has nothing of a peer.
    #[error("{path} is neither the directory of a peer nor a data directory with those of peers", path = path.display())]
    NoPeer {
        /// What was given.
        path: PathBuf,
    },
    /// A peer runs there.
    #[error("{path} is in use by a running peer; stop it first", path = path.display())]
    InUse {
        /// The directory of the peer.
        path: PathBuf,
    },
    /// It cannot be listed or locked.
    #[error(transparent)]
    Disk(#[from] disk::Error),
}

/// Looks at the directory of a peer, or at those of all peers in a data directory, and tells each finding when it is made. Changes no file but
/// those that the storage engine itself puts in order when it opens.
///
/// # Errors
/// [`Error`] when there is nothing to look at or a peer runs there; all that is wrong inside is a finding.
pub fn inspect(path: &Path, visit: &mut dyn FnMut(Finding)) -> Result<(), Error> {
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    for directory in peer_directories(&*disk, path)? {
        let names = disk.list(&directory)?;
        // Without the file nobody ever ran there, and none is to be made.
        let lock = match names.iter().any(|name| name == LOCK_FILE) {
            true => Some(disk.lock(&directory)),
            false => None,
        };
        let _lock = match lock.transpose() {
            Err(disk::Error::Locked { .. }) => return Err(Error::InUse { path: directory }),
            lock => lock?,
        };
        let mut inspection = Inspection {
            disk: Arc::clone(&disk),
            directory,
            visit,
        };
        inspection.run(&names);
    }
    Ok(())
}

/// The directory itself when it is a peer's, else those in it that are.
fn peer_directories(disk: &dyn Disk, path: &Path) -> Result<Vec<PathBuf>, Error> {
    let names = disk.list(path)?;
    let is_peer = |names: &[String]| {
        let known = [IDENTITY, LOG, STORE];
        names.iter().any(|name| known.contains(&name.as_str()))
    };
    if is_peer(&names) {
        return Ok(vec![path.to_owned()]);
    }
    let inside = names.iter().filter(|name| name.starts_with(PEER_PREFIX));
    let inside: Vec<PathBuf> = inside
        .map(|name| path.join(name))
        .filter(|inside| disk.list(inside).is_ok_and(|names| is_peer(&names)))
        .collect();
    if inside.is_empty() {
        let path = path.to_owned();
        return Err(Error::NoPeer { path });
    }
    Ok(inside)
}

/// Whose a directory says that it is.
struct Owner {
    log: wal::Identity,
    dimension: Dimension,
    text: String,
}

/// Goes through the directory of one peer.
struct Inspection<'a> {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    visit: &'a mut dyn FnMut(Finding),
}

impl Inspection<'_> {
    fn run(&mut self, names: &[String]) {
        let owner = self.identity();
        self.acquaintances();
        let log = self.log(owner.as_ref());
        let dimension = owner.map(|owner| owner.dimension);
        self.store(dimension, log.as_ref());
        self.leftovers(names);
    }

    fn tell(&mut self, thing: &'static str, verdict: Verdict, text: impl Into<String>) {
        self.tell_of(thing, None, verdict, text.into());
    }

    fn tell_of(&mut self, thing: &'static str, shard: Option<u16>, verdict: Verdict, text: String) {
        (self.visit)(Finding {
            directory: self.directory.clone(),
            thing,
            shard,
            verdict,
            text,
            place: None,
        });
    }

    fn identity(&mut self) -> Option<Owner> {
        let path = self.directory.join(IDENTITY);
        let read = read(&*self.disk, &path, IDENTITY_BYTES_MAX);
        let owner = match read {
            Ok(text) => parse(&text).map_err(|what| format!("{} {what}", path.display())),
            Err(error) => Err(told(&error)),
        };
        match owner {
            Ok(owner) => {
                self.tell("identity", Verdict::Whole, owner.text.clone());
                Some(owner)
            }
            Err(text) => {
                self.tell("identity", Verdict::Damaged, text);
                None
            }
        }
    }

    fn acquaintances(&mut self) {
        match Acquaintances::open(Arc::clone(&self.disk), &self.directory) {
            Ok(known) if known.is_empty() => {
                self.tell("acquaintances", Verdict::Whole, "no peer was met yet");
            }
            Ok(_) => self.tell("acquaintances", Verdict::Whole, "can be read"),
            Err(error) => self.tell("acquaintances", Verdict::Damaged, told(&error)),
        }
    }

    fn log(&mut self, owner: Option<&Owner>) -> Option<wal::Inspected> {
        let folder = self.directory.join(LOG);
        let log = match wal::inspect(&*self.disk, &folder, owner.map(|owner| &owner.log)) {
            Ok(log) => log,
            Err(error) => {
                self.tell("log", Verdict::Damaged, told(&error));
                return None;
            }
        };
        for problem in &log.problems {
            let finding = self.problem(problem);
            (self.visit)(finding);
        }
        let records: u64 = log.segments.iter().map(|segment| segment.records).sum();
        let bytes: u64 = log.segments.iter().map(|segment| segment.bytes).sum();
        let text = format!(
            "{} segments of {bytes} bytes, {records} intact records",
            log.segments.len()
        );
        let verdict = if log.problems.is_empty() {
            Verdict::Whole
        } else {
            Verdict::Noted
        };
        self.tell("log", verdict, text);
        Some(log)
    }

    /// What is wrong with the log.
    fn problem(&self, problem: &wal::Error) -> Finding {
        let place = match problem {
            wal::Error::Damaged {
                file,
                position,
                expected,
                found,
            } => Some(Place {
                file: file.clone(),
                position: *position,
                expected: expected.clone(),
                found: found.clone(),
            }),
            _ => None,
        };
        let shard = match problem {
            wal::Error::EntriesMissing { shard, .. } => Some(*shard),
            _ => None,
        };
        Finding {
            directory: self.directory.clone(),
            thing: "log",
            shard,
            verdict: Verdict::Damaged,
            text: told(problem),
            place,
        }
    }

    /// What a rebuild or an interrupted write left behind.
    fn leftovers(&mut self, names: &[String]) {
        for name in names {
            let is_aside = [LOG, STORE]
                .iter()
                .any(|kept| name.starts_with(&format!("{kept}.damaged")));
            let path = self.directory.join(name);
            if is_aside {
                let text = format!("{} was moved aside as damaged", path.display());
                self.tell("leftover", Verdict::Noted, text);
            } else if name.ends_with(".new") {
                let text = format!("{} was not finished", path.display());
                self.tell("leftover", Verdict::Noted, text);
            } else if name == STAGING {
                for file in self.disk.list(&path).unwrap_or_default() {
                    let text = format!("{} was not installed", path.join(file).display());
                    self.tell("leftover", Verdict::Noted, text);
                }
            }
        }
    }
}

fn read(disk: &dyn Disk, path: &Path, bytes_max: u64) -> Result<String, disk::Error> {
    let file = disk.open_to_read(path)?;
    let bytes = file.length()?.min(bytes_max);
    let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
    file.read_at(0, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whose an identity file says that the directory is, or what is wrong with it. The form is at the top of `identity.rs`.
fn parse(text: &str) -> Result<Owner, String> {
    let damaged = || "is damaged: its checksum does not match what it says".to_owned();
    let (body, checksum) = text.rsplit_once("crc32c ").ok_or_else(damaged)?;
    if checksum != format!("{:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged());
    }
    let header = body.lines().next().unwrap_or_default();
    if header != IDENTITY_HEADER {
        return Err(format!(
            "says {header:?}, this program knows {IDENTITY_HEADER:?}"
        ));
    }
    let field = |key: &str| {
        let line = body.lines().find_map(|line| line.strip_prefix(key));
        let value = line.and_then(|rest| rest.strip_prefix(' '));
        value.ok_or_else(|| format!("does not say {key}"))
    };
    let wrong = |key: &str| format!("says no {key} that can be read");
    let cluster = Name::new(field("cluster")?).map_err(|_| wrong("cluster"))?;
    let number = |key: &str| field(key)?.parse::<u32>().map_err(|_| wrong(key));
    let bits = u8::try_from(number("dimension")?).map_err(|_| wrong("dimension"))?;
    let dimension = Dimension::new(bits).map_err(|_| wrong("dimension"))?;
    let peer = PeerId(u16::try_from(number("peer")?).map_err(|_| wrong("peer"))?);
    let incarnation = Incarnation(number("incarnation")?);
    let text =
        format!("peer {peer} of cluster {cluster}, dimension {bits}, incarnation {incarnation}");
    let log = wal::Identity {
        cluster: cluster_id(&cluster),
        peer,
        incarnation: Incarnation(number("log")?),
    };
    Ok(Owner {
        log,
        dimension,
        text,
    })
}

/// An error with what lies below it.
fn told(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(below) = source {
        let below_text = below.to_string();
        // Transparent errors and those that name their cause have said it.
        if !text.ends_with(&below_text) {
            let _ = write!(text, ": {below_text}");
        }
        source = below.source();
    }
    text
}

/// What is wrong with something of the store.
fn in_store(finding: &store::Finding) -> (Option<u16>, String) {
    (finding.shard, told(&finding.error))
}
