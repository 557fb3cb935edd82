//! The topic store above any engine. Begin with [`KvStore`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::engine::{Engine, Source, Space};
use super::epoch::{Contents, Epoch};
use super::flush::{Flusher, Shared};
use super::read::Layers;
use super::replace;
use super::{
    BatchRange, BoxError, Cause, Damaged, Error, Figures, Reader, Row, RowRange, Table, TopicStore,
    Writes, key, sweep, value,
};
use crate::types::{ByteCount, Offset, StoredBatch, Timestamp, TopicId, Vertex};

/// A topic store in an engine.
#[expect(private_bounds, reason = "engines are made in this module only")]
pub struct KvStore<E: Engine> {
    /// Dropped first: it ends the thread that uses the rest. Without one, callers flush.
    flusher: Option<Flusher<E>>,
    pub(super) shared: Arc<Shared<E>>,
    /// Held during a sweep: two would count the same rows twice.
    sweeping: Mutex<()>,
}

#[expect(private_bounds, reason = "engines are made in this module only")]
impl<E: Engine> KvStore<E> {
    /// Lets everybody know when the engine has stopped itself: it then takes nothing more.
    fn told<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error @ Error::Engine(_)) = &result {
            self.shared.fail(error);
        }
        result
    }

    /// The store of an engine, with a thread that flushes. Unfinished replacements are undone first.
    pub(super) fn attended(engine: E, memtable_bytes: ByteCount) -> Result<Self, Error> {
        let shared = Shared::new(engine, memtable_bytes);
        replace::finish_wipes(&shared)?;
        read_marks(&shared)?;
        let flusher = Flusher::start(&shared)?;
        Ok(Self {
            flusher: Some(flusher),
            shared,
            sweeping: Mutex::default(),
        })
    }

    /// The store of an engine without content, in which callers flush.
    pub(super) fn unattended(engine: E, memtable_bytes: ByteCount) -> Self {
        Self {
            flusher: None,
            shared: Shared::new(engine, memtable_bytes),
            sweeping: Mutex::default(),
        }
    }

    fn layers(&self) -> Layers<'_, E> {
        Layers {
            tables: self.shared.layers(),
            source: &self.shared.engine,
        }
    }

    fn read<T>(
        &self,
        shard: u16,
        read: impl FnOnce(Layers<'_, E>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.shared.contents.read(shard, || read(self.layers()))
    }

    /// Flushes when there is no thread for it.
    fn flush_unattended(&self) -> Result<(), Error> {
        match self.flusher {
            Some(_) => Ok(()),
            None => self.shared.flush_sealed(),
        }
    }
}

/// Takes over the marks that the engine holds. A damaged one is its shard's damage.
fn read_marks<E: Engine>(shared: &Shared<E>) -> Result<(), Error> {
    let prefix = key::marks();
    let end = key::after_prefix(&prefix);
    for pair in shared.engine.scan(Space::Meta, &prefix..&end) {
        let (key, value) = pair?;
        let Some((shard, _)) = key::peer_parts(&key) else {
            continue;
        };
        let mark = value::decode_row(&key, &value);
        let epoch = shared.contents.epoch(shard);
        if let Ok(mark) = shared.contents.noted((shard, epoch), mark) {
            shared.durable().insert(shard, mark);
        }
    }
    Ok(())
}

/// The number of the shard that a topic belongs to.
fn shard_of(topic: TopicId) -> u16 {
    let bits = topic.to_bits().to_be_bytes();
    u16::from_be_bytes([bits[0], bits[1]])
}

/// What an engine held when it was frozen.
struct Frozen<S> {
    source: S,
    contents: Contents,
    /// As they were then.
    epochs: BTreeMap<u16, Epoch>,
}

