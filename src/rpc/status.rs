//! How an error is told to a caller: a gRPC code, a `google.rpc.ErrorInfo` with a reason of `errors.proto`, and what else helps.
//!
//! The code, the delay and the quota of a reason are in one table, [`rule`]; what a domain error becomes is in [`super::refusal`]. Nothing is
//! told as an error that does not go through here. Begin with [`Fault`].

use std::collections::HashMap;
use std::time::Duration;

use cubecast_sdk::proto::v1::{ErrorReason, StreamError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::answer;

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "cubecast";

/// What the name of every reason begins with in the protocol, and not in an `ErrorInfo`.
const REASON_PREFIX: &str = "ERROR_REASON_";

/// An error as a caller is told it, before it becomes a `tonic::Status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Why.
    pub reason: ErrorReason,
    /// For people.
    pub message: String,
    /// What the reason's comment in `errors.proto` names.
    pub metadata: Vec<(&'static str, String)>,
    /// The field of the request that is wrong.
    pub field: Option<String>,
}

impl Fault {
    /// An error with this reason.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: Vec::new(),
            field: None,
        }
    }

    /// Adds a fact.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "facts are numbers, names and vertices; a call is easier to read without references"
    )]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    /// Names the field of the request that is wrong.
    #[must_use]
    pub fn in_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same as an error of one part of a call whose other parts go on.
    pub fn into_part(self) -> StreamError {
        let rule = rule(self.reason);
        let metadata = self.metadata.into_iter();
        StreamError {
            code: rule.code.into(),
            reason: self.reason.into(),
            message: self.message,
            metadata: metadata
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            retry_after: rule.retry.map(answer::duration),
        }
    }

    /// The status to send.
    pub fn into_status(self) -> Status {
        let rule = rule(self.reason);
        let metadata: HashMap<String, String> = self
            .metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        let mut details = ErrorDetails::new();
        if rule.is_quota {
            let limit = metadata
                .get("limit")
                .map_or_else(String::new, |limit| format!(" (limit {limit})"));
            details.add_quota_failure_violation("peer", format!("{}{limit}", self.message));
        }
        details.set_error_info(name(self.reason), DOMAIN, metadata);
        if let Some(delay) = rule.retry {
            details.set_retry_info(Some(delay));
        }
        if rule.code == Code::InvalidArgument && self.reason != ErrorReason::RequestMalformed {
            details.add_bad_request_violation(self.field.unwrap_or_default(), self.message.clone());
        }
        Status::with_error_details(rule.code, self.message, details)
    }
}

/// What a status says of one part of a call whose other parts go on.
pub fn part(status: &Status) -> StreamError {
    let details = status.get_error_details();
    let info = details.error_info();
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    StreamError {
        code: status.code().into(),
        reason: reason(status).unwrap_or_default().into(),
        message: status.message().to_owned(),
        metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
        retry_after: retry.map(answer::duration),
    }
}

/// The status that says what an error of one part of a call says: the inverse of [`part`].
pub fn of_part(part: StreamError) -> Status {
    let mut details = ErrorDetails::new();
    let reason = part.reason();
    if reason != ErrorReason::Unspecified {
        details.set_error_info(name(reason), DOMAIN, part.metadata);
    }
    if let Some(delay) = part.retry_after {
        details.set_retry_info(Duration::try_from(delay).ok());
    }
    Status::with_error_details(Code::from_i32(part.code), part.message, details)
}

/// What is the same for all errors of one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The gRPC code.
    pub code: Code,
    /// When the same call may be tried again. `None`: that does not help.
    pub retry: Option<Duration>,
    /// A limit of a peer was reached.
    pub is_quota: bool,
}

/// The name of a reason in an `ErrorInfo`: `TOPIC_NOT_FOUND`.
pub fn name(reason: ErrorReason) -> &'static str {
    let text = reason.as_str_name();
    text.strip_prefix(REASON_PREFIX).unwrap_or(text)
}

/// The reason that an `ErrorInfo` names, when it is one of ours.
pub fn reason(status: &Status) -> Option<ErrorReason> {
    let info = status.get_details_error_info()?;
    if info.domain == DOMAIN {
        ErrorReason::from_str_name(&format!("{REASON_PREFIX}{}", info.reason))
    } else {
        None
    }
}

/// The table of `errors.proto`.
pub fn rule(reason: ErrorReason) -> Rule {
    use ErrorReason as R;
    /// An election takes about so long.
    const ELECTION: Duration = Duration::from_millis(50);
    /// A start or a repair takes longer.
    const START: Duration = Duration::from_millis(500);
    let definite = |code| Rule {
        code,
        retry: None,
        is_quota: false,
    };
    let retry = |code, delay| Rule {
        code,
        retry: Some(delay),
        is_quota: false,
    };
    let quota = |retry| Rule {
        code: Code::ResourceExhausted,
        retry,
        is_quota: true,
    };
    match reason {
        R::TopicNotFound
        | R::TopicDeleted
        | R::PublisherNotFound
        | R::SubscriberNotFound
        | R::SubscriptionNotFound
        | R::PeerNotFound
        | R::FaultNotFound => definite(Code::NotFound),
        R::TopicAlreadyExists
        | R::PublisherAlreadyExists
        | R::SubscriberAlreadyExists
        | R::PeerAlreadyExists => definite(Code::AlreadyExists),
        R::NameInvalid
        | R::FieldInvalid
        | R::PageTokenInvalid
        | R::BatchEmpty
        | R::BatchTooMany
        | R::MessageEmpty
        | R::MessageTooLarge
        | R::RequestMalformed => definite(Code::InvalidArgument),
        R::RequestTooLarge => definite(Code::ResourceExhausted),
        R::OffsetOutOfRange => definite(Code::OutOfRange),
        R::SequenceGap => retry(Code::FailedPrecondition, ELECTION),
        R::LeaseHeld | R::ChangeInProgress => retry(Code::FailedPrecondition, START),
        R::SessionUnknown
        | R::SequenceForgotten
        | R::SubscriptionShared
        | R::ClusterTooSmall
        | R::NotLeader
        | R::NotReplica => definite(Code::FailedPrecondition),
        R::CursorMoved => retry(Code::Aborted, ELECTION),
        R::LeaseLost => definite(Code::Aborted),
        R::NoLeader | R::PeerUnreachable => retry(Code::Unavailable, ELECTION),
        R::NoQuorum | R::Starting | R::ShuttingDown => retry(Code::Unavailable, START),
        R::StorageFailed | R::ReplicaDamaged => definite(Code::Unavailable),
        R::DeadlineExceeded => definite(Code::DeadlineExceeded),
        R::OutcomeUnknown => definite(Code::Unknown),
        R::Overloaded => quota(Some(ELECTION)),
        R::ConnectionsExhausted => quota(Some(START)),
        R::StorageFull => quota(Some(START)),
        R::NotImplemented => definite(Code::Unimplemented),
        R::NotAPeer | R::PermissionDenied | R::FaultsDisabled => definite(Code::PermissionDenied),
        R::Unauthenticated => definite(Code::Unauthenticated),
        R::DataLost => definite(Code::DataLoss),
        R::Internal | R::Unspecified => definite(Code::Internal),
    }
}

#[cfg(test)]
mod tests;
