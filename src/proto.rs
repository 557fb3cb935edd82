//! Generated code, nothing else: the server traits of the public API and both halves of the peer API.
//!
//! Messages of the public API are the SDK's (`cubecast_sdk::proto::v1`), except those that the server does not decode (`rpc::wire`).

#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated"
)]

/// Server traits of the public package.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/public/cubecast.v1.rs"));
}

/// The internal package: messages, clients and server traits.
pub mod peer {
    /// Its first version.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/peer/cubecast.peer.v1.rs"));
    }
}

/// Descriptors of the public package and its imports, for reflection.
pub const PUBLIC_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));
