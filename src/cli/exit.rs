//! How the program ends.
//!
//! 0 done · 1 failed · 2 the arguments are wrong · 3 what was named does not exist · 4 nobody could answer (in time). A reader that closed the
//! pipe has what it wanted: 0. Begin with [`report`].

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::{Error, Result};
use cubecast_sdk::{Code, Reason};
use serde::Serialize;

use super::output::Output;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const UNAVAILABLE: u8 = 4;

/// What goes wrong on this side.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The arguments or the settings make no sense.
    #[error("{0}")]
    Usage(String),
    /// It was tried and did not work.
    #[error("{0}")]
    Failed(String),
    /// Nobody answered.
    #[error("{0}")]
    Unavailable(String),
}

/// Prints what is wrong with the arguments, or the help that was asked for.
pub(super) fn print_usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to be told that printing failed.
    let _closed = error.print();
    ExitCode::from(usage(error))
}

/// Help that was asked for is a success.
pub(super) fn usage(error: &clap::Error) -> u8 {
    if error.use_stderr() { USAGE } else { 0 }
}

/// Says what went wrong, in one sentence, and turns it into the exit code.
pub(super) fn report(done: Result<()>, output: &mut Output) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let problem = Problem::of(&error);
            // What was printed before comes first; nobody is left to be told that this failed.
            let _closed = output.flush();
            let _closed = output.problem(&problem.error, &problem);
            ExitCode::from(problem.exit_code)
        }
    }
}

/// An error as JSON tells it, on standard error.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Problem {
    /// In words.
    error: String,
    /// The reason that a peer gave, as `errors.proto` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// How the program ends.
    exit_code: u8,
}

impl Problem {
    fn of(error: &Error) -> Self {
        let reason = error
            .downcast_ref::<cubecast_sdk::Error>()
            .and_then(cubecast_sdk::Error::reason);
        Self {
            error: error.to_string(),
            reason: reason.map(|reason| reason.as_str_name().trim_start_matches("ERROR_REASON_")),
            exit_code: code(error),
        }
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn code(error: &Error) -> u8 {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return match failure {
            Failure::Usage(_) => USAGE,
            Failure::Failed(_) => FAILED,
            Failure::Unavailable(_) => UNAVAILABLE,
        };
    }
    error
        .downcast_ref::<cubecast_sdk::Error>()
        .map_or(FAILED, |error| code_of_call(error.code(), error.reason()))
}

fn code_of_call(code: Code, reason: Option<Reason>) -> u8 {
    match (code, reason) {
        (Code::NotFound, _) => NOT_FOUND,
        (Code::InvalidArgument, _) => USAGE,
        (Code::Unavailable | Code::DeadlineExceeded, _)
        | (_, Some(Reason::Overloaded | Reason::ConnectionsExhausted)) => UNAVAILABLE,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_the_call_decides() {
        assert_eq!(
            code_of_call(Code::NotFound, Some(Reason::TopicNotFound)),
            NOT_FOUND
        );
        assert_eq!(
            code_of_call(Code::InvalidArgument, Some(Reason::NameInvalid)),
            USAGE
        );
        assert_eq!(
            code_of_call(Code::Unavailable, Some(Reason::NoQuorum)),
            UNAVAILABLE
        );
        assert_eq!(code_of_call(Code::DeadlineExceeded, None), UNAVAILABLE);
        assert_eq!(
            code_of_call(Code::ResourceExhausted, Some(Reason::Overloaded)),
            UNAVAILABLE
        );
        assert_eq!(
            code_of_call(Code::ResourceExhausted, Some(Reason::RequestTooLarge)),
            FAILED
        );
        assert_eq!(
            code_of_call(Code::AlreadyExists, Some(Reason::TopicAlreadyExists)),
            FAILED
        );
        assert_eq!(
            code_of_call(Code::Unknown, Some(Reason::OutcomeUnknown)),
            FAILED
        );
    }

    #[test]
    fn failure_of_this_side_has_its_code() {
        assert_eq!(code(&Failure::Usage("x".to_owned()).into()), USAGE);
        assert_eq!(
            code(&Failure::Unavailable("x".to_owned()).into()),
            UNAVAILABLE
        );
        assert_eq!(code(&anyhow::anyhow!("x")), FAILED);
        let answer = cubecast_sdk::Error::Address {
            address: "x".to_owned(),
            problem: "y".to_owned(),
        };
        assert_eq!(code(&answer.into()), USAGE);
    }

    #[test]
    fn closed_pipe_is_success() {
        let closed = std::io::Error::from(ErrorKind::BrokenPipe);
        let (mut output, written) = Output::captured(super::super::output::Format::Text);
        assert_eq!(report(Err(closed.into()), &mut output), ExitCode::SUCCESS);
        assert_eq!(written.words(), "");
    }

    #[test]
    fn problem_is_one_line_in_both_formats() {
        use super::super::output::Format;
        let failure = || Err(Failure::Failed("the disk is full".to_owned()).into());
        let (mut output, written) = Output::captured(Format::Text);
        assert_eq!(report(failure(), &mut output), ExitCode::from(1));
        assert_eq!(written.words(), "error: the disk is full\n");
        let (mut output, written) = Output::captured(Format::Json);
        report(failure(), &mut output);
        assert_eq!(
            written.words(),
            "{\"error\":\"the disk is full\",\"exit_code\":1}\n"
        );
    }
}
