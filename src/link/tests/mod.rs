//! Who may call whom, and what a failed call tells.

mod fault;
mod live;
mod map;
mod state;

use super::*;
use crate::env::disk::SystemDisk;
use crate::proto::peer::v1::VoteRequest;
use crate::proto::peer::v1::raft_service_client::RaftServiceClient;

fn identity(peer: u16) -> Identity {
    Identity {
        cluster: "test".to_owned(),
        peer: PeerId(peer),
        directory: u128::from(peer),
        incarnation: Incarnation(1),
    }
}

fn peers(folder: &std::path::Path, address: &str) -> Peers {
    let addresses = [1, 2].map(|peer| (PeerId(peer), address.to_owned()));
    let options = Options::new(identity(0), addresses.into());
    Peers::new(
        &options,
        Arc::new(Acquaintances::open(Arc::new(SystemDisk), folder).unwrap()),
    )
    .unwrap()
}

#[tokio::test]
async fn answer_counts_only_from_the_peer_that_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let peers = peers(folder.path(), "http://127.0.0.1:1");
    let said_by = |peer| {
        let mut metadata = MetadataMap::new();
        identity(peer).write(&mut metadata);
        metadata
    };
    peers.recognise_answer(PeerId(1), &said_by(1)).unwrap();
    let mistaken = peers.recognise_answer(PeerId(1), &said_by(2)).unwrap_err();
    assert!(matches!(mistaken, Error::Mistaken { .. }), "{mistaken}");
    // Neither itself nor somebody unknown is remembered.
    for stranger in [0, 3] {
        let error = peers.recognise(&said_by(stranger)).unwrap_err();
        assert!(matches!(error, Error::Stranger { .. }), "{error}");
    }
}

#[tokio::test]
async fn any_life_of_a_peer_may_ask_who_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let peers = peers(folder.path(), "http://127.0.0.1:1");
    let said_by = |identity: Identity| {
        let mut metadata = MetadataMap::new();
        identity.write(&mut metadata);
        metadata
    };
    peers.recognise(&said_by(identity(1))).unwrap();
    let wiped = Identity {
        directory: 99,
        ..identity(1)
    };
    peers.recognise(&said_by(wiped.clone())).unwrap_err();
    assert_eq!(peers.glimpse(&said_by(wiped)).unwrap().peer, PeerId(1));
    peers.glimpse(&said_by(identity(3))).unwrap_err();
    let known = peers.acquaintance(PeerId(1)).unwrap();
    assert_eq!(known.directory, 1, "a glimpse is not remembered");
    peers.begin_anew(Incarnation(5));
    peers.begin_anew(Incarnation(4));
    assert_eq!(peers.identity().incarnation, Incarnation(5));
}

#[tokio::test]
async fn failed_dial_is_told_from_a_broken_connection() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let peers = peers(folder.path(), &address);
    let mut client = RaftServiceClient::new(peers.channel(PeerId(1)).unwrap());
    let (broken, _) = tokio::join!(client.vote(VoteRequest::default()), async {
        drop(listener.accept().await.unwrap());
        drop(listener);
    });
    assert!(!is_refused(&broken.unwrap_err()));
    let refused = client.vote(VoteRequest::default()).await.unwrap_err();
    assert!(is_refused(&refused), "{refused:?}");
    let broken = std::io::Error::from(std::io::ErrorKind::HostUnreachable);
    assert!(!is_refused(&broken), "a connection that was there broke");
}
