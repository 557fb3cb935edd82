//! The task of a producer: one PublishStream at a time, bundles in flight on it, and what happens when it breaks.
//!
//! Bundles are numbered within a session, and each is sent again under its number until its fate is known, so that a topic has each once and in order,
//! whatever breaks. When one is given up, those behind it go on in a new session, but for those that may be in the log already: what is not known is
//! said so. Begin with [`drive`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;
use tracing::debug;

use crate::address::Address;
use crate::attempt::Encoded;
use crate::block;
use crate::bundle::{Bundle, METHOD, Next, Trip};
use crate::connect::{Chosen, PeerKey};
use crate::error::{Error, Failure, Fate, Reason};
use crate::message::Published;
use crate::moment;
use crate::producer::Core;
use crate::proto::v1;
use crate::proto::v1::publish_stream_response::Result as Outcome;
use crate::pursuit::Pursuit;
use crate::receipt::Shape;
use crate::retry::{self, Repeat, Verdict};

const PATH: &str = "/cubecast.v1.PeerService/PublishStream";
/// A stream with nothing to do is closed after this.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How often a peer that answers probes is given as long again as before to answer publishes: leaving it sends all that is under way again, which makes
/// slow answers slower. With the default settings this is 8 s of the 10 s that a publish has.
const DOUBLINGS_MAX: u32 = 2;

/// Sends what is in the queue, until the producer is dropped.
pub(crate) async fn drive(core: Arc<Core>) {
    let pipeline = Pipeline {
        session: Session::begin(),
        hand: VecDeque::new(),
        sent: 0,
        pursuit: Pursuit::default(),
        core,
    };
    pipeline.run().await;
}

/// A session and the number of the oldest bundle without an answer.
#[derive(Debug)]
struct Session {
    id: u64,
    oldest: u64,
}

impl Session {
    fn begin() -> Self {
        Self {
            id: rand::random(),
            oldest: 0,
        }
    }
}

struct Pipeline {
    core: Arc<Core>,
    session: Session,
    /// Without an answer, in order; at most as many as the window.
    hand: VecDeque<Bundle>,
    /// How many of these are under way on the stream that is open.
    sent: usize,
    pursuit: Pursuit,
}

/// A stream that is open.
struct Way {
    chosen: Chosen,
    requests: mpsc::Sender<Encoded>,
    answers: Streaming<v1::PublishStreamResponse>,
    /// When something was last heard, or waited for.
    heard: Instant,
    is_suspected: bool,
    /// How often it was given more time since then, as it is only slow.
    doublings: u32,
    /// Another peer leads: nothing more is sent here.
    is_leaving: bool,
}

/// How a stream ended.
enum Ending {
    /// There is nothing to send, or not here.
    Well,
    /// With a failure that tells what became of the oldest bundle.
    Answered(Failure),
    /// It broke.
    Broken(Failure),
    /// The oldest bundle waited too long.
    Late,
}

impl Pipeline {
    async fn run(mut self) {
        loop {
            self.fetch().await;
            let shared = &self.core.client.shared;
            let Some(chosen) = self.pursuit.choose(shared, &self.core.topic) else {
                return;
            };
            let (key, opened) = (chosen.key, self.open(chosen).await);
            let ending = match opened {
                Ok(way) => self.converse(way).await,
                Err(failure) => Ending::Broken(failure),
            };
            self.sent = 0;
            match ending {
                Ending::Well => {}
                Ending::Late => self.expire(),
                Ending::Answered(failure) => self.judge(key, failure, false).await,
                Ending::Broken(failure) => self.judge(key, failure, true).await,
            }
        }
    }

    /// Waits until there is something to send.
    async fn fetch(&mut self) {
        while self.hand.is_empty() {
            let wait = match self.core.next() {
                Next::Ready(bundle) => return self.hand.push_back(bundle),
                Next::At(due) => Some(due),
                Next::Nothing => None,
            };
            tokio::select! {
                () = self.core.wake.notified() => {}
                () = tokio::time::sleep_until(wait.unwrap_or_else(Instant::now)), if wait.is_some() => {}
            }
        }
    }

