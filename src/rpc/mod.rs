mod status;
pub mod raft;
pub mod wire;
