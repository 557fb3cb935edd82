//! Sends a snapshot to a replica that is behind the beginning of the log.
//!
//! A thread reads the frozen store into a short queue, the call takes from it: what is in memory is bounded, and the receiver's window decides
//! the pace. There is no limit for the whole, which may be large, but for the time in which nothing moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::alias::{SnapshotMetaOf, VoteOf};
use openraft::errors::{ReplicationClosed, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use super::convert;
use super::network::Connection;
use super::receive::STALL_MAX;
use super::types::{Types, peer_of};
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::install_snapshot_request::Part;
use crate::shard::{View, export};
use crate::store::Reader;
use crate::types::Vertex;

/// Chunks read ahead of the network.
const QUEUE_CHUNKS: usize = 4;

/// How long the receiver may take to install what it has got: it writes all of it once more.
const INSTALL_MAX: Duration = Duration::from_secs(600);

/// How many parts the call has taken when it has taken all of them.
const ALL: u64 = u64::MAX;

fn unreachable(error: impl ToString) -> StreamingError<Types> {
    StreamingError::Unreachable(Unreachable::from_string(error))
}

impl Connection {
    /// Sends a frozen state to the replica at the other end, and waits until it is installed there.
    pub(super) async fn send_snapshot(
        &self,
        vote: VoteOf<Types>,
        meta: &SnapshotMetaOf<Types>,
        reader: Arc<dyn Reader>,
        cancel: impl Future<Output = ReplicationClosed>,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let peer = peer_of(self.target);
        let taken = Arc::new(AtomicU64::new(0));
        let header = header_to_proto(self.shard, &vote, meta);
        let last = meta.last_log_id.map_or(0, |last| last.index);
        let delivery = self.progress.deliveries.prepare(self.target, last);
        let view = View::new(self.shard, reader);
        let parts = parts(header, (view, delivery.begin()), Arc::clone(&taken));
        let mut client = self.client().map_err(unreachable)?;
        let request = self.request(parts);
        let call = client.install_snapshot(request);
        let response = tokio::select! {
            response = call => response.map_err(unreachable)?,
            closed = cancel => return Err(closed.into()),
            () = stalled(&taken) => return Err(unreachable(format!("peer {peer} takes no more of the snapshot"))),
        };
        self.recognise(response.metadata()).map_err(unreachable)?;
        let vote = response.get_ref().vote.as_ref();
        let vote = vote.map(convert::vote_from_proto);
        let vote = vote.ok_or_else(|| unreachable("the answer is empty"))?;
        delivery.installed();
        info!(shard = %self.shard, %peer, "sent a snapshot");
        Ok(SnapshotResponse::new(vote))
    }
}

fn header_to_proto(
    shard: Vertex,
    vote: &VoteOf<Types>,
    meta: &SnapshotMetaOf<Types>,
) -> proto::SnapshotHeader {
    let membership = &meta.last_membership;
    let membership_id = membership.log_id();
    proto::SnapshotHeader {
        shard: u32::from(shard.index()),
        leader: Some(convert::vote_to_proto(vote)),
        last_log_id: meta.last_log_id.as_ref().map(convert::log_id_to_proto),
        membership_id: membership_id.as_ref().map(convert::log_id_to_proto),
        membership: Some(convert::membership_to_proto(membership.membership())),
    }
}

/// Header, then chunks. Reading begins when the header has been taken: a replica that cannot be reached costs no reading.
fn parts(
    header: proto::SnapshotHeader,
    (view, begin): (View, impl FnOnce() + Send + 'static),
    taken: Arc<AtomicU64>,
) -> impl Stream<Item = proto::InstallSnapshotRequest> + Send + 'static {
    let shard = header.shard;
    let header = stream::iter([Part::Header(header)]);
    let chunks = stream::once(async move {
        info!(shard, "sending a snapshot");
        begin();
        chunks(view)
    });
    let chunks = chunks.flatten();
    let all = Arc::clone(&taken);
    let end = stream::once(async move { all.store(ALL, Ordering::Relaxed) });
    let end = end.filter_map(|()| std::future::ready(None));
    let parts = header.chain(chunks.map(Part::Chunk)).map(move |part| {
        taken.fetch_add(1, Ordering::Relaxed);
        proto::InstallSnapshotRequest { part: Some(part) }
    });
    parts.chain(end)
}

/// The chunks. When the store cannot be read the last one is missing, and the receiver takes nothing.
fn chunks(view: View) -> impl Stream<Item = Bytes> + Send + 'static {
    let (sender, receiver) = mpsc::channel(QUEUE_CHUNKS);
    tokio::task::spawn_blocking(move || read(view, &sender));
    ReceiverStream::new(receiver)
}

/// Ends early when nobody takes the chunks any more.
fn read(view: View, queue: &mpsc::Sender<Bytes>) {
    for chunk in export(view) {
        match chunk {
            Ok(chunk) => {
                if queue.blocking_send(chunk).is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "a snapshot could not be read from the store");
                return;
            }
        }
    }
}

/// Returns when nothing was taken for too long.
async fn stalled(taken: &AtomicU64) {
    let mut before = 0;
    loop {
        tokio::time::sleep(STALL_MAX).await;
        match taken.load(Ordering::Relaxed) {
            ALL => return tokio::time::sleep(INSTALL_MAX).await,
            now if now == before => return,
            now => before = now,
        }
    }
}
