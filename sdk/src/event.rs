//! What the application may want to know although its calls succeed: who fell silent, who came back, who serves in whose place.
//!
//! A bounded broadcast: whoever is too slow is told how much it missed. Nothing waits for a listener. Begin with [`Client::events`].

use std::fmt;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::client::Client;

/// Events that a slow listener may be behind; then the oldest are dropped, and it is told how many.
const EVENTS_MAX: usize = 256;

/// Something that happened behind the calls.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A replica answers in place of the owner, which cannot be reached. Told once for each replica that does.
    OwnerUnreachable {
        /// The vertex that owns what was asked for.
        owner: String,
        /// The vertex of the peer that answered.
        served_by: String,
    },
    /// A peer does not answer, and a second look confirmed it. Calls go to others.
    PeerDown {
        /// Its address.
        address: String,
        /// Its vertex, where known.
        vertex: Option<String>,
    },
    /// A peer that was down answers again.
    PeerUp {
        /// Its address.
        address: String,
        /// Its vertex, where known.
        vertex: Option<String>,
    },
    /// Another peer leads a topic than the last time it was used.
    LeaderMoved {
        /// The topic.
        topic: String,
        /// The vertex of the peer that led, where known.
        from: Option<String>,
        /// The vertex of the peer that leads.
        to: String,
    },
    /// This listener was too slow: so many events were dropped.
    Missed {
        /// How many.
        count: u64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = |f: &mut fmt::Formatter<'_>, address: &str, vertex: &Option<String>| match vertex
        {
            Some(vertex) => write!(f, "peer {vertex} at {address}"),
            None => write!(f, "peer at {address}"),
        };
        match self {
            Self::OwnerUnreachable { owner, served_by } => write!(
                f,
                "cannot reach owner {owner}; served by replica {served_by}"
            ),
            Self::PeerDown { address, vertex } => {
                peer(f, address, vertex)?;
                f.write_str(" is down")
            }
            Self::PeerUp { address, vertex } => {
                peer(f, address, vertex)?;
                f.write_str(" answers again")
            }
            Self::LeaderMoved { topic, to, .. } => write!(f, "topic {topic} is led by {to} now"),
            Self::Missed { count } => write!(f, "{count} events were missed"),
        }
    }
}

/// Events of a client as they come.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` when the client is gone. Dropping the future loses nothing.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) {
    /// let mut events = client.events();
    /// while let Some(event) = events.next().await {
    ///     println!("{event}");
    /// }
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(count)) => Some(Event::Missed { count }),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Where events are told.
#[derive(Debug)]
pub(crate) struct Teller(broadcast::Sender<Event>);

impl Default for Teller {
    fn default() -> Self {
        Self(broadcast::Sender::new(EVENTS_MAX))
    }
}

impl Teller {
    /// Tells all who listen, which may be nobody.
    pub(crate) fn tell(&self, event: Event) {
        let _nobody = self.0.send(event);
    }

    pub(crate) fn listen(&self) -> Events {
        Events(self.0.subscribe())
    }
}

impl Client {
    /// What happens behind the calls from now on: peers that go and come, leaders that move, replicas that serve in place of an owner.
    ///
    /// Only what the client's own calls meet; it does not watch the cluster. A listener that is more than 256 events behind is told how many it
    /// missed.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) {
    /// use cubecast_sdk::Event;
    ///
    /// let mut events = client.events();
    /// while let Some(event) = events.next().await {
    ///     if let Event::OwnerUnreachable { owner, served_by } = event {
    ///         println!("cannot reach owner {owner}; served by replica {served_by}");
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> Events {
        self.shared.peers.teller().listen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slow_listener_is_told_what_it_missed() {
        let teller = Teller::default();
        let mut events = teller.listen();
        for count in 0..EVENTS_MAX as u64 + 3 {
            teller.tell(Event::Missed { count });
        }
        assert_eq!(events.next().await, Some(Event::Missed { count: 3 }));
        drop(teller);
        let mut left = 0;
        while events.next().await.is_some() {
            left += 1;
        }
        assert_eq!(left, EVENTS_MAX);
    }

    #[test]
    fn owner_that_cannot_be_reached_is_told_in_the_words_of_the_peers() {
        let event = Event::OwnerUnreachable {
            owner: "100".to_owned(),
            served_by: "101".to_owned(),
        };
        assert_eq!(
            event.to_string(),
            "cannot reach owner 100; served by replica 101"
        );
    }
}
