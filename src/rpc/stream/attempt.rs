//! The attempt of a request of a PublishStream at this peer's own replica.
//!
//! Attempts on a topic are proposed in the order in which they were made. One whose publisher has to be looked up first holds up those of its topic that
//! come after it, and no others. Begin with [`Turns::append`].

use std::collections::BTreeMap;

use cubecast_sdk::proto::v1 as proto;
use futures::future::BoxFuture;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::held::{Goal, Held, Tried, Work};
use crate::rpc::api::{Api, Names};
use crate::rpc::forward::Failure;
use crate::rpc::operation::Here;
use crate::types::{TopicName, Vertex};

type Answer = Result<proto::PublishResponse, Failure>;

/// Who is next on each topic.
#[derive(Debug, Default)]
pub struct Turns {
    /// The last attempt on a topic that had to wait, until it is proposed. At most as many as are in the window.
    last: BTreeMap<TopicName, CancellationToken>,
}

/// The turn of one attempt. It is over when this is dropped.
struct Turn {
    /// The turn before it.
    before: Option<CancellationToken>,
    over: DropGuard,
}

impl Turns {
    /// Has this peer's replica append a request, behind those of its topic that were handed in before.
    pub fn append(&mut self, api: &Api, held: Box<Held>, goal: &Goal) -> BoxFuture<'static, Tried> {
        self.last.retain(|_, turn| !turn.is_cancelled());
        let before = self.last.get(&goal.topic).cloned();
        let is_asked = held
            .work
            .as_ref()
            .is_some_and(|work| must_ask(api, work, goal.vertex));
        let turn = (is_asked || before.is_some()).then(|| {
            let own = CancellationToken::new();
            self.last.insert(goal.topic.clone(), own.clone());
            let over = own.drop_guard();
            Turn { before, over }
        });
        let (api, vertex) = (api.clone(), goal.vertex);
        let attempt = async move {
            let result = match &held.work {
                Some(work) => match turn {
                    Some(turn) => append_in_turn(&api, work, vertex, turn).await,
                    None => append(&api, work, vertex).await,
                },
                None => Err(Failure::Unreached),
            };
            Tried::new(held, Some(api.cluster().this()), result)
        };
        // Proposed when it is first polled, or when its turn has come: what the runtime may do to spread work evenly, to let it yield before that, would
        // let a later one pass.
        Box::pin(tokio::task::unconstrained(attempt))
    }
}

/// An attempt that has ended already.
pub fn ready(
    held: Box<Held>,
    peer: Option<crate::types::PeerId>,
    result: Answer,
) -> BoxFuture<'static, Tried> {
    Box::pin(std::future::ready(Tried::new(held, peer, result)))
}

/// Whether another shard has to be asked for the publisher. A replica that does not lead asks nobody: the proposal will be refused.
fn must_ask(api: &Api, work: &Work, vertex: Vertex) -> bool {
    let (Some(publisher), Some(replica)) =
        (work.operation.publisher(), api.parts.replicas.get(vertex))
    else {
        return false;
    };
    let is_leader = replica.leader().borrow().leader == Some(api.cluster().this());
    is_leader && !api.broker().has_found(publisher)
}

async fn append_in_turn(api: &Api, work: &Work, vertex: Vertex, turn: Turn) -> Answer {
    let Turn { before, over } = turn;
    if let Some(before) = before {
        before.cancelled().await;
    }
    find_publisher(api, work, vertex).await?;
    let mut attempt = std::pin::pin!(append(api, work, vertex));
    let proposed = futures::poll!(attempt.as_mut());
    drop(over);
    match proposed {
        std::task::Poll::Ready(result) => result,
        std::task::Poll::Pending => attempt.await,
    }
}

/// Makes sure that the publisher exists, as far as it is for this peer to ask.
async fn find_publisher(api: &Api, work: &Work, vertex: Vertex) -> Result<(), Failure> {
    if !must_ask(api, work, vertex) {
        return Ok(());
    }
    let (Some(publisher), Some(replica)) =
        (work.operation.publisher(), api.parts.replicas.get(vertex))
    else {
        return Ok(());
    };
    let context = &work.context;
    let names = Names { api, context };
    let found = api
        .broker()
        .require_publisher(&names, publisher, context.deadline);
    found.await.map_err(|error| api.judge(&replica, error))
}

async fn append(api: &Api, work: &Work, vertex: Vertex) -> Answer {
    let Some(replica) = api.parts.replicas.get(vertex) else {
        return Err(Failure::NotLeader(None));
    };
    let context = &work.context;
    let here = Here {
        replica: &replica,
        directory: &Names { api, context },
        deadline: context.deadline,
    };
    let result = work.operation.append(api, here).await;
    result.map_err(|error| api.judge(&replica, error))
}
