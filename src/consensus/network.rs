//! How openraft reaches the other replicas of a shard.
//!
//! Entries go out on one stream per follower, so that the next append does not wait for the answer to the one before, and all followers get
//! them at the same time. Heartbeats are single calls: they must not wait behind entries.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt, stream};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RPCTypes};
use tokio::sync::watch;
use tonic::metadata::MetadataMap;

use super::convert;
use super::delivery::Deliveries;
use super::outbound::Outbound;
use super::snapshot::Snapshot;
use super::types::{Types, peer_of, position};
use crate::link::{self, Channel, Peers};
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::raft_service_client::RaftServiceClient;
use crate::types::{LogPosition, Vertex};

/// Messages of this size may come from a peer: an append of one megabyte or one entry of the largest request, with room for framing.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The metadata entry that names the shard of an append stream: the follower must know it before the first message comes.
pub const SHARD_KEY: &str = "cubecast-shard";

/// The metadata entry that names the Raft id that a call is for. The peer may live on under another one, and what that says must not be
/// counted as said by the earlier one.
pub const TARGET_KEY: &str = "cubecast-target";

/// How far each follower has stored the log of one shard, as its own answers say.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    stored: Arc<Mutex<BTreeMap<u64, LogPosition>>>,
    changed: watch::Sender<()>,
    /// Those that get a snapshot.
    pub(super) deliveries: Deliveries,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            stored: Arc::default(),
            changed: watch::Sender::new(()),
            deliveries: Deliveries::default(),
        }
    }

    fn record(&self, node: u64, result: &StreamAppendResult<Types>) {
        if let Ok(Some(last)) = result {
            self.stored
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(node, position(last));
            self.changed.send_replace(());
        }
    }

    /// The replicas that have said that they hold this entry. An answer counts only when it speaks of the same or a later term: an entry of an
    /// older leader at a greater index proves nothing.
    pub(super) fn holders(&self, entry: LogPosition) -> Vec<u64> {
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |last: &LogPosition| last.index >= entry.index && last.term >= entry.term;
        stored
            .iter()
            .filter(|(_, last)| holds(last))
            .map(|(node, _)| *node)
            .collect()
    }

    pub(super) fn stored(&self, node: u64) -> Option<LogPosition> {
        self.stored
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&node)
            .copied()
    }

    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// Makes the connections of one shard's group.
pub(super) struct Network {
    pub(super) shard: Vertex,
    pub(super) node: u64,
    pub(super) peers: Peers,
    pub(super) progress: Progress,
}

/// How entries go.
#[derive(Clone, Copy)]
pub(super) enum Carrier {
    /// All on one stream.
    Stream,
    /// One call for each append.
    Unary,
}