    async fn open(&self, chosen: Chosen) -> Result<Way, Failure> {
        let options = &self.core.client.shared.options;
        let (requests, outgoing) = mpsc::channel(self.core.options.in_flight);
        let mut client = Grpc::new(chosen.channel.clone())
            .max_decoding_message_size(options.answer_bytes_max)
            .max_encoding_message_size(usize::MAX);
        let opening = async {
            if let Err(error) = client.ready().await {
                debug!(%error, address = %chosen.address, "channel is not ready");
            }
            let request = tonic::Request::new(ReceiverStream::new(outgoing));
            let codec = ProstCodec::<Encoded, v1::PublishStreamResponse>::default();
            client
                .streaming(request, PathAndQuery::from_static(PATH), codec)
                .await
        };
        let patience = options.attempt_timeout;
        let Ok(opened) = tokio::time::timeout(patience, opening).await else {
            return Err(Failure::no_answer(chosen.address, patience));
        };
        match opened {
            Ok(opened) => Ok(Way {
                requests,
                answers: opened.into_inner(),
                heard: Instant::now(),
                is_suspected: false,
                doublings: 0,
                is_leaving: false,
                chosen,
            }),
            Err(status) => Err(Failure::from_status(&status, chosen.address)),
        }
    }

    /// Sends and hears until the stream ends.
    async fn converse(&mut self, mut way: Way) -> Ending {
        let mut lost = way.chosen.lost.clone();
        lost.mark_unchanged();
        loop {
            let due = self.send(&mut way);
            if self.sent == 0 && way.is_leaving {
                return Ending::Well;
            }
            let late = self.hand.front().map(|oldest| oldest.ends);
            let silent = self.patience(&way);
            let timer = [due, late, Some(silent)].into_iter().flatten().min();
            tokio::select! {
                biased;
                answer = way.answers.message() => {
                    let address = way.chosen.address.clone();
                    let ending = match answer {
                        Ok(Some(answer)) => self.hear(answer, &mut way),
                        Ok(None) => Some(Ending::Broken(Failure::no_answer(address, Duration::ZERO))),
                        Err(status) => Some(Ending::Broken(Failure::from_status(&status, address))),
                    };
                    if let Some(ending) = ending {
                        return ending;
                    }
                }
                Ok(()) = lost.changed() => {
                    let address = way.chosen.address.clone();
                    return Ending::Broken(Failure::no_answer(address, way.heard.elapsed()));
                }
                () = self.core.wake.notified(), if !way.is_leaving => {}
                () = tokio::time::sleep_until(timer.unwrap_or(silent)) => {
                    if let Some(ending) = self.wait_no_longer(&mut way, late) {
                        return ending;
                    }
                }
            }
        }
    }

    /// Sends what there is while the window has room. Gives when more will be due.
    fn send(&mut self, way: &mut Way) -> Option<Instant> {
        while self.sent < self.core.options.in_flight && !way.is_leaving {
            if self.sent == self.hand.len() {
                match self.core.next() {
                    Next::Ready(bundle) => self.hand.push_back(bundle),
                    Next::At(due) => return Some(due),
                    Next::Nothing => return None,
                }
            }
            let number = self.session.oldest.saturating_add(self.sent as u64);
            let bundle = self.hand.get_mut(self.sent)?;
            let request = encode(&self.core, (self.session.id, number), bundle);
            if way.requests.try_send(request).is_err() {
                // The stream is ending; its end comes with the answers.
                return None;
            }
            if self.sent == 0 {
                way.heard = Instant::now();
            }
            // One of unknown fate stays so, however often it is sent again.
            if bundle.trip == Trip::Here {
                bundle.trip = Trip::Sent;
            }
            self.sent += 1;
        }
        None
    }

    /// When silence is looked into, or the stream is left: with nothing under way, when it has been idle for long.
    fn patience(&self, way: &Way) -> Instant {
        let options = &self.core.client.shared.options;
        let patience = match (self.sent, way.is_suspected) {
            (0, _) => IDLE_MAX,
            (_, false) => options.delays.usual.min(options.attempt_timeout),
            (_, true) => {
                let patience = self.pursuit.patience(options.attempt_timeout);
                patience.saturating_mul(1 << way.doublings)
            }
        };
        moment::after(way.heard, patience)
    }

