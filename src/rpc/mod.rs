//! The gRPC server: the public API for clients, the directory for other peers, health and reflection.
//!
//! Requests become domain types once, at the edge (`convert.rs`), and domain errors become codes with reasons once (`refusal.rs`,
//! `status.rs`). What a call means is in `broker`, where it goes in `router`; here it is brought there (`forward.rs`). Never opens a socket
//! and stores nothing. Begin with [`routes`] and [`Api`].

mod answer;
mod api;
mod batch;
mod channel;
mod cluster_service;
mod connection;
mod context;
mod convert;
mod directory_service;
mod facts;
mod fault;
mod forward;
mod gather;
mod layers;
pub mod link;
mod list;
mod message;
mod node;
mod operation;
mod outage;
mod own;
mod page;
mod peer_service;
pub mod raft;
pub mod refusal;
pub mod status;
mod stream;
mod verify;
mod verify_service;
mod watch;
pub mod wire;

use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use api::{Api, Parts};
pub use connection::{Sender, connections_exhausted, disbelieve};
pub use context::{FORWARDED_BY, ROUTE, SERVED_BY, TRACE_PARENT};
pub use facts::{Facts, Now};
pub use layers::Relay;
pub use outage::{Order, Outage};

use crate::proto::PUBLIC_DESCRIPTORS;
use crate::proto::peer::v1::directory_service_server::DirectoryServiceServer;
use crate::proto::peer::v1::verify_service_server::VerifyServiceServer;
use crate::proto::v1::cluster_service_server::ClusterServiceServer;
use crate::proto::v1::peer_service_server::PeerServiceServer;
use cluster_service::ClusterApi;
use directory_service::DirectoryApi;
use peer_service::PeerApi;
use verify_service::VerifyApi;

/// The public services as health checks name them; the empty name is the whole peer.
pub const SERVICES: [&str; 3] = ["", "cubecast.v1.PeerService", "cubecast.v1.ClusterService"];

/// Larger than any request of a peer about a shard: a thousand topics of the longest names.
const PEER_REQUEST_BYTES_MAX: usize = 1 << 20;

/// All services with what goes around them. `more` adds services of other modules, which the layers leave alone.
///
/// # Errors
/// [`Error::Reflection`] when the descriptors cannot be read.
pub fn routes(
    api: &Api,
    health: Health,
    more: impl FnOnce(Routes) -> Routes,
) -> Result<Routes, Error> {
    let limit = usize::try_from(api.parts.limits.request_bytes_max).unwrap_or(usize::MAX);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // A client that prints the details of an error looks their types up here.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let routes =
        Routes::new(PeerServiceServer::new(PeerApi(api.clone())).max_decoding_message_size(limit))
            .add_service(
                ClusterServiceServer::new(ClusterApi(api.clone())).max_decoding_message_size(limit),
            )
            .add_service(
                DirectoryServiceServer::new(DirectoryApi(api.clone()))
                    .max_decoding_message_size(PEER_REQUEST_BYTES_MAX),
            )
            .add_service(
                VerifyServiceServer::new(VerifyApi(api.clone()))
                    .max_decoding_message_size(PEER_REQUEST_BYTES_MAX),
            )
            .add_service(health.service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
    let routes = Routes::from(routes.into_axum_router().layer(api.edge.clone()));
    // Around everything: a call to any service may be for another peer.
    let relay = Relay::new(api.parts.peers.clone(), api.cluster().dimension().bits());
    let routes = Routes::from(more(routes).into_axum_router().layer(relay));
    Ok(routes.prepare())
}

/// The health service and the switch of its answers.
pub struct Health {
    service: HealthService,
    reporter: HealthReporter,
}

type HealthService =
    tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService>;

/// Sets what health checks answer. A cheap handle.
#[derive(Clone)]
pub struct HealthSwitch {
    reporter: HealthReporter,
}

impl Health {
    /// A health service that says `NOT_SERVING` of every service until told otherwise.
    pub async fn new() -> Self {
        let reporter = HealthReporter::new();
        let health = Self {
            service: HealthService::new(tonic_health::server::HealthService::from_health_reporter(
                reporter.clone(),
            )),
            reporter,
        };
        health.switch().set(ServingStatus::NotServing).await;
        health
    }

    /// The switch.
    pub fn switch(&self) -> HealthSwitch {
        HealthSwitch {
            reporter: self.reporter.clone(),
        }
    }
}

impl HealthSwitch {
    /// Every service takes calls.
    pub async fn serve(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// No service takes calls any more.
    pub async fn stop(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

/// Why the services cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptors of the API cannot be read.
    #[error("the descriptors of the API cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
}

#[cfg(test)]
mod tests;
