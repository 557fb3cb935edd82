//! What a shard answers.

use std::fmt;

use crate::types::{
    Offset, PublisherId, Sequence, SessionId, SubscriberId, Timestamp, TopicId, TopicName,
};

use super::{CommandError, Subscription, TopicRow};

/// What became of a command. Both are final and the same on every replica.
pub type Outcome = Result<Response, Refusal>;

/// A command was carried out, or had been before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// The topic exists.
    TopicCreated {
        /// As it is now.
        topic: TopicRow,
        /// False when this command was a repetition.
        is_new: bool,
    },
    /// The topics exist, except those refused.
    TopicsCreated {
        /// What became of each, in the order of the command.
        topics: Vec<Result<CreatedTopic, Refusal>>,
    },
    /// The topic keeps its messages as long as was said.
    RetentionSet {
        /// As it is now.
        topic: TopicRow,
    },
    /// The messages are gone, or the trim came too late.
    Trimmed {
        /// The first message that is still there.
        first_offset: Offset,
    },
    /// All entries before are applied.
    Barrier,
    /// The topic is gone.
    TopicDeleted {
        /// As it was.
        topic: TopicRow,
    },
    /// The publisher exists.
    PublisherCreated {
        /// When it was created.
        created: Timestamp,
        /// False when this command was a repetition.
        is_new: bool,
    },
    /// The publisher is gone.
    PublisherDeleted,
    /// The subscriber exists.
    SubscriberCreated {
        /// When it was created.
        created: Timestamp,
        /// False when this command was a repetition.
        is_new: bool,
    },
    /// The subscriber is gone.
    SubscriberDeleted,
    /// The batch is in the topic.
    Appended {
        /// The topic.
        topic_id: TopicId,
        /// The first message's offset; the others follow densely.
        first_offset: Offset,
        /// How many messages.
        count: u32,
        /// The time in the batch's envelope.
        append_time: Timestamp,
        /// True when it was there already.
        is_duplicate: bool,
    },
    /// The cursor exists.
    Subscribed {
        /// As it is now.
        subscription: Subscription,
        /// False when it existed already; it is as it was then.
        is_new: bool,
    },
    /// The cursor is gone.
    Unsubscribed,
    /// The cursor is here now, or was further already.
    Acknowledged {
        /// The next message to deliver.
        cursor: Offset,
    },
    /// What became of messages of a shared subscription is known.
    Settled {
        /// The first message that is not acknowledged.
        cursor: Offset,
        /// It was said of another life of the subscription, or of what it was before its cursor was put elsewhere: nothing was done.
        is_stale: bool,
    },
    /// The cursor is here now.
    Sought {
        /// The next message to deliver.
        cursor: Offset,
    },
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = |is_new: &bool| if *is_new { "" } else { " before" };
        match self {
            Self::TopicCreated { topic, is_new } => {
                write!(f, "topic {} was created{}", topic.name, before(is_new))
            }
            Self::TopicsCreated { topics } => {
                let made = topics.iter().filter(|topic| topic.is_ok()).count();
                write!(f, "{made} of {} topics exist", topics.len())
            }
            Self::RetentionSet { topic } => {
                write!(f, "topic {} keeps messages {}", topic.name, topic.retention)
            }
            Self::Trimmed { first_offset } => write!(f, "messages begin at {first_offset}"),
            Self::Barrier => f.write_str("all entries before are applied"),
            Self::TopicDeleted { topic } => write!(f, "topic {} was deleted", topic.name),
            Self::PublisherCreated { is_new, .. } => {
                write!(f, "the publisher was created{}", before(is_new))
            }
            Self::PublisherDeleted => f.write_str("the publisher was deleted"),
            Self::SubscriberCreated { is_new, .. } => {
                write!(f, "the subscriber was created{}", before(is_new))
            }
            Self::SubscriberDeleted => f.write_str("the subscriber was deleted"),
            Self::Appended {
                first_offset,
                count,
                is_duplicate,
                ..
            } => {
                let before = before(&!is_duplicate);
                write!(
                    f,
                    "{count} messages were appended at {first_offset}{before}"
                )
            }
            Self::Subscribed {
                subscription,
                is_new,
            } => {
                let cursor = subscription.cursor;
                write!(f, "subscribed{}, the cursor is at {cursor}", before(is_new))
            }
            Self::Unsubscribed => f.write_str("the subscription was deleted"),
            Self::Settled { is_stale: true, .. } => f.write_str("nothing was settled"),
            Self::Acknowledged { cursor }
            | Self::Sought { cursor }
            | Self::Settled { cursor, .. } => {
                write!(f, "the cursor is at {cursor}")
            }
        }
    }
}

/// One of many topics that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    /// As it is now.
    pub topic: TopicRow,
    /// False when the command was a repetition.
    pub is_new: bool,
}

