//! What a peer tells about itself and about the cluster as it sees it; never forwarded, and answered without any shard's leader.
//!
//! Begin with [`Api::get_node_status`].

use std::time::Duration;

use cubecast_sdk::proto::v1::{self as proto, MemberState, ReplicaState};
use tonic::{Request, Response, Status};

use super::api::Api;
use super::{answer, context};
use crate::consensus::incarnation_of;
use crate::replica::{Phase, Replica};
use crate::types::{PeerId, Vertex};

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
            shards.push(self.shard_status(&replica));
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
            incarnation: now.incarnation,
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
                wal_is_waiting: now.wal_is_waiting,
                store_journals: now.store_journals,
                store_level0_tables: now.store_level0_tables,
                store_flushes: now.store_flushes,
                store_flushes_waiting: now.store_flushes_waiting,
                store_blob_files: now.store_blob_files,
                disk_free_bytes: now.disk_free_bytes,
                disk_reserve_bytes: now.disk_reserve_bytes,
            }),
            connections: now.connections,
            calls: self.edge.calls(),
        }))
    }

    fn shard_status(&self, replica: &Replica) -> proto::ShardStatus {
        // 0 when it cannot be read: then the storage says so.
        let topic_count = replica.view().topic_count().unwrap_or(0);
        let (shard, status) = (replica.shard(), replica.status());
        let mut told = answer::shard_status(self.cluster(), shard, &status, topic_count);
        if let Phase::Rebuilding { reason } = replica.phase() {
            told.state = ReplicaState::Damaged.into();
            told.problem = reason.to_string();
        }
        let node = replica.group().map(|group| group.node());
        told.incarnation = node.map_or(0, |node| incarnation_of(node).0);
        told
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
