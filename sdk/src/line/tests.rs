//! What a line says and when, and what a batch is before it is decoded.

use super::*;

#[test]
fn what_is_said_does_not_pile_up_and_an_older_line_is_silent() {
    let sayings = Sayings::default();
    let old = sayings.begin(10, 100);
    let line = sayings.begin(10, 100);
    assert!(sayings.next(old).is_err());
    assert_eq!(sayings.resume(7, 0), Resumed::Behind);
    sayings.give(1, 1);
    for offset in 0..1_000 {
        sayings.acknowledge(offset);
    }
    let credit = v1::StreamPullCredit {
        messages: 11,
        bytes: 101,
    };
    assert_eq!(sayings.next(line), Ok(Some(Command::Credit(credit))));
    let done = v1::StreamPullAcknowledge { next_offset: 999 };
    assert_eq!(sayings.next(line), Ok(Some(Command::Acknowledge(done))));
    assert_eq!(sayings.next(line), Ok(None));
}

fn acknowledged(next_offset: u64) -> Result<Option<Command>, ()> {
    let done = v1::StreamPullAcknowledge { next_offset };
    Ok(Some(Command::Acknowledge(done)))
}

/// A reader that has acknowledged up to 100, of which 50 is confirmed, and whose line broke.
fn broken_at_50_of_100() -> (Sayings, u64) {
    let sayings = Sayings::default();
    let line = sayings.begin(0, 0);
    sayings.resume(7, 0);
    sayings.acknowledge(100);
    assert_eq!(sayings.next(line), acknowledged(100));
    assert_eq!(sayings.hear(50), Resumed::Behind);
    let line = sayings.begin(0, 0);
    assert_eq!(sayings.next(line), Ok(None), "not before it is open");
    (sayings, line)
}

#[test]
fn acknowledgement_that_was_not_confirmed_is_told_again_on_a_new_line() {
    for cursor in [50, 70] {
        let (sayings, line) = broken_at_50_of_100();
        assert_eq!(sayings.resume(7, cursor), Resumed::Behind);
        assert_eq!(sayings.next(line), acknowledged(100));
        assert_eq!(sayings.next(line), Ok(None));
    }
    let (sayings, line) = broken_at_50_of_100();
    assert_eq!(sayings.resume(7, 100), Resumed::Behind);
    assert_eq!(sayings.next(line), Ok(None), "it had arrived");
}

#[test]
fn cursor_that_was_moved_back_meanwhile_stays_there() {
    let (sayings, line) = broken_at_50_of_100();
    assert_eq!(sayings.resume(7, 20), Resumed::AtCursor);
    assert_eq!((sayings.next(line), sayings.cursor()), (Ok(None), 20));
    // What is read again is acknowledged again.
    sayings.acknowledge(30);
    assert_eq!(sayings.next(line), acknowledged(30));
}

#[test]
fn cursor_that_is_moved_back_while_the_line_is_open_stays_there() {
    let sayings = Sayings::default();
    let line = sayings.begin(0, 0);
    sayings.resume(7, 0);
    sayings.acknowledge(100);
    assert_eq!(sayings.next(line), acknowledged(100));
    assert_eq!(sayings.hear(100), Resumed::Behind);
    assert_eq!(sayings.hear(20), Resumed::AtCursor);
    assert_eq!(sayings.next(line), Ok(None));
    sayings.acknowledge(30);
    assert_eq!(sayings.next(line), acknowledged(30));
}

#[test]
fn acknowledgements_do_not_go_over_to_a_topic_that_was_made_anew() {
    let (sayings, line) = broken_at_50_of_100();
    sayings.reject(60, Duration::ZERO);
    assert_eq!(sayings.resume(8, 70), Resumed::AtCursor);
    assert_eq!((sayings.next(line), sayings.take_back()), (Ok(None), None));
    // A peer of an older version does not say which life it is.
    let line = sayings.begin(0, 0);
    assert_eq!(sayings.resume(0, 70), Resumed::Behind);
    assert_eq!(sayings.next(line), Ok(None));
}

#[test]
fn size_of_a_batch_is_that_of_its_messages_on_the_wire() {
    let batch = v1::MessageBatch {
        base_offset: 3,
        messages: vec![v1::Message {
            payload: vec![1; 300].into(),
            ..v1::Message::default()
        }],
        message_count: 1,
        ..v1::MessageBatch::default()
    };
    let bytes = prost::encoding::message::encoded_len_repeated(4, &batch.messages);
    let raw = Batch::decode(Bytes::from(batch.encode_to_vec())).unwrap();
    assert_eq!(raw.size(), (1, bytes as u64));
    let (decoded, broken) = raw.decode_messages();
    assert_eq!(decoded, batch);
    assert!(broken.is_none());
}
