#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod peer { pub mod v1 { include!(concat!(env!("OUT_DIR"), "/peer/cubecast.peer.v1.rs")); } }
