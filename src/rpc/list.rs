//! Lists over all shards: the peer that was asked walks over the vertices in order and asks each shard's leader for its part.
//!
//! Begin with [`Api::list_topics`].

use cubecast_sdk::proto::v1 as public;
use tonic::{Request, Response, Status};

use super::api::Api;
use super::context::{self, Context};
use super::convert;
use super::forward::Failed;
use super::operation::{ListShard, ListShardSubscriptions, Operation};
use super::page::{self, Place};
use super::status::Fault;
use crate::proto::peer::v1 as proto;
use crate::types::{Name, Vertex};

/// A walk over the shards.
struct Walk {
    /// Where it begins.
    place: Place,
    /// The only vertex to visit.
    only: Option<Vertex>,
    /// Entries wanted.
    page_size: u32,
}

/// What one shard gave: how many entries, and where it goes on.
struct Part {
    count: usize,
    resume: Option<(Name, Option<Name>)>,
}

impl Api {
    pub(super) async fn list_topics(
        &self,
        request: Request<public::ListTopicsRequest>,
    ) -> Result<Response<public::ListTopicsResponse>, Status> {
        let context = self.context(&request)?;
        let asked = request.into_inner();
        let creator = convert::optional_name(&asked.publisher, "publisher")
            .map_err(|fault| self.refuse(fault.into_status()))?;
        let creator = creator.map_or_else(String::new, |creator| creator.to_string());
        let kind = proto::NameKind::Topic;
        let filters = ["topics", creator.as_str(), asked.prefix.as_str()];
        let mut topics = Vec::new();
        let next = self
            .list_names(
                &context,
                (asked.page_size, &asked.page_token, &filters),
                |part| proto::ListShardRequest {
                    kind: kind.into(),
                    prefix: asked.prefix.clone(),
                    publisher: creator.clone(),
                    ..part
                },
                |response| {
                    topics.extend(response.topics);
                    topics.len()
                },
            )
            .await?;
        Ok(self.page(public::ListTopicsResponse {
            topics,
            next_page_token: next,
        }))
    }

    pub(super) async fn list_publishers(
        &self,
        request: Request<public::ListPublishersRequest>,
    ) -> Result<Response<public::ListPublishersResponse>, Status> {
        let context = self.context(&request)?;
        let asked = request.into_inner();
        let filters = ["publishers", asked.prefix.as_str()];
        let mut publishers = Vec::new();
        let next = self
            .list_names(
                &context,
                (asked.page_size, &asked.page_token, &filters),
                |part| proto::ListShardRequest {
                    kind: proto::NameKind::Publisher.into(),
                    prefix: asked.prefix.clone(),
                    ..part
                },
                |response| {
                    publishers.extend(response.publishers);
                    publishers.len()
                },
            )
            .await?;
        Ok(self.page(public::ListPublishersResponse {
            publishers,
            next_page_token: next,
        }))
    }

    pub(super) async fn list_subscribers(
        &self,
        request: Request<public::ListSubscribersRequest>,
    ) -> Result<Response<public::ListSubscribersResponse>, Status> {
        let context = self.context(&request)?;
        let asked = request.into_inner();
        let filters = ["subscribers", asked.prefix.as_str()];
        let mut subscribers = Vec::new();
        let next = self
            .list_names(
                &context,
                (asked.page_size, &asked.page_token, &filters),
                |part| proto::ListShardRequest {
                    kind: proto::NameKind::Subscriber.into(),
                    prefix: asked.prefix.clone(),
                    ..part
                },
                |response| {
                    subscribers.extend(response.subscribers);
                    subscribers.len()
                },
            )
            .await?;
        Ok(self.page(public::ListSubscribersResponse {
            subscribers,
            next_page_token: next,
        }))
    }

    pub(super) async fn list_subscriptions(
        &self,
        request: Request<public::ListSubscriptionsRequest>,
    ) -> Result<Response<public::ListSubscriptionsResponse>, Status> {
        let context = self.context(&request)?;
        let asked = request.into_inner();
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        let topic = convert::optional_name(&asked.topic, "topic").map_err(refuse)?;
        convert::optional_name(&asked.subscriber, "subscriber").map_err(refuse)?;
        let filters = [
            "subscriptions",
            asked.topic.as_str(),
            asked.subscriber.as_str(),
        ];
        let only = topic.map(|topic| self.cluster().place(&topic));
        let walk = self.begin((asked.page_size, &asked.page_token, &filters), only)?;
        let mut subscriptions = Vec::new();
        let next = walk_shards::<ListShardSubscriptions>(
            (self, &context),
            walk,
            |place, limit| proto::ListShardSubscriptionsRequest {
                shard: u32::from(place.vertex.index()),
                after_topic: text(place.after.as_ref()),
                after_subscriber: text(place.after_second.as_ref()),
                limit,
                topic: asked.topic.clone(),
                subscriber: asked.subscriber.clone(),
            },
            |response| {
                let count = response.subscriptions.len();
                subscriptions.extend(response.subscriptions);
                let after = Name::new(&response.resume_after_topic).ok();
                let resume =
                    after.map(|after| (after, Name::new(&response.resume_after_subscriber).ok()));
                Part { count, resume }
            },
        )
        .await
        .map_err(|failed| self.fail(failed))?;
        let next_page_token = next.map_or_else(String::new, |place| page::token(&filters, &place));
        Ok(self.page(public::ListSubscriptionsResponse {
            subscriptions,
            next_page_token,
        }))
    }

