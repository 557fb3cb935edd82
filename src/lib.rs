//! cubecast: a replicated publish/subscribe log on a hypercube that speaks gRPC end to end.
pub mod env;
pub mod types;
pub mod wal;
