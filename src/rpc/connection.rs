//! Who calls over a connection, as far as its calls tell, and what one is told that comes when there is no room for it.
//!
//! A peer says which one it is with every call that it makes to another; the cluster's name, its number and its data directory have to be right. That keeps
//! out who does not know them, and nobody who lies on purpose: that is what mutual TLS is for. Begin with [`Sender`].

use cubecast_sdk::proto::v1::ErrorReason;
use tonic::metadata::MetadataMap;

use super::context::FORWARDED_BY;
use super::status::Fault;
use crate::link::Peers;

/// Paths of the calls that peers make to each other begin so.
const PEER_PACKAGE: &str = "/cubecast.peer.v1.";

/// Who sends a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A client, or somebody who says that it is a peer and does not say which one.
    Client,
    /// A peer in a life that this one does not know. It may ask who it was, and hear it.
    Newcomer,
    /// A peer.
    Peer,
}

impl Sender {
    /// Reads it from the head of a call, over a connection of which this is known so far.
    pub fn of_call<B>(self, peers: &Peers, request: &http::Request<B>) -> Self {
        let headers = request.headers();
        let is_said_to_be_of_peer =
            request.uri().path().starts_with(PEER_PACKAGE) || headers.contains_key(FORWARDED_BY);
        if !is_said_to_be_of_peer {
            return Self::Client;
        }
        if self == Self::Peer {
            return Self::Peer;
        }
        let metadata = MetadataMap::from_headers(headers.clone());
        if peers.vouch(&metadata).is_ok() {
            Self::Peer
        } else if peers.glimpse(&metadata).is_ok() {
            Self::Newcomer
        } else {
            Self::Client
        }
    }
}

/// Takes from a call that it was forwarded: nobody but peers is believed that.
pub fn disbelieve<B>(request: &mut http::Request<B>) {
    request.headers_mut().remove(FORWARDED_BY);
}

/// The answer to any call on a connection beyond the limit.
pub fn connections_exhausted(connections_max: u32) -> http::Response<tonic::body::Body> {
    let message = format!("this peer serves {connections_max} connections, and has them");
    Fault::new(ErrorReason::ConnectionsExhausted, message)
        .with("limit", connections_max)
        .into_status()
        .into_http()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::env::disk::SystemDisk;
    use crate::link::{self, Acquaintances, Identity};
    use crate::types::{Incarnation, PeerId};

    fn identity(cluster: &str, peer: u16, directory: u128) -> Identity {
        Identity {
            cluster: cluster.to_owned(),
            peer: PeerId(peer),
            directory,
            incarnation: Incarnation(1),
        }
    }

    fn call(path: &str, identity: Option<&Identity>) -> http::Request<()> {
        let mut metadata = MetadataMap::new();
        if let Some(identity) = identity {
            identity.write(&mut metadata);
        }
        let mut call = http::Request::builder().uri(path).body(()).unwrap();
        *call.headers_mut() = metadata.into_headers();
        call
    }

    #[tokio::test]
    async fn peer_is_who_says_rightly_which_one_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let addresses = [1, 2].map(|peer| (PeerId(peer), "http://127.0.0.1:1".to_owned()));
        let peers = Peers::new(
            &link::Options::new(identity("test", 0, 7), addresses.into()),
            Arc::new(Acquaintances::open(Arc::new(SystemDisk), folder.path()).unwrap()),
        )
        .unwrap();
        let known = identity("test", 1, 8);
        let mut metadata = MetadataMap::new();
        known.write(&mut metadata);
        peers.recognise(&metadata).unwrap();

        let beat = "/cubecast.peer.v1.LinkService/Beat";
        let sender = |path: &str, identity: &Identity| {
            Sender::Client.of_call(&peers, &call(path, Some(identity)))
        };
        assert_eq!(sender(beat, &known), Sender::Peer);
        assert_eq!(sender(beat, &identity("test", 1, 9)), Sender::Newcomer);
        assert_eq!(sender(beat, &identity("other", 1, 8)), Sender::Client);
        assert_eq!(sender(beat, &identity("test", 5, 8)), Sender::Client);
        assert_eq!(
            Sender::Client.of_call(&peers, &call(beat, None)),
            Sender::Client
        );

        // What came over the connection of a peer comes from it.
        assert_eq!(
            Sender::Peer.of_call(&peers, &call(beat, None)),
            Sender::Peer
        );

        let publish = "/cubecast.v1.PeerService/Publish";
        let mut forwarded = call(publish, Some(&known));
        forwarded
            .headers_mut()
            .insert(FORWARDED_BY, "1".parse().unwrap());
        assert_eq!(Sender::Client.of_call(&peers, &forwarded), Sender::Peer);
        let mut told = call(publish, None);
        told.headers_mut()
            .insert(FORWARDED_BY, "1".parse().unwrap());
        assert_eq!(Sender::Client.of_call(&peers, &told), Sender::Client);
        disbelieve(&mut told);
        assert!(told.headers().is_empty());
    }
}
