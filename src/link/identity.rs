//! How peers tell each other who they are.
//!
//! Every call from peer to peer carries the cluster's name, the caller's number, the name of its data directory and how often the peer began
//! anew. This keeps two clusters, and the lives of a peer that lost its disk, from mixing by accident; it does not keep anyone out on purpose,
//! which is what mutual TLS is for.

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use super::Acquaintance;
use crate::types::{Incarnation, PeerId};

const CLUSTER: &str = "cubecast-cluster";
const PEER: &str = "cubecast-peer";
const DIRECTORY: &str = "cubecast-directory";
const INCARNATION: &str = "cubecast-incarnation";

/// A peer as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the cluster.
    pub cluster: String,
    /// The peer's number.
    pub peer: PeerId,
    /// Drawn at random when the peer's data directory was made: an emptied directory has another.
    pub directory: u128,
    /// Grows when the peer begins anew with another directory.
    pub incarnation: Incarnation,
}

/// Who calls, as the call says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The peer's number.
    pub peer: PeerId,
    /// The name of its data directory.
    pub directory: u128,
    /// How often the peer began anew.
    pub incarnation: Incarnation,
}

impl Caller {
    /// It as others remember it.
    pub(super) fn acquaintance(&self) -> Acquaintance {
        Acquaintance {
            directory: self.directory,
            incarnation: self.incarnation,
        }
    }
}

impl Identity {
    /// Adds this identity to a call.
    pub fn write(&self, metadata: &mut MetadataMap) {
        for (key, value) in [
            (CLUSTER, self.cluster.clone()),
            (PEER, self.peer.to_string()),
            (DIRECTORY, format!("{:032x}", self.directory)),
            (INCARNATION, self.incarnation.to_string()),
        ] {
            // The cluster's name is a checked `Name` and the others are digits, so each is a valid value.
            if let Ok(value) = value.parse::<MetadataValue<Ascii>>() {
                metadata.insert(key, value);
            }
        }
    }

    /// Who sent this call.
    ///
    /// # Errors
    /// [`IdentityError`] when it does not say so, or comes from another cluster.
    pub fn read(&self, metadata: &MetadataMap) -> Result<Caller, IdentityError> {
        let text = |key: &'static str| {
            metadata
                .get(key)
                .and_then(|value| value.to_str().ok())
                .ok_or(IdentityError::Missing { key })
        };
        let cluster = text(CLUSTER)?;
        if cluster != self.cluster {
            return Err(IdentityError::Cluster {
                expected: self.cluster.clone(),
                found: cluster.to_owned(),
            });
        }
        let peer = text(PEER)?
            .parse()
            .map_err(|_| IdentityError::Missing { key: PEER })?;
        let directory = u128::from_str_radix(text(DIRECTORY)?, 16)
            .map_err(|_| IdentityError::Missing { key: DIRECTORY })?;
        let incarnation = text(INCARNATION)?
            .parse()
            .map_err(|_| IdentityError::Missing { key: INCARNATION })?;
        Ok(Caller {
            peer: PeerId(peer),
            directory,
            incarnation: Incarnation(incarnation),
        })
    }
}

/// The number that a call gives as its caller's, unchecked.
pub(super) fn number(headers: &http::HeaderMap) -> Option<PeerId> {
    let text = headers.get(PEER)?.to_str().ok()?;
    text.parse().map(PeerId).ok()
}

/// Why a call is not taken for a peer's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It does not say who calls.
    #[error("only peers may call this: the call has no valid {key} in its metadata")]
    Missing {
        /// The missing or broken entry.
        key: &'static str,
    },
    /// It comes from another cluster.
    #[error("this peer belongs to cluster {expected:?}, the caller to {found:?}")]
    Cluster {
        /// Ours.
        expected: String,
        /// Theirs.
        found: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: &str) -> Identity {
        Identity {
            cluster: cluster.to_owned(),
            peer: PeerId(5),
            directory: 0xabc,
            incarnation: Incarnation(2),
        }
    }

    #[test]
    fn caller_is_read_as_it_was_written() {
        let mut metadata = MetadataMap::new();
        identity("a").write(&mut metadata);
        assert_eq!(
            identity("a").read(&metadata),
            Ok(Caller {
                peer: PeerId(5),
                directory: 0xabc,
                incarnation: Incarnation(2),
            })
        );
    }

    #[test]
    fn stranger_is_refused() {
        let mut metadata = MetadataMap::new();
        assert_eq!(
            identity("a").read(&metadata),
            Err(IdentityError::Missing { key: CLUSTER })
        );
        identity("b").write(&mut metadata);
        assert!(matches!(
            identity("a").read(&metadata),
            Err(IdentityError::Cluster { .. })
        ));
    }
}
