//! cubecast: a replicated publish/subscribe log on a hypercube that speaks gRPC end to end.
pub mod cli;
pub mod config;
pub mod cube;
pub mod node;
pub mod telemetry;
pub mod types;
