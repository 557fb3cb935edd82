//! The file `identity`: whose a data directory is, and in which life the peer and its replicas are.
//!
//! ```text
//! cubecast directory 1
//! cluster <name>
//! dimension <d>
//! peer <number>
//! incarnation <number>               0 until the other peers were asked who this one is
//! log <number>                       counts the write-ahead logs of this directory: one that was moved aside is not taken for the present one
//! directory <32 hexadecimal digits>  drawn at random when the directory was made
//! shard <index> <incarnation> <whole|reset>      for each shard whose replica began anew by itself; `reset`: what it held is to be dropped
//! crc32c <8 hexadecimal digits>      of all lines above
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::directory::Error;
use crate::replica::Standing;
use crate::types::{Dimension, Incarnation, Name, PeerId};

const HEADER: &str = "cubecast directory 1";

/// Whose a directory should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) cluster: Name,
    pub(super) dimension: Dimension,
    pub(super) peer: PeerId,
}

/// What the file says besides its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// 0: not known yet.
    pub(super) incarnation: Incarnation,
    /// Which log of this directory is in use.
    pub(super) log: u32,
    /// Tells this directory from any other that was ever made.
    pub(super) directory: u128,
    /// The replicas that began anew by themselves, by the index of their shard.
    pub(super) shards: BTreeMap<u16, Standing>,
}

impl Identity {
    /// That of a directory that was just made.
    pub(super) fn fresh(directory: u128) -> Self {
        Self {
            incarnation: Incarnation(0),
            log: 1,
            directory,
            shards: BTreeMap::new(),
        }
    }

    /// The greatest incarnation that the peer or one of its replicas had.
    pub(super) fn latest(&self) -> Incarnation {
        let shards = self.shards.values().map(|standing| standing.incarnation);
        shards.fold(self.incarnation, Ord::max)
    }

    pub(super) fn format(&self, owner: &Owner) -> String {
        let mut text = format!(
            "{HEADER}\ncluster {}\ndimension {}\npeer {}\nincarnation {}\nlog {}\ndirectory {:032x}\n",
            owner.cluster,
            owner.dimension.bits(),
            owner.peer,
            self.incarnation,
            self.log,
            self.directory,
        );
        for (shard, standing) in &self.shards {
            let state = if standing.is_reset_due {
                "reset"
            } else {
                "whole"
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "shard {shard} {} {state}", standing.incarnation);
        }
        let checksum = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "crc32c {checksum:08x}");
        text
    }

    /// Reads a file that should be `owner`'s.
    pub(super) fn parse(text: &str, owner: &Owner, path: &Path) -> Result<Self, Error> {
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
                known: HEADER,
            });
        }
        let mut field = |key: &str| {
            let line = lines.next().ok_or_else(damaged)?;
            line.strip_prefix(key)
                .and_then(|line| line.strip_prefix(' '))
                .map(str::to_owned)
                .ok_or_else(damaged)
        };
        let belongs = Belongs { path };
        belongs.check("cluster", owner.cluster.as_str(), &field("cluster")?)?;
        let bits = owner.dimension.bits().to_string();
        belongs.check("dimension", &bits, &field("dimension")?)?;
        belongs.check("peer", &owner.peer.to_string(), &field("peer")?)?;
        let incarnation = field("incarnation")?.parse().map_err(|_| damaged())?;
        let log = field("log")?.parse().map_err(|_| damaged())?;
        let directory = u128::from_str_radix(&field("directory")?, 16).map_err(|_| damaged())?;
        let shards = lines
            .map(shard)
            .collect::<Option<_>>()
            .ok_or_else(damaged)?;
        Ok(Self {
            incarnation: Incarnation(incarnation),
            log,
            directory,
            shards,
        })
    }
}

fn shard(line: &str) -> Option<(u16, Standing)> {
    let mut words = line.strip_prefix("shard ")?.split(' ');
    let index = words.next()?.parse().ok()?;
    let incarnation = Incarnation(words.next()?.parse().ok()?);
    let is_reset_due = match words.next()? {
        "reset" => true,
        "whole" => false,
        _ => return None,
    };
    let standing = Standing {
        incarnation,
        is_reset_due,
    };
    words.next().is_none().then_some((index, standing))
}

/// Compares what a directory says with what its peer is configured for.
struct Belongs<'a> {
    path: &'a Path,
}

impl Belongs<'_> {
    fn check(&self, what: &'static str, expected: &str, found: &str) -> Result<(), Error> {
        if expected == found {
            return Ok(());
        }
        Err(Error::Foreign {
            path: PathBuf::from(self.path),
            what,
            expected: expected.to_owned(),
            found: found.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner {
            cluster: Name::new("news").unwrap(),
            dimension: Dimension::new(3).unwrap(),
            peer: PeerId(4),
        }
    }

    /// A file with all there can be in it, as version 1 wrote it.
    const VERSION_1: &str = include_str!("testdata/identity_v1.txt");

    #[test]
    fn identity_of_version_1_is_read_and_written_alike() {
        let read = Identity::parse(VERSION_1, &owner(), Path::new("identity")).unwrap();
        let standing = |incarnation, is_reset_due| Standing {
            incarnation: Incarnation(incarnation),
            is_reset_due,
        };
        let expected = Identity {
            incarnation: Incarnation(1_700_000_000),
            log: 2,
            directory: 77,
            shards: [
                (4, standing(1_700_000_009, false)),
                (6, standing(1_700_000_010, true)),
            ]
            .into(),
        };
        assert_eq!(read, expected);
        assert_eq!(read.latest(), Incarnation(1_700_000_010));
        expect_test::expect_file!["testdata/identity_v1.txt"].assert_eq(&read.format(&owner()));
    }

    #[test]
    fn identity_of_a_newer_version_is_named() {
        let body = "cubecast directory 2\nwho knows\n";
        let text = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
        let error = Identity::parse(&text, &owner(), Path::new("identity")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "identity begins with \"cubecast directory 2\"; this version of cubecast reads \"cubecast directory 1\""
        );
    }
}
