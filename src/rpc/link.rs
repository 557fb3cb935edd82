//! `cubecast.peer.v1.LinkService`: the heartbeats of the peers with lower numbers.
//!
//! It only carries them; what they mean is in `link`. Begin with [`service`].

use std::pin::Pin;

use cubecast_sdk::proto::v1::ErrorReason;
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::refusal;
use super::status::Fault;
use crate::link::{Peers, relay};
use crate::proto::peer::v1::link_service_server::{LinkService, LinkServiceServer};
use crate::proto::peer::v1::{BeatRequest, BeatResponse};

/// Takes the streams that other peers open.
pub struct LinkApi {
    peers: Peers,
}

/// The service for the links to these peers.
pub fn service(peers: Peers) -> LinkServiceServer<LinkApi> {
    LinkServiceServer::new(LinkApi { peers })
}

#[tonic::async_trait]
impl LinkService for LinkApi {
    type BeatStream = Pin<Box<dyn Stream<Item = Result<BeatResponse, Status>> + Send>>;

    async fn beat(
        &self,
        request: Request<Streaming<BeatRequest>>,
    ) -> Result<Response<Self::BeatStream>, Status> {
        let metadata = request.metadata();
        if metadata.contains_key(relay::RELAYED_BY) {
            let text = "heartbeats tell of the link that they come over, and are not passed on";
            return Err(Fault::new(ErrorReason::FieldInvalid, text)
                .in_field(relay::RELAYED_BY)
                .into_status());
        }
        let caller = self.peers.vouch(metadata);
        let caller = caller.map_err(|error| refusal::not_a_peer(&error))?;
        // Up to where the stream breaks: the other peer opens another one.
        let beats = request.into_inner();
        let beats = beats.take_while(|beat| std::future::ready(beat.is_ok()));
        let beats =
            beats.filter_map(|beat| std::future::ready(beat.ok().and_then(|beat| beat.heartbeat)));
        let links = self.peers.links();
        let Some(outgoing) = links.accept(caller.peer, beats.boxed()) else {
            let text = "this peer takes no heartbeats of the caller now";
            return Err(Fault::new(ErrorReason::Starting, text)
                .with("peer", links.now().this())
                .into_status());
        };
        let answers = outgoing.map(|heartbeat| {
            Ok(BeatResponse {
                heartbeat: Some(heartbeat),
            })
        });
        let mut response = Response::new(Box::pin(answers) as Self::BeatStream);
        self.peers.introduce(response.metadata_mut());
        Ok(response)
    }
}
