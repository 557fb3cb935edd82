use bytes::Bytes;
use cubecast_sdk::proto::v1 as proto;
use prost::Message;

use super::{PublishRequest, PublishStreamRequest, PullResponse, StreamPullResponse};
use crate::types::Batch;

fn messages() -> Vec<proto::Message> {
    ["one", "two", "three"]
        .map(|text| proto::Message {
            payload: Bytes::from_static(text.as_bytes()),
            ..Default::default()
        })
        .to_vec()
}

fn publish() -> proto::PublishRequest {
    proto::PublishRequest {
        topic: "news".to_owned(),
        publisher: "p".to_owned(),
        sequence: Some(proto::PublishSequence {
            session: 7,
            sequence: 3,
        }),
        messages: messages(),
        acks: proto::AckLevel::All.into(),
    }
}

#[test]
fn publish_is_read_without_decoding_and_written_back() {
    let bytes = publish().encode_to_vec();
    let opaque = PublishRequest::decode(Bytes::from(bytes)).unwrap();
    assert_eq!(opaque.head.topic, "news");
    assert_eq!(opaque.head.acks(), proto::AckLevel::All);
    assert_eq!(Batch::new(opaque.messages.clone()).unwrap().count(), 3);
    assert_eq!(
        proto::PublishRequest::decode(opaque.encode_to_vec().as_slice()).unwrap(),
        publish()
    );
    assert_eq!(opaque.encoded_len(), opaque.encode_to_vec().len());
}

#[test]
fn few_messages_do_not_keep_all_that_came_with_them() {
    let known = Bytes::from(publish().encode_to_vec());
    let opaque = PublishRequest::decode(known.clone()).unwrap();
    let lies_in = |whole: &Bytes, run: &Bytes| whole.as_ptr_range().contains(&run.as_ptr());
    assert!(lies_in(&known, &opaque.messages));
    let mut bytes = publish().encode_to_vec();
    prost::encoding::bytes::encode(99, &vec![0_u8; 1 << 20], &mut bytes);
    let bytes = Bytes::from(bytes);
    let opaque = PublishRequest::decode(bytes.clone()).unwrap();
    assert!(!lies_in(&bytes, &opaque.messages));
    assert_eq!(Batch::new(opaque.messages).unwrap().count(), 3);
}

#[test]
fn messages_apart_are_put_together_in_order() {
    let mut bytes = Vec::new();
    for message in messages() {
        proto::PublishRequest {
            messages: vec![message],
            topic: "news".to_owned(),
            ..Default::default()
        }
        .encode(&mut bytes)
        .unwrap();
    }
    let opaque = PublishRequest::decode(Bytes::from(bytes)).unwrap();
    let whole = proto::PublishRequest::decode(opaque.encode_to_vec().as_slice()).unwrap();
    assert_eq!(whole.messages, messages());
}

#[test]
fn cut_request_is_an_error_and_never_a_panic() {
    let bytes = Bytes::from(publish().encode_to_vec());
    let complete = (0..bytes.len())
        .filter(|cut| PublishRequest::decode(bytes.slice(..*cut)).is_ok())
        .count();
    let complete_as_sdk = (0..bytes.len())
        .filter(|cut| proto::PublishRequest::decode(bytes.slice(..*cut)).is_ok())
        .count();
    assert_eq!(complete, complete_as_sdk);
    assert!(
        PublishRequest::decode(Bytes::from_static(
            b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
        ))
        .is_err()
    );
    assert!(PublishRequest::decode(Bytes::from_static(b"\x20\x01")).is_err());
}

#[test]
fn pull_response_is_the_same_on_the_wire() {
    let batch = proto::MessageBatch {
        base_offset: 5,
        append_time: Some(prost_types::Timestamp {
            seconds: 1,
            nanos: 2,
        }),
        origin: Some(proto::BatchOrigin {
            publisher: "p".to_owned(),
            session: 1,
            sequence: 2,
        }),
        messages: messages(),
        message_count: 3,
    };
    let response = proto::PullResponse {
        batches: vec![batch.clone(), batch],
        next_offset: 8,
        cursor: 5,
        head_offset: 9,
        missed: 9,
        source: Some(proto::ReadSource {
            served_by: "100".to_owned(),
            ..Default::default()
        }),
    };
    let opaque = PullResponse::decode(Bytes::from(response.encode_to_vec())).unwrap();
    assert_eq!(opaque.batches.len(), 2);
    assert_eq!(opaque.batches[1].messages, opaque.batches[0].messages);
    assert_eq!(
        proto::PullResponse::decode(opaque.encode_to_vec().as_slice()).unwrap(),
        response
    );
    assert_eq!(opaque.encoded_len(), response.encoded_len());
}

#[test]
fn requests_and_events_of_streams_are_the_same_on_the_wire() {
    let request = proto::PublishStreamRequest {
        topic: "t".to_owned(),
        publisher: "p".to_owned(),
        sequence: Some(proto::PublishSequence {
            session: 7,
            sequence: 8,
        }),
        messages: messages(),
        acks: 3,
        request_number: 9,
    };
    let opaque = PublishStreamRequest::decode(Bytes::from(request.encode_to_vec())).unwrap();
    let (number, publish) = opaque.into_publish();
    let again = PublishStreamRequest::of(number, &publish).encode_to_vec();
    let again = proto::PublishStreamRequest::decode(again.as_slice()).unwrap();
    assert_eq!(again, request);

    let batch = proto::MessageBatch {
        base_offset: 5,
        messages: messages(),
        message_count: 3,
        ..Default::default()
    };
    let events = [
        proto::stream_pull_response::Event::Opened(proto::StreamPullOpened::default()),
        proto::stream_pull_response::Event::Delivery(proto::StreamPullDelivery {
            batch: Some(batch),
            attempt: 2,
            missed: 4,
        }),
        proto::stream_pull_response::Event::Heartbeat(proto::StreamPullHeartbeat {
            cursor: 5,
            head_offset: 6,
        }),
        proto::stream_pull_response::Event::Settled(proto::StreamPullSettled {
            ranges: vec![proto::OffsetRange {
                first_offset: 3,
                next_offset: 400,
            }],
        }),
    ];
    for event in events {
        let response = proto::StreamPullResponse { event: Some(event) };
        let bytes = Bytes::from(response.encode_to_vec());
        let opaque = StreamPullResponse::decode(bytes.clone()).unwrap();
        // The fields may have another order.
        let again = proto::StreamPullResponse::decode(opaque.encode_to_vec().as_slice());
        assert_eq!(again.unwrap(), response);
        assert_eq!(opaque.encoded_len(), bytes.len());
        for cut in 1..bytes.len() {
            assert!(StreamPullResponse::decode(bytes.slice(..cut)).is_err());
        }
    }
}
