#![deny(missing_docs)]
//! x
mod call;
mod client;
mod connect;
mod error;
pub mod proto;
mod retry;
pub use client::{Builder, Client};
pub use error::{Code, Error, Failure, Reason};
