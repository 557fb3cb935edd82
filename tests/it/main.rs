//! Eight real peers in one process, over TCP on loopback, with real disks.

mod api;
mod concurrent;
mod defect;
mod support;
