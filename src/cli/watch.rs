//! `watch`: how the cluster is, then each change, until Ctrl-C.
//!
//! It sees what one peer sees. When that peer is lost another is asked, and tells everything anew. Begin with [`run`].

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use cubecast_sdk::{
    Client, Cluster, ClusterChange, ClusterEvent, Link, Member, MemberState, VertexStatus,
};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde::Serialize;

use super::output::Output;
use super::session::Session;
use super::signal::Signals;
use super::text;

/// Between two attempts while nobody answers.
const PAUSE: Duration = Duration::from_secs(1);

/// Tell how the cluster is and then each change, until Ctrl-C: peers down and up, leaders, voters, links
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Vertex or address of the peer whose view is told [default: any]
    peer: Option<String>,
    /// Tell of links too
    #[arg(long)]
    links: bool,
}

pub(super) async fn run(arguments: Arguments, session: &mut Session<'_>) -> Result<()> {
    let mut signals = Signals::new()?;
    tokio::select! {
        done = follow(&arguments, session) => done,
        () = signals.next() => Ok(()),
    }
}

type Changes = BoxStream<'static, Result<ClusterChange, cubecast_sdk::Error>>;

async fn follow(arguments: &Arguments, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    let mut teller = Teller {
        links: if arguments.links {
            Telling::Yes
        } else {
            Telling::No
        },
        vertices: BTreeMap::new(),
    };
    loop {
        let lost = match open(&client, arguments.peer.as_deref()).await {
            Ok(mut changes) => loop {
                match changes.try_next().await {
                    Ok(Some(change)) => {
                        teller.tell(&change, session.output)?;
                        session.output.flush()?;
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            },
            Err(error) => Some(error),
        };
        match lost {
            Some(error) if error.is_transient() => {
                session.output.word(format_args!("{error}; trying again"))?;
            }
            Some(error) => return Err(error.into()),
            None => session
                .output
                .word("the peer ended the watch; trying again")?,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn open(client: &Client, peer: Option<&str>) -> Result<Changes, cubecast_sdk::Error> {
    match peer {
        Some(peer) => client.watch_cluster_at(peer).await,
        None => client.watch_cluster().await,
    }
}

/// Puts changes into words and objects.
struct Teller {
    links: Telling,
    /// Who is at home where.
    vertices: BTreeMap<u32, String>,
}

/// Whether something is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    Yes,
    No,
}

impl Teller {
    fn tell(&mut self, change: &ClusterChange, output: &mut Output) -> Result<()> {
        let time = humantime::format_rfc3339_millis(change.time).to_string();
        let lines = match &change.event {
            ClusterEvent::Whole(cluster) => {
                let home = |member: &Member| (member.peer, member.vertices.join(","));
                self.vertices = cluster.members.iter().map(home).collect();
                self.whole(cluster)
            }
            ClusterEvent::Member(member) => vec![self.member(member)],
            ClusterEvent::MemberLeft(peer) => vec![format!("peer {peer} is no member any more")],
            ClusterEvent::Vertex(vertex) => vec![self.vertex(vertex)],
            ClusterEvent::Link(_) if self.links == Telling::No => return Ok(()),
            ClusterEvent::Link(link) => vec![self.link(link)],
            _ => return Ok(()),
        };
        let lines: Vec<String> = lines.iter().map(|line| format!("{time}  {line}")).collect();
        let record = Record {
            time: &time,
            event: Event::from(&change.event),
        };
        Ok(output.line(lines.join("\n"), &record)?)
    }

    /// A peer as people name it: its vertex.
    fn name(&self, peer: u32) -> String {
        match self.vertices.get(&peer) {
            Some(vertex) if !vertex.is_empty() => vertex.clone(),
            _ => format!("peer {peer}"),
        }
    }

    fn names(&self, peers: &[u32]) -> String {
        let names: Vec<String> = peers.iter().map(|peer| self.name(*peer)).collect();
        text::list(&names)
    }

    /// One line for each peer and each vertex.
    fn whole(&self, cluster: &Cluster) -> Vec<String> {
        let members = cluster.members.iter().map(|member| self.member(member));
        let vertices = cluster.vertices.iter().map(|vertex| self.vertex(vertex));
        let lines = members.chain(vertices);
        if self.links == Telling::No {
            return lines.collect();
        }
        let links = cluster.links.iter().map(|link| self.link(link));
        lines.chain(links).collect()
    }

    /// `100 (peer 4) is down`.
    fn member(&self, member: &Member) -> String {
        let what = match state(member.state) {
            "suspect" => "is not heard any more",
            "unknown" => "was not heard yet",
            "alive" => "is alive",
            "down" => "is down",
            other => other,
        };
        format!("{} (peer {}) {what}", self.name(member.peer), member.peer)
    }

    /// `shard 100 is led by 101 in term 3, voters 101, 110, 000`.
    fn vertex(&self, vertex: &VertexStatus) -> String {
        let voters = if vertex.voters.is_empty() {
            String::new()
        } else {
            format!(", voters {}", self.names(&vertex.voters))
        };
        let shard = &vertex.vertex;
        match vertex.leader {
            Some(leader) if vertex.term > 0 => {
                let (leader, term) = (self.name(leader), vertex.term);
                format!("shard {shard} is led by {leader} in term {term}{voters}")
            }
            Some(leader) => format!("shard {shard} is led by {}{voters}", self.name(leader)),
            None => format!("shard {shard} has no leader that is known here{voters}"),
        }
    }

    /// `link 100 to 101 is up`.
    fn link(&self, link: &Link) -> String {
        let (from, to) = (self.name(link.from_peer), self.name(link.to_peer));
        let what = if link.is_up { "up" } else { "down" };
        format!("link {from} to {to} is {what}")
    }
}

fn state(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Down => "down",
        MemberState::Joining => "joining",
        MemberState::Leaving => "leaving",
        _ => "unknown",
    }
}

/// A change as JSON tells it.
#[derive(Debug, Serialize)]
struct Record<'a> {
    /// When the peer learned of it.
    time: &'a str,
    #[serde(flatten)]
    event: Event,
}

/// `kind` says which of them it is.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Event {
    Cluster {
        name: String,
        members: Vec<MemberRecord>,
        vertices: Vec<VertexRecord>,
        links: Vec<LinkRecord>,
    },
    Member(MemberRecord),
    MemberLeft {
        peer: u32,
    },
    Vertex(VertexRecord),
    Link(LinkRecord),
    Other,
}

#[derive(Debug, Serialize)]
struct MemberRecord {
    peer: u32,
    vertices: Vec<String>,
    address: String,
    /// `alive`, `suspect`, `down`, `joining`, `leaving` or `unknown`.
    state: &'static str,
}

#[derive(Debug, Serialize)]
struct VertexRecord {
    vertex: String,
    home: u32,
    replicas: Vec<u32>,
    /// Absent: not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    voters: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<u32>,
    term: u64,
}

#[derive(Debug, Serialize)]
struct LinkRecord {
    from_peer: u32,
    to_peer: u32,
    is_up: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_us: Option<u64>,
}

impl From<&ClusterEvent> for Event {
    fn from(event: &ClusterEvent) -> Self {
        match event {
            ClusterEvent::Whole(cluster) => Self::Cluster {
                name: cluster.name.clone(),
                members: cluster.members.iter().map(Into::into).collect(),
                vertices: cluster.vertices.iter().map(Into::into).collect(),
                links: cluster.links.iter().map(Into::into).collect(),
            },
            ClusterEvent::Member(member) => Self::Member(member.into()),
            ClusterEvent::MemberLeft(peer) => Self::MemberLeft { peer: *peer },
            ClusterEvent::Vertex(vertex) => Self::Vertex(vertex.into()),
            ClusterEvent::Link(link) => Self::Link(link.into()),
            _ => Self::Other,
        }
    }
}

impl From<&Member> for MemberRecord {
    fn from(member: &Member) -> Self {
        Self {
            peer: member.peer,
            vertices: member.vertices.clone(),
            address: member.address.clone(),
            state: state(member.state),
        }
    }
}

impl From<&VertexStatus> for VertexRecord {
    fn from(vertex: &VertexStatus) -> Self {
        Self {
            vertex: vertex.vertex.clone(),
            home: vertex.home,
            replicas: vertex.replicas.clone(),
            voters: vertex.voters.clone(),
            leader: vertex.leader,
            term: vertex.term,
        }
    }
}

impl From<&Link> for LinkRecord {
    fn from(link: &Link) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            from_peer: link.from_peer,
            to_peer: link.to_peer,
            is_up: link.is_up,
            round_trip_us: link.round_trip.map(micros),
        }
    }
}

#[cfg(test)]
mod tests;
