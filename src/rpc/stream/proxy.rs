//! A StreamPull that another peer serves, passed on to the client that called this one.
//!
//! What comes is taken in at once and kept here until the client takes it: unread, it would stand in the way of everything else that the two peers tell
//! each other. So the other peer is given the client's credit only as far as there is room here. Never looks into a message. Begin with [`Proxy::open`].

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::stream_pull_request::Command;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use super::pull::Next;
use crate::rpc::api::Api;
use crate::rpc::channel;
use crate::rpc::context::Context;
use crate::rpc::forward::Failure;
use crate::rpc::wire::{self, StreamPullEvent};
use crate::types::PeerId;

const PATH: &str = "/cubecast.v1.PeerService/StreamPull";
/// Bytes of messages that a proxy has room for: several round trips between peers at their full rate.
const ROOM_BYTES: i64 = 512 << 10;
/// Messages that it has room for, however small.
const ROOM_MESSAGES: u64 = 8_192;
/// Events that it has room for: each message may come alone, and each command may be answered. So it is never full, whatever the client does not take.
const ROOM_EVENTS: usize = 8_192 + 64;
/// Commands on their way. Full: no more are read from the client.
const COMMANDS_MAX: usize = 16;
/// An answer holds at most the messages of one request, with their envelope.
const ANSWER_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(
    ROOM_EVENTS as u64 > ROOM_MESSAGES + COMMANDS_MAX as u64,
    "what credit was given for has room",
);

type Event = Result<StreamPullEvent, Status>;

/// The way to a stream at another peer.
pub struct Proxy {
    /// `None`: the client has nothing more to say.
    commands: Option<mpsc::Sender<proto::StreamPullRequest>>,
    events: mpsc::Receiver<Event>,
    /// Said by the client, and not yet on its way.
    next: Option<Command>,
    /// Taken out of the room, and not yet on its way.
    credit: Option<proto::StreamPullCredit>,
    room: Room,
    /// Takes in what comes. Ends with the proxy.
    _tasks: JoinSet<()>,
}

/// How much of the client's credit the other peer has.
#[derive(Debug, Default)]
struct Room {
    /// Given by the client and not yet passed on.
    messages: u64,
    /// `None`: bytes do not count for the client, as its first credit said.
    bytes: Option<u64>,
    is_begun: bool,
    /// Passed on and not yet used by what the client has taken.
    open_messages: u64,
    open_bytes: i64,
}

impl Room {
    fn give(&mut self, credit: &proto::StreamPullCredit) {
        self.messages = self.messages.saturating_add(u64::from(credit.messages));
        if let Some(bytes) = &mut self.bytes {
            *bytes = bytes.saturating_add(credit.bytes);
        } else if !self.is_begun && credit.bytes > 0 {
            self.bytes = Some(credit.bytes);
        }
        self.is_begun = true;
    }

    /// What may be passed on now, unless it is too little to be worth it.
    fn pass(&mut self) -> Option<proto::StreamPullCredit> {
        if !self.is_begun {
            return None;
        }
        let messages = self
            .messages
            .min(ROOM_MESSAGES.saturating_sub(self.open_messages));
        let free = u64::try_from(ROOM_BYTES - self.open_bytes).unwrap_or(0);
        let bytes = self.bytes.map_or(free, |bytes| bytes.min(free));
        let is_little = messages < ROOM_MESSAGES / 4 && messages < self.messages;
        let is_much = free >= ROOM_BYTES.unsigned_abs() / 4 && bytes > 0;
        if (messages == 0 || is_little) && !is_much {
            return None;
        }
        self.messages -= messages;
        self.open_messages += messages;
        if let Some(left) = &mut self.bytes {
            *left -= bytes;
        }
        self.open_bytes += i64::try_from(bytes).unwrap_or(ROOM_BYTES);
        Some(proto::StreamPullCredit {
            messages: u32::try_from(messages).unwrap_or(u32::MAX),
            bytes,
        })
    }

    /// The client has taken a delivery.
    fn take(&mut self, delivery: &wire::StreamPullDelivery) {
        for batch in &delivery.batches {
            let count = u64::from(batch.head.message_count);
            self.open_messages = self.open_messages.saturating_sub(count);
            let bytes = i64::try_from(batch.messages.len()).unwrap_or(ROOM_BYTES);
            self.open_bytes = self.open_bytes.saturating_sub(bytes);
        }
    }
}

