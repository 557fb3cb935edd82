//! One shard's state machine: a log of commands in, outcomes and rows out.
//!
//! Deterministic: no async, clock, randomness, logging or network. Time arrives inside commands; every replica that applies the same log
//! has the same rows, batches and outcomes, however the entries were grouped. Nothing of it is lost or repeated after a crash, because a
//! group of entries and the mark of the last one are one commit of the store.
//!
//! It never talks to another shard: a topic with its sessions and subscriptions lives here whole; a publisher's and a subscriber's id
//! live in the shard that their names hash to, which may be another one.
//!
//! Begin with [`Machine::apply`]; what a command does is in `topic.rs`, `append.rs`, `subscription.rs` and `identity.rs`; `row.rs` has the
//! keys. [`View`] answers queries.

mod append;
mod command;
mod digest;
mod identity;
mod machine;
mod outcome;
mod overlay;
mod row;
mod subscription;
mod topic;
mod view;

#[cfg(test)]
mod tests;

pub use command::{Command, CommandError, Start};
pub use digest::Digest;
pub use machine::{Applied, Entry, Error, Machine};
pub use outcome::{Event, Outcome, Refusal, Response};
pub use row::{Identity, Subscription, TopicRow};
pub use view::{TopicFilter, View};
