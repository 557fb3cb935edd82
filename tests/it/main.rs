//! Eight real peers in one process, over TCP on loopback, with real disks.

mod api;
mod bad_input;
mod batch;
mod concurrent;
mod connection;
mod defect;
mod field;
mod health;
mod link;
mod protocol;
mod support;
mod wire;
