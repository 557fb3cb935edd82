//! Eight real peers in one process, over TCP on loopback, with real disks.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test proves things with these"
)]

mod api;
mod concurrent;
mod defect;
mod support;
