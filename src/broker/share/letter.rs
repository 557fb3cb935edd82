//! A dead letter: the message as it was, with headers that say where it comes from. Begin with [`Letter::new`].

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{self, WireType};

use crate::types::{
    Batch, LogIndex, Name, Offset, PublisherId, Sequence, SessionId, SubscriberId, TopicId,
    TopicName,
};

/// The key of a message in a batch: field 4.
const MESSAGE: u32 = 4;
/// The field of a message that holds its headers, and the fields of a header.
const HEADERS: u32 = 3;
const NAME: u32 = 1;
const VALUE: u32 = 2;

/// How the publisher of dead letters is called, before the id of the topic that they come from. No other publisher is called so: it could take the number of a letter.
pub const LETTER_PUBLISHER: &str = "dead-letter.";

/// A message on its way to the topic of the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Where to.
    pub topic: TopicName,
    /// Names the topic that it comes from, and its number among the dead letters of a subscription: twice the same letter is appended once.
    pub origin: (PublisherId, SessionId, Sequence),
    /// The one message.
    pub batch: Batch,
}

/// Where a letter comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender<'a> {
    pub(super) topic: &'a TopicName,
    pub(super) topic_id: TopicId,
    pub(super) subscriber: &'a SubscriberId,
    pub(super) offset: Offset,
    /// How often it was delivered.
    pub(super) deliveries: u32,
}

impl Letter {
    /// The letter with this number of a session. `None`: the batch is not one message.
    pub(super) fn new(
        topic: TopicName,
        sender: Sender<'_>,
        (session, sequence): (LogIndex, Sequence),
        batch: &Batch,
    ) -> Option<Self> {
        // A topic's id is given once in the cluster, and an entry of its shard's log begins one session at most.
        let publisher = format!("{LETTER_PUBLISHER}{:x}", sender.topic_id.to_bits());
        let publisher = PublisherId(Name::new(&publisher).ok()?);
        Some(Self {
            topic,
            origin: (publisher, SessionId(session.0), sequence),
            batch: with_headers(batch.payload(), sender)?,
        })
    }
}

/// The message with more headers: fields of a message may stand in any order, so they are put behind what is there.
fn with_headers(payload: &Bytes, sender: Sender<'_>) -> Option<Batch> {
    let mut rest = payload.clone();
    encoding::decode_key(&mut rest).ok()?;
    let length = encoding::decode_varint(&mut rest).ok()?;
    if usize::try_from(length).ok()? != rest.len() {
        return None;
    }
    let headers = [
        ("topic", sender.topic.to_string()),
        ("subscriber", sender.subscriber.to_string()),
        ("offset", sender.offset.to_string()),
        ("deliveries", sender.deliveries.to_string()),
    ];
    let mut more = BytesMut::new();
    for (name, value) in headers {
        let mut header = BytesMut::new();
        field(
            NAME,
            format!("cubecast-dead-letter-{name}").as_bytes(),
            &mut header,
        );
        field(VALUE, value.as_bytes(), &mut header);
        field(HEADERS, &header, &mut more);
    }
    let mut whole = BytesMut::new();
    encoding::encode_key(MESSAGE, WireType::LengthDelimited, &mut whole);
    encoding::encode_varint((rest.len() + more.len()) as u64, &mut whole);
    whole.put(rest);
    whole.put(more);
    Batch::new(whole.freeze()).ok()
}

fn field(tag: u32, bytes: &[u8], into: &mut BytesMut) {
    encoding::encode_key(tag, WireType::LengthDelimited, into);
    encoding::encode_varint(bytes.len() as u64, into);
    into.put_slice(bytes);
}
