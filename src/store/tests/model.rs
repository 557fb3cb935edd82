//! Random commits, sweeps, checkpoints and sudden ends, compared with a list of what was committed.

use std::collections::BTreeMap;

use super::*;

const BITS: [&str; 2] = ["100", "101"];

/// What happens to a store.
#[derive(Debug, Clone)]
enum Step {
    Append {
        shard: usize,
        topic: u64,
        sizes: Vec<usize>,
    },
    Put {
        shard: usize,
        rows: Vec<(u8, Option<u8>)>,
    },
    Trim {
        shard: usize,
        topic: u64,
        back: u64,
    },
    Delete {
        shard: usize,
        topic: u64,
    },
    Sweep(usize),
    Checkpoint,
    /// As `kill -9` does: what is not flushed is lost, and replayed.
    Reopen,
    /// A frozen reader is taken, and must stay as it is.
    Freeze,
}

fn step() -> impl Strategy<Value = Step> {
    let (shard, topic) = (0..BITS.len(), 1_u64..3);
    let sizes = prop::collection::vec(prop_oneof![0_usize..60, 400_usize..9000], 1..4);
    let rows = prop::collection::vec((0_u8..8, prop::option::of(any::<u8>())), 1..5);
    prop_oneof![
        6 => (shard.clone(), topic.clone(), sizes)
            .prop_map(|(shard, topic, sizes)| Step::Append { shard, topic, sizes }),
        3 => (shard.clone(), rows).prop_map(|(shard, rows)| Step::Put { shard, rows }),
        2 => (shard.clone(), topic.clone(), 0_u64..4)
            .prop_map(|(shard, topic, back)| Step::Trim { shard, topic, back }),
        1 => (shard, topic).prop_map(|(shard, topic)| Step::Delete { shard, topic }),
        3 => (1_usize..6).prop_map(Step::Sweep),
        2 => Just(Step::Checkpoint),
        2 => Just(Step::Reopen),
        1 => Just(Step::Freeze),
    ]
}

/// A topic's batches, and the first offset that is not doomed.
type TopicModel = (Vec<StoredBatch>, Offset);

/// What a shard holds after some commits.
#[derive(Debug, Clone, Default)]
struct ShardModel {
    rows: BTreeMap<Bytes, Bytes>,
    topics: BTreeMap<TopicId, TopicModel>,
    /// Times each topic was made.
    generations: BTreeMap<u64, u64>,
}

impl ShardModel {
    fn id(&self, shard: usize, topic: u64) -> TopicId {
        let generation = self.generations.get(&topic).copied().unwrap_or_default();
        TopicId::new(4 + u16::try_from(shard).unwrap(), topic + 10 * generation)
    }

    fn end(&self, id: TopicId) -> Offset {
        let last = self.topics.get(&id).and_then(|(batches, _)| batches.last());
        last.map_or(Offset(0), StoredBatch::next_offset)
    }

    /// The commit of a step; nothing for those that commit nothing.
    fn writes(&mut self, step: &Step) -> Option<Writes> {
        let mut writes = Writes::default();
        match step {
            Step::Append {
                shard,
                topic,
                sizes,
            } => {
                let id = self.id(*shard, *topic);
                for size in sizes {
                    let base = self.end(id).0;
                    let long = vec![u8::try_from(base % 256).unwrap(); size % 100];
                    let messages = vec![long.as_slice(); 1 + size / 100];
                    let stored = stored(base, base, batch(&messages));
                    self.topics.entry(id).or_default().0.push(stored.clone());
                    writes.batches.push((id, stored));
                }
            }
            Step::Put { rows, .. } => {
                for (key, row) in rows {
                    let (key, row) = (
                        Bytes::from(vec![*key]),
                        row.map(|row| Bytes::from(vec![row])),
                    );
                    match &row {
                        Some(row) => self.rows.insert(key.clone(), row.clone()),
                        None => self.rows.remove(&key),
                    };
                    writes.rows.insert((Table::Topic, key), row);
                }
            }
            Step::Trim { shard, topic, back } => {
                let id = self.id(*shard, *topic);
                let before = Offset(self.end(id).0.saturating_sub(*back));
                let first = &mut self.topics.entry(id).or_default().1;
                let gone = *first..before;
                *first = before.max(*first);
                writes.dooms.push(Doom::BatchesBefore(id, gone));
            }
            Step::Delete { shard, topic } => {
                let id = self.id(*shard, *topic);
                self.topics.remove(&id);
                *self.generations.entry(*topic).or_default() += 1;
                writes.dooms.push(Doom::Batches(id));
            }
            Step::Sweep(_) | Step::Checkpoint | Step::Reopen | Step::Freeze => return None,
        }
        Some(writes)
    }

