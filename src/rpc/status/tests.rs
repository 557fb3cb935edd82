use cubecast_sdk::proto::v1::ErrorReason;
use tonic::Code;
use tonic_types::StatusExt;

use super::{Fault, name, reason, rule};

/// What the comment of a reason in `errors.proto` says: its code, whether there is RetryInfo, and whether there is QuotaFailure.
fn documented() -> Vec<(String, String, bool, bool)> {
    let text = include_str!("../../../proto/cubecast/v1/errors.proto");
    let mut comment = String::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("//") {
            comment.push_str(words);
        } else if let Some((value, _)) = line
            .strip_prefix("ERROR_REASON_")
            .and_then(|line| line.split_once(" = "))
        {
            let first = comment
                .split('.')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned();
            let code = first.split(' ').next().unwrap_or_default().to_owned();
            let has_retry = first.contains("RetryInfo") && !first.contains("without RetryInfo");
            found.push((
                value.to_owned(),
                code,
                has_retry,
                first.contains("QuotaFailure"),
            ));
            comment.clear();
        } else {
            comment.clear();
        }
    }
    found
}

fn code_name(code: Code) -> String {
    let camel = format!("{code:?}");
    let mut snake = String::new();
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_uppercase());
    }
    snake
}

#[test]
fn every_reason_is_told_as_its_comment_says() {
    let documented = documented();
    assert!(documented.len() > 40, "the comments were read");
    for (value, code, has_retry, is_quota) in documented {
        if value == "UNSPECIFIED" {
            continue;
        }
        let expected = ErrorReason::from_str_name(&format!("ERROR_REASON_{value}")).unwrap();
        let status = Fault::new(expected, "text")
            .with("limit", 7)
            .in_field("topic")
            .into_status();
        assert_eq!(code_name(status.code()), code, "{value}");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            (value.as_str(), "cubecast")
        );
        assert_eq!(info.metadata.get("limit").map(String::as_str), Some("7"));
        assert_eq!(
            details.retry_info().is_some(),
            has_retry,
            "RetryInfo of {value}"
        );
        assert_eq!(
            details.quota_failure().is_some(),
            is_quota,
            "QuotaFailure of {value}"
        );
        let is_field = code == "INVALID_ARGUMENT" && value != "REQUEST_MALFORMED";
        assert_eq!(
            details.bad_request().is_some(),
            is_field,
            "BadRequest of {value}"
        );
        assert_eq!(reason(&status), Some(expected));
        assert_eq!(name(expected), value);
    }
}

#[test]
fn reason_of_another_domain_is_none_of_ours() {
    let mut details = tonic_types::ErrorDetails::new();
    details.set_error_info("NOT_LEADER", "elsewhere", std::collections::HashMap::new());
    let status = tonic::Status::with_error_details(Code::Unavailable, "x", details);
    assert_eq!(reason(&status), None);
    assert_eq!(reason(&tonic::Status::unavailable("x")), None);
}

#[test]
fn errors_that_a_repetition_mends_are_retried_after_a_delay() {
    assert!(rule(ErrorReason::NoLeader).retry.is_some());
    assert_eq!(rule(ErrorReason::OutcomeUnknown).retry, None);
}
