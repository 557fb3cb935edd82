//! A disk in memory that fails as told: the twin of [`SystemDisk`](super::disk::SystemDisk) for tests and simulations.
//!
//! It keeps apart what was written and what is durable. At a power cut each unsynced sector survives or not, by chance, and so does each
//! unsynced name from some change on. It never loses what was synced, except by [`FaultyDisk::flip`]. Begin with [`FaultyDisk::reboot`].

mod inode;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::inode::{Change, Inode};
use super::disk::{Disk, Error, File, LOCK_FILE, Lock};
use crate::types::ByteCount;

/// What becomes of unsynced changes at a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// All are lost.
    Nothing,
    /// All survive, as after a killed process: readable, but not durable before they are synced.
    Everything,
    /// Each sector survives or not.
    Chance,
}

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    world: Arc<Mutex<World>>,
    /// The life after which this handle fails; `None` for the one who commands.
    life: Option<u64>,
}

#[derive(Debug)]
struct World {
    /// Counts power cuts; files opened before the latest one fail.
    life: u64,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since their directory was synced, in order; each is atomic.
    name_changes: Vec<Vec<(PathBuf, Option<usize>)>>,
    directories: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    /// Operations that change the disk, so far.
    operations: u64,
    /// Syncs of files, so far.
    syncs: u64,
    power_cut_at: Option<u64>,
    sync_fails_at: Option<u64>,
    capacity: Option<u64>,
    chance: StdRng,
}

impl FaultyDisk {
    /// An empty disk; the seed decides what survives.
    pub fn new(seed: u64) -> Self {
        let world = World {
            life: 0,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            directories: BTreeSet::new(),
            locked: BTreeSet::new(),
            operations: 0,
            syncs: 0,
            power_cut_at: None,
            sync_fails_at: None,
            capacity: None,
            chance: StdRng::seed_from_u64(seed),
        };
        Self {
            world: Arc::new(Mutex::new(world)),
            life: None,
        }
    }

