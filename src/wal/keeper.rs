//! Makes segments before they are needed and removes those that no longer are, on a thread of its own, so that no commit waits for it.
//!
//! It decides neither when nor which. Begin with [`Keeper::take`].

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use tracing::warn;

use super::segment::{Header, Segment, path_of};
use super::{Error, Identity};
use crate::env::disk::{self, Disk};
use crate::env::entropy::Entropy;

/// Tasks that wait; the writer waits when there are more. One segment is prepared at a time, the rest are removals.
const TASKS_MAX: usize = 64;

/// Makes and removes files of one log.
#[derive(Debug, Clone)]
pub(crate) struct Factory {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) directory: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) segment_bytes: u32,
}

enum Task {
    Prepare(u32),
    Remove(Vec<Arc<Segment>>),
}

/// The handle of the thread.
pub(crate) struct Keeper {
    factory: Factory,
    /// The number of the next segment to be made.
    next_number: u32,
    spares: VecDeque<Segment>,
    /// Whether a segment is being prepared.
    is_preparing: bool,
    /// `None` only while the keeper is dropped.
    tasks: Option<SyncSender<Task>>,
    prepared: Receiver<Result<Segment, Error>>,
    thread: Option<JoinHandle<()>>,
}

impl Factory {
    fn create(&self, number: u32) -> Result<Segment, Error> {
        let mut salt = [0; 4];
        self.entropy.fill(&mut salt);
        let header = Header {
            number,
            salt: u32::from_le_bytes(salt),
            identity: self.identity.clone(),
        };
        let path = path_of(&self.directory, number);
        Segment::create(&*self.disk, path, &header, self.segment_bytes)
    }

    /// Removes the segments, oldest first. Each removal is durable before the next one: a power cut must never leave a gap between two.
    fn remove(&self, segments: &[Arc<Segment>]) -> Result<(), disk::Error> {
        for segment in segments {
            self.disk.remove(&segment.path)?;
            self.disk.sync_directory(&self.directory)?;
        }
        Ok(())
    }
}

fn run(factory: &Factory, tasks: &Receiver<Task>, prepared: &SyncSender<Result<Segment, Error>>) {
    let mut is_removing = true;
    for task in tasks {
        match task {
            Task::Prepare(number) => {
                // The receiver lives as long as the writer.
                let _ = prepared.send(factory.create(number));
            }
            Task::Remove(segments) if is_removing => {
                // Later ones must not go before these, so nothing more is removed until the next start.
                if let Err(error) = factory.remove(&segments) {
                    warn!(%error, "cannot remove old segments of the log");
                    is_removing = false;
                }
            }
            Task::Remove(_) => {}
        }
    }
}

impl Keeper {
    /// Starts the thread. `spares` are empty segments, the oldest first, `next_number` comes after them.
    pub(crate) fn start(
        factory: Factory,
        spares: VecDeque<Segment>,
        next_number: u32,
    ) -> Result<Self, Error> {
        let (tasks, tasks_in) = sync_channel(TASKS_MAX);
        let (prepared_out, prepared) = sync_channel(1);
        let worker = factory.clone();
        let thread = thread::Builder::new()
            .name("wal-keeper".to_owned())
            .spawn(move || run(&worker, &tasks_in, &prepared_out))
            .map_err(|source| disk::Error::Io {
                operation: "start a thread for",
                path: factory.directory.clone(),
                source,
            })?;
        Ok(Self {
            factory,
            next_number,
            spares,
            is_preparing: false,
            tasks: Some(tasks),
            prepared,
            thread: Some(thread),
        })
    }

    /// The next segment: prepared if there is one, else made now.
    pub(crate) fn take(&mut self) -> Result<Segment, Error> {
        if let Some(spare) = self.spares.pop_front() {
            return Ok(spare);
        }
        if self.is_preparing {
            self.is_preparing = false;
            if let Ok(Ok(segment)) = self.prepared.recv() {
                self.next_number = segment.number.saturating_add(1);
                return Ok(segment);
            }
        }
        // What failed in the background may succeed now, when space was freed.
        let segment = self.factory.create(self.next_number)?;
        self.next_number = segment.number.saturating_add(1);
        Ok(segment)
    }

    /// Lets a segment be made ahead, unless there is one.
    pub(crate) fn prepare(&mut self) {
        if self.spares.is_empty() && !self.is_preparing {
            self.is_preparing = self.send(Task::Prepare(self.next_number));
        }
    }

    /// Lets segments be removed.
    pub(crate) fn remove(&self, segments: Vec<Arc<Segment>>) {
        self.send(Task::Remove(segments));
    }

    fn send(&self, task: Task) -> bool {
        self.tasks
            .as_ref()
            .is_some_and(|tasks| tasks.send(task).is_ok())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