impl Proxy {
    /// Opens the stream at another peer.
    ///
    /// # Errors
    /// [`Failure`]; an opened stream has delivered nothing, so that it may be opened elsewhere.
    pub async fn open(
        api: &Api,
        peer: PeerId,
        open: &proto::StreamPullOpen,
        context: &Context,
    ) -> Result<Self, Failure> {
        let peers = &api.parts.peers;
        let channel = peers.channel(peer).ok_or(Failure::Unreached)?;
        if peers.links().now().is_gone(peer) {
            return Err(Failure::Unreached);
        }
        let (commands, outgoing) = mpsc::channel(COMMANDS_MAX);
        let first = proto::StreamPullRequest {
            command: Some(Command::Open(open.clone())),
        };
        // The queue is new, so there is room.
        commands.try_send(first).map_err(|_| Failure::Unreached)?;
        let mut request = peers.request(ReceiverStream::new(outgoing));
        channel::forward(request.metadata_mut(), api.cluster().this(), context);
        let mut client = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let ready = tokio::time::timeout_at(context.deadline, client.ready()).await;
        if !matches!(ready, Ok(Ok(()))) {
            return Err(Failure::Unreached);
        }
        let codec: ProstCodec<_, wire::StreamPullResponse> = ProstCodec::default();
        let opened = client.streaming(request, PathAndQuery::from_static(PATH), codec);
        let events = match tokio::time::timeout_at(context.deadline, opened).await {
            Ok(Ok(opened)) => opened.into_inner(),
            Ok(Err(status)) => return Err(channel::classify(status)),
            Err(_) => return Err(Failure::Unknown),
        };
        let (sender, receiver) = mpsc::channel(ROOM_EVENTS);
        let mut tasks = JoinSet::new();
        tasks.spawn(take_in(events, sender));
        Ok(Self {
            commands: Some(commands),
            events: receiver,
            next: None,
            credit: None,
            room: Room::default(),
            _tasks: tasks,
        })
    }

    /// The client may say more.
    pub fn is_free(&self) -> bool {
        self.next.is_none()
    }

    /// Passes on what the client says.
    pub fn say(&mut self, command: Command) {
        match command {
            Command::Credit(credit) => self.room.give(&credit),
            command => self.next = Some(command),
        }
    }

    /// The client has nothing more to say.
    pub fn hang_up(&mut self) {
        self.commands = None;
    }

    /// How the stream ended after that. `None`: well.
    pub async fn last(&mut self) -> Option<Status> {
        loop {
            match self.events.recv().await? {
                Ok(_) => {}
                Err(status) => return Some(status),
            }
        }
    }

    /// What happens next: an event, or a command went out, so that the client may say more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Next {
        if self.credit.is_none() {
            self.credit = self.room.pass();
        }
        let has_word = self.credit.is_some() || self.next.is_some();
        let is_open = tokio::select! {
            place = place(self.commands.as_ref()), if has_word => {
                // Credit first: it is used up by what comes, so it never keeps the client's word back for long.
                let credit = self.credit.take().map(Command::Credit);
                let command = credit.or_else(|| self.next.take());
                place.map(|place| place.send(proto::StreamPullRequest { command })).is_some()
            }
            event = self.events.recv() => return match event {
                Some(Ok(event)) => {
                    if let StreamPullEvent::Delivery(delivery) = &event {
                        self.room.take(delivery);
                    }
                    Next::Tell(event)
                }
                Some(Err(status)) => Next::End(Some(status)),
                None => Next::End(None),
            },
        };
        if !is_open {
            // The stream is ending, and its end comes with the events.
            self.hang_up();
        }
        Next::Again
    }
}

/// A place for a command. Pending when none is sent any more.
async fn place(
    commands: Option<&mpsc::Sender<proto::StreamPullRequest>>,
) -> Option<mpsc::Permit<'_, proto::StreamPullRequest>> {
    match commands {
        Some(commands) => commands.reserve().await.ok(),
        None => std::future::pending().await,
    }
}

/// Takes in what comes, until the stream ends or nobody wants it.
async fn take_in(mut events: Streaming<wire::StreamPullResponse>, taken: mpsc::Sender<Event>) {
    loop {
        let event = match events.message().await {
            Ok(Some(wire::StreamPullResponse { event: Some(event) })) => Ok(event),
            // A newer peer says what this one does not know.
            Ok(Some(wire::StreamPullResponse { event: None })) => continue,
            Ok(None) => return,
            Err(status) => Err(status),
        };
        let is_over = event.is_err();
        let is_taken = match &event {
            // What waits is a sign of life, too; and nobody gives credit for this one.
            Ok(StreamPullEvent::Heartbeat(_)) if taken.capacity() < taken.max_capacity() => {
                !taken.is_closed()
            }
            _ => taken.send(event).await.is_ok(),
        };
        if is_over || !is_taken {
            return;
        }
    }
}
