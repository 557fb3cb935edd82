pub mod types; pub mod env; pub mod wal; pub mod store; pub mod shard; pub mod proto; pub mod link; pub mod consensus; pub mod replica;
