use cubecast_sdk::proto::v1::ErrorReason as Reason;
use tonic_types::StatusExt;

use super::{failure, from_refusal};
use crate::broker::{Error, Unresolved};
use crate::consensus;
use crate::replica;
use crate::rpc::forward::Failure;
use crate::rpc::status::{Fault, reason};
use crate::shard::{self, Refusal};
use crate::store;
use crate::types::{
    ByteCount, Name, Offset, PeerId, PublisherId, Sequence, SessionId, SubscriberId, Term, TopicId,
    TopicName, Vertex,
};

fn shard() -> Vertex {
    "100".parse().unwrap()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_refusal_has_its_reason_and_facts() {
    let topic = || TopicName::new("t").unwrap();
    let publisher = || PublisherId::new("p").unwrap();
    let subscriber = || SubscriberId::new("s").unwrap();
    let (session, expected, got) = (SessionId(7), Sequence(2), Sequence(4));
    let (offset, first, next) = (Offset(9), Offset(1), Offset(5));
    let (topic_s, subscriber_s) = (topic(), subscriber());
    let table = [
        (
            Refusal::TopicExists { topic: topic() },
            Reason::TopicAlreadyExists,
            "topic=t",
        ),
        (
            Refusal::TopicNotFound { topic: topic() },
            Reason::TopicNotFound,
            "topic=t",
        ),
        (
            Refusal::PublisherExists {
                publisher: publisher(),
            },
            Reason::PublisherAlreadyExists,
            "publisher=p",
        ),
        (
            Refusal::PublisherNotFound {
                publisher: publisher(),
            },
            Reason::PublisherNotFound,
            "publisher=p",
        ),
        (
            Refusal::SubscriberExists {
                subscriber: subscriber(),
            },
            Reason::SubscriberAlreadyExists,
            "subscriber=s",
        ),
        (
            Refusal::SubscriberNotFound {
                subscriber: subscriber(),
            },
            Reason::SubscriberNotFound,
            "subscriber=s",
        ),
        (
            Refusal::SubscriptionNotFound {
                topic: topic_s,
                subscriber: subscriber_s,
            },
            Reason::SubscriptionNotFound,
            "subscriber=s topic=t",
        ),
        (
            Refusal::SubscriptionShared {
                topic: topic(),
                subscriber: subscriber(),
            },
            Reason::SubscriptionShared,
            "subscriber=s topic=t",
        ),
        (
            Refusal::SequenceGap {
                topic: topic(),
                publisher: publisher(),
                session,
                expected,
                got,
            },
            Reason::SequenceGap,
            "expected=2 sequence=4",
        ),
        (
            Refusal::SessionUnknown {
                topic: topic(),
                publisher: publisher(),
                session,
                got,
            },
            Reason::SessionUnknown,
            "publisher=p sequence=4 session=7",
        ),
        (
            Refusal::SequenceForgotten {
                topic: topic(),
                publisher: publisher(),
                session,
                sequence: got,
            },
            Reason::SequenceForgotten,
            "publisher=p sequence=4 session=7",
        ),
        (
            Refusal::OffsetOutOfRange {
                topic: topic(),
                offset,
                first,
                next,
            },
            Reason::OffsetOutOfRange,
            "first_offset=1 next_offset=5 offset=9",
        ),
        (
            Refusal::CursorMoved {
                topic: topic(),
                subscriber: subscriber(),
                cursor: offset,
                expected: first,
            },
            Reason::CursorMoved,
            "subscriber=s topic=t",
        ),
    ];
    for (refusal, expected, facts) in table {
        let status = from_refusal(&refusal).into_status();
        assert_eq!(reason(&status), Some(expected), "{refusal}");
        let info = status.get_details_error_info().unwrap();
        let mut found: Vec<String> = info
            .metadata
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        found.sort();
        assert_eq!(found.join(" "), facts, "{refusal}");
        assert_eq!(status.message(), refusal.to_string());
    }
}

fn of(error: replica::Error) -> Failure {
    failure(Error::Replica(error), PeerId(4))
}

#[test]
fn replica_that_does_not_lead_names_the_leader() {
    let error = consensus::Error::NotLeader {
        shard: shard(),
        leader: Some(PeerId(6)),
        term: Term(3),
    };
    let Failure::NotLeader(Some(leader)) = of(error.into()) else {
        panic!("it names the leader")
    };
    assert_eq!((leader.peer, leader.term), (PeerId(6), Term(3)));
}

#[test]
fn unknown_fate_is_never_told_as_a_failure() {
    assert!(matches!(
        of(replica::Error::OutcomeUnknown { shard: shard() }),
        Failure::Unknown
    ));
    assert!(matches!(
        of(consensus::Error::OutcomeUnknown { shard: shard() }.into()),
        Failure::Unknown
    ));
}

#[test]
fn what_another_replica_may_do_is_not_final() {
    for (error, expected) in [
        (
            consensus::Error::NoQuorum {
                shard: shard(),
                voters: 3,
                reachable: 1,
            }
            .into(),
            Reason::NoQuorum,
        ),
        (
            consensus::Error::Stopped { shard: shard() }.into(),
            Reason::ShuttingDown,
        ),
        (
            replica::Error::Deadline { shard: shard() },
            Reason::DeadlineExceeded,
        ),
    ] {
        let (Failure::Elsewhere(status) | Failure::NoQuorum(status)) = of(error) else {
            panic!("{expected:?} is not final")
        };
        assert_eq!(reason(&status), Some(expected));
    }
    let Failure::Final(status) = of(replica::Error::TooLarge {
        bytes: ByteCount(9),
        limit: ByteCount(8),
    }) else {
        panic!("too large everywhere")
    };
    assert_eq!(reason(&status), Some(Reason::RequestTooLarge));
}

#[test]
fn damaged_replica_is_left_for_another_one() {
    let source = shard::Error::Store(store::Error::Missing {
        topic: TopicId::new(4, 1),
        offset: Offset(3),
    });
    let rows = Error::Rows {
        shard: shard(),
        source: std::sync::Arc::new(source),
    };
    let Failure::Damaged(status) = failure(rows, PeerId(4)) else {
        panic!("another may be whole")
    };
    assert_eq!(reason(&status), Some(Reason::ReplicaDamaged));
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata["peer"], "4");
    assert_eq!(info.metadata["shard"], "100");
}

