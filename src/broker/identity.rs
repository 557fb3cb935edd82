//! Publishers and subscribers: made known, forgotten, looked for.

use super::{Access, Broker, Call, Error, misfit, rows};
use crate::replica::Consistency;
use crate::shard::{Command, Response};
use crate::types::{Name, PublisherId, RequestId, SubscriberId, Timestamp};

/// What an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A publisher.
    Publisher,
    /// A subscriber.
    Subscriber,
}

impl Broker {
    /// Makes an id known, and says since when it is.
    ///
    /// # Errors
    /// [`Error::Refused`] when another call made it known before.
    pub async fn create_identity<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        (kind, name): (Kind, &Name),
        request_id: Option<RequestId>,
    ) -> Result<Timestamp, Error> {
        let at = self.now();
        let command = match kind {
            Kind::Publisher => Command::CreatePublisher {
                publisher: PublisherId(name.clone()),
                request_id,
                at,
            },
            Kind::Subscriber => Command::CreateSubscriber {
                subscriber: SubscriberId(name.clone()),
                request_id,
                at,
            },
        };
        match call
            .replica
            .propose(command, call.deadline)
            .await?
            .outcome?
        {
            Response::PublisherCreated { created, .. }
            | Response::SubscriberCreated { created, .. } => Ok(created),
            other => misfit(call.replica.shard(), &other),
        }
    }

    /// Forgets an id.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is not known.
    pub async fn delete_identity<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        kind: Kind,
        name: &Name,
    ) -> Result<(), Error> {
        let command = match kind {
            Kind::Publisher => {
                self.publishers.remove(&PublisherId(name.clone()));
                Command::DeletePublisher {
                    publisher: PublisherId(name.clone()),
                }
            }
            Kind::Subscriber => Command::DeleteSubscriber {
                subscriber: SubscriberId(name.clone()),
            },
        };
        match call
            .replica
            .propose(command, call.deadline)
            .await?
            .outcome?
        {
            Response::PublisherDeleted | Response::SubscriberDeleted => Ok(()),
            other => misfit(call.replica.shard(), &other),
        }
    }

    /// Whether an id is known in this shard, its home.
    ///
    /// # Errors
    /// [`Error::Replica`] when this replica does not lead.
    pub async fn resolve<R: Access, D>(
        &self,
        call: &Call<'_, R, D>,
        kind: Kind,
        name: &Name,
    ) -> Result<bool, Error> {
        let read = call
            .replica
            .read(Consistency::Leader, call.deadline)
            .await?;
        let identity = match kind {
            Kind::Publisher => read.view.publisher(&PublisherId(name.clone())),
            Kind::Subscriber => read.view.subscriber(&SubscriberId(name.clone())),
        };
        Ok(rows(call.replica.shard(), identity)?.is_some())
    }
}
