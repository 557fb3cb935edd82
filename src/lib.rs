//! cubecast: a replicated publish/subscribe log on a hypercube that speaks gRPC end to end.
//!
//! Peers sit on the vertices of a cube. A topic's name hashes to a vertex; the peer there owns it and its neighbours hold replicas, kept equal by
//! one Raft group per vertex. Any peer takes any call and forwards it. The modules below are in reading order: each names only those above it
//! (`tests/tidy.rs` checks that).

pub mod types;

pub mod cube;
pub mod env;
pub mod telemetry;

pub mod store;
pub mod wal;

pub mod shard;

pub mod proto;

pub mod link;

pub mod consensus;

pub mod replica;

pub mod cluster;

pub mod broker;

pub mod router;

pub mod rpc;

pub mod config;

pub mod node;

pub mod cli;

#[cfg(feature = "testing")]
pub mod testing;
