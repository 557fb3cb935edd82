//! What fjall's errors, and its panics, mean to the store.
//!
//! It panics on some of the damage that it meets, so every call into it is guarded. A panic that is caught leaves nothing half done: what
//! was being read is not used, and what was being written makes the store fail.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::engine::Space;
use super::{Cause, Error, key};

/// A call into the engine panicked.
#[derive(Debug, thiserror::Error)]
#[error("the storage engine panicked: {0}")]
struct Panicked(String);

/// Why a call into the engine failed.
pub(super) enum Failure {
    Error(fjall::Error),
    Panic(String),
}

impl From<fjall::Error> for Failure {
    fn from(error: fjall::Error) -> Self {
        Self::Error(error)
    }
}

impl From<Failure> for Cause {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Error(error) => Arc::new(error),
            Failure::Panic(text) => Arc::new(Panicked(text)),
        }
    }
}

/// Calls into the engine.
pub(super) fn guarded<T>(call: impl FnOnce() -> fjall::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(Failure::Error),
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            Err(Failure::Panic(text.unwrap_or_default()))
        }
    }
}

/// The error of an engine that cannot go on.
pub(super) fn engine(failure: impl Into<Failure>) -> Error {
    Error::Engine(failure.into().into())
}

/// What the system said, when it was the system.
fn io_error(error: &fjall::Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// The error of a write.
pub(super) fn write_error(failure: Failure) -> Error {
    let Failure::Error(error) = failure else {
        return engine(failure);
    };
    if matches!(error, fjall::Error::Poisoned) {
        return Error::Stopped(Arc::new(error));
    }
    match io_error(&error).map(io::Error::kind) {
        Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            Error::Full(Arc::new(error))
        }
        _ => engine(error),
    }
}

/// The error of a read: damage, unless the system was only short of something.
pub(super) fn read_error(space: Space, key: &[u8], failure: Failure) -> Error {
    let is_passing = match &failure {
        Failure::Error(error) => io_error(error).is_some_and(is_passing),
        Failure::Panic(_) => false,
    };
    let source: Cause = failure.into();
    if is_passing {
        return Error::Engine(source);
    }
    Error::Unreadable {
        space: space.name(),
        key: key::hex(key),
        source,
    }
}

fn is_passing(error: &io::Error) -> bool {
    /// What a disk says when it cannot read a sector.
    const EIO: i32 = 5;
    let is_lasting = matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
    );
    !is_lasting && error.raw_os_error() != Some(EIO)
}