impl<S: Source> Frozen<S> {
    fn read<T>(
        &self,
        shard: u16,
        read: impl FnOnce(Layers<'_, S>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let epoch = self.epochs.get(&shard).copied().unwrap_or_default();
        if !epoch.is_settled() {
            return Err(Error::Replaced { shard });
        }
        let layers = Layers {
            tables: Vec::new(),
            source: &self.source,
        };
        self.contents.noted((shard, epoch), read(layers))
    }
}

/// Both readers answer from layers and note damage.
macro_rules! reader {
    ($bound:ident, $type:ident) => {
        impl<S: $bound> Reader for $type<S> {
            fn mark(&self, shard: Vertex) -> Result<Option<Bytes>, Error> {
                self.read(shard.index(), |layers| layers.mark(shard))
            }

            fn row(&self, shard: Vertex, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
                self.read(shard.index(), |layers| layers.row(shard, table, key))
            }

            fn rows(
                &self,
                shard: Vertex,
                table: Table,
                range: RowRange<'_>,
                limit: usize,
            ) -> Result<Vec<Row>, Error> {
                self.read(shard.index(), |layers| {
                    layers.rows(shard, table, range, limit)
                })
            }

            fn batches(
                &self,
                topic: TopicId,
                range: BatchRange,
            ) -> Result<Vec<StoredBatch>, Error> {
                self.read(shard_of(topic), |layers| layers.batches(topic, range))
            }

            fn batch_at(
                &self,
                topic: TopicId,
                offset: Offset,
            ) -> Result<Option<StoredBatch>, Error> {
                self.read(shard_of(topic), |layers| layers.batch_at(topic, offset))
            }

            fn offset_at(
                &self,
                topic: TopicId,
                messages: Range<Offset>,
                time: Timestamp,
            ) -> Result<Offset, Error> {
                self.read(shard_of(topic), |layers| {
                    layers.offset_at(topic, messages, time)
                })
            }
        }
    };
}

reader!(Engine, KvStore);
reader!(Source, Frozen);

impl<E: Engine> TopicStore for KvStore<E> {
    fn durable_mark(&self, shard: Vertex) -> Option<Bytes> {
        self.shared.durable().get(&shard.index()).cloned()
    }

    fn commit(&self, shard: Vertex, writes: Writes, mark: Bytes) -> Result<(), Error> {
        if self.shared.insert(shard, writes, mark)? {
            self.shared.seal_full();
            self.flush_unattended()?;
        }
        Ok(())
    }

    fn sweep(&self, limit: usize) -> Result<usize, Error> {
        let _one = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.check_failure()?;
        sweep::sweep(&self.shared, limit)
    }

    fn checkpoint(&self) -> Result<(), Error> {
        self.shared.checkpoint(|| self.flush_unattended())
    }

    fn snapshot(&self) -> Result<Arc<dyn Reader>, Error> {
        let _gate = self.shared.write_gate();
        Ok(Arc::new(Frozen {
            source: self.shared.engine.freeze()?,
            contents: self.shared.contents.clone(),
            epochs: self.shared.contents.epochs(),
        }))
    }

    fn replace(
        &self,
        shard: Vertex,
        parts: &mut dyn Iterator<Item = Result<Writes, BoxError>>,
        mark: Bytes,
    ) -> Result<(), Error> {
        self.checkpoint()?;
        self.told(replace::replace(&self.shared, shard, parts, mark))
    }

    fn erase(&self, shard: Vertex) -> Result<(), Error> {
        self.checkpoint()?;
        self.told(replace::erase(&self.shared, shard.index()))
    }

    fn damaged(&self) -> watch::Receiver<Damaged> {
        self.shared.contents.damaged()
    }

    fn blame(&self, shard: Vertex, source: Cause) {
        let shard = shard.index();
        let found = Err::<(), _>(Error::Senseless { source });
        let epoch = self.shared.contents.epoch(shard);
        // Only to be remembered: whoever met it has it already.
        let _ = self.shared.contents.noted((shard, epoch), found);
    }

    fn epoch(&self, shard: Vertex) -> Epoch {
        self.shared.contents.epoch(shard.index())
    }

    fn failed(&self) -> watch::Receiver<Option<Arc<Error>>> {
        self.shared.failure.subscribe()
    }

    fn is_calm(&self) -> bool {
        !self.shared.is_blocked() && self.shared.engine.is_calm()
    }

    fn figures(&self) -> Result<Figures, Error> {
        self.shared.figures()
    }
}
