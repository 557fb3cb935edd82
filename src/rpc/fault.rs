//! `InjectFault`, `ClearFaults`, `ListFaults`: links of this peer that fail on purpose, where that is enabled.
//!
//! What a fault does is in `link`; here it is read, checked and told. Begin with [`Api::inject_fault`].

use std::time::Duration;

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::ErrorReason;
use tonic::{Request, Response, Status};

use super::api::Api;
use super::status::Fault as Wrong;
use super::{answer, convert};
use crate::cluster::Cluster;
use crate::link::{Fault, FaultId, Passage};
use crate::types::PeerId;

/// Longer than any link between two peers of one cluster should be.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// A fault that is to last longer is ended by hand.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Api {
    /// Sets a fault.
    pub(super) fn inject_fault(
        &self,
        request: Request<proto::InjectFaultRequest>,
    ) -> Result<Response<proto::InjectFaultResponse>, Status> {
        let refuse = |wrong: Wrong| self.refuse(wrong.into_status());
        self.check_faults().map_err(refuse)?;
        let fault = parse(request.into_inner().fault, self.cluster()).map_err(refuse)?;
        let id = self.parts.peers.faults().inject(fault.clone());
        Ok(self.tagged(proto::InjectFaultResponse {
            fault: Some(tell(id, &fault)),
        }))
    }

    /// Ends faults.
    pub(super) fn clear_faults(
        &self,
        request: Request<proto::ClearFaultsRequest>,
    ) -> Result<Response<proto::ClearFaultsResponse>, Status> {
        let refuse = |wrong: Wrong| self.refuse(wrong.into_status());
        self.check_faults().map_err(refuse)?;
        let faults = self.parts.peers.faults();
        let ids: Vec<FaultId> = request
            .into_inner()
            .fault_ids
            .into_iter()
            .map(FaultId)
            .collect();
        let active = faults.active();
        let is_active = |id: &FaultId| active.iter().any(|(other, _)| other == id);
        if let Some(unknown) = ids.iter().find(|id| !is_active(id)) {
            let text = format!(
                "this peer has no fault {}; it may have ended by itself",
                unknown.0
            );
            let wrong = Wrong::new(ErrorReason::FaultNotFound, text);
            return Err(refuse(wrong.with("fault", unknown.0)));
        }
        let cleared = faults.clear(&ids);
        Ok(self.tagged(proto::ClearFaultsResponse {
            cleared: cleared.iter().map(|(id, fault)| tell(*id, fault)).collect(),
        }))
    }

    /// Lists faults.
    pub(super) fn list_faults(&self) -> Result<Response<proto::ListFaultsResponse>, Status> {
        self.check_faults()
            .map_err(|wrong| self.refuse(wrong.into_status()))?;
        let active = self.parts.peers.faults().active();
        Ok(self.tagged(proto::ListFaultsResponse {
            faults: active.iter().map(|(id, fault)| tell(*id, fault)).collect(),
        }))
    }
}

fn parse(fault: Option<proto::Fault>, cluster: &Cluster) -> Result<Fault, Wrong> {
    let Some(fault) = fault else {
        return Err(convert::invalid("fault", "fault is missing"));
    };
    let peers = fault.peers.iter().map(|number| peer(*number, cluster));
    let parsed = Fault {
        peers: peers.collect::<Result<Vec<PeerId>, Wrong>>()?,
        delay: span(fault.delay.as_ref(), "fault.delay", DELAY_MAX)?.unwrap_or_default(),
        jitter: span(fault.jitter.as_ref(), "fault.jitter", DELAY_MAX)?.unwrap_or_default(),
        loss: share(fault.loss)?,
        passage: if fault.is_cut {
            Passage::Cut
        } else {
            Passage::Open
        },
        duration: span(fault.duration.as_ref(), "fault.duration", DURATION_MAX)?,
    };
    let is_any = parsed.passage == Passage::Cut || parsed.loss > 0.0;
    if !is_any && parsed.delay.is_zero() && parsed.jitter.is_zero() {
        let text = "nothing is to go wrong: give delay, jitter, loss or is_cut";
        return Err(convert::invalid("fault", text));
    }
    Ok(parsed)
}