    /// Walks over a list of names. `take` keeps the entries of a part and says how many it has then; the token of the next page comes back.
    async fn list_names(
        &self,
        context: &Context,
        (page_size, token, filters): (i32, &str, &[&str]),
        ask: impl Fn(proto::ListShardRequest) -> proto::ListShardRequest + Send + Sync,
        mut take: impl FnMut(proto::ListShardResponse) -> usize + Send,
    ) -> Result<String, Status> {
        let walk = self.begin((page_size, token, filters), None)?;
        let mut before = 0;
        let next = walk_shards::<ListShard>(
            (self, context),
            walk,
            |place, limit| {
                let (shard, after) = (u32::from(place.vertex.index()), text(place.after.as_ref()));
                ask(proto::ListShardRequest {
                    shard,
                    after,
                    limit,
                    ..Default::default()
                })
            },
            |response| {
                let resume = Name::new(&response.resume_after)
                    .ok()
                    .map(|after| (after, None));
                let total = take(response);
                let count = total - before;
                before = total;
                Part { count, resume }
            },
        )
        .await
        .map_err(|failed| self.fail(failed))?;
        Ok(next.map_or_else(String::new, |place| page::token(filters, &place)))
    }

    /// Where a walk begins, from size and token.
    fn begin(
        &self,
        (size, token, filters): (i32, &str, &[&str]),
        only: Option<Vertex>,
    ) -> Result<Walk, Status> {
        let refuse = |fault: Fault| self.refuse(fault.into_status());
        let page_size = convert::page_size(size, &self.parts.limits).map_err(refuse)?;
        let dimension = self.cluster().dimension();
        let place = page::place(filters, token, dimension).map_err(refuse)?;
        let first = only.or_else(|| dimension.vertices().next());
        let place = place.or_else(|| {
            first.map(|vertex| Place {
                vertex,
                after: None,
                after_second: None,
            })
        });
        let place = place.unwrap_or_else(|| unreachable!("every cube has a vertex"));
        Ok(Walk {
            place,
            only,
            page_size,
        })
    }

    /// The context of a list: it is never forwarded as a whole.
    pub(super) fn context<T>(&self, request: &Request<T>) -> Result<Context, Status> {
        let context = Context::read(request, std::time::Duration::ZERO);
        let context = context.map_err(|fault| self.refuse(fault.into_status()))?;
        Ok(Context {
            forwarded_by: None,
            ..context
        })
    }

    pub(super) fn page<T>(&self, page: T) -> Response<T> {
        let mut response = Response::new(page);
        context::tag(response.metadata_mut(), self.cluster(), &[]);
        response
    }
}

fn text(name: Option<&Name>) -> String {
    name.map_or_else(String::new, ToString::to_string)
}

/// Asks one shard after another until there are enough entries, and says where the list goes on.
async fn walk_shards<O: Operation>(
    (api, context): (&Api, &Context),
    walk: Walk,
    ask: impl Fn(&Place, u32) -> O::Request + Send + Sync,
    mut take: impl FnMut(O::Response) -> Part + Send,
) -> Result<Option<Place>, Failed> {
    let Walk {
        mut place,
        only,
        page_size,
    } = walk;
    let mut left = page_size;
    loop {
        let request = ask(&place, left);
        let refuse = |fault: Fault| Failed {
            status: fault.into_status(),
            peer: Some(api.cluster().this()),
        };
        let operation = O::parse(&request, api.checks()).map_err(refuse)?;
        let part = take(
            Box::pin(api.run(&operation, &request, context))
                .await?
                .answer,
        );
        left = left.saturating_sub(u32::try_from(part.count).unwrap_or(u32::MAX));
        let following = Vertex::new(place.vertex.index() + 1, place.vertex.dimension())
            .ok()
            .filter(|_| only.is_none());
        place = match (part.resume, following) {
            (Some((after, after_second)), _) => Place {
                after: Some(after),
                after_second,
                ..place
            },
            (None, Some(vertex)) => Place {
                vertex,
                after: None,
                after_second: None,
            },
            (None, None) => return Ok(None),
        };
        if left == 0 {
            return Ok(Some(place));
        }
    }
}
