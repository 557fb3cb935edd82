use crate::types::*; use bytes::Bytes; use std::ops::Range;
#[derive(Debug, Clone, thiserror::Error)] #[error("x")] pub struct Error;
#[derive(Debug, Clone)]
pub struct Entry { pub position: LogPosition, pub payload: Bytes }
pub enum Op { Append { shard: Vertex, entries: Vec<Entry> }, HardState { shard: Vertex, state: Bytes }, Committed { shard: Vertex, state: Bytes }, TruncateAfter { shard: Vertex, last: Option<LogIndex> } }
pub type Completion = Box<dyn FnOnce(Result<(), Error>) + Send>;
pub struct Bounds { pub last: Option<LogPosition>, pub hard_state: Option<Bytes>, pub committed: Option<Bytes> }
pub trait RaftLog: Send + Sync { fn submit(&self, ops: Vec<Op>, done: Completion) -> Result<(), Error>;
  fn entries(&self, shard: Vertex, range: Range<LogIndex>, bytes_max: ByteCount) -> Result<Vec<Entry>, Error>;
  fn bounds(&self, shard: Vertex) -> Bounds; fn durable(&self, shard: Vertex) -> Option<LogPosition>; fn purge(&self, shard: Vertex, upto: LogIndex); }
