//! The placement law.

use sha2::{Digest, Sha256};

use crate::types::{Dimension, Name, Vertex};

/// The vertex that owns a name: the low `d` bits of SHA-256(name) read as a big-endian integer. The law for topics, publishers and
/// subscribers alike. It never changes: data lies where it says.
pub fn owner(name: &Name, dimension: Dimension) -> Vertex {
    // A big-endian integer has its low bits in its last bytes.
    let digest = Sha256::digest(name.as_str().as_bytes());
    let low = digest
        .iter()
        .fold(0_u16, |bits, byte| (bits << 8) | u16::from(*byte));
    let index = low % dimension.vertex_count();
    Vertex::new(index, dimension).unwrap_or_else(|error| unreachable!("the remainder: {error}"))
}