    /// The disk as a process sees it that starts now: it fails after the next [`Self::reboot`], also for threads that the process left behind.
    #[must_use]
    pub fn for_process(&self) -> Self {
        Self {
            world: Arc::clone(&self.world),
            life: Some(self.world().life),
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world, unless this handle belongs to a process that has ended.
    fn live(&self, operation: &'static str, path: &Path) -> Result<MutexGuard<'_, World>, Error> {
        let world = self.world();
        match self.life {
            Some(life) if life != world.life => Err(off(operation, path)),
            _ => Ok(world),
        }
    }

    /// How many operations have changed the disk (or tried to).
    pub fn operations(&self) -> u64 {
        self.world().operations
    }

    /// How many times a file was synced (or tried to).
    pub fn syncs(&self) -> u64 {
        self.world().syncs
    }

    /// Power goes away at the operation with this number (see [`Self::operations`]): it and all later ones fail until [`Self::reboot`].
    pub fn cut_power_at(&self, operation: u64) {
        self.world().power_cut_at = Some(operation);
    }

    /// The sync of a file with this number (see [`Self::syncs`]) fails, and what it should have made durable never is.
    pub fn fail_sync_at(&self, sync: u64) {
        self.world().sync_fails_at = Some(sync);
    }

    /// All files together have at most this many bytes, until the next reboot.
    pub fn limit(&self, bytes: u64) {
        self.world().capacity = Some(bytes);
    }

    /// Cuts the power (or kills the process) and goes on: what was synced is there, the rest as `survival` says. Locks are free, faults forgotten.
    pub fn reboot(&self, survival: Survival) {
        let world = &mut *self.world();
        world.life += 1;
        world.locked.clear();
        world.power_cut_at = None;
        world.sync_fails_at = None;
        world.capacity = None;
        if survival == Survival::Everything {
            return;
        }
        let changes = std::mem::take(&mut world.name_changes);
        let surviving = match survival {
            Survival::Chance => world.chance.random_range(0..=changes.len()),
            Survival::Nothing | Survival::Everything => 0,
        };
        for (path, inode) in changes.into_iter().take(surviving).flatten() {
            rename(&mut world.durable_names, path, inode);
        }
        world.names = world.durable_names.clone();
        for inode in &mut world.inodes {
            inode.lose_power(survival, &mut world.chance);
        }
    }

    /// The bytes of a file as they read now.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world();
        let inode = world.names.get(path)?;
        Some(world.inodes.get(*inode)?.now.clone())
    }

    /// Replaces or creates a file, durably.
    pub fn set_contents(&self, path: &Path, bytes: &[u8]) {
        let world = &mut *self.world();
        world.inodes.push(Inode {
            now: bytes.to_vec(),
            durable: bytes.to_vec(),
            changes: Vec::new(),
        });
        let inode = world.inodes.len() - 1;
        world.names.insert(path.to_owned(), inode);
        world.durable_names.insert(path.to_owned(), inode);
        world
            .directories
            .extend(path.ancestors().skip(1).map(Path::to_owned));
    }

    /// Flips the bits of `mask` in one byte of a file, durably. Nothing happens beyond its end.
    pub fn flip(&self, path: &Path, position: usize, mask: u8) {
        let world = &mut *self.world();
        let inode = world.names.get(path).copied();
        let Some(inode) = inode.and_then(|inode| world.inodes.get_mut(inode)) else {
            return;
        };
        for content in [&mut inode.now, &mut inode.durable] {
            if let Some(byte) = content.get_mut(position) {
                *byte ^= mask;
            }
        }
    }
}

fn rename(names: &mut BTreeMap<PathBuf, usize>, path: PathBuf, inode: Option<usize>) {
    match inode {
        Some(inode) => names.insert(path, inode),
        None => names.remove(&path),
    };
}

impl World {
    /// Counts an operation; an error when the power is off or goes away with it.
    fn begin(&mut self, operation: &'static str, path: &Path) -> Result<(), Error> {
        let number = self.operations;
        self.operations += 1;
        match self.power_cut_at {
            Some(cut) if number >= cut => Err(off(operation, path)),
            _ => Ok(()),
        }
    }

    fn inode_of(&self, path: &Path) -> Result<usize, Error> {
        let found = self.names.get(path).copied();
        found.ok_or_else(|| Error::NotFound {
            path: path.to_owned(),
        })
    }

    fn change_names(&mut self, changes: Vec<(PathBuf, Option<usize>)>) {
        for (path, inode) in &changes {
            rename(&mut self.names, path.clone(), *inode);
        }
        self.name_changes.push(changes);
    }

    /// How many bytes all files have, without one of them.
    fn used(&self, without: Option<usize>) -> usize {
        let counted = self.names.values().filter(|inode| Some(**inode) != without);
        counted
            .filter_map(|inode| self.inodes.get(*inode))
            .map(|inode| inode.now.len())
            .sum()
    }

    /// Whether the file may grow to `bytes`.
    fn has_room(&self, inode: usize, bytes: usize) -> bool {
        let used = self.used(Some(inode));
        self.capacity
            .is_none_or(|capacity| (used + bytes) as u64 <= capacity)
    }

    fn change(&mut self, inode: usize, path: &Path, change: Change) -> Result<(), Error> {
        let bytes = match &change {
            Change::Write { position, bytes } => position + bytes.len(),
            Change::Length { bytes } => *bytes,
        };
        let length = self.inodes.get(inode).map_or(0, |inode| inode.now.len());
        if bytes > length && !self.has_room(inode, bytes) {
            return Err(Error::Full {
                path: path.to_owned(),
            });
        }
        if let Some(inode) = self.inodes.get_mut(inode) {
            change.apply(&mut inode.now);
            inode.changes.push(change);
        }
        Ok(())
    }
}

fn off(operation: &'static str, path: &Path) -> Error {
    Error::new(operation, path, io::Error::other("the power is off"))
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    life: u64,
    inode: usize,
    path: PathBuf,
}

impl FaultyFile {
    /// The world, when the power has not been cut since the file was opened.
    fn world(&self, operation: &'static str) -> Result<MutexGuard<'_, World>, Error> {
        let world = self.disk.world();
        if world.life == self.life {
            Ok(world)
        } else {
            Err(off(operation, &self.path))
        }
    }

    fn size(&self, bytes: u64) -> Result<usize, Error> {
        usize::try_from(bytes)
            .map_err(|_| Error::new("address", &self.path, io::ErrorKind::InvalidInput.into()))
    }
}

impl Disk for FaultyDisk {
    fn create_directory(&self, path: &Path) -> Result<(), Error> {
        let mut world = self.live("create directory", path)?;
        world
            .directories
            .extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        let mut world = self.live("create", path)?;
        world.begin("create", path)?;
        if world.names.contains_key(path) {
            return Err(Error::Exists {
                path: path.to_owned(),
            });
        }
        world.inodes.push(Inode::default());
        let inode = world.inodes.len() - 1;
        world.change_names(vec![(path.to_owned(), Some(inode))]);
        drop(world);
        self.open(path)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        let world = self.live("open", path)?;
        Ok(Arc::new(FaultyFile {
            disk: self.clone(),
            life: world.life,
            inode: world.inode_of(path)?,
            path: path.to_owned(),
        }))
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>, Error> {
        let world = self.live("list", directory)?;
        if !world.directories.contains(directory) {
            return Err(Error::NotFound {
                path: directory.to_owned(),
            });
        }
        let paths = world.names.keys();
        let inside = paths.filter(|path| path.parent() == Some(directory));
        Ok(inside
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect())
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        let mut world = self.live("remove", path)?;
        world.begin("remove", path)?;
        world.inode_of(path)?;
        world.change_names(vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn remove_directory(&self, path: &Path) -> Result<(), Error> {
        let mut world = self.live("remove", path)?;
        world.begin("remove", path)?;
        let within = world.names.keys().filter(|name| name.starts_with(path));
        let gone = within.map(|name| (name.clone(), None)).collect();
        world.change_names(gone);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let mut world = self.live("rename", from)?;
        world.begin("rename", from)?;
        let inode = world.inode_of(from)?;
        world.change_names(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> Result<(), Error> {
        let world = &mut *self.live("sync directory", path)?;
        world.begin("sync directory", path)?;
        let inside = |changes: &mut Vec<(PathBuf, Option<usize>)>| {
            changes
                .iter()
                .any(|(changed, _)| changed.parent() == Some(path))
        };
        for (changed, inode) in world.name_changes.extract_if(.., inside).flatten() {
            rename(&mut world.durable_names, changed, inode);
        }
        Ok(())
    }

    fn free_bytes(&self, directory: &Path) -> Result<ByteCount, Error> {
        let world = self.live("ask for the room at", directory)?;
        let left = |capacity: u64| capacity.saturating_sub(world.used(None) as u64);
        Ok(ByteCount(world.capacity.map_or(u64::MAX, left)))
    }

    fn lock(&self, directory: &Path) -> Result<Lock, Error> {
        let mut world = self.live("lock", directory)?;
        if !world.locked.insert(directory.join(LOCK_FILE)) {
            return Err(Error::Locked {
                path: directory.to_owned(),
            });
        }
        Ok(Lock::new(Holder {
            disk: self.clone(),
            life: world.life,
            path: directory.join(LOCK_FILE),
        }))
    }
}

struct Holder {
    disk: FaultyDisk,
    life: u64,
    path: PathBuf,
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut world = self.disk.world();
        if world.life == self.life {
            world.locked.remove(&self.path);
        }
    }
}

impl File for FaultyFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let position = self.size(position)?;
        let world = self.world("read")?;
        let content = world.inodes.get(self.inode).map(|inode| &inode.now);
        let found = content.and_then(|now| now.get(position..position + buffer.len()));
        let found = found
            .ok_or_else(|| Error::new("read", &self.path, io::ErrorKind::UnexpectedEof.into()))?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn write_all_at(&self, position: u64, bytes: &[u8]) -> Result<(), Error> {
        let position = self.size(position)?;
        let mut world = self.world("write")?;
        let begun = world.begin("write", &self.path);
        let is_last_gasp = begun.is_err() && world.power_cut_at == Some(world.operations - 1);
        if begun.is_ok() || is_last_gasp {
            let bytes = bytes.to_vec();
            world.change(self.inode, &self.path, Change::Write { position, bytes })?;
        }
        begun
    }

    fn sync_data(&self) -> Result<(), Error> {
        let world = &mut *self.world("sync")?;
        world.begin("sync", &self.path)?;
        world.syncs += 1;
        let is_failing = world.sync_fails_at == Some(world.syncs - 1);
        let Some(inode) = world.inodes.get_mut(self.inode) else {
            return Err(off("sync", &self.path));
        };
        if is_failing {
            inode.changes.clear();
            let source = io::Error::other("the device failed");
            return Err(Error::new("sync", &self.path, source));
        }
        inode.sync();
        Ok(())
    }

    fn sync_all(&self) -> Result<(), Error> {
        self.sync_data()
    }

    fn set_length(&self, bytes: u64) -> Result<(), Error> {
        let bytes = self.size(bytes)?;
        let mut world = self.world("set the length of")?;
        world.begin("set the length of", &self.path)?;
        world.change(self.inode, &self.path, Change::Length { bytes })
    }

    fn allocate(&self, bytes: u64) -> Result<(), Error> {
        self.set_length(bytes.max(self.length()?))
    }

    fn length(&self) -> Result<u64, Error> {
        let world = self.world("read the length of")?;
        Ok(world
            .inodes
            .get(self.inode)
            .map_or(0, |inode| inode.now.len() as u64))
    }
}
