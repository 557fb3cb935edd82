use super::*;
use crate::rpc::answer;

fn why<T: std::fmt::Debug>(result: Result<T, Fault>) -> (ErrorReason, Option<String>) {
    let fault = result.unwrap_err();
    (fault.reason, fault.field)
}

fn wrong(field: &str) -> (ErrorReason, Option<String>) {
    (ErrorReason::FieldInvalid, Some(field.to_owned()))
}

#[test]
fn bad_name_tells_field_and_limit() {
    for text in ["", "a b", "é", &"x".repeat(250)] {
        let fault = name(text, "topic").unwrap_err();
        assert_eq!(
            (fault.reason, fault.field.as_deref()),
            (ErrorReason::NameInvalid, Some("topic"))
        );
        assert_eq!(
            fault.metadata,
            [("field", "topic".to_owned()), ("limit", "249".to_owned())]
        );
    }
    assert!(name(&"x".repeat(249), "topic").is_ok());
    assert_eq!(optional_name("", "publisher").unwrap(), None);
    assert_eq!(prefix("").unwrap(), "");
    assert!(prefix("a b").is_err());
}

#[test]
fn publisher_of_dead_letters_is_nobody_elses_name() {
    assert!(publisher("dead-letter", "publisher").is_ok());
    assert_eq!(optional_publisher("", "publisher").unwrap(), None);
    for result in [
        publisher("dead-letter.4000000000001", "publisher").map(Some),
        optional_publisher("dead-letter.x", "publisher"),
    ] {
        let expected = (ErrorReason::NameInvalid, Some("publisher".to_owned()));
        assert_eq!(why(result), expected);
    }
}

#[test]
fn request_id_is_a_uuid_in_either_form() {
    let bytes: [u8; 16] = std::array::from_fn(|index| u8::try_from(index).unwrap());
    let id = Some(RequestId(bytes));
    assert_eq!(
        request_id("00010203-0405-0607-0809-0a0b0c0d0e0f").unwrap(),
        id
    );
    assert_eq!(request_id("000102030405060708090A0B0C0D0E0F").unwrap(), id);
    assert_eq!(request_id("").unwrap(), None);
    for text in [
        "x",
        "0001020304050607-0809-0a0b0c0d0e0f",
        "00010203-0405-0607-0809-0a0b0c0d0e0",
        "+0010203040506070809 0a0b0c0d0e0",
        "é",
    ] {
        assert_eq!(why(request_id(text)), wrong("request_id"), "{text}");
    }
}

#[test]
fn sequence_needs_a_publisher() {
    let given = proto::PublishSequence {
        session: 7,
        sequence: 3,
    };
    assert_eq!(
        why(sequence(Some(&given), Presence::Absent)),
        wrong("sequence")
    );
    assert_eq!(
        sequence(Some(&given), Presence::Present).unwrap(),
        Some((SessionId(7), Sequence(3)))
    );
    assert_eq!(sequence(None, Presence::Absent).unwrap(), None);
}

#[test]
fn numbers_that_are_no_enum_values_are_refused() {
    assert_eq!(acks(0).unwrap(), AckLevel::Quorum);
    assert_eq!(acks(3).unwrap(), AckLevel::All);
    assert_eq!(why(acks(9)), wrong("acks"));
    assert_eq!(consistency(0).unwrap(), Consistency::Leader);
    assert_eq!(consistency(3).unwrap(), Consistency::Eventual);
    assert_eq!(why(consistency(-1)), wrong("consistency"));
}

#[test]
fn start_without_a_position_is_earliest_only_when_it_is_absent() {
    use proto::start_position::Position;
    let at = |position| proto::StartPosition { position };
    assert_eq!(optional_start(None).unwrap(), Start::Earliest);
    assert_eq!(why(start(None)), wrong("start"));
    assert_eq!(why(optional_start(Some(&at(None)))), wrong("start"));
    assert_eq!(
        start(Some(&at(Some(Position::Latest(()))))).unwrap(),
        Start::Latest
    );
    assert_eq!(
        start(Some(&at(Some(Position::Offset(5))))).unwrap(),
        Start::Offset(Offset(5))
    );
    let time = prost_types::Timestamp {
        seconds: 2,
        nanos: 5,
    };
    assert_eq!(
        start(Some(&at(Some(Position::Time(time))))).unwrap(),
        Start::Time(Timestamp(2_000_000_005))
    );
}