/// Another peer of the cluster.
fn peer(number: u32, cluster: &Cluster) -> Result<PeerId, Wrong> {
    let known = u16::try_from(number).ok().map(PeerId);
    let known = known.filter(|peer| cluster.vertex_of(*peer).is_some());
    match known {
        Some(peer) if peer == cluster.this() => {
            let text = format!("peer {peer} has no link to itself");
            Err(convert::invalid("fault.peers", text))
        }
        Some(peer) => Ok(peer),
        None => {
            let text = format!("the cluster has no peer {number}");
            Err(Wrong::new(ErrorReason::PeerNotFound, text).with("peer", number))
        }
    }
}

fn span(
    span: Option<&prost_types::Duration>,
    field: &'static str,
    max: Duration,
) -> Result<Option<Duration>, Wrong> {
    let Some(span) = span else { return Ok(None) };
    match convert::duration(span, field)? {
        span if span > max => {
            let limit = format!("{}s", max.as_secs());
            let text = format!("{field} is above {limit}");
            Err(convert::invalid(field, text).with("limit", limit))
        }
        span => Ok(Some(span)),
    }
}

fn share(loss: f64) -> Result<f64, Wrong> {
    const FIELD: &str = "fault.loss";
    if (0.0..=1.0).contains(&loss) {
        Ok(loss)
    } else {
        Err(convert::invalid(
            FIELD,
            format!("{FIELD} is not within 0 to 1"),
        ))
    }
}

fn tell(id: FaultId, fault: &Fault) -> proto::Fault {
    let some = |span: Duration| (!span.is_zero()).then(|| answer::duration(span));
    proto::Fault {
        fault_id: id.0,
        peers: fault.peers.iter().map(|peer| u32::from(peer.0)).collect(),
        delay: some(fault.delay),
        jitter: some(fault.jitter),
        loss: fault.loss,
        is_cut: fault.passage == Passage::Cut,
        duration: fault.duration.map(answer::duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Member, Options};
    use crate::types::Dimension;

    fn cluster() -> Cluster {
        let dimension = Dimension::new(3).unwrap();
        let members = dimension.vertices().map(|vertex| Member {
            peer: PeerId(vertex.index()),
            vertex,
            address: String::new(),
        });
        Cluster::new(Options {
            this: PeerId(0),
            members: members.collect(),
            dimension,
            replication_factor: 4,
        })
        .unwrap()
    }

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn fault_is_told_as_it_was_asked_for() {
        let asked = proto::Fault {
            fault_id: 9,
            peers: vec![4, 6],
            delay: seconds(1),
            jitter: None,
            loss: 0.25,
            is_cut: true,
            duration: seconds(30),
        };
        let fault = parse(Some(asked.clone()), &cluster()).unwrap();
        assert_eq!(tell(FaultId(9), &fault), asked);
    }

    #[test]
    fn fault_that_makes_no_sense_names_its_field() {
        let cut = || proto::Fault {
            is_cut: true,
            ..proto::Fault::default()
        };
        let wrong = |fault| parse(fault, &cluster()).unwrap_err();
        let field = |fault| wrong(Some(fault)).field.unwrap();
        assert_eq!(wrong(None).field.as_deref(), Some("fault"));
        assert_eq!(field(proto::Fault::default()), "fault");
        for loss in [-0.1, 1.1, f64::NAN] {
            assert_eq!(field(proto::Fault { loss, ..cut() }), "fault.loss");
        }
        let delay = seconds(61);
        assert_eq!(field(proto::Fault { delay, ..cut() }), "fault.delay");
        let jitter = seconds(-1);
        assert_eq!(field(proto::Fault { jitter, ..cut() }), "fault.jitter");
        let duration = seconds(86_401);
        assert_eq!(field(proto::Fault { duration, ..cut() }), "fault.duration");
        let peers = vec![0];
        assert_eq!(field(proto::Fault { peers, ..cut() }), "fault.peers");
        let peers = vec![8];
        let stranger = wrong(Some(proto::Fault { peers, ..cut() }));
        assert_eq!(stranger.reason, ErrorReason::PeerNotFound);
    }
}
