//! The loops of the clients: a publisher on each topic, and a reader of each level on the topic that is looked at.
//!
//! Closed loops with a pause, so that the machine has room for what is measured. They never stop for an error: it is counted, and the number
//! of that message is not used again. Begin with [`Load::start`].

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::series::Series;
use crate::system::{Client, DEADLINE, Level, TOPICS};

/// Between the answer of a call and the next, on the topic that is looked at.
const PAUSE: Duration = Duration::from_millis(2);
/// The same on the other topics.
const PAUSE_ELSEWHERE: Duration = Duration::from_millis(20);
/// How long the loops may take to end.
const END_MAX: Duration = Duration::from_secs(60);
/// Errors whose words are kept.
const ERRORS_KEPT: usize = 20;

/// A publish that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    pub number: u64,
    pub offset: u64,
}

/// What a publisher was promised.
#[derive(Debug, Clone, Default)]
pub struct Promises {
    pub acknowledged: Vec<Acknowledged>,
    /// Numbers of publishes that ended with an error, in ascending order: they may be there or not.
    pub failed: Vec<u64>,
}

/// The loops.
pub struct Load {
    shared: Arc<Shared>,
    publishers: JoinSet<(usize, Promises)>,
    readers: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    /// The topic that is looked at.
    focus: AtomicUsize,
    is_over: AtomicBool,
    writes: [Series; TOPICS],
    eventual: Series,
    linearizable: Series,
    /// How many messages each topic has at least.
    floors: [AtomicU64; TOPICS],
    errors: Mutex<Errors>,
}

/// What the callers saw go wrong.
#[derive(Debug, Clone, Default)]
pub struct Errors {
    pub writes: u64,
    pub reads: u64,
    /// Linearizable reads that did not see what had been acknowledged before.
    pub stale: u64,
    /// The first few, in words.
    pub words: Vec<String>,
}

impl Errors {
    fn keep(&mut self, words: String) {
        if self.words.len() < ERRORS_KEPT {
            self.words.push(words);
        }
    }
}

impl Load {
    /// Begins. Publishers and readers have connections of their own.
    pub fn start<C: Client>(publishing: &C, reading: &C) -> Self {
        let shared = Arc::<Shared>::default();
        let (mut publishers, mut readers) = (JoinSet::new(), JoinSet::new());
        for topic in 0..TOPICS {
            publishers.spawn(publish(publishing.clone(), topic, Arc::clone(&shared)));
        }
        for level in [Level::Eventual, Level::Linearizable] {
            readers.spawn(read(reading.clone(), level, Arc::clone(&shared)));
        }
        Self {
            shared,
            publishers,
            readers,
        }
    }

    /// Looks at this topic from now on.
    pub fn focus(&self, topic: usize) {
        self.shared.focus.store(topic, Ordering::Relaxed);
    }

    /// When publishes to a topic were acknowledged.
    pub fn writes(&self, topic: usize) -> Option<&Series> {
        self.shared.writes.get(topic)
    }

    /// When reads of a level had their answer.
    pub fn reads(&self, level: Level) -> &Series {
        self.shared.reads(level)
    }

    /// Ends the loops. The promises are those of the topics in order.
    pub async fn stop(mut self) -> anyhow::Result<(Vec<Promises>, Errors)> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let mut promises = vec![Promises::default(); TOPICS];
        let ended = async {
            while let Some(ended) = self.publishers.join_next().await {
                let (topic, of_topic) = ended?;
                *promises.get_mut(topic).context("a topic of ours")? = of_topic;
            }
            while let Some(ended) = self.readers.join_next().await {
                ended?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(END_MAX, ended)
            .await
            .context("the clients do not come to an end")??;
        let errors = self.shared.errors.lock();
        let errors = errors.unwrap_or_else(PoisonError::into_inner).clone();
        Ok((promises, errors))
    }
}

impl Shared {
    fn reads(&self, level: Level) -> &Series {
        match level {
            Level::Eventual => &self.eventual,
            Level::Linearizable => &self.linearizable,
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn complain(&self, complaint: impl FnOnce(&mut Errors)) {
        complaint(&mut self.errors.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Publishes one message after another. Nobody else publishes to the topic.
async fn publish<C: Client>(client: C, topic: usize, shared: Arc<Shared>) -> (usize, Promises) {
    let mut promises = Promises::default();
    let (Some(series), Some(floor)) = (shared.writes.get(topic), shared.floors.get(topic)) else {
        return (topic, promises);
    };
    for number in 0_u64.. {
        if shared.is_over() {
            break;
        }
        let begun = Instant::now();
        let outcome = client.publish(topic, number).await;
        match outcome {
            Ok(offset) => {
                series.add();
                floor.fetch_max(offset + 1, Ordering::Release);
                promises.acknowledged.push(Acknowledged { number, offset });
            }
            Err(error) => {
                promises.failed.push(number);
                shared.complain(|errors| {
                    errors.writes += 1;
                    errors.keep(format!("publish after {:?}: {error:#}", begun.elapsed()));
                });
            }
        }
        let is_focused = shared.focus.load(Ordering::Relaxed) == topic;
        tokio::time::sleep(if is_focused { PAUSE } else { PAUSE_ELSEWHERE }).await;
    }
    (topic, promises)
}

/// Reads the topic that is looked at, again and again.
async fn read<C: Client>(client: C, level: Level, shared: Arc<Shared>) {
    while !shared.is_over() {
        let topic = shared.focus.load(Ordering::Relaxed);
        let floor = shared.floors.get(topic);
        let floor = floor.map_or(0, |floor| floor.load(Ordering::Acquire));
        let read = tokio::time::timeout(DEADLINE, client.read(topic, level)).await;
        let read = read.map_err(anyhow::Error::from).and_then(|read| read);
        match read {
            Ok(count) => {
                shared.reads(level).add();
                if level == Level::Linearizable && count < floor {
                    shared.complain(|errors| {
                        errors.stale += 1;
                        errors.keep(format!("read {count} messages of {floor}"));
                    });
                }
            }
            Err(error) => shared.complain(|errors| {
                errors.reads += 1;
                errors.keep(format!("{level:?} read: {error:#}"));
            }),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
