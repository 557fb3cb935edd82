//! What can go wrong, with the reasons of `errors.proto` given back as values. The only place that names the status of gRPC.
//!
//! It never retries and never decides: `retry` does. Begin with [`Error`] and its [`Error::reason`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::Status;
use tonic_types::StatusExt;

use crate::address::Address;
use crate::proto::v1;
pub use crate::proto::v1::ErrorReason as Reason;

/// The domain of our `ErrorInfo`.
const DOMAIN: &str = "cubecast";
/// Prefix of the reasons as the enum spells them.
const REASON_PREFIX: &str = "ERROR_REASON_";

/// What one attempt of a call gave.
pub(crate) type Attempt<T> = Result<tonic::Response<T>, Status>;

/// Why a call failed.
///
/// All but [`Error::OutcomeUnknown`] are definite: what was asked for did not happen.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A peer refused the call, or all peers that were asked within the deadline did; this is the last refusal.
    #[error("{0}")]
    Refused(Box<Failure>),
    /// The write may have happened or not, and it could not be found out in time.
    #[error("it is not known whether {method} happened: {last}")]
    OutcomeUnknown {
        /// The call.
        method: &'static str,
        /// What was heard last.
        last: Box<Failure>,
    },
    /// There was no answer in time, to a call that changes nothing or that never left.
    #[error("{method} had no answer within {deadline:?}")]
    DeadlineExceeded {
        /// The call.
        method: &'static str,
        /// How long it was given.
        deadline: Duration,
    },
    /// No peer could be reached.
    #[error("no peer can be reached for {method}: {last}")]
    Unreachable {
        /// The call.
        method: &'static str,
        /// Why the last one could not be reached.
        last: Box<Failure>,
    },
    /// An address is not one.
    #[error("{address:?} is no address of a peer: {problem}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A message in a topic cannot be read by this SDK: it is damaged, or not made by anything that keeps to the protocol.
    #[error("message {offset} of topic {topic} cannot be read: {problem}")]
    Undecodable {
        /// The topic.
        topic: String,
        /// Its offset. A stream goes on behind it.
        offset: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A message has neither a key nor a payload. It was not sent.
    #[error("a message has a key or a payload")]
    MessageEmpty,
    /// A message is larger than the peers take. It was not sent.
    #[error("a message has at most {limit} bytes, this one has {bytes}")]
    MessageTooLarge {
        /// Its bytes, with key and headers.
        bytes: usize,
        /// The peers' limit.
        limit: usize,
    },
    /// An answer lacks what it must have: the peer is not a cubecast peer, or of another version.
    #[error("the answer has no {field}")]
    Answer {
        /// What is missing.
        field: &'static str,
    },
}

impl Error {
    /// The reason that a peer gave, or would have given. `None`: the failure is not a peer's, or of a newer version than this SDK.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::OutcomeUnknown { .. } => Some(Reason::OutcomeUnknown),
            Self::Refused(failure) => failure.reason(),
            Self::MessageEmpty => Some(Reason::MessageEmpty),
            Self::MessageTooLarge { .. } => Some(Reason::MessageTooLarge),
            _ => None,
        }
    }

    /// The kind of the failure, one for all reasons of a kind.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused(failure) => failure.code,
            Self::OutcomeUnknown { .. } => Code::Unknown,
            Self::DeadlineExceeded { .. } => Code::DeadlineExceeded,
            Self::Unreachable { .. } => Code::Unavailable,
            Self::Address { .. } | Self::MessageEmpty | Self::MessageTooLarge { .. } => {
                Code::InvalidArgument
            }
            Self::Undecodable { .. } => Code::DataLoss,
            Self::Answer { .. } => Code::Internal,
        }
    }

    /// The failure of the last attempt, where there was one.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(last)
            | Self::OutcomeUnknown { last, .. }
            | Self::Unreachable { last, .. } => Some(last),
            _ => None,
        }
    }

    /// One fact about the failure, by the key that the reason's comment names: `limit`, `expected`, `topic`.
    pub fn fact(&self, key: &str) -> Option<&str> {
        self.failure()?.facts.get(key).map(String::as_str)
    }

    /// The same call may work later, without a change by the caller. After [`Error::OutcomeUnknown`] it may also do the same twice.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused(failure) => {
                failure.retry_after.is_some()
                    || matches!(
                        failure.code,
                        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted
                    )
            }
            Self::OutcomeUnknown { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Unreachable { .. } => true,
            Self::Address { .. }
            | Self::Undecodable { .. }
            | Self::MessageEmpty
            | Self::MessageTooLarge { .. }
            | Self::Answer { .. } => false,
        }
    }
}

