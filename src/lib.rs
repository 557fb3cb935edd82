//! cubecast: a replicated publish/subscribe log on a hypercube that speaks gRPC end to end.
pub mod types;

pub mod cube;
pub mod telemetry;

pub mod store;

pub mod shard;

pub mod proto;

pub mod link;

pub mod consensus;

pub mod replica;

pub mod cluster;

pub mod broker;

pub mod router;

pub mod rpc;

