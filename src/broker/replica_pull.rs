//! Reading one replica as it is, without a subscription: what an operator does who wants to see this copy and no other.

use super::pull::trim;
use super::{Access, Broker, Call, Error, Freshness, look, rows};
use crate::replica::Consistency;
use crate::shard::Refusal;
use crate::types::{ByteCount, Offset, PeerId, StoredBatch, TopicName};

/// What is wanted of a replica.
#[derive(Debug, Clone)]
pub struct ReplicaPull {
    /// The topic.
    pub topic: TopicName,
    /// The first message wanted. `None`: the oldest that there is.
    pub first: Option<Offset>,
    /// Messages at most.
    pub count_max: u32,
    /// Bytes at most, but at least one message.
    pub bytes_max: ByteCount,
}

/// What the replica holds.
#[derive(Debug, Clone)]
pub struct ReplicaPulled {
    /// The messages, without a gap.
    pub batches: Vec<StoredBatch>,
    /// The offset after the last of them: where to go on.
    pub next_offset: Offset,
    /// The offset that the topic's next message will get, as this replica knows.
    pub head_offset: Offset,
    /// Who leads, as this replica knows.
    pub leader: Option<PeerId>,
    /// How fresh that is.
    pub freshness: Freshness,
}

impl Broker {
    /// Reads what this replica has of a topic, committed entries only.
    ///
    /// # Errors
    /// [`Error::Refused`] when it has no such topic, or the offset is outside of it; [`Error::Replica`] when it cannot be read now.
    pub async fn replica_pull<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        pull: &ReplicaPull,
    ) -> Result<ReplicaPulled, Error> {
        let shard = call.replica.shard();
        let read = call
            .replica
            .read(Consistency::Eventual, call.deadline)
            .await?;
        let Some(topic) = rows(shard, read.view.topic(&pull.topic))? else {
            let topic = pull.topic.clone();
            return Err(Refusal::TopicNotFound { topic }.into());
        };
        let (first, head_offset) = (topic.first_offset, topic.next_offset);
        let from = pull.first.unwrap_or(first);
        if from < first || from > head_offset {
            return Err(Refusal::OffsetOutOfRange {
                topic: pull.topic.clone(),
                offset: from,
                first,
                next: head_offset,
            }
            .into());
        }
        let (view, count_max, bytes_max) = (read.view.clone(), pull.count_max, pull.bytes_max);
        let batches = look(shard, move || {
            view.batches(&topic, from, count_max, bytes_max)
        });
        let batches = trim(batches.await?, pull.bytes_max);
        Ok(ReplicaPulled {
            next_offset: batches.last().map_or(from, StoredBatch::next_offset),
            batches,
            head_offset,
            leader: read.leader,
            freshness: Freshness::from(&read),
        })
    }
}