/// What a peer, or the way to it, answered instead of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub(crate) code: Code,
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) facts: BTreeMap<String, String>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) served_by: Option<String>,
    pub(crate) address: Address,
    pub(crate) fate: Fate,
}

/// What is known about the effect of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The request never left.
    NotSent,
    /// A peer says that nothing happened.
    Nothing,
    /// It may have happened.
    Unknown,
}

impl Failure {
    /// The reason that the peer gave. `None`: the failure did not come from a peer, or has a reason that this SDK does not know.
    pub fn reason(&self) -> Option<Reason> {
        Some(self.reason).filter(|reason| *reason != Reason::Unspecified)
    }

    /// The kind of the failure.
    pub fn code(&self) -> Code {
        self.code
    }

    /// In words, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The facts that the reason's comment names.
    pub fn facts(&self) -> &BTreeMap<String, String> {
        &self.facts
    }

    /// How long the peer asks to wait before the same call is tried again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The address that was called.
    pub fn address(&self) -> &str {
        self.address.as_str()
    }

    /// The vertex of the peer that answered, when the call got so far.
    pub fn served_by(&self) -> Option<&str> {
        self.served_by.as_deref()
    }

    /// Reads what an attempt at `address` gave.
    pub(crate) fn from_status(status: &Status, address: Address) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let code = Code::from_tonic(status.code());
        let reason = info
            .and_then(|info| Reason::from_str_name(&format!("{REASON_PREFIX}{}", info.reason)))
            .unwrap_or(Reason::Unspecified);
        let served_by = status.metadata().get("cubecast-served-by");
        Self {
            code,
            reason,
            message: words(status),
            facts: info
                .map(|info| info.metadata.clone().into_iter().collect())
                .unwrap_or_default(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            served_by: served_by
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned),
            address,
            fate: fate(status, code, info.is_some()),
        }
    }

    /// Reads what the peer at `address` said of one part of a call.
    pub(crate) fn from_part(part: v1::StreamError, address: Address) -> Self {
        let reason = part.reason();
        let fate = if reason == Reason::OutcomeUnknown {
            Fate::Unknown
        } else {
            Fate::Nothing
        };
        Self {
            code: Code::from_tonic(tonic::Code::from_i32(part.code)),
            reason,
            message: part.message,
            facts: part.metadata.into_iter().collect(),
            retry_after: part.retry_after.and_then(|delay| delay.try_into().ok()),
            served_by: None,
            address,
            fate,
        }
    }

    /// The failure of an attempt that had no answer in time.
    pub(crate) fn no_answer(address: Address, after: Duration) -> Self {
        Self {
            code: Code::DeadlineExceeded,
            reason: Reason::Unspecified,
            message: format!("no answer within {after:?}"),
            facts: BTreeMap::new(),
            retry_after: None,
            served_by: None,
            address,
            fate: Fate::Unknown,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => {
                let name = reason.as_str_name();
                write!(
                    f,
                    "{} ({})",
                    self.message,
                    name.strip_prefix(REASON_PREFIX).unwrap_or(name)
                )
            }
            None => write!(f, "{}: {} ({:?})", self.address, self.message, self.code),
        }
    }
}

