//! `StopNode`: this peer is made to fail on purpose, where that is enabled.
//!
//! Here the call is checked and the order given; who has built the peer carries it out. Begin with [`Api::stop_node`].

use std::time::Duration;

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::ErrorReason;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::api::Api;
use super::layers::Delivery;
use super::status::Fault;
use super::{answer, convert};
use crate::types::Timestamp;

/// How long a peer stays down when the call does not say.
const DOWN_TIME_DEFAULT: Duration = Duration::from_secs(10);
/// A peer that is away for longer than this is not rehearsing a failure.
const DOWN_TIME_MAX: Duration = Duration::from_secs(60 * 60);

/// How long a peer that is made to fail stays away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// So long.
    For(Duration),
    /// Until it is told to return.
    UntilTold,
}

/// An order to fail.
#[derive(Debug, Clone)]
pub struct Order {
    /// For how long.
    pub outage: Outage,
    /// Cancelled when the answer to the order has been given to its connection, or its caller is gone. Before that nothing is to be cut.
    pub answered: CancellationToken,
}

impl Outage {
    fn parse(request: &proto::StopNodeRequest) -> Result<Self, Fault> {
        const FIELD: &str = "down_time";
        match (&request.down_time, request.stay_down) {
            (Some(_), true) => Err(convert::invalid(
                FIELD,
                "down_time is not given with stay_down",
            )),
            (None, true) => Ok(Self::UntilTold),
            (None, false) => Ok(Self::For(DOWN_TIME_DEFAULT)),
            (Some(time), false) => match convert::duration(time, FIELD)? {
                time if time > DOWN_TIME_MAX => {
                    Err(convert::invalid(FIELD, "down_time is above 1 h").with("limit", "1h"))
                }
                time => Ok(Self::For(time)),
            },
        }
    }

    /// When a peer that fails now is back. `None`: nobody knows.
    fn end(self, now: Timestamp) -> Option<Timestamp> {
        let Self::For(time) = self else { return None };
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Some(Timestamp(now.0.saturating_add(nanos)))
    }
}

impl Api {
    /// Gives the order that makes this peer fail. It tells when the answer is on its way, so that it is carried out after that.
    pub(super) fn stop_node(
        &self,
        request: &Request<proto::StopNodeRequest>,
    ) -> Result<Response<proto::StopNodeResponse>, Status> {
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        self.check_faults().map_err(refuse)?;
        let outage = Outage::parse(request.get_ref()).map_err(refuse)?;
        let (delivery, answered) = Delivery::new();
        // The first order counts: what it was answered holds.
        let is_first = self.parts.outage.send_if_modified(|order| {
            let is_first = order.is_none();
            order.get_or_insert(Order { outage, answered });
            is_first
        });
        let this = self.cluster().this();
        if !is_first {
            let text = "the peer is about to fail already";
            return Err(refuse(
                Fault::new(ErrorReason::ShuttingDown, text).with("peer", this),
            ));
        }
        let now = (self.parts.facts.clock)();
        let mut response = self.tagged(proto::StopNodeResponse {
            peer: u32::from(this.0),
            return_time: outage.end(now).map(answer::timestamp),
        });
        response.extensions_mut().insert(delivery);
        Ok(response)
    }

    /// Whether this peer lets anybody disturb it.
    ///
    /// # Errors
    /// A [`Fault`] that says that it does not.
    pub(super) fn check_faults(&self) -> Result<(), Fault> {
        if self.parts.facts.has_fault_injection {
            return Ok(());
        }
        let text = "this peer lets nobody disturb it: its setting fault_injection is off";
        Err(Fault::new(ErrorReason::FaultsDisabled, text).with("peer", self.cluster().this()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(down_time: Option<Duration>, stay_down: bool) -> Result<Outage, Fault> {
        Outage::parse(&proto::StopNodeRequest {
            down_time: down_time.map(answer::duration),
            stay_down,
        })
    }

    #[test]
    fn outage_lasts_ten_seconds_unless_the_call_says_otherwise() {
        let seconds = Duration::from_secs;
        assert_eq!(parse(None, false), Ok(Outage::For(seconds(10))));
        assert_eq!(
            parse(Some(seconds(3600)), false),
            Ok(Outage::For(seconds(3600)))
        );
        assert_eq!(parse(None, true), Ok(Outage::UntilTold));
        for (time, stay_down) in [(seconds(3601), false), (seconds(1), true)] {
            let fault = parse(Some(time), stay_down).unwrap_err();
            assert_eq!(fault.reason, ErrorReason::FieldInvalid);
            assert_eq!(fault.field.as_deref(), Some("down_time"));
        }
        let negative = proto::StopNodeRequest {
            down_time: Some(prost_types::Duration {
                seconds: -1,
                nanos: 0,
            }),
            stay_down: false,
        };
        assert!(Outage::parse(&negative).is_err());
    }

    #[test]
    fn end_is_known_unless_somebody_has_to_end_it() {
        let end = Outage::For(Duration::from_nanos(7)).end(Timestamp(3));
        assert_eq!(end, Some(Timestamp(10)));
        assert_eq!(Outage::UntilTold.end(Timestamp(3)), None);
    }
}
