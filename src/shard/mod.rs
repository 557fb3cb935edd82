//! One shard's state machine: a log of commands in, outcomes and rows out.
//!
//! Deterministic: no async, clock, randomness, logging or network. Time arrives inside commands; every replica that applies the same log
//! has the same rows, batches and outcomes, however the entries were grouped. Nothing of it is lost or repeated after a crash, because a
//! group of entries and the mark of the last one are one commit of the store.
//!
//! It never talks to another shard: a topic with its sessions and subscriptions lives here whole; a publisher's and a subscriber's id
//! live in the shard that their names hash to, which may be another one.
//!
//! Begin with [`Machine::apply`]; what a command does is in `topic.rs`, `append.rs`, `subscription.rs`, `share.rs` and `identity.rs`; `row.rs` has the
//! keys. [`View`] answers queries, `retention.rs` says what may be trimmed; `snapshot` takes a shard to another replica.

mod append;
mod command;
mod digest;
mod identity;
mod machine;
mod outcome;
mod overlay;
mod retention;
mod row;
mod share;
mod snapshot;
mod subscription;
mod topic;
mod view;
mod walk;

#[cfg(test)]
mod tests;

pub use command::{Command, CommandError, NewTopic, Start, is_barrier};
pub use digest::Digest;
pub use machine::{Applied, Entry, Error, Machine, mark_of};
pub use outcome::{CreatedTopic, Event, Outcome, Refusal, Response};
pub use retention::Due;
pub use row::{Identity, Subscription, TopicRow};
pub use share::{DeadLetters, IN_FLIGHT_MAX, LetterFate, Letters, Settlement, Share, Sharing};
pub use snapshot::{Checker, ChunkError, Totals, decode_chunk, export};
pub use view::{TopicFilter, View};
