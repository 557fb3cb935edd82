//! `WatchCluster`: the cluster as this peer sees it, then each change.
//!
//! Nothing is queued for a caller: whenever it is ready for more, the cluster as it is now is compared with what the caller was told last. So a slow
//! caller costs nothing, and is told of several changes of one thing as of one. Begin with [`Api::watch_cluster`].

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cubecast_sdk::proto::v1 as proto;
use cubecast_sdk::proto::v1::ErrorReason;
use cubecast_sdk::proto::v1::watch_cluster_response::Event;
use futures::Stream;
use futures::future::select_all;
use futures::stream::unfold;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Response, Status};

use super::answer;
use super::api::Api;
use super::node::REVISION;
use super::refusal;
use super::status::Fault;
use crate::consensus::Leadership;
use crate::link::LinkMap;
use crate::replica::Replica;

/// Callers that watch at once. Each costs a look at all members, vertices and links whenever something changes.
pub const WATCHERS_MAX: u32 = 256;
/// What wakes nobody, the voters of a shard and what calls have taught, is looked at so often.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// More changes than this at once are told as the whole.
const EVENTS_MAX: usize = 64;

/// What a caller is sent.
pub type Changes =
    Pin<Box<dyn Stream<Item = Result<proto::WatchClusterResponse, Status>> + Send + 'static>>;

impl Api {
    /// Sends the cluster, then each change.
    pub(super) fn watch_cluster(&self) -> Result<Response<Changes>, Status> {
        let Ok(seat) = Arc::clone(&self.watchers).try_acquire_owned() else {
            let text = format!("{WATCHERS_MAX} callers watch this peer already");
            let fault = Fault::new(ErrorReason::Overloaded, text).with("limit", WATCHERS_MAX);
            return Err(self.refuse(fault.into_status()));
        };
        let watcher = Watcher::new(self.clone(), seat);
        let changes: Changes = Box::pin(unfold(watcher, Watcher::next));
        Ok(self.tagged(changes))
    }
}

/// The places of those who watch.
pub fn seats() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(WATCHERS_MAX).unwrap_or(0)))
}

/// What one caller knows.
struct Watcher {
    api: Api,
    links: watch::Receiver<Arc<LinkMap>>,
    leaders: Vec<watch::Receiver<Leadership>>,
    /// The cluster as the caller was told, the events that wait included.
    told: proto::Cluster,
    /// At most [`EVENTS_MAX`].
    events: VecDeque<Event>,
    is_over: bool,
    _seat: OwnedSemaphorePermit,
}

impl Watcher {
    fn new(api: Api, seat: OwnedSemaphorePermit) -> Self {
        // Watched before the first look, so that nothing falls in between.
        let links = api.parts.peers.links().watch();
        let replicas = api.parts.replicas.all();
        let leaders = replicas.iter().map(Replica::leader).collect();
        let told = api.cluster_now();
        Self {
            links,
            leaders,
            events: VecDeque::from([Event::Cluster(told.clone())]),
            told,
            is_over: false,
            _seat: seat,
            api,
        }
    }

    /// The next event; `None` at the end.
    async fn next(mut self) -> Option<(Result<proto::WatchClusterResponse, Status>, Self)> {
        loop {
            if let Some(event) = self.events.pop_front() {
                let response = proto::WatchClusterResponse {
                    revision: REVISION,
                    time: Some(answer::timestamp((self.api.parts.facts.clock)())),
                    event: Some(event),
                };
                return Some((Ok(response), self));
            }
            if self.is_over {
                return None;
            }
            let drain = self.api.parts.drain.clone();
            tokio::select! {
                () = drain.cancelled() => {
                    self.is_over = true;
                    let status = refusal::stopping(self.api.cluster().this());
                    return Some((Err(status), self));
                }
                () = self.stir() => {}
            }
            let now = self.api.cluster_now();
            self.events = changes(&self.told, &now);
            self.told = now;
        }
    }