impl Network {
    pub(super) fn connect(&self, target: u64, carrier: Carrier) -> Connection {
        let client = self.peers.channel(peer_of(target)).map(|channel| {
            RaftServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        });
        Connection {
            shard: self.shard,
            node: self.node,
            target,
            carrier,
            client,
            peers: self.peers.clone(),
            progress: self.progress.clone(),
        }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Connection {
        self.connect(target, Carrier::Stream)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> Connection {
        self.connect(target, Carrier::Unary)
    }
}

/// The way to one replica.
pub(super) struct Connection {
    pub(super) shard: Vertex,
    node: u64,
    pub(super) target: u64,
    carrier: Carrier,
    /// `None` when the membership names a peer that the configuration does not know.
    client: Option<RaftServiceClient<Channel>>,
    peers: Peers,
    pub(super) progress: Progress,
}

pub(super) fn unreachable(error: impl ToString) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

impl Connection {
    /// An error also when the peer is gone: openraft asks again and again, and each dial would cost both of them. Heartbeats notice when it is back.
    pub(super) fn client(&self) -> Result<RaftServiceClient<Channel>, RPCError<Types>> {
        if self.peers.links().now().is_gone(peer_of(self.target)) {
            return Err(unreachable("the peer is gone"));
        }
        self.client
            .clone()
            .ok_or_else(|| unreachable("the configuration knows no such peer"))
    }

    /// A call that says who makes it, for which shard, and for which life of the other peer.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = self.peers.request(message);
        let metadata = request.metadata_mut();
        metadata.insert(SHARD_KEY, self.shard.index().into());
        metadata.insert(TARGET_KEY, self.target.into());
        request
    }

    /// Checks that the answer comes from the peer that was asked.
    pub(super) fn recognise(&self, metadata: &MetadataMap) -> Result<(), link::Error> {
        self.peers.recognise_answer(peer_of(self.target), metadata)
    }

    /// Waits for a call as long as openraft does.
    async fn within<T, E: ToString>(
        &self,
        action: RPCTypes,
        option: &RPCOption,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, RPCError<Types>> {
        match tokio::time::timeout(option.hard_ttl(), call).await {
            Ok(result) => result.map_err(unreachable),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.node,
                target: self.target,
                timeout: option.hard_ttl(),
            })),
        }
    }

    async fn ask_vote(
        &self,
        request: VoteRequest<Types>,
        kind: Ballot,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = proto::VoteRequest {
            shard: u32::from(self.shard.index()),
            vote: Some(convert::vote_to_proto(&request.vote)),
            last_log_id: request.last_log_id.as_ref().map(convert::log_id_to_proto),
            leadership_transfer: request.leadership_transfer,
            pre_vote: matches!(kind, Ballot::Trial),
        };
        let mut client = self.client()?;
        let response = self
            .within(RPCTypes::Vote, &option, client.vote(self.request(message)))
            .await?;
        self.recognise(response.metadata()).map_err(unreachable)?;
        convert::vote_response_from_proto(response.get_ref()).map_err(unreachable)
    }

    /// `None`: there was nothing to send.
    async fn open_stream<S>(
        &self,
        input: S,
        option: RPCOption,
    ) -> Result<Option<tonic::Streaming<proto::AppendResponse>>, RPCError<Types>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let shard = self.shard.index();
        // After an error openraft makes its pause before it gives the next request. Were the peer called before that, one that cannot be
        // reached would be dialled again and again without any pause.
        let mut input = input.peekable();
        if Pin::new(&mut input).peek().await.is_none() {
            return Ok(None);
        }
        // A stream stays on the road that it took. One that goes round a broken link ends when the link works again: openraft opens the next.
        let (links, peer) = (self.peers.links().clone(), peer_of(self.target));
        let straightened = Box::pin(async move { links.straightened(peer).await });
        // Before what holds commits back, which says the last one at the end.
        let outbound = Outbound::new(input.take_until(straightened))
            .map(move |request| convert::append_to_proto(shard, request));
        let mut client = self.client()?;
        let call = client.append(self.request(outbound));
        let response = self.within(RPCTypes::AppendEntries, &option, call).await?;
        self.recognise(response.metadata()).map_err(unreachable)?;
        Ok(Some(response.into_inner()))
    }
}

/// A vote that counts, or one that only asks.
enum Ballot {
    Real,
    Trial,
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = Snapshot;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let message = proto::HeartbeatRequest {
            append: Some(convert::append_to_proto(self.shard.index(), rpc)),
        };
        let mut client = self.client()?;
        let call = client.heartbeat(self.request(message));
        let response = self.within(RPCTypes::AppendEntries, &option, call).await?;
        self.recognise(response.metadata()).map_err(unreachable)?;
        let answer = response
            .into_inner()
            .append
            .ok_or_else(|| unreachable("the answer is empty"))?;
        Ok(convert::stored_from_proto(&answer)
            .map_err(unreachable)?
            .into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        if matches!(self.carrier, Carrier::Unary) {
            return stream_append_sequential(self, input, option);
        }
        let (target, progress) = (self.target, self.progress.clone());
        Box::pin(async move {
            let Some(answers) = self.open_stream(input, option).await? else {
                return Ok(Box::pin(stream::empty()) as BoxStream<'s, _>);
            };
            let answers = answers.map(move |answer| {
                let result = convert::stored_from_proto(&answer.map_err(unreachable)?)
                    .map_err(unreachable)?;
                progress.record(target, &result);
                Ok(result)
            });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(rpc, Ballot::Real, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(rpc, Ballot::Trial, option).await
    }

    /// The time that openraft gives is not meant for a whole snapshot.
    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, Snapshot>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        match snapshot.snapshot {
            Snapshot::Frozen(reader) => {
                self.send_snapshot(vote, &snapshot.meta, reader, cancel)
                    .await
            }
            Snapshot::Staged(_) => Err(StreamingError::Unreachable(Unreachable::from_string(
                "what has come in is not for others",
            ))),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let message = proto::TransferLeaderRequest {
            shard: u32::from(self.shard.index()),
            from_leader: Some(convert::vote_to_proto(request.from_leader())),
            to_node: *request.to_node_id(),
            last_log_id: request.last_log_id().map(convert::log_id_to_proto),
        };
        let mut client = self.client()?;
        let call = client.transfer_leader(self.request(message));
        let response = self.within(RPCTypes::TransferLeader, &option, call).await?;
        self.recognise(response.metadata()).map_err(unreachable)?;
        if response.get_ref().accepted {
            return Ok(Ok(()));
        }
        let expected = request.last_log_id().copied();
        Ok(Err(TransferLeaderError::LogNotFlushed {
            expected,
            actual: None,
        }))
    }
}
