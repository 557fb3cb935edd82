//! Takes in a snapshot: all of it is put down and checked before anything of the shard is touched.
//!
//! The parts go to one file for each shard, which nobody reads but the installation that follows; a later start removes it. It needs no version
//! and is never synced: what counts is that the store is durable when the installation ends.
//!
//! ```text
//! for each chunk:
//! offset  bytes  field
//!      0      4  length of the chunk, little-endian
//!      4      …  the chunk, with its checksum (`shard::snapshot`)
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::async_runtime::WatchReceiver;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::group::Group;
use super::network::MESSAGE_BYTES_MAX;
use super::snapshot::Snapshot;
use super::types::{StoredMembership, Types, Vote, peer_of};
use super::{Error, convert};
use crate::env::disk::{self, Disk, File};
use crate::proto::peer::v1 as proto;
use crate::proto::peer::v1::install_snapshot_request::Part;
use crate::shard::Checker;
use crate::store::BoxError;
use crate::types::Vertex;

/// A sender from which nothing has come for this long is given up.
pub(super) const STALL_MAX: Duration = Duration::from_secs(30);

const LENGTH_BYTES: u64 = 4;

/// A snapshot that came whole. Its file goes when this is dropped.
pub struct Staged {
    file: Arc<dyn File>,
    bytes: u64,
    checker: Checker,
    _place: Place,
}

/// How long the snapshot of a later leader waits for that of an earlier one to be thrown away.
const TAKE_OVER_MAX: Duration = Duration::from_secs(5);

/// Which snapshot of a shard is coming in.
#[derive(Default)]
pub(super) struct Reception {
    /// Taken while one comes in, until it is installed.
    alone: Arc<tokio::sync::Mutex<()>>,
    /// The last one that was begun.
    last: Mutex<Option<(Vote, CancellationToken)>>,
}

impl Reception {
    /// Begins to take the snapshot of a leader, unless that of one which is not an earlier one is coming in; that of an earlier one is given up: it may
    /// have stalled, and would not be taken. The token says that this one is to be given up itself.
    async fn begin(&self, vote: Vote) -> Option<(OwnedMutexGuard<()>, CancellationToken)> {
        let alone = match Arc::clone(&self.alone).try_lock_owned() {
            Ok(alone) => alone,
            Err(_) => {
                self.give_up_before(&vote).then_some(())?;
                let alone = Arc::clone(&self.alone).lock_owned();
                tokio::time::timeout(TAKE_OVER_MAX, alone).await.ok()?
            }
        };
        let given_up = CancellationToken::new();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((vote, given_up.clone()));
        Some((alone, given_up))
    }

    /// Whether the one that is coming in is of an earlier leader; then it ends.
    fn give_up_before(&self, vote: &Vote) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = last.as_ref().filter(|(earlier, _)| earlier < vote);
        earlier.inspect(|(_, given_up)| given_up.cancel()).is_some()
    }
}

/// The one file that a shard has for what comes in.
struct Place {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// No other snapshot of the shard comes in as long as this one is there.
    _alone: OwnedMutexGuard<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove(&self.path) {
            debug!(%error, "the file of a snapshot could not be removed");
        }
    }
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Staged({} bytes)", self.bytes)
    }
}

/// The file of a shard in the folder for what comes in.
fn staging_path(folder: &Path, shard: Vertex) -> PathBuf {
    folder.join(format!("{shard}.snapshot"))
}

