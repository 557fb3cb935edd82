//! Publishers and subscribers: registered and removed.

use super::machine::{Step, Stop};
use super::{Error, Identity, Refusal, Response, row};
use crate::store::Table;
use crate::types::{Name, PublisherId, RequestId, SubscriberId, Timestamp};

/// What registering found.
enum Registered {
    New(Timestamp),
    Repeated(Timestamp),
    Taken,
}

impl Step<'_> {
    pub(super) fn create_publisher(
        &mut self,
        publisher: PublisherId,
        request_id: Option<RequestId>,
        at: Timestamp,
    ) -> Result<Response, Stop> {
        let identity = Identity {
            created: at,
            request_id,
        };
        let (created, is_new) = match self.register(Table::Publisher, &publisher.0, &identity)? {
            Registered::New(created) => (created, true),
            Registered::Repeated(created) => (created, false),
            Registered::Taken => return Err(Refusal::PublisherExists { publisher }.into()),
        };
        Ok(Response::PublisherCreated { created, is_new })
    }

    pub(super) fn create_subscriber(
        &mut self,
        subscriber: SubscriberId,
        request_id: Option<RequestId>,
        at: Timestamp,
    ) -> Result<Response, Stop> {
        let identity = Identity {
            created: at,
            request_id,
        };
        let (created, is_new) = match self.register(Table::Subscriber, &subscriber.0, &identity)? {
            Registered::New(created) => (created, true),
            Registered::Repeated(created) => (created, false),
            Registered::Taken => return Err(Refusal::SubscriberExists { subscriber }.into()),
        };
        Ok(Response::SubscriberCreated { created, is_new })
    }

    pub(super) fn delete_publisher(&mut self, publisher: PublisherId) -> Result<Response, Stop> {
        match self.deregister(Table::Publisher, &publisher.0)? {
            Some(_) => Ok(Response::PublisherDeleted),
            None => Err(Refusal::PublisherNotFound { publisher }.into()),
        }
    }

    pub(super) fn delete_subscriber(&mut self, subscriber: SubscriberId) -> Result<Response, Stop> {
        match self.deregister(Table::Subscriber, &subscriber.0)? {
            Some(_) => Ok(Response::SubscriberDeleted),
            None => Err(Refusal::SubscriberNotFound { subscriber }.into()),
        }
    }

    fn register(
        &mut self,
        table: Table,
        name: &Name,
        identity: &Identity,
    ) -> Result<Registered, Error> {
        let key = row::name_key(name.as_str());
        let Some(old) = self.overlay.get::<Identity>(table, &key)? else {
            self.overlay.put(table, key, identity);
            return Ok(Registered::New(identity.created));
        };
        let is_repeated = identity.request_id.is_some() && identity.request_id == old.request_id;
        Ok(if is_repeated {
            Registered::Repeated(old.created)
        } else {
            Registered::Taken
        })
    }

    fn deregister(&mut self, table: Table, name: &Name) -> Result<Option<Identity>, Error> {
        let key = row::name_key(name.as_str());
        let old = self.overlay.get(table, &key)?;
        if old.is_some() {
            self.overlay.remove(table, key);
        }
        Ok(old)
    }
}
