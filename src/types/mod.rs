//! The words that every layer shares: vertices, names, offsets, batches, limits.
//!
//! Newtypes and their checks, no logic beyond them and no I/O. Bytes from outside are parsed into these once, at the edge, and trusted
//! from there on. Begin with [`Vertex`], [`Name`] and [`Batch`].

mod batch;
mod id;
mod limits;
mod name;
mod position;
mod range;
mod retention;
mod vertex;

pub use batch::{Batch, BatchError, StoredBatch};
pub use id::{Incarnation, PeerId, RequestId, Sequence, SessionId, TopicId};
pub use limits::Limits;
pub use name::{Name, NameError, PublisherId, SubscriberId, TopicName};
pub use position::{ByteCount, LogIndex, LogPosition, Offset, Term, Timestamp};
pub use range::{DisorderError, OffsetRange, Offsets};
pub use retention::Retention;
pub use vertex::{Dimension, Vertex, VertexError};
