//! What a peer tells about itself and about the cluster as it sees it; never forwarded, and answered without any shard's leader.
//!
//! Begin with [`Api::get_node_status`].

use std::time::Duration;

use cubecast_sdk::proto::v1::{self as proto, MemberState, ReplicaState};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::api::Api;
use super::{answer, context};
use crate::cluster::Member;
use crate::consensus::incarnation_of;
use crate::link::{LinkMap, LinkState};
use crate::replica::{Phase, Replica};
use crate::types::{PeerId, Timestamp, Vertex};

/// Members and placement do not change yet.
pub(super) const REVISION: u64 = 1;

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

    pub(super) fn shard_status(&self, replica: &Replica) -> proto::ShardStatus {
        // 0 when it cannot be read: then the storage says so.
        let topic_count = replica.view().topic_count().unwrap_or(0);
        let (shard, status) = (replica.shard(), replica.status());
        let sight = answer::Sight {
            cluster: self.cluster(),
            links: &self.parts.peers.links().now(),
        };
        let mut told = answer::shard_status(sight, shard, &status, topic_count);
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
        self.tagged(proto::GetClusterResponse {
            cluster: Some(self.cluster_now()),
            seen_by: u32::from(self.cluster().this().0),
        })
    }

    /// The cluster as this peer sees it.
    pub(super) fn cluster_now(&self) -> proto::Cluster {
        let (cluster, links) = (self.cluster(), self.parts.peers.links().now());
        let members = cluster.members().map(|member| self.member(member, &links));
        let vertices = cluster.dimension().vertices();
        let link = |(from, to, is_up): (PeerId, PeerId, bool)| proto::Link {
            from_peer: u32::from(from.0),
            to_peer: u32::from(to.0),
            is_up,
            round_trip: links
                .round_trip(to)
                .filter(|_| from == cluster.this())
                .map(answer::duration),
        };
        proto::Cluster {
            name: self.parts.facts.cluster.clone(),
            revision: REVISION,
            dimension: u32::from(cluster.dimension().bits()),
            replication_factor: u32::from(cluster.replication_factor()),
            members: members.collect(),
            vertices: vertices.map(|vertex| self.vertex_status(vertex)).collect(),
            links: links.links().map(link).collect(),
        }
    }

    fn member(&self, member: &Member, links: &LinkMap) -> proto::Member {
        let now = (self.parts.facts.clock)();
        let heard = |at: Instant| {
            let ago = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
            answer::timestamp(Timestamp(now.0.saturating_sub(ago)))
        };
        proto::Member {
            peer: u32::from(member.peer.0),
            vertex: member.vertex.to_string(),
            address: member.address.clone(),
            vertices: vec![member.vertex.to_string()],
            state: member_state(member.peer, links).into(),
            heard_time: links.heard(member.peer).map(heard),
        }
    }

    /// What this peer knows of a vertex: from its own replica; else from the leader's word to all peers, or from calls that it forwarded.
    fn vertex_status(&self, vertex: Vertex) -> proto::VertexStatus {
        let cluster = self.cluster();
        let replicas = cluster.replicas(vertex);
        let (leader, term, voters) = match self.parts.replicas.get(vertex) {
            Some(replica) => {
                let status = replica.status();
                let votes = |peer: &PeerId| {
                    let mut voters = status.replicas.iter().filter(|member| member.is_voter);
                    voters.any(|member| member.peer == *peer)
                };
                let voters = replicas.iter().copied().filter(votes).collect();
                (status.leader, status.term.0, voters)
            }
            None => match self.router.leader(vertex) {
                Some(leader) => (Some(leader.peer), leader.term.0, Vec::new()),
                None => (None, 0, Vec::new()),
            },
        };
        let number = |peer: PeerId| u32::from(peer.0);
        proto::VertexStatus {
            vertex: vertex.to_string(),
            home: number(cluster.home(vertex)),
            replicas: replicas.into_iter().map(number).collect(),
            leader: leader.map(number),
            term,
            voters: voters.into_iter().map(number).collect(),
        }
    }

    fn neighbours(&self, own: Vertex) -> Vec<proto::Neighbour> {
        let links = self.parts.peers.links().now();
        let neighbour = |bit: u8| {
            let (cluster, vertex) = (self.cluster(), own.flip(bit));
            let peer = cluster.home(vertex);
            proto::Neighbour {
                vertex: vertex.to_string(),
                bit: u32::from(bit),
                peer: u32::from(peer.0),
                address: cluster.address(peer).unwrap_or_default().to_owned(),
                is_reachable: match links.state(peer) {
                    LinkState::Unknown => None,
                    state => Some(state == LinkState::Up),
                },
            }
        };
        (0..own.dimension().bits()).map(neighbour).collect()
    }

    pub(super) fn tagged<T>(&self, answer: T) -> Response<T> {
        let mut response = Response::new(answer);
        context::tag(response.metadata_mut(), self.cluster(), &[]);
        response
    }
}

/// What is believed of a member: a peer that others hear is alive, even if this one does not hear it.
fn member_state(peer: PeerId, links: &LinkMap) -> MemberState {
    match links.state(peer) {
        _ if links.is_reachable(peer) => MemberState::Alive,
        LinkState::Unknown | LinkState::Up => MemberState::Unspecified,
        LinkState::Silent => MemberState::Suspect,
        LinkState::Dead => MemberState::Down,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Dimension;

    #[test]
    fn member_is_what_its_links_say() {
        let members = Dimension::new(3).unwrap().vertices();
        let members = members.map(|vertex| (PeerId(vertex.index()), vertex));
        let links = LinkMap::connected(PeerId(0), members)
            .with(PeerId(0), PeerId(1), LinkState::Silent)
            .with_peer(PeerId(2), LinkState::Silent)
            .with_peer(PeerId(3), LinkState::Dead)
            .with_peer(PeerId(4), LinkState::Unknown);
        let states: Vec<MemberState> = (0..6)
            .map(|peer| member_state(PeerId(peer), &links))
            .collect();
        let expected = [
            MemberState::Alive,
            // Others hear it.
            MemberState::Alive,
            MemberState::Suspect,
            MemberState::Down,
            MemberState::Unspecified,
            MemberState::Alive,
        ];
        assert_eq!(states, expected);
    }
}
