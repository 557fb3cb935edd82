//! Rehearsing failures: links that fail on purpose, and peers that do. Only where the peers' setting `fault_injection` is on.
//!
//! Everything here is asked of one peer, named by its vertex or its address. Begin with [`Client::inject_fault`] and [`Client::stop_node`].

use std::time::{Duration, SystemTime};

use crate::call::{self, Call, Target};
use crate::client::Client;
use crate::convert;
use crate::error::Error;
use crate::model::required;
use crate::proto::v1;

/// What is wrong with links on purpose. The parts add up; the default is nothing.
///
/// ```
/// use std::time::Duration;
///
/// let slow = cubecast_sdk::Fault::new().with_peer(5).with_delay(Duration::from_millis(20));
/// let gone = cubecast_sdk::Fault::new().with_cut().with_duration(Duration::from_secs(3));
/// # assert!(slow != gone);
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Fault {
    /// The numbers of the peers at the other ends. Empty: all.
    pub peers: Vec<u32>,
    /// Every message is held back so long.
    pub delay: Option<Duration>,
    /// Up to so much more, at random.
    pub jitter: Option<Duration>,
    /// The share of messages that are lost, 0 to 1.
    pub loss: f64,
    /// Nothing passes.
    pub is_cut: bool,
    /// Ends by itself after this time; `None`: when it is cleared, or the peer stops.
    pub duration: Option<Duration>,
}

impl Fault {
    /// Nothing is wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only on the link to this peer, and to others that are named.
    #[must_use]
    pub fn with_peer(mut self, peer: u32) -> Self {
        self.peers.push(peer);
        self
    }

    /// Holds every message back so long.
    #[must_use]
    pub fn with_delay(self, delay: Duration) -> Self {
        Self {
            delay: Some(delay),
            ..self
        }
    }

    /// Holds every message back up to so long, at random.
    #[must_use]
    pub fn with_jitter(self, jitter: Duration) -> Self {
        Self {
            jitter: Some(jitter),
            ..self
        }
    }

    /// Loses this share of messages, 0 to 1.
    #[must_use]
    pub fn with_loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// Lets nothing pass.
    #[must_use]
    pub fn with_cut(self) -> Self {
        Self {
            is_cut: true,
            ..self
        }
    }

    /// Ends by itself after this time.
    #[must_use]
    pub fn with_duration(self, duration: Duration) -> Self {
        Self {
            duration: Some(duration),
            ..self
        }
    }
}

impl From<Fault> for v1::Fault {
    fn from(fault: Fault) -> Self {
        Self {
            fault_id: 0,
            peers: fault.peers,
            delay: fault.delay.map(convert::duration),
            jitter: fault.jitter.map(convert::duration),
            loss: fault.loss,
            is_cut: fault.is_cut,
            duration: fault.duration.map(convert::duration),
        }
    }
}

/// A fault that a peer has.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct InjectedFault {
    /// Names it at its peer.
    pub id: u64,
    /// What is wrong.
    pub fault: Fault,
}

impl From<v1::Fault> for InjectedFault {
    fn from(fault: v1::Fault) -> Self {
        let span = |span: Option<prost_types::Duration>| span.and_then(|span| span.try_into().ok());
        Self {
            id: fault.fault_id,
            fault: Fault {
                peers: fault.peers,
                delay: span(fault.delay),
                jitter: span(fault.jitter),
                loss: fault.loss,
                is_cut: fault.is_cut,
                duration: span(fault.duration),
            },
        }
    }
}

/// How long a peer that is made to fail stays away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Outage {
    /// As long as the peer thinks fit: 10 s.
    #[default]
    Usual,
    /// So long, at most an hour.
    For(Duration),
    /// Until its process is started again, or is told to return by SIGUSR1.
    UntilTold,
}

/// A peer that is about to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoppedNode {
    /// Its number.
    pub peer: u32,
    /// When it will be back; `None`: it stays down.
    pub return_time: Option<SystemTime>,
}

impl Client {
    /// Makes links of a peer fail: what it sends. For both directions ask both peers.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::Fault;
    ///
    /// let fault = client.inject_fault("100", Fault::new().with_peer(5).with_cut()).await?;
    /// client.clear_faults("100", &[fault.id]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `FaultsDisabled`, `PeerNotFound` or `FieldInvalid`; and what any call can have.
    pub async fn inject_fault(&self, peer: &str, fault: Fault) -> Result<InjectedFault, Error> {
        let target = Target::Only(self.peer_at(peer).await?);
        let request = v1::InjectFaultRequest {
            fault: Some(fault.into()),
        };
        let call = Call::new(&call::INJECT_FAULT).at(target);
        let answer: v1::InjectFaultResponse = self.call(call, &request).await?;
        Ok(required(answer.fault, "fault")?.into())
    }

    /// Ends faults of a peer, all of them when none is named; tells which ended.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// let ended = client.clear_faults("100", &[]).await?;
    /// println!("{} faults ended", ended.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `FaultsDisabled` or `FaultNotFound`; and what any call can have.
    pub async fn clear_faults(&self, peer: &str, ids: &[u64]) -> Result<Vec<InjectedFault>, Error> {
        let target = Target::Only(self.peer_at(peer).await?);
        let request = v1::ClearFaultsRequest {
            fault_ids: ids.to_vec(),
        };
        let call = Call::new(&call::CLEAR_FAULTS).at(target);
        let answer: v1::ClearFaultsResponse = self.call(call, &request).await?;
        Ok(answer.cleared.into_iter().map(Into::into).collect())
    }

    /// The faults of a peer, in the order in which they were injected.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// assert!(client.faults("100").await?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `FaultsDisabled`; and what any call can have.
    pub async fn faults(&self, peer: &str) -> Result<Vec<InjectedFault>, Error> {
        let target = Target::Only(self.peer_at(peer).await?);
        let call = Call::new(&call::LIST_FAULTS).at(target);
        let answer: v1::ListFaultsResponse = self.call(call, &v1::ListFaultsRequest {}).await?;
        Ok(answer.faults.into_iter().map(Into::into).collect())
    }

    /// Makes a peer fail at once: its connections are cut, its memory is dropped. It returns from its disk.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::Outage;
    ///
    /// let stopped = client.stop_node("100", Outage::Usual).await?;
    /// println!("peer {} is back at {:?}", stopped.peer, stopped.return_time);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `FaultsDisabled`, `PermissionDenied` or `FieldInvalid`; and what any call can have.
    pub async fn stop_node(&self, peer: &str, outage: Outage) -> Result<StoppedNode, Error> {
        let target = Target::Only(self.peer_at(peer).await?);
        let request = v1::StopNodeRequest {
            down_time: match outage {
                Outage::For(time) => Some(convert::duration(time)),
                Outage::Usual | Outage::UntilTold => None,
            },
            stay_down: outage == Outage::UntilTold,
        };
        let call = Call::new(&call::STOP_NODE).at(target);
        let answer: v1::StopNodeResponse = self.call(call, &request).await?;
        Ok(StoppedNode {
            peer: answer.peer,
            return_time: answer.return_time.map(|time| convert::time(Some(time))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_survives_the_way_there_and_back() {
        let seconds = Duration::from_secs;
        let fault = Fault::new()
            .with_peer(3)
            .with_delay(seconds(1))
            .with_jitter(seconds(2))
            .with_loss(0.5)
            .with_cut()
            .with_duration(seconds(3));
        let wire = v1::Fault {
            fault_id: 7,
            ..fault.clone().into()
        };
        assert_eq!(InjectedFault::from(wire), InjectedFault { id: 7, fault });
    }
}