/// The text of a status, with that of its deepest cause when it comes from this side.
fn words(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// What is known about the effect of a call that ended so. `is_ours`: a peer of cubecast said it.
fn fate(status: &Status, code: Code, is_ours: bool) -> Fate {
    if is_ours {
        return if code == Code::Unknown {
            Fate::Unknown
        } else {
            Fate::Nothing
        };
    }
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return Fate::NotSent;
        }
        cause = error.source();
    }
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::Unimplemented => Fate::Nothing,
        _ => Fate::Unknown,
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The kind of a failure: the code of gRPC.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            fn from_tonic(code: tonic::Code) -> Self {
                match code {
                    $(tonic::Code::$name => Self::$name,)*
                    tonic::Code::Ok => Self::Internal,
                }
            }
        }
    };
}

codes! {
    /// The caller, or the way, gave up.
    Cancelled,
    /// The fate of the call is not known.
    Unknown,
    /// The request is wrong, whatever the state of the cluster.
    InvalidArgument,
    /// It took too long.
    DeadlineExceeded,
    /// Something named does not exist.
    NotFound,
    /// Something to create exists.
    AlreadyExists,
    /// The caller may not do this.
    PermissionDenied,
    /// A limit is reached.
    ResourceExhausted,
    /// The state of the cluster forbids it.
    FailedPrecondition,
    /// It met a concurrent change.
    Aborted,
    /// A position beyond the end, or before the beginning.
    OutOfRange,
    /// The peer does not do this.
    Unimplemented,
    /// A defect.
    Internal,
    /// Nobody can do it at the moment.
    Unavailable,
    /// Stored data is lost.
    DataLoss,
    /// The caller did not say who it is.
    Unauthenticated,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn address() -> Address {
        Address::parse("http://127.0.0.1:1").unwrap()
    }

    fn said(code: tonic::Code, reason: &str, facts: &[(&str, &str)]) -> Failure {
        let facts: HashMap<_, _> = facts
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, facts);
        details.set_retry_info(Some(Duration::from_millis(7)));
        Failure::from_status(
            &Status::with_error_details(code, "words", details),
            address(),
        )
    }

    #[test]
    fn every_reason_comes_back() {
        let mut known = 0;
        for number in 1..200 {
            let Ok(reason) = Reason::try_from(number) else {
                continue;
            };
            let name = reason.as_str_name().strip_prefix(REASON_PREFIX).unwrap();
            let failure = said(tonic::Code::Unavailable, name, &[("limit", "3")]);
            assert_eq!(failure.reason(), Some(reason));
            assert_eq!(failure.facts().get("limit").map(String::as_str), Some("3"));
            assert_eq!(failure.retry_after(), Some(Duration::from_millis(7)));
            known += 1;
        }
        assert!(known > 40, "{known} reasons");
    }

    #[test]
    fn reason_of_a_newer_version_is_none_and_definite() {
        let failure = said(tonic::Code::Aborted, "SOMETHING_NEW", &[]);
        assert_eq!((failure.reason(), failure.fate), (None, Fate::Nothing));
    }

    #[test]
    fn only_outcome_unknown_of_a_peer_is_not_definite() {
        assert_eq!(
            said(tonic::Code::Unknown, "OUTCOME_UNKNOWN", &[]).fate,
            Fate::Unknown
        );
        assert_eq!(
            said(tonic::Code::Unavailable, "NO_LEADER", &[]).fate,
            Fate::Nothing
        );
    }

    #[test]
    fn failure_from_between_has_unknown_fate() {
        for code in [
            tonic::Code::Unavailable,
            tonic::Code::Cancelled,
            tonic::Code::Internal,
            tonic::Code::Unknown,
        ] {
            let failure = Failure::from_status(&Status::new(code, "reset"), address());
            assert_eq!(
                (failure.reason(), failure.fate),
                (None, Fate::Unknown),
                "{code:?}"
            );
        }
    }

    #[test]
    fn words_name_reason_or_address() {
        assert_eq!(
            said(tonic::Code::NotFound, "TOPIC_NOT_FOUND", &[]).to_string(),
            "words (TOPIC_NOT_FOUND)"
        );
        let other = Failure::from_status(&Status::new(tonic::Code::Internal, "reset"), address());
        assert_eq!(other.to_string(), "http://127.0.0.1:1: reset (Internal)");
    }
}
