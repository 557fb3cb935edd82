//! One stream of a shared subscription that this peer leads. Begin with [`Shared::next`].

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::stream_pull_request::Command;
use tokio::time::Instant;

use super::out_of_time;
use super::pull::{DELAY, Next, end, told};
use crate::broker::{Consumer, Which};
use crate::replica::Replica;
use crate::rpc::api::Api;
use crate::rpc::context::TIMEOUT_DEFAULT;
use crate::rpc::convert::{self, LEASE, within};
use crate::rpc::status::Fault;
use crate::rpc::wire::StreamPullEvent;
use crate::types::{ByteCount, Offset, OffsetRange, Offsets, Vertex};

/// Ranges in one command: so many messages may be under way.
const RANGES_MAX: usize = 10_000;

/// A stream, with what is told first.
pub(super) struct Shared {
    first: Option<proto::StreamPullOpened>,
    consumer: Consumer,
    replica: Replica,
}

impl Shared {
    pub(super) fn new(
        first: Option<proto::StreamPullOpened>,
        consumer: Consumer,
        replica: Replica,
    ) -> Self {
        Self {
            first,
            consumer,
            replica,
        }
    }

    pub(super) async fn next(&mut self, api: &Api, vertex: Vertex) -> Next {
        if let Some(first) = self.first.take() {
            return Next::Tell(StreamPullEvent::Opened(Box::new(first)));
        }
        match self.consumer.next().await {
            Ok(delivered) => Next::Tell(told(delivered)),
            Err(error) => end(api, &self.replica, vertex, error),
        }
    }

    /// The reader has nothing more to say: what it has acknowledged is stored, and then the stream ends.
    pub(super) async fn last(&mut self, api: &Api, vertex: Vertex) -> Next {
        let deadline = Instant::now() + TIMEOUT_DEFAULT;
        match tokio::time::timeout_at(deadline, self.consumer.finish()).await {
            Ok(Err(error)) => end(api, &self.replica, vertex, error),
            Ok(Ok(())) => Next::End(None),
            Err(_) => Next::End(Some(out_of_time())),
        }
    }

    /// Does what the reader says.
    pub(super) async fn obey(&mut self, command: &Command) -> Result<(), Fault> {
        let consumer = &self.consumer;
        match command {
            Command::Open(_) => {}
            Command::Credit(credit) => {
                let bytes = ByteCount(credit.bytes);
                consumer.give(credit.messages, bytes).await;
            }
            Command::AcknowledgeRanges(done) => consumer.acknowledge(some(&done.ranges)?).await,
            Command::RejectRanges(reject) => {
                let delay = within(reject.delay.as_ref(), "delay", DELAY)?.unwrap_or_default();
                consumer.reject(which(&reject.ranges)?, delay).await;
            }
            Command::Extend(extend) => {
                if let Some(lease) = within(extend.lease.as_ref(), "lease", LEASE)? {
                    consumer.extend(Which::All, lease).await;
                }
            }
            Command::ExtendRanges(extend) => {
                if let Some(lease) = within(extend.lease.as_ref(), "lease", LEASE)? {
                    consumer
                        .extend(Which::These(some(&extend.ranges)?), lease)
                        .await;
                }
            }
            Command::Acknowledge(_) | Command::Reject(_) => {
                let text = "the subscription is shared: its messages are named by ranges";
                return Err(convert::invalid("next_offset", text));
            }
        }
        Ok(())
    }
}

/// Ranges of messages, at least one.
pub(super) fn some(ranges: &[proto::OffsetRange]) -> Result<Offsets, Fault> {
    if ranges.is_empty() {
        return Err(convert::invalid("ranges", "ranges is empty"));
    }
    if ranges.len() > RANGES_MAX {
        let text = format!("{} ranges are more than {RANGES_MAX}", ranges.len());
        return Err(convert::invalid("ranges", text).with("limit", RANGES_MAX));
    }
    let mut offsets = Offsets::default();
    for range in ranges {
        if range.first_offset >= range.next_offset {
            let text = "next_offset of a range is not greater than first_offset";
            return Err(convert::invalid("ranges", text));
        }
        offsets.insert(Offset(range.first_offset)..Offset(range.next_offset));
    }
    Ok(offsets)
}

/// Ranges of messages; none means all.
pub(super) fn which(ranges: &[proto::OffsetRange]) -> Result<Which, Fault> {
    match ranges {
        [] => Ok(Which::All),
        ranges => some(ranges).map(Which::These),
    }
}

/// A range as a client is told it.
pub(super) fn range(range: OffsetRange) -> proto::OffsetRange {
    proto::OffsetRange {
        first_offset: range.start.0,
        next_offset: range.end.0,
    }
}