#[test]
fn full_disk_and_rebuilt_replica_are_told_with_their_facts() {
    let full = of(replica::Error::StorageFull {
        free: ByteCount(7),
        limit: ByteCount(9),
    });
    let Failure::Final(status) = full else {
        panic!("the leader is full, whoever is asked")
    };
    assert_eq!(reason(&status), Some(Reason::StorageFull));
    let facts = status.get_details_error_info().unwrap().metadata;
    assert_eq!(
        (facts["free"].as_str(), facts["limit"].as_str()),
        ("7", "9")
    );
    assert!(status.get_details_retry_info().is_some());
    let rebuilt = of(replica::Error::Damaged {
        shard: shard(),
        reason: "a row is damaged".to_owned(),
    });
    assert!(matches!(rebuilt, Failure::Damaged(_)));
    let starting = of(replica::Error::Starting { shard: shard() });
    assert!(matches!(starting, Failure::Elsewhere(_)));
}

#[test]
fn error_of_another_shard_is_told_as_it_was() {
    let source = Fault::new(Reason::NoQuorum, "x").into_status();
    let unresolved = Unresolved {
        name: Name::new("p").unwrap(),
        source: std::sync::Arc::new(source),
    };
    let Failure::Final(status) = failure(Error::Unresolved(unresolved), PeerId(4)) else {
        panic!("it is final")
    };
    assert_eq!(reason(&status), Some(Reason::NoQuorum));
}
