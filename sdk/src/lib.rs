#![deny(missing_docs)]
//! x
pub mod proto;
