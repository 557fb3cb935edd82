//! What a peer tells of itself: its log, and the numbers it counts.
//!
//! Every metric is named in one table, [`Metric`]. Counts live in a [`Metrics`] that its owner passes on, never in a global: several peers
//! run in one process. Only the log is global, because `tracing` has one subscriber for the process. Begin with [`start_log`].

mod log;
mod metric;

pub use log::{Error, Format, Options, start_log};
pub use metric::{Kind, Metric, Metrics};
