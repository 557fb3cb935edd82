//! The program `cubecast`: arguments, then `cli::run`, then the exit code. It does nothing else; begin there.

use std::process::ExitCode;

fn main() -> ExitCode {
    cubecast::cli::run(std::env::args_os())
}
