//! What a peer tells about itself and about the cluster as it sees it; never forwarded, and answered without any shard's leader.
//!
//! Begin with [`Api::get_node_status`].

use std::time::Duration;

use cubecast_sdk::proto::v1::{self as proto, MemberState};
use tonic::{Request, Response, Status};

use super::api::Api;
use super::{answer, context};
use crate::consensus::Role;
use crate::replica::Replica;
use crate::shard::TopicFilter;
use crate::types::{PeerId, TopicName, Vertex};

/// Topics that are counted between two looks at the store.
const COUNT_STEP: usize = 1000;

impl Api {
    /// Tells about this peer.
    pub(super) async fn get_node_status(
        &self,
        _: Request<proto::GetNodeStatusRequest>,
    ) -> Result<Response<proto::GetNodeStatusResponse>, Status> {
        let (cluster, facts, now) = (self.cluster(), &self.parts.facts, (self.parts.facts.now)());
        let this = cluster.this();
        let own = cluster.vertex_of(this);
        let mut shards = Vec::new();
        for replica in self.parts.replicas.all() {
            let topic_count = topic_count(&replica).await;
            shards.push(answer::shard_status(
                cluster,
                replica.shard(),
                &replica.status(),
                topic_count,
            ));
        }
        let vertex = own.map_or_else(String::new, |vertex| vertex.to_string());
        Ok(self.tagged(proto::GetNodeStatusResponse {
            peer: u32::from(this.0),
            vertex: vertex.clone(),
            vertices: vec![vertex],
            address: cluster.address(this).unwrap_or_default().to_owned(),
            cluster: facts.cluster.clone(),
            dimension: u32::from(cluster.dimension().bits()),
            replication_factor: u32::from(cluster.replication_factor()),
            version: facts.version.to_owned(),
            start_time: Some(answer::timestamp(facts.started)),
            uptime: Some(answer::duration(Duration::from_nanos(
                now.at.0.saturating_sub(facts.started.0),
            ))),
            incarnation: facts.incarnation.0,
            is_ready: now.is_ready,
            is_draining: now.is_draining,
            has_fault_injection: facts.has_fault_injection,
            limits: Some(answer::limits(&self.parts.limits)),
            neighbours: own.map_or_else(Vec::new, |own| self.neighbours(own)),
            shards,
            storage: Some(proto::StorageStatus {
                wal_bytes: now.wal_bytes,
                wal_segments: now.wal_segments,
                wal_syncs: now.wal_syncs,
                store_bytes: now.store_bytes,
                memtable_bytes: now.memtable_bytes,
                has_failed: now.has_failed,
            }),
            connections: now.connections,
            calls: self.edge.calls(),
        }))
    }

    /// Tells about the cluster.
    pub(super) fn get_cluster(&self) -> Response<proto::GetClusterResponse> {
        let cluster = self.cluster();
        let members = cluster.members().map(|member| proto::Member {
            peer: u32::from(member.peer.0),
            vertex: member.vertex.to_string(),
            address: member.address.clone(),
            vertices: vec![member.vertex.to_string()],
            state: if member.peer == cluster.this() {
                MemberState::Alive
            } else {
                MemberState::Unspecified
            }
            .into(),
            heard_time: None,
        });
        let vertices = cluster
            .dimension()
            .vertices()
            .map(|vertex| self.vertex_status(vertex));
        let (members, vertices) = (members.collect(), vertices.collect());
        self.tagged(proto::GetClusterResponse {
            cluster: Some(proto::Cluster {
                name: self.parts.facts.cluster.clone(),
                // Members do not change yet.
                revision: 1,
                dimension: u32::from(cluster.dimension().bits()),
                replication_factor: u32::from(cluster.replication_factor()),
                members,
                vertices,
                links: Vec::new(),
            }),
            seen_by: u32::from(cluster.this().0),
        })
    }

    /// What this peer knows of a vertex: from its own replica, or from calls that it forwarded.
    fn vertex_status(&self, vertex: Vertex) -> proto::VertexStatus {
        let cluster = self.cluster();
        let (leader, term) = match self.parts.replicas.get(vertex) {
            Some(replica) => {
                let status = replica.status();
                (status.leader, status.term.0)
            }
            None => self
                .router
                .leader(vertex)
                .map_or((None, 0), |leader| (Some(leader.peer), leader.term.0)),
        };
        let number = |peer: PeerId| u32::from(peer.0);
        proto::VertexStatus {
            vertex: vertex.to_string(),
            home: number(cluster.home(vertex)),
            replicas: cluster.replicas(vertex).into_iter().map(number).collect(),
            leader: leader.map(number),
            term,
        }
    }

    fn neighbours(&self, own: Vertex) -> Vec<proto::Neighbour> {
        let neighbour = |bit: u8| {
            let (cluster, vertex) = (self.cluster(), own.flip(bit));
            let peer = cluster.home(vertex);
            proto::Neighbour {
                vertex: vertex.to_string(),
                bit: u32::from(bit),
                peer: u32::from(peer.0),
                address: cluster.address(peer).unwrap_or_default().to_owned(),
                is_reachable: None,
            }
        };
        (0..own.dimension().bits()).map(neighbour).collect()
    }

    fn tagged<T>(&self, answer: T) -> Response<T> {
        let mut response = Response::new(answer);
        context::tag(
            response.metadata_mut(),
            self.cluster(),
            self.cluster().this(),
        );
        response
    }
}

/// Topics of a shard, counted a step at a time. 0 when they cannot be read: then the storage says so.
async fn topic_count(replica: &Replica) -> u64 {
    if replica.status().role == Role::Stopped {
        return 0;
    }
    let view = replica.view();
    let count = move || {
        let (mut count, mut after): (u64, Option<TopicName>) = (0, None);
        loop {
            let topics = view.topics(TopicFilter::default(), after.as_ref(), COUNT_STEP)?;
            count += topics.len() as u64;
            match topics.into_iter().next_back() {
                Some(last) => after = Some(last.name),
                None => return Ok::<u64, crate::shard::Error>(count),
            }
        }
    };
    tokio::task::spawn_blocking(count)
        .await
        .ok()
        .and_then(Result::ok)
        .unwrap_or(0)
}