/// A command was not carried out and changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name is taken.
    #[error("topic {topic} exists already")]
    TopicExists {
        /// The name.
        topic: TopicName,
    },
    /// No topic has the name.
    #[error("topic {topic} does not exist")]
    TopicNotFound {
        /// The name.
        topic: TopicName,
    },
    /// The id is taken.
    #[error("publisher {publisher} exists already")]
    PublisherExists {
        /// The id.
        publisher: PublisherId,
    },
    /// No publisher has the id.
    #[error("publisher {publisher} does not exist")]
    PublisherNotFound {
        /// The id.
        publisher: PublisherId,
    },
    /// The id is taken.
    #[error("subscriber {subscriber} exists already")]
    SubscriberExists {
        /// The id.
        subscriber: SubscriberId,
    },
    /// No subscriber has the id.
    #[error("subscriber {subscriber} does not exist")]
    SubscriberNotFound {
        /// The id.
        subscriber: SubscriberId,
    },
    /// The subscriber has no cursor on the topic.
    #[error("subscriber {subscriber} is not subscribed to topic {topic}")]
    SubscriptionNotFound {
        /// The topic.
        topic: TopicName,
        /// The subscriber.
        subscriber: SubscriberId,
    },
    /// Its messages are acknowledged one by one, by those who were given them.
    #[error(
        "the subscription of {subscriber} to topic {topic} is shared: it is read and acknowledged over streams"
    )]
    SubscriptionShared {
        /// The topic.
        topic: TopicName,
        /// The subscriber.
        subscriber: SubscriberId,
    },
    /// An earlier publish of the session has not arrived.
    #[error(
        "sequence {got} of session {session} of publisher {publisher} on topic {topic} came before sequence {expected}"
    )]
    SequenceGap {
        /// The topic.
        topic: TopicName,
        /// The publisher.
        publisher: PublisherId,
        /// The session.
        session: SessionId,
        /// The sequence that must come next.
        expected: Sequence,
        /// The sequence that came.
        got: Sequence,
    },
    /// The topic has forgotten the session, or it never began with sequence 0.
    #[error(
        "topic {topic} does not know session {session} of publisher {publisher}, so sequence {got} cannot be placed: a session begins with 0"
    )]
    SessionUnknown {
        /// The topic.
        topic: TopicName,
        /// The publisher.
        publisher: PublisherId,
        /// The session.
        session: SessionId,
        /// The sequence that came.
        got: Sequence,
    },
    /// What the publish got is forgotten: it was appended, and its messages are no longer kept.
    #[error(
        "sequence {sequence} of session {session} of publisher {publisher} was appended to topic {topic}, which no longer keeps its messages"
    )]
    SequenceForgotten {
        /// The topic.
        topic: TopicName,
        /// The publisher.
        publisher: PublisherId,
        /// The session.
        session: SessionId,
        /// The sequence that came.
        sequence: Sequence,
    },
    /// The topic has no such place.
    #[error("offset {offset} is not within {first}..={next} of topic {topic}")]
    OffsetOutOfRange {
        /// The topic.
        topic: TopicName,
        /// What was asked for.
        offset: Offset,
        /// The first message's offset.
        first: Offset,
        /// The offset that the next message will get.
        next: Offset,
    },
    /// The cursor is not where the caller believed.
    #[error(
        "the cursor of subscriber {subscriber} on topic {topic} is at {cursor}, not at {expected}"
    )]
    CursorMoved {
        /// The topic.
        topic: TopicName,
        /// The subscriber.
        subscriber: SubscriberId,
        /// Where it is.
        cursor: Offset,
        /// Where it should have been.
        expected: Offset,
    },
    /// The entry of the log is not a command that this version knows.
    #[error("the entry is not a command")]
    Malformed(#[from] CommandError),
}

/// What changed, for those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A topic has more messages. One for several appends in a row.
    TopicAdvanced {
        /// The topic.
        topic_id: TopicId,
        /// Its name.
        topic: TopicName,
        /// The offset that the next message will get.
        next_offset: Offset,
    },
    /// The oldest messages of a topic are gone.
    TopicTrimmed {
        /// The topic.
        topic_id: TopicId,
        /// Its name.
        topic: TopicName,
        /// The first message that is still there.
        first_offset: Offset,
    },
    /// A topic is gone, with its subscriptions.
    TopicDeleted {
        /// The topic.
        topic_id: TopicId,
        /// Its name.
        topic: TopicName,
    },
    /// A cursor moved, or began.
    CursorMoved {
        /// The topic.
        topic_id: TopicId,
        /// Its name.
        topic: TopicName,
        /// Whose cursor.
        subscriber: SubscriberId,
        /// Where it is.
        cursor: Offset,
    },
    /// A cursor is gone. Not said for each when a topic is deleted.
    SubscriptionDeleted {
        /// The topic.
        topic_id: TopicId,
        /// Its name.
        topic: TopicName,
        /// Whose cursor.
        subscriber: SubscriberId,
    },
}
