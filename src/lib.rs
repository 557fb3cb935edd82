//! cubecast: a replicated publish/subscribe log on a hypercube that speaks gRPC end to end.
pub mod shard;
pub mod store;
pub mod types;
