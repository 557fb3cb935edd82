//! Eight real peers in one process, over TCP on loopback, with real disks.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test proves things with these"
)]

mod api;
mod bad_input;
mod batch;
mod concurrent;
mod connection;
mod damage;
mod defect;
mod failover;
mod faults;
mod field;
mod flapping;
mod health;
mod link;
mod many_topics;
mod partial;
mod partition;
mod protocol;
mod publish_stream;
mod replica;
mod retention;
mod rolling;
mod sdk_stream;
mod shared;
mod silence;
mod stop_node;
mod storage;
mod stream_pull;
mod support;
mod verify;
mod watch;
mod wire;