#[test]
fn times_go_there_and_back() {
    for nanos in [0, 1, 999_999_999, 1_700_000_000_123_456_789, u64::MAX] {
        let time = crate::rpc::answer::timestamp(Timestamp(nanos));
        assert_eq!(timestamp(&time, "t").unwrap(), Timestamp(nanos));
    }
    let before = prost_types::Timestamp {
        seconds: -1,
        nanos: 0,
    };
    assert_eq!(timestamp(&before, "t").unwrap(), Timestamp(0));
    let beyond = prost_types::Timestamp {
        seconds: i64::MAX,
        nanos: 0,
    };
    assert_eq!(timestamp(&beyond, "t").unwrap(), Timestamp(u64::MAX));
    for nanos in [-1, 1_000_000_000] {
        assert_eq!(
            why(timestamp(
                &prost_types::Timestamp { seconds: 1, nanos },
                "t"
            )),
            wrong("t")
        );
    }
}

#[test]
fn wait_is_cut_at_the_limit_and_never_negative() {
    let limits = Limits::default();
    let of = |seconds, nanos| prost_types::Duration { seconds, nanos };
    assert_eq!(wait(None, &limits).unwrap(), Duration::ZERO);
    assert_eq!(
        wait(Some(&of(1, 500)), &limits).unwrap(),
        Duration::new(1, 500)
    );
    assert_eq!(
        wait(Some(&of(i64::MAX, 0)), &limits).unwrap(),
        limits.pull_wait_max
    );
    for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
        assert_eq!(why(wait(Some(&of(seconds, nanos)), &limits)), wrong("wait"));
    }
}

#[test]
fn absent_sizes_mean_defaults_and_large_ones_the_limit() {
    let limits = Limits {
        page_size_max: 200,
        pull_messages_max: 5000,
        ..Limits::default()
    };
    assert_eq!(
        [0, 7, 200, 201].map(|size| page_size(size, &limits).unwrap()),
        [100, 7, 200, 200]
    );
    assert_eq!(why(page_size(-1, &limits)), wrong("page_size"));
    assert_eq!(
        [0, 7, 6000].map(|count| pull_count(count, &limits)),
        [1000, 7, 5000]
    );
    let most = ByteCount(limits.request_bytes_max - ANSWER_HEAD_BYTES);
    assert_eq!(
        [0, 7, u64::MAX].map(|bytes| pull_bytes(bytes, &limits)),
        [most, ByteCount(7), most]
    );
}

fn bounds(age: Option<(i64, i32)>, bytes: Option<u64>, messages: Option<u64>) -> proto::Retention {
    proto::Retention {
        age: age.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }),
        bytes,
        messages,
    }
}

#[test]
fn retention_goes_there_and_back() {
    for (age, bytes, messages) in [
        (Some((1, 0)), None, None),
        (Some((36_500 * 86_400, 0)), Some(1), None),
        (Some((7, 5)), Some(u64::MAX), Some(1)),
        (None, None, Some(u64::MAX)),
    ] {
        let wire = bounds(age, bytes, messages);
        let domain = retention(Some(&wire)).unwrap();
        assert_eq!(answer::retention(domain), Some(wire));
    }
    for for_ever in [None, Some(bounds(None, None, None))] {
        let domain = retention(for_ever.as_ref()).unwrap();
        assert_eq!(domain, Retention::FOR_EVER);
        assert_eq!(answer::retention(domain), None);
    }
}

#[test]
fn retention_out_of_bounds_names_its_field() {
    for (wire, field) in [
        (bounds(Some((0, 999_999_999)), None, None), "retention.age"),
        (bounds(Some((-1, 0)), None, None), "retention.age"),
        (bounds(Some((1, -1)), None, None), "retention.age"),
        (
            bounds(Some((36_500 * 86_400, 1)), None, None),
            "retention.age",
        ),
        (bounds(Some((i64::MAX, 0)), None, None), "retention.age"),
        (bounds(None, Some(0), None), "retention.bytes"),
        (bounds(None, None, Some(0)), "retention.messages"),
    ] {
        assert_eq!(why(retention(Some(&wire))), wrong(field), "{wire:?}");
    }
}

#[test]
fn batch_of_topics_has_a_limit_that_is_named() {
    assert!(batch_count(1).is_ok() && batch_count(1000).is_ok());
    assert_eq!(why(batch_count(0)), wrong("topics"));
    let fault = batch_count(1001).unwrap_err();
    assert!(fault.metadata.contains(&("limit", "1000".to_owned())));
}