    /// A time has come.
    fn wait_no_longer(&mut self, way: &mut Way, late: Option<Instant>) -> Option<Ending> {
        let now = Instant::now();
        if late.is_some_and(|late| late <= now) {
            return Some(Ending::Late);
        }
        if self.patience(way) > now {
            return None;
        }
        if self.sent == 0 {
            return Some(Ending::Well);
        }
        let shared = &self.core.client.shared;
        if !way.is_suspected {
            // If it does not answer a probe either, the stream is left at once.
            way.is_suspected = true;
            shared.suspect(way.chosen.key);
            return None;
        }
        if way.doublings < DOUBLINGS_MAX && shared.peers.is_up(way.chosen.key) {
            way.doublings += 1;
            shared.suspect(way.chosen.key);
            return None;
        }
        let address = way.chosen.address.clone();
        Some(Ending::Broken(Failure::no_answer(
            address,
            way.heard.elapsed(),
        )))
    }

    /// Takes an answer. Gives how the stream ends, if it does.
    fn hear(&mut self, answer: v1::PublishStreamResponse, way: &mut Way) -> Option<Ending> {
        let shared = &self.core.client.shared;
        shared.peers.mark_up(way.chosen.key);
        (way.heard, way.is_suspected, way.doublings) = (Instant::now(), false, 0);
        if answer.request_number != self.session.oldest || self.sent == 0 {
            let address = way.chosen.address.clone();
            return Some(Ending::Broken(Failure::no_answer(address, Duration::ZERO)));
        }
        match answer.result {
            Some(Outcome::Published(published)) => {
                self.pursuit.succeed();
                if let Some(placement) = &published.placement {
                    shared.peers.learn(&self.core.topic, &placement.leader);
                }
                way.is_leaving |= shared
                    .peers
                    .leads_elsewhere(&self.core.topic, way.chosen.key);
                let published = self.core.published(published);
                self.done(Ok(published));
                self.sent -= 1;
                None
            }
            Some(Outcome::Error(part)) => {
                let failure = Failure::from_part(part, way.chosen.address.clone());
                if failure.reason == Reason::SequenceForgotten {
                    // It was appended once: those behind it go on.
                    self.done(Err(Error::Refused(Box::new(failure))));
                    self.sent -= 1;
                    return None;
                }
                Some(Ending::Answered(failure))
            }
            None => {
                let address = way.chosen.address.clone();
                Some(Ending::Broken(Failure::no_answer(address, Duration::ZERO)))
            }
        }
    }

    /// The oldest bundle has its answer, and its number is used.
    fn done(&mut self, result: Result<Published, Error>) {
        self.session.oldest = self.session.oldest.saturating_add(1);
        if let Some(oldest) = self.hand.pop_front() {
            let shape = block::shape(&oldest);
            oldest.resolve(shape, result.map(Arc::new));
        }
    }

    /// What follows a stream that ended with a failure. `is_of_stream`: it is not about the oldest bundle alone.
    async fn judge(&mut self, key: PeerKey, failure: Failure, is_of_stream: bool) {
        debug!(%failure, topic = %self.core.topic, "a stream of publishes ended");
        let shared = &self.core.client.shared;
        self.pursuit
            .fail(shared, &self.core.topic, Some(key), &failure);
        let was_unknown = self.is_oldest(Trip::Unknown);
        let is_session_lost =
            matches!(failure.reason, Reason::SessionUnknown | Reason::SequenceGap);
        let verdict = match retry::decide(&failure, Repeat::Write, was_unknown) {
            // Only the session is refused: it was forgotten.
            _ if is_session_lost && !was_unknown => return self.begin_anew(),
            verdict => verdict,
        };
        match verdict {
            Verdict::Again(place) => {
                // An error with a reason ends a stream when all that was taken is answered.
                if !(is_of_stream && failure.fate == Fate::Nothing) {
                    self.forget_trips();
                }
                let shared = &self.core.client.shared;
                let pause = self.pursuit.pause(shared, &place, &failure);
                self.rest(pause).await;
            }
            Verdict::Fail | Verdict::Done => self.give_up(failure, was_unknown),
        }
    }

