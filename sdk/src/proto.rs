//! The messages and clients as they are on the wire, generated from `proto/cubecast/v1`.
//!
//! The rest of this crate is made of them; they are here for what it does not cover, and for the peers. They never change in meaning:
//! see `proto/README.md`. Begin with [`v1::peer_service_client`] and [`v1::PublishRequest`].

/// Package `cubecast.v1`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    reason = "generated; its comments are kept to our rules, its code is not ours"
)]
pub mod v1 {
    tonic::include_proto!("cubecast.v1");
}

/// The descriptors of the package with all that it imports and all comments, encoded, for servers that offer reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cubecast.v1.bin"));
