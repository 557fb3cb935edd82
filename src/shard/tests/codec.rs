//! Commands as bytes.

use std::time::Duration;

use proptest::prelude::*;

use super::property::command;
use super::*;
use crate::types::{BatchError, ByteCount, LogIndex, Offset, RequestId, TopicId};

/// Those of the first day, in the order of their numbers.
fn first_commands() -> Vec<Command> {
    let request_id = Some(RequestId([7; 16]));
    vec![
        Command::CreateTopic {
            topic: topic("news"),
            creator: Some(publisher("alice")),
            request_id,
            at: Timestamp(300),
            retention: Retention::FOR_EVER,
        },
        Command::DeleteTopic {
            topic: topic("news"),
        },
        Command::CreatePublisher {
            publisher: publisher("alice"),
            request_id: None,
            at: Timestamp(1),
        },
        Command::DeletePublisher {
            publisher: publisher("alice"),
        },
        Command::CreateSubscriber {
            subscriber: subscriber("bob"),
            request_id,
            at: Timestamp(1),
        },
        Command::DeleteSubscriber {
            subscriber: subscriber("bob"),
        },
        append("news", Some(("alice", 9, 1)), 2),
        Command::Subscribe {
            topic: topic("news"),
            subscriber: subscriber("bob"),
            start: Start::Time(Timestamp(5)),
            at: Timestamp(6),
        },
        Command::Unsubscribe {
            topic: topic("news"),
            subscriber: subscriber("bob"),
        },
        Command::Acknowledge {
            topic: topic("news"),
            subscriber: subscriber("bob"),
            next_offset: Offset(3),
            expected: Some(Offset(2)),
        },
        Command::Seek {
            topic: topic("news"),
            subscriber: subscriber("bob"),
            to: Start::Earliest,
        },
    ]
}

fn later_commands() -> Vec<Command> {
    vec![
        Command::CreateTopics {
            topics: vec![
                NewTopic {
                    topic: topic("a"),
                    retention: Retention::FOR_EVER,
                },
                NewTopic {
                    topic: topic("b"),
                    retention: Retention {
                        age: Some(Duration::from_secs(3)),
                        bytes: Some(ByteCount(300)),
                        messages: Some(2),
                    },
                },
            ],
            creator: Some(publisher("alice")),
            request_id: Some(RequestId([7; 16])),
            at: Timestamp(300),
        },
        Command::SetRetention {
            topic: topic("news"),
            retention: Retention {
                messages: Some(5),
                ..Retention::FOR_EVER
            },
        },
        Command::Trim {
            topic: topic("news"),
            topic_id: TopicId::new(4, 1),
            before: Offset(3),
            bytes: ByteCount(9),
        },
        Command::Barrier { id: 7 },
        Command::AcknowledgeLife {
            topic: topic("news"),
            topic_id: TopicId::new(4, 1),
            subscriber: subscriber("bob"),
            next_offset: Offset(3),
        },
    ]
}

/// Those that version 1 does not know.
fn shared_commands() -> Vec<Command> {
    vec![
        Command::SubscribeShared {
            topic: topic("news"),
            subscriber: subscriber("bob"),
            start: Start::Earliest,
            at: Timestamp(6),
            sharing: Sharing {
                lease: Duration::from_secs(30),
                dead_letters: Some(DeadLetters {
                    max_deliveries: 5,
                    topic: topic("dead"),
                }),
            },
        },
        Command::Settle {
            topic: topic("news"),
            topic_id: TopicId::new(4, 1),
            subscriber: subscriber("bob"),
            era: LogIndex(9),
            settlement: Settlement {
                acknowledged: vec![(Offset(3), Offset(300))],
                deliveries: vec![(Offset(2), 5)],
                condemned: vec![Offset(2)],
                letter: Some(LetterFate::Published {
                    session: LogIndex(9),
                    sequence: Sequence(1),
                }),
            },
        },
        Command::Settle {
            topic: topic("news"),
            topic_id: TopicId::new(4, 1),
            subscriber: subscriber("bob"),
            era: LogIndex(9),
            settlement: Settlement {
                letter: Some(LetterFate::Refused {
                    session: LogIndex(9),
                }),
                ..Settlement::default()
            },
        },
    ]
}