    /// Waits until something may have changed.
    async fn stir(&mut self) {
        let leaders = self
            .leaders
            .iter_mut()
            .map(|leader| Box::pin(changed(leader)));
        let leaders: Vec<_> = leaders.collect();
        let led = async {
            if leaders.is_empty() {
                std::future::pending::<()>().await;
            } else {
                select_all(leaders).await;
            }
        };
        tokio::select! {
            () = changed(&mut self.links) => {}
            () = led => {}
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        // Nobody is left who could change it.
        std::future::pending::<()>().await;
    }
}

/// What has to be told to one who knows `before`: causes first.
fn changes(before: &proto::Cluster, now: &proto::Cluster) -> VecDeque<Event> {
    let mut events: VecDeque<Event> = VecDeque::new();
    events.extend(new_links(before, now).map(Event::Link));
    events.extend(new_members(before, now).map(Event::Member));
    events.extend(gone_members(before, now).map(Event::MemberLeft));
    events.extend(new_vertices(before, now).map(Event::Vertex));
    if events.len() > EVENTS_MAX {
        return VecDeque::from([Event::Cluster(now.clone())]);
    }
    events
}

/// Links that are up or down now, and were not known to be.
fn new_links<'a>(
    before: &'a proto::Cluster,
    now: &'a proto::Cluster,
) -> impl Iterator<Item = proto::Link> + 'a {
    let ends = |link: &proto::Link| ((link.from_peer, link.to_peer), link.is_up);
    let known: BTreeMap<(u32, u32), bool> = before.links.iter().map(ends).collect();
    let is_new =
        move |link: &&proto::Link| known.get(&(link.from_peer, link.to_peer)) != Some(&link.is_up);
    now.links.iter().filter(is_new).copied()
}

/// Members that came or are otherwise than before; that they were heard again is no change.
fn new_members<'a>(
    before: &'a proto::Cluster,
    now: &'a proto::Cluster,
) -> impl Iterator<Item = proto::Member> + 'a {
    let face = |member: &proto::Member| proto::Member {
        heard_time: None,
        ..member.clone()
    };
    let known: BTreeMap<u32, proto::Member> = before
        .members
        .iter()
        .map(|member| (member.peer, face(member)))
        .collect();
    let is_new = move |member: &&proto::Member| known.get(&member.peer) != Some(&face(member));
    now.members.iter().filter(is_new).cloned()
}

fn gone_members<'a>(
    before: &'a proto::Cluster,
    now: &'a proto::Cluster,
) -> impl Iterator<Item = u32> + 'a {
    let before = before.members.iter().map(|member| member.peer);
    before.filter(|peer| now.members.iter().all(|member| member.peer != *peer))
}

fn new_vertices<'a>(
    before: &'a proto::Cluster,
    now: &'a proto::Cluster,
) -> impl Iterator<Item = proto::VertexStatus> + 'a {
    let is_new = |vertex: &&proto::VertexStatus| !before.vertices.contains(vertex);
    now.vertices.iter().filter(is_new).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(peer: u32, state: proto::MemberState) -> proto::Member {
        proto::Member {
            peer,
            state: state.into(),
            heard_time: Some(prost_types::Timestamp::default()),
            ..proto::Member::default()
        }
    }

    fn link(from_peer: u32, to_peer: u32, is_up: bool) -> proto::Link {
        proto::Link {
            from_peer,
            to_peer,
            is_up,
            round_trip: None,
        }
    }

    fn vertex(vertex: &str, leader: u32) -> proto::VertexStatus {
        proto::VertexStatus {
            vertex: vertex.to_owned(),
            leader: Some(leader),
            ..proto::VertexStatus::default()
        }
    }

    fn cluster() -> proto::Cluster {
        proto::Cluster {
            members: vec![
                member(0, proto::MemberState::Alive),
                member(1, proto::MemberState::Alive),
            ],
            vertices: vec![vertex("0", 0), vertex("1", 1)],
            links: vec![link(0, 1, true)],
            ..proto::Cluster::default()
        }
    }

    #[test]
    fn only_what_differs_is_told_and_causes_come_first() {
        let before = cluster();
        assert!(changes(&before, &before).is_empty());
        let mut now = cluster();
        now.members[1] = member(1, proto::MemberState::Down);
        now.vertices[1] = vertex("1", 0);
        now.links = vec![link(0, 1, false), link(1, 0, false)];
        let expected = [
            Event::Link(link(0, 1, false)),
            Event::Link(link(1, 0, false)),
            Event::Member(member(1, proto::MemberState::Down)),
            Event::Vertex(vertex("1", 0)),
        ];
        assert_eq!(changes(&before, &now), expected);
        now.members.remove(1);
        assert!(changes(&before, &now).contains(&Event::MemberLeft(1)));
    }

    #[test]
    fn figures_that_move_all_the_time_are_no_change() {
        let mut now = cluster();
        for member in &mut now.members {
            member.heard_time = None;
        }
        for link in &mut now.links {
            link.round_trip = Some(prost_types::Duration::default());
        }
        assert!(changes(&cluster(), &now).is_empty());
    }

    #[test]
    fn too_many_changes_are_told_as_the_whole() {
        let mut now = cluster();
        now.links = (0..65).map(|peer| link(peer, 100, true)).collect();
        assert_eq!(changes(&cluster(), &now), [Event::Cluster(now.clone())]);
    }
}