/// Makes the folder, and removes what an earlier life of this shard left in it.
pub(super) fn clear_staging(
    disk: &dyn Disk,
    folder: &Path,
    shard: Vertex,
) -> Result<(), disk::Error> {
    disk.create_directory(folder)?;
    match disk.remove(&staging_path(folder, shard)) {
        Ok(()) | Err(disk::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Staged {
    fn create(shard: Vertex, place: Place) -> Result<Self, disk::Error> {
        match place.disk.remove(&place.path) {
            Ok(()) | Err(disk::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let file = place.disk.create(&place.path)?;
        Ok(Self {
            file,
            bytes: 0,
            checker: Checker::new(shard),
            _place: place,
        })
    }

    /// Checks a chunk and puts it down.
    fn add(&mut self, chunk: &Bytes) -> Result<(), BoxError> {
        self.checker.take(chunk)?;
        // A message is never as long as the largest length.
        let length = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        self.file.write_all_at(self.bytes, &length.to_le_bytes())?;
        self.file.write_all_at(self.bytes + LENGTH_BYTES, chunk)?;
        self.bytes += LENGTH_BYTES + u64::from(length);
        Ok(())
    }

    /// The chunks in order, read from the file one by one.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Result<Bytes, disk::Error>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= self.bytes {
                return None;
            }
            let chunk = self.chunk_at(at);
            at = match &chunk {
                Ok(chunk) => at + LENGTH_BYTES + chunk.len() as u64,
                Err(_) => self.bytes,
            };
            Some(chunk)
        })
    }

    fn chunk_at(&self, at: u64) -> Result<Bytes, disk::Error> {
        let mut length = [0; 4];
        self.file.read_at(at, &mut length)?;
        let left = self.bytes.saturating_sub(at + LENGTH_BYTES);
        // A length that was bent on the disk must not decide how much memory is taken.
        let length = u64::from(u32::from_le_bytes(length)).min(left);
        let mut chunk = vec![0; usize::try_from(length).unwrap_or(MESSAGE_BYTES_MAX)];
        self.file.read_at(at + LENGTH_BYTES, &mut chunk)?;
        Ok(chunk.into())
    }
}

/// What the first part says.
struct Header {
    vote: Vote,
    meta: SnapshotMetaOf<Types>,
}

fn header_from_proto(part: Option<Part>, shard: Vertex) -> Result<Header, Error> {
    let Some(Part::Header(header)) = part else {
        return Err(Error::Malformed { field: "header" });
    };
    if header.shard != u32::from(shard.index()) {
        return Err(Error::Malformed {
            field: "header.shard",
        });
    }
    let missing = |field| Error::Malformed { field };
    let vote = header.leader.as_ref().map(convert::vote_from_proto);
    let last = header.last_log_id.as_ref().map(convert::log_id_from_proto);
    let membership = header.membership.unwrap_or_default();
    let membership_id = header.membership_id.as_ref();
    let vote = vote.ok_or_else(|| missing("header.leader"))?;
    let last = last.ok_or_else(|| missing("header.last_log_id"))?;
    // openraft takes for granted that a leader has no entry of a later one.
    let entry_leader = (last.leader_id.term, last.leader_id.node_id);
    if !vote.committed || entry_leader > (vote.leader_id.term, vote.leader_id.node_id) {
        return Err(missing("header.leader"));
    }
    Ok(Header {
        vote,
        meta: SnapshotMetaOf::<Types> {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(
                membership_id.map(convert::log_id_from_proto),
                convert::membership_from_proto(&membership)?,
            ),
        },
    })
}

impl Group {
    /// Takes a leader's snapshot: the whole of it, or nothing. Answers when it is installed and durable.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when the disk is nearly full, [`Error::Malformed`] and [`Error::Snapshot`] when it is not whole or another one is coming in,
    /// [`Error::Stopped`].
    pub async fn install_snapshot(
        &self,
        parts: impl Stream<Item = proto::InstallSnapshotRequest> + Send,
    ) -> Result<proto::InstallSnapshotResponse, Error> {
        let mut parts = std::pin::pin!(parts.map(|message| message.part));
        let header = header_from_proto(self.next(&mut parts).await?, self.shard)?;
        let own = self.raft.server_metrics().borrow_watched().vote;
        let is_older = header.vote.partial_cmp(&own) == Some(std::cmp::Ordering::Less);
        if is_older {
            return Ok(proto::InstallSnapshotResponse {
                vote: Some(convert::vote_to_proto(&own)),
            });
        }
        let begun = self.parts.reception.begin(header.vote).await;
        let (alone, given_up) =
            begun.ok_or_else(|| self.refuse_snapshot("another one is coming in"))?;
        let place = Place {
            disk: Arc::clone(&self.parts.disk),
            path: staging_path(&self.parts.staging, self.shard),
            _alone: alone,
        };
        let leader = peer_of(header.vote.leader_id.node_id);
        info!(shard = %self.shard, %leader, snapshot = %header.meta, "taking a snapshot");
        let staged = tokio::select! {
            staged = self.stage(place, &mut parts) => staged,
            () = given_up.cancelled() => {
                Err(self.refuse_snapshot("a later leader sends another one"))
            }
        };
        let staged = staged.inspect_err(
            |error| warn!(shard = %self.shard, %leader, %error, "a snapshot did not come whole"),
        )?;
        let snapshot = SnapshotOf::<Types, Snapshot> {
            meta: header.meta,
            snapshot: Snapshot::Staged(staged),
        };
        let answer = self.raft.install_full_snapshot(header.vote, snapshot).await;
        let answer = answer.map_err(|_| Error::Stopped { shard: self.shard })?;
        self.parts.heard.notify_one();
        Ok(proto::InstallSnapshotResponse {
            vote: Some(convert::vote_to_proto(&answer.vote)),
        })
    }

    /// Puts down the chunks up to the end. What was put down goes when anything is wrong.
    async fn stage<S>(&self, place: Place, parts: &mut S) -> Result<Staged, Error>
    where
        S: Stream<Item = Option<Part>> + Unpin,
    {
        let stopping = |_| self.refuse_snapshot("the peer is stopping");
        let shard = self.shard;
        let staged = tokio::task::spawn_blocking(move || Staged::create(shard, place)).await;
        let staged = staged.map_err(stopping)?;
        let mut staged = staged.map_err(|error| self.refuse_snapshot(error.to_string()))?;
        while let Some(part) = self.next(parts).await? {
            let Part::Chunk(chunk) = part else {
                return Err(self.refuse_snapshot("it begins twice"));
            };
            self.check_room()?;
            let added = tokio::task::spawn_blocking(move || staged.add(&chunk).map(|()| staged));
            let added = added.await.map_err(stopping)?;
            staged = added.map_err(|error| self.refuse_snapshot(error.to_string()))?;
        }
        let finished = staged.checker.finish();
        finished.map_err(|error| self.refuse_snapshot(error.to_string()))?;
        Ok(staged)
    }

    /// The next part; `None` at the end, or where the connection broke.
    async fn next<S>(&self, parts: &mut S) -> Result<Option<Part>, Error>
    where
        S: Stream<Item = Option<Part>> + Unpin,
    {
        let part = tokio::time::timeout(STALL_MAX, parts.next()).await;
        let part = part.map_err(|_| self.refuse_snapshot("nothing came for too long"))?;
        Ok(part.flatten())
    }

    fn refuse_snapshot(&self, reason: impl Into<String>) -> Error {
        Error::Snapshot {
            shard: self.shard,
            reason: reason.into(),
        }
    }
}