#[test]
fn commands_of_version_2_have_these_bytes() {
    let lines = lines(&shared_commands());
    let text = lines.join("\n") + "\n";
    expect_test::expect_file!["../testdata/command_v2.hex"].assert_eq(&text);
    for (command, line) in shared_commands().iter().zip(lines) {
        let bytes = from_hex(&line);
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
        let older = [&[1][..], &bytes[1..]].concat();
        assert_eq!(Command::decode(&older.into()), Err(CommandError::Head));
    }
}

fn lines(commands: &[Command]) -> Vec<String> {
    let byte = |byte: &u8| format!("{byte:02x}");
    let hex = |bytes: &[u8]| bytes.iter().map(byte).collect::<Vec<_>>().concat();
    let each = commands.iter();
    each.map(|command| hex(&command.encode())).collect()
}

#[test]
fn commands_of_version_1_have_these_bytes() {
    let commands = [first_commands(), later_commands()].concat();
    let lines = lines(&commands);
    let text = lines.join("\n") + "\n";
    expect_test::expect_file!["../testdata/command_v1.hex"].assert_eq(&text);
    for (command, line) in commands.iter().zip(lines) {
        let bytes = from_hex(&line);
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
        let is_barrier = matches!(command, Command::Barrier { .. });
        assert_eq!(super::is_barrier(&bytes), is_barrier);
    }
}

pub(super) fn from_hex(line: &str) -> Bytes {
    let pairs = line.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

#[test]
fn broken_commands_are_refused_with_the_reason() {
    let refusal = |bytes: &[u8]| Command::decode(&Bytes::copy_from_slice(bytes)).unwrap_err();
    assert_eq!(refusal(&[]), CommandError::Empty);
    assert_eq!(refusal(&[3, 0]), CommandError::Version { found: 3 });
    assert_eq!(refusal(&[1, 99]), CommandError::Head);
    assert_eq!(refusal(&[1, 1, 1, b' ']), CommandError::Head);
    let length = |expected, found| CommandError::Length { expected, found };
    assert_eq!(refusal(&[1, 1, 1, b'a', 0]), length(0, 1));
    let whole = append("news", None, 2).encode();
    let (head, payload) = whole.split_at(whole.len() - 6);
    assert_eq!(refusal(&whole[..whole.len() - 1]), length(14, 13));
    assert_eq!(refusal(&whole[..head.len() - 1]), length(8, 7));
    let broken = [head, &[0x23], &payload[1..]].concat();
    let frame = BatchError::Frame { position: 0 };
    assert_eq!(refusal(&broken), CommandError::Batch(frame));
    let joined = [head, &[0x22, 4, 0, 0, 0, 0]].concat();
    let count = CommandError::Count {
        expected: 2,
        found: 1,
    };
    assert_eq!(refusal(&joined), count);
}

#[test]
fn decoded_batch_shares_the_bytes_of_the_entry() {
    let bytes = append("news", None, 2).encode();
    let Ok(Command::Append { batch, .. }) = Command::decode(&bytes) else {
        panic!("an append");
    };
    assert!(bytes.as_ptr_range().contains(&batch.payload().as_ptr()));
}

proptest! {
    #[test]
    fn command_is_read_as_it_was_written(command in command()) {
        prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
    }

    #[test]
    fn any_bytes_are_a_command_or_refused(bytes: Vec<u8>, command in command(), at: prop::sample::Index, bit in 0_u32..8) {
        let _ = Command::decode(&bytes.into());
        let mut damaged = command.encode().to_vec();
        let at = at.index(damaged.len());
        damaged[at] ^= 1_u8 << bit;
        let _ = Command::decode(&damaged.clone().into());
        damaged.truncate(at);
        prop_assert!(Command::decode(&damaged.into()).is_err());
    }
}
