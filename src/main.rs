//! The program `cubecast`: arguments, then `cli::run`, then the exit code. It does nothing else; begin there.

use std::process::ExitCode;

/// glibc's keeps what a peer has had at its peak, once for each of many threads; this one gives it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cubecast::cli::run(std::env::args_os())
}
