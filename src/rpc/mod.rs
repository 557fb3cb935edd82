pub mod raft;
mod status;
pub mod wire;
