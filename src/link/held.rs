//! A body whose parts pass when, and if, the faults of its link let them.
//!
//! It reorders nothing and holds at most [`QUEUE_MAX`] parts; behind a cut it takes none, so that flow control holds the sender back. Only peers
//! whose settings allow faults have such bodies. Begin with [`wrap`].

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use http_body::{Body as _, Frame};
use tokio::time::{Instant, Sleep};
use tokio_stream::wrappers::WatchStream;
use tonic::body::Body;

use super::channel::BoxError;
use super::fault::{Faults, Lost, Passage, Rule, Table};
use crate::types::PeerId;

/// Parts of one body that are held back at once: a second of a busy append stream.
const QUEUE_MAX: usize = 256;

/// The body, obeying the faults of the link to this peer. Its first part passed with its head.
pub(super) fn wrap(body: Body, peer: PeerId, faults: &Faults) -> Body {
    if !faults.is_allowed() || body.is_end_stream() {
        return body;
    }
    Body::new(Held {
        inner: body,
        peer,
        faults: faults.clone(),
        queue: VecDeque::new(),
        timer: None,
        changes: None,
        ready_since: Some(Instant::now()),
        has_passed: false,
        is_broken: false,
        is_over: false,
    })
}

struct Held {
    inner: Body,
    peer: PeerId,
    faults: Faults,
    /// With the moment at which each may pass; never decreasing.
    queue: VecDeque<(Instant, Frame<Bytes>)>,
    timer: Option<Pin<Box<Sleep>>>,
    changes: Option<WatchStream<Table>>,
    /// Since when the next part has been there. `None`: the body is waiting for it.
    ready_since: Option<Instant>,
    has_passed: bool,
    /// A part was lost: after those before it the body breaks.
    is_broken: bool,
    is_over: bool,
}

impl Held {
    /// Takes parts out of the body into the queue, until there is none, or no room.
    fn fill(&mut self, rule: &Rule, context: &mut Context<'_>) -> Result<(), BoxError> {
        while !self.is_over && self.queue.len() < QUEUE_MAX {
            let now = Instant::now();
            match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Ready(Some(frame)) => {
                    let frame = frame?;
                    let is_first = !std::mem::replace(&mut self.has_passed, true);
                    if !is_first && frame.is_data() && self.faults.loses(rule) {
                        (self.is_broken, self.is_over) = (true, true);
                        return Ok(());
                    }
                    let due = self.ready_since.unwrap_or(now) + self.faults.hold(rule);
                    let before = self.queue.back().map_or(due, |(before, _)| *before);
                    self.queue.push_back((due.max(before), frame));
                    self.ready_since = Some(now);
                }
                Poll::Ready(None) => self.is_over = true,
                Poll::Pending => {
                    self.ready_since = None;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        let lost = Lost { peer: self.peer };
        std::mem::take(&mut self.is_broken).then(|| Err(lost.into()))
    }

    /// Ready when the faults have changed, or at the time given.
    fn poll_change(&mut self, until: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        let faults = &self.faults;
        let mut is_new = false;
        let changes = self.changes.get_or_insert_with(|| {
            is_new = true;
            WatchStream::from_changes(faults.changed())
        });
        // Watch first, then look again: nothing falls in between.
        if is_new || Pin::new(changes).poll_next(context).is_ready() {
            return Poll::Ready(());
        }
        let Some(until) = until else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(context)
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            let Some(rule) = this.faults.rule(this.peer) else {
                if let Some((_, frame)) = this.queue.pop_front() {
                    return Poll::Ready(Some(Ok(frame)));
                }
                if this.is_over {
                    return Poll::Ready(this.end());
                }
                let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
                this.has_passed = true;
                this.ready_since = None;
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            };
            if rule.passage == Passage::Cut {
                ready!(this.poll_change(rule.until, context));
                continue;
            }
            if let Err(error) = this.fill(&rule, context) {
                return Poll::Ready(Some(Err(error)));
            }
            match this.queue.front() {
                Some((due, _)) if *due <= Instant::now() => {
                    let frame = this.queue.pop_front().map(|(_, frame)| Ok(frame));
                    return Poll::Ready(frame);
                }
                Some((due, _)) => {
                    let due = rule.until.map_or(*due, |until| until.min(*due));
                    ready!(this.poll_change(Some(due), context));
                }
                None if this.is_over => return Poll::Ready(this.end()),
                // The body wakes this when it has more.
                None => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.queue.is_empty() && !self.is_broken && (self.is_over || self.inner.is_end_stream())
    }
}