    fn is_oldest(&self, trip: Trip) -> bool {
        self.hand.front().is_some_and(|oldest| oldest.trip == trip)
    }

    /// Whatever was under way may have arrived.
    fn forget_trips(&mut self) {
        for bundle in &mut self.hand {
            if bundle.trip == Trip::Sent {
                bundle.trip = Trip::Unknown;
            }
        }
    }

    /// The oldest bundle fails, or its messages each for themselves. When an earlier attempt of it may have been taken, what this one is refused for says
    /// nothing of that: peers may differ in what they take.
    fn give_up(&mut self, failure: Failure, was_unknown: bool) {
        if was_unknown {
            return self.lose(&failure);
        }
        let Some(oldest) = self.hand.pop_front() else {
            return;
        };
        if retry::is_refused_always(&failure) && oldest.run.count > 1 {
            // One of them is wrong, and nobody knows which.
            for part in oldest.split().into_iter().rev() {
                self.hand.push_front(part);
            }
        } else {
            oldest.resolve(Shape::Dense, Err(Error::Refused(Box::new(failure))));
        }
        self.begin_anew();
    }

    /// The fate of all that may have arrived cannot be found out.
    fn lose(&mut self, last: &Failure) {
        let is_lost = |bundle: &Bundle| bundle.trip != Trip::Here;
        while let Some(bundle) = self.hand.pop_front_if(|bundle| is_lost(bundle)) {
            let last = Box::new(last.clone());
            let method = METHOD;
            bundle.resolve(Shape::Dense, Err(Error::OutcomeUnknown { method, last }));
        }
        self.begin_anew();
    }

    /// What is left has never been in the log, and is numbered anew.
    ///
    /// The bundles whose fate is unknown are those in front, and [`Self::lose`] has resolved them. Those that are under way lie behind one that was refused
    /// and never sent before, so that peers refuse them, too, in the session that ends here: they would leave a gap.
    fn begin_anew(&mut self) {
        self.session = Session::begin();
        for bundle in &mut self.hand {
            assert!(
                bundle.trip != Trip::Unknown,
                "a bundle of unknown fate is never numbered anew"
            );
            bundle.trip = Trip::Here;
        }
    }

    /// The deadline of the oldest bundle has passed.
    fn expire(&mut self) {
        let deadline = self.core.client.shared.options.deadline;
        if self.is_oldest(Trip::Here) {
            if let Some(oldest) = self.hand.pop_front() {
                let method = METHOD;
                oldest.resolve(
                    Shape::Dense,
                    Err(Error::DeadlineExceeded { method, deadline }),
                );
            }
            return;
        }
        self.lose(&Failure::no_answer(Address::unknown(), deadline));
    }

    /// Waits, but no longer than the oldest bundle may.
    async fn rest(&mut self, pause: Duration) {
        let until = moment::after(Instant::now(), pause);
        while let Some(ends) = self.hand.front().map(|oldest| oldest.ends) {
            if ends > until {
                break;
            }
            tokio::time::sleep_until(ends).await;
            self.expire();
        }
        tokio::time::sleep_until(until).await;
    }
}

/// The request for a bundle.
fn encode(core: &Core, (session, sequence): (u64, u64), bundle: &mut Bundle) -> Encoded {
    let head = v1::PublishStreamRequest {
        topic: core.topic.to_string(),
        publisher: core.publisher.to_string(),
        sequence: Some(v1::PublishSequence { session, sequence }),
        messages: Vec::new(),
        acks: v1::AckLevel::from(core.options.acks).into(),
        request_number: sequence,
    };
    let message_bytes_max = core.client.shared.message_bytes_max();
    let run = block::packed(&core.options, message_bytes_max, bundle);
    Encoded::new(head.encode_to_vec().into(), run.bytes.clone())
}