    fn check(&self, reader: &dyn Reader, shard: Vertex) {
        let rows = reader.rows(shard, Table::Topic, RowRange::default(), 99);
        let expected: Vec<Row> = self.rows.clone().into_iter().collect();
        assert_eq!(rows.unwrap(), expected);
        for (id, (batches, first)) in &self.topics {
            let range = BatchRange {
                from: *first,
                until: self.end(*id),
                count_max: u32::MAX,
                bytes_max: ByteCount(u64::MAX),
            };
            let found = reader.batches(*id, range).unwrap();
            let count = |batches: &[StoredBatch]| -> u32 {
                batches.iter().map(|batch| batch.batch.count()).sum()
            };
            assert_eq!(u64::from(count(&found)), range.until.0 - range.from.0);
            // The first one may be cut.
            for batch in found.iter().skip(1) {
                assert!(batches.contains(batch));
            }
            if range.from < range.until {
                let last = reader.batch_at(*id, range.until).unwrap();
                assert_eq!(last.as_ref(), batches.last());
                let time = Timestamp(last.unwrap().base_offset.0);
                let at = reader.offset_at(*id, *first..range.until, time).unwrap();
                assert_eq!(at.0, time.0.max(first.0));
            }
        }
    }
}

/// A shard's commits with the state after each.
struct History {
    shard: Vertex,
    commits: Vec<(Writes, ShardModel)>,
}

impl History {
    fn now(&self) -> ShardModel {
        let last = self.commits.last();
        last.map(|(_, model)| model.clone()).unwrap_or_default()
    }

    fn commit(&mut self, store: &dyn TopicStore, writes: Writes, model: ShardModel) {
        self.commits.push((writes.clone(), model));
        let mark = Bytes::from(self.commits.len().to_string());
        store.commit(self.shard, writes, mark).unwrap();
    }

    /// What the reader must hold by its mark, and how many commits that is.
    fn check(&self, reader: &dyn Reader) -> usize {
        let mark = reader.mark(self.shard).unwrap();
        let count = mark.map_or(0, |mark| {
            std::str::from_utf8(&mark).unwrap().parse().unwrap()
        });
        let model = match count {
            0 => ShardModel::default(),
            _ => self.commits[count - 1].1.clone(),
        };
        model.check(reader, self.shard);
        count
    }

    /// Commits again what the store has lost.
    fn replay(&self, store: &dyn TopicStore) {
        let durable = self.check(store);
        for (number, (writes, _)) in self.commits.iter().enumerate().skip(durable) {
            let mark = Bytes::from((number + 1).to_string());
            store.commit(self.shard, writes.clone(), mark).unwrap();
        }
    }
}

fn run(steps: &[Step], open: &dyn Fn() -> Box<dyn TopicStore>) {
    let mut store = open();
    let mut histories = BITS.map(|bits| History {
        shard: shard(bits),
        commits: Vec::new(),
    });
    let mut frozen: Option<(Arc<dyn Reader>, [usize; 2])> = None;
    for step in steps {
        let (Step::Append { shard, .. }
        | Step::Put { shard, .. }
        | Step::Trim { shard, .. }
        | Step::Delete { shard, .. }) = step
        else {
            match step {
                Step::Sweep(limit) => drop(store.sweep(*limit).unwrap()),
                Step::Checkpoint => store.checkpoint().unwrap(),
                Step::Freeze => {
                    let reader = store.snapshot().unwrap();
                    let counts = [0, 1].map(|shard: usize| histories[shard].check(&*reader));
                    frozen = Some((reader, counts));
                }
                _ => {
                    drop(store);
                    frozen = None;
                    store = open();
                    histories.iter().for_each(|history| history.replay(&*store));
                }
            }
            continue;
        };
        let history = &mut histories[*shard];
        let mut model = history.now();
        if let Some(writes) = model.writes(step) {
            history.commit(&*store, writes, model);
        }
        history.now().check(&*store, history.shard);
        if let Some((reader, counts)) = &frozen {
            assert_eq!(histories[*shard].check(&**reader), counts[*shard]);
        }
    }
    store.checkpoint().unwrap();
    while store.sweep(3).unwrap() > 0 {}
    for history in &histories {
        assert_eq!(history.check(&*store), history.commits.len());
        // Nothing doomed is left.
        for (id, (batches, first)) in history.now().topics {
            let gone = batches.iter().rfind(|batch| batch.next_offset() <= first);
            let at = gone.map(|gone| store.batch_at(id, gone.base_offset).unwrap());
            assert_eq!(at.flatten(), None);
        }
    }
    assert!(store.damaged().borrow().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn store_on_disk_is_what_was_committed(
        steps in prop::collection::vec(step(), 1..30),
        memtable_bytes in prop_oneof![Just(1_u64), Just(2000), Just(20_000), Just(1 << 20)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { memtable_bytes: ByteCount(memtable_bytes), ..Options::default() };
        run(&steps, &|| Box::new(FjallStore::open(folder.path(), options).unwrap()));
    }

    #[test]
    fn store_in_memory_is_what_was_committed(steps in prop::collection::vec(step(), 1..60)) {
        let steps: Vec<Step> = steps
            .into_iter()
            .filter(|step| !matches!(step, Step::Reopen))
            .collect();
        run(&steps, &|| Box::new(MemoryStore::new()));
    }
}
