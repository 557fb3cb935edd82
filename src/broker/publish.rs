//! Publishing.

use tokio::time::Instant;

use super::{Access, Broker, Call, Directory, Error, Kind, Letter, misfit, rows};
use crate::consensus::Role;
use crate::replica::Consistency;
use crate::shard::{Command, Refusal, Response};
use crate::types::{Batch, Offset, PeerId, PublisherId, Sequence, SessionId, Timestamp, TopicName};

/// How many replicas have a publish on stable storage before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckLevel {
    /// At least the owner. Answered like [`Self::Quorum`], for the answer names the offset, and only what is committed keeps it.
    Owner,
    /// A majority of the voters.
    Quorum,
    /// Every replica.
    All,
}

/// A publish.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Where to.
    pub topic: TopicName,
    /// Who publishes. It must exist.
    pub publisher: Option<PublisherId>,
    /// Makes it repeatable; only with a publisher.
    pub sequence: Option<(SessionId, Sequence)>,
    /// The messages.
    pub batch: Batch,
    /// When to answer.
    pub acks: AckLevel,
}

/// What became of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The first message's offset.
    pub first_offset: Offset,
    /// How many messages.
    pub count: u32,
    /// When the leader took them.
    pub append_time: Timestamp,
    /// It was there already.
    pub is_duplicate: bool,
    /// Peers that are known to have it on stable storage.
    pub stored_by: Vec<PeerId>,
    /// The level reached.
    pub reached: AckLevel,
}

impl Broker {
    /// Appends messages to a topic.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason of the shard, or `PublisherNotFound`.
    pub async fn publish<R: Access, D: Directory>(
        &self,
        call: &Call<'_, R, D>,
        publish: &Publish,
    ) -> Result<Published, Error> {
        if let Some(publisher) = &publish.publisher {
            self.check_publisher(call, publisher).await?;
        }
        self.append(call, publish).await
    }

    /// As [`Self::publish`], for a publisher that was found lately ([`Self::require_publisher`]). Nothing is waited for before the proposal, so that of two calls the
    /// one that is polled first is proposed first.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason of the shard.
    pub async fn append<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        publish: &Publish,
    ) -> Result<Published, Error> {
        let origin = publish.publisher.clone().zip(publish.sequence);
        let command = Command::Append {
            topic: publish.topic.clone(),
            origin: origin.map(|(publisher, (session, sequence))| (publisher, session, sequence)),
            at: self.now(),
            batch: publish.batch.clone(),
        };
        let proposed = call.replica.propose(command, call.deadline).await?;
        let (first_offset, count, append_time, is_duplicate) = match proposed.outcome? {
            Response::Appended {
                first_offset,
                count,
                append_time,
                is_duplicate,
                ..
            } => (first_offset, count, append_time, is_duplicate),
            other => return misfit(call.replica.shard(), &other),
        };
        let (stored_by, reached) = match publish.acks {
            AckLevel::Owner | AckLevel::Quorum => (proposed.stored_by, AckLevel::Quorum),
            AckLevel::All => {
                // An entry's position covers all before it, so this is right for a duplicate too.
                let stored_by = call
                    .replica
                    .stored_by_all(proposed.position, call.deadline)
                    .await;
                let is_everywhere = stored_by.len() >= call.replica.status().replicas.len();
                (
                    stored_by,
                    if is_everywhere {
                        AckLevel::All
                    } else {
                        AckLevel::Quorum
                    },
                )
            }
        };
        Ok(Published {
            first_offset,
            count,
            append_time,
            is_duplicate,
            stored_by,
            reached,
        })
    }

    /// Appends a dead letter, and says where it is. Its publisher need not exist: it is a peer's word for where the letter comes from.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason of the shard.
    pub async fn publish_letter<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        letter: &Letter,
    ) -> Result<Offset, Error> {
        let (publisher, session, sequence) = letter.origin.clone();
        let publish = Publish {
            topic: letter.topic.clone(),
            publisher: Some(publisher),
            sequence: Some((session, sequence)),
            batch: letter.batch.clone(),
            acks: AckLevel::Quorum,
        };
        Ok(self.append(call, &publish).await?.first_offset)
    }

    /// Whether a topic exists in this shard.
    ///
    /// # Errors
    /// [`Error::Replica`] when this replica does not lead.
    pub async fn has_topic<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        topic: &TopicName,
    ) -> Result<bool, Error> {
        let read = call
            .replica
            .read(Consistency::Leader, call.deadline)
            .await?;
        Ok(rows(call.replica.shard(), read.view.topic(topic))?.is_some())
    }

    /// Asks the publisher's shard unless it was found lately. A replica that does not lead asks nobody: the proposal will be refused.
    pub(super) async fn check_publisher<R: Access, D: Directory>(
        &self,
        call: &Call<'_, R, D>,
        publisher: &PublisherId,
    ) -> Result<(), Error> {
        if call.replica.status().role != Role::Leader {
            return Ok(());
        }
        self.require_publisher(call.directory, publisher, call.deadline)
            .await
    }

    /// Whether a publisher was found lately, so that [`Self::require_publisher`] asks nobody.
    pub fn has_found(&self, publisher: &PublisherId) -> bool {
        self.publishers.contains(publisher)
    }

    /// Asks the publisher's shard unless it was found lately.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such publisher, [`Error::Unresolved`] when its shard cannot be asked.
    pub async fn require_publisher<D: Directory>(
        &self,
        directory: &D,
        publisher: &PublisherId,
        deadline: Instant,
    ) -> Result<(), Error> {
        if self.publishers.contains(publisher) {
            return Ok(());
        }
        if !directory
            .exists(Kind::Publisher, &publisher.0, deadline)
            .await?
        {
            return Err(Refusal::PublisherNotFound {
                publisher: publisher.clone(),
            }
            .into());
        }
        self.publishers.insert(publisher.clone());
        Ok(())
    }
}
