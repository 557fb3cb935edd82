//! Files: the only place that names `std::fs`.
//!
//! It never decides when something must be durable and never retries. [`Disk`] and [`File`] are what callers hold, [`SystemDisk`] is the
//! machine's file system and [`super::faulty::FaultyDisk`] its twin for tests. Begin with [`Disk`].

use std::fmt;
use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::ByteCount;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file or directory.
    #[error("{path} does not exist", path = path.display())]
    NotFound {
        /// What was asked for.
        path: PathBuf,
    },
    /// The file should be new.
    #[error("{path} exists already", path = path.display())]
    Exists {
        /// What should be created.
        path: PathBuf,
    },
    /// There is no room left.
    #[error("no space is left for {path}", path = path.display())]
    Full {
        /// What should have grown.
        path: PathBuf,
    },
    /// Another process (or another node of this process) uses the directory.
    #[error("{path} is in use by another process", path = path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {operation} {path}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// The typed error for what the system said.
    pub(crate) fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::AlreadyExists => Self::Exists { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Io {
                operation,
                path,
                source,
            },
        }
    }
}

/// A file system.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes the directory and those above it, if they are missing, and makes their names durable.
    ///
    /// # Errors
    /// [`Error`] when the system refuses.
    fn create_directory(&self, path: &Path) -> Result<(), Error>;

    /// Creates a file for reading and writing. Its name is durable after [`Disk::sync_directory`].
    ///
    /// # Errors
    /// [`Error::Exists`] when there is one; [`Error`] when the system refuses.
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none; [`Error`] when the system refuses.
    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error>;

    /// The names in a directory, in byte order. Names that are not UTF-8 are left out.
    ///
    /// # Errors
    /// [`Error`] when the system refuses.
    fn list(&self, directory: &Path) -> Result<Vec<String>, Error>;

    /// Removes a file's name. Those that have it open go on.
    ///
    /// # Errors
    /// [`Error`] when the system refuses.
    fn remove(&self, path: &Path) -> Result<(), Error>;

    /// Removes a directory with all that is in it.
    ///
    /// # Errors
    /// [`Error`] when the system refuses; some of it may then be gone.
    fn remove_directory(&self, path: &Path) -> Result<(), Error>;

    /// Gives a file or a directory another name, instead of the file that had it.
    ///
    /// # Errors
    /// [`Error`] when the system refuses.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error>;

    /// Makes durable which names the directory holds.
    ///
    /// # Errors
    /// [`Error`] when the system refuses; what is durable is then unknown.
    fn sync_directory(&self, path: &Path) -> Result<(), Error>;

    /// Opens a file that is only to be read, also on a file system where nothing may be written.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none; [`Error`] when the system refuses.
    fn open_to_read(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        self.open(path)
    }

    /// How many bytes more the file system of a directory takes from us.
    ///
    /// # Errors
    /// [`Error`] when the system refuses.
    fn free_bytes(&self, directory: &Path) -> Result<ByteCount, Error>;

    /// Takes the directory for one owner, by the file `lock` in it, until the value is dropped or the process ends.
    ///
    /// # Errors
    /// [`Error::Locked`] when it is taken; [`Error`] when the system refuses.
    fn lock(&self, directory: &Path) -> Result<Lock, Error>;
}

/// An open file. Positions are bytes from its beginning.
pub trait File: Send + Sync + fmt::Debug {
    /// Fills the buffer from `position` on.
    ///
    /// # Errors
    /// [`Error`] also when the file ends before.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> Result<(), Error>;

    /// Writes all bytes at `position`; on failure any part may be written.
    ///
    /// # Errors
    /// [`Error`] when the system refuses.
    fn write_all_at(&self, position: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Makes durable what was written and the length needed to read it (`fdatasync`).
    ///
    /// # Errors
    /// [`Error`]: what is durable is then unknown, and a second try would tell nothing.
    fn sync_data(&self) -> Result<(), Error>;

    /// Makes durable what was written and all that is known about the file (`fsync`).
    ///
    /// # Errors
    /// [`Error`]: what is durable is then unknown, and a second try would tell nothing.
    fn sync_all(&self) -> Result<(), Error>;

    /// Cuts the file, or lets it end in zeros without taking room for them.
    ///
    /// # Errors
    /// [`Error`] when the system refuses.
    fn set_length(&self, bytes: u64) -> Result<(), Error>;

    /// Lets the file have at least this length and takes the room for it; the new bytes read as zeros.
    ///
    /// # Errors
    /// [`Error::Full`] when there is no room; [`Error`] when the system refuses.
    fn allocate(&self, bytes: u64) -> Result<(), Error>;

    /// How long the file is.
    ///
    /// # Errors
    /// [`Error`] when the system refuses.
    fn length(&self) -> Result<u64, Error>;
}

/// A directory that is taken; free again when this is dropped.
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Box<dyn Send + Sync>);

impl Lock {
    /// A lock that lasts as long as `holder`.
    pub(crate) fn new(holder: impl Send + Sync + 'static) -> Self {
        Self(Box::new(holder))
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// How near a disk is to being full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// At least the reserve is free.
    Ample,
    /// Less than the reserve is free.
    Low,
    /// Less than half of the reserve is free.
    Critical,
}

/// What is left of a disk, as measured last. It is only a gauge: who measures and who refuses is for others to say.
#[derive(Debug)]
pub struct Room {
    reserve: ByteCount,
    /// Everything, before the first measurement.
    free: AtomicU64,
}

impl Room {
    /// A gauge that warns below this reserve; never when it is 0.
    pub fn new(reserve: ByteCount) -> Self {
        let free = AtomicU64::new(u64::MAX);
        Self { reserve, free }
    }

    /// Looks how much is free where the directory is.
    ///
    /// # Errors
    /// [`Error`] when the system refuses; the gauge then stays as it was.
    pub fn measure(&self, disk: &dyn Disk, directory: &Path) -> Result<Level, Error> {
        let free = disk.free_bytes(directory)?;
        self.free.store(free.0, Ordering::Relaxed);
        Ok(self.level())
    }

    /// How near the disk is to being full.
    pub fn level(&self) -> Level {
        let (free, reserve) = (self.free().0, self.reserve.0);
        if free >= reserve {
            Level::Ample
        } else if free >= reserve / 2 {
            Level::Low
        } else {
            Level::Critical
        }
    }

    /// Bytes free, as measured last.
    pub fn free(&self) -> ByteCount {
        ByteCount(self.free.load(Ordering::Relaxed))
    }

    /// Below this many bytes it warns.
    pub fn reserve(&self) -> ByteCount {
        self.reserve
    }
}

/// The name of the file that stands for the ownership of a directory.
pub(crate) const LOCK_FILE: &str = "lock";

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

#[derive(Debug)]
struct SystemFile {
    file: fs::File,
    path: PathBuf,
}

impl SystemDisk {
    fn file(file: fs::File, path: &Path) -> Arc<dyn File> {
        let path = path.to_owned();
        Arc::new(SystemFile { file, path })
    }
}

impl Disk for SystemDisk {
    fn create_directory(&self, path: &Path) -> Result<(), Error> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|above| !above.as_os_str().is_empty());
        if let Some(above) = parent {
            self.create_directory(above)?;
        }
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            made => made.map_err(|error| Error::new("create directory", path, error))?,
        }
        self.sync_directory(parent.unwrap_or(Path::new(".")))
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map(|file| Self::file(file, path))
            .map_err(|error| Error::new("create", path, error))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map(|file| Self::file(file, path))
            .map_err(|error| Error::new("open", path, error))
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>, Error> {
        let failed = |error| Error::new("list", directory, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        fs::remove_file(path).map_err(|error| Error::new("remove", path, error))
    }

    fn remove_directory(&self, path: &Path) -> Result<(), Error> {
        fs::remove_dir_all(path).map_err(|error| Error::new("remove", path, error))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        fs::rename(from, to).map_err(|error| Error::new("rename", from, error))
    }

    fn sync_directory(&self, path: &Path) -> Result<(), Error> {
        fs::File::open(path)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| Error::new("sync directory", path, error))
    }

    fn open_to_read(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        fs::File::open(path)
            .map(|file| Self::file(file, path))
            .map_err(|error| Error::new("open", path, error))
    }

    fn free_bytes(&self, directory: &Path) -> Result<ByteCount, Error> {
        let found = rustix::fs::statvfs(directory);
        let found =
            found.map_err(|error| Error::new("ask for the room at", directory, error.into()))?;
        Ok(ByteCount(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    fn lock(&self, directory: &Path) -> Result<Lock, Error> {
        let path = directory.join(LOCK_FILE);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| Error::new("open", &path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock::new(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Locked {
                path: directory.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(Error::new("lock", &path, error)),
        }
    }
}

impl SystemFile {
    fn done<T>(&self, operation: &'static str, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(|error| Error::new(operation, &self.path, error))
    }
}

impl File for SystemFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.done("read", self.file.read_exact_at(buffer, position))
    }

    fn write_all_at(&self, position: u64, bytes: &[u8]) -> Result<(), Error> {
        self.done("write", self.file.write_all_at(bytes, position))
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.done("sync", self.file.sync_data())
    }

    fn sync_all(&self) -> Result<(), Error> {
        self.done("sync", self.file.sync_all())
    }

    fn set_length(&self, bytes: u64) -> Result<(), Error> {
        self.done("set the length of", self.file.set_len(bytes))
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, bytes: u64) -> Result<(), Error> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            // Some file systems cannot reserve; the room is then taken by each write.
            Err(Errno::OPNOTSUPP) => self.set_length(bytes.max(self.length()?)),
            result => self.done("allocate", result.map_err(io::Error::from)),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, bytes: u64) -> Result<(), Error> {
        self.set_length(bytes.max(self.length()?))
    }

    fn length(&self) -> Result<u64, Error> {
        let metadata = self.done("read the length of", self.file.metadata())?;
        Ok(metadata.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_allocated_written_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b");
        SystemDisk.create_directory(&deep).unwrap();
        let path = deep.join("x");
        let file = SystemDisk.create(&path).unwrap();
        assert!(matches!(
            SystemDisk.create(&path),
            Err(Error::Exists { .. })
        ));
        file.allocate(4096).unwrap();
        file.write_all_at(10, b"abc").unwrap();
        file.sync_data().unwrap();
        let mut bytes = [1; 4];
        file.read_at(9, &mut bytes).unwrap();
        assert_eq!((&bytes, file.length().unwrap()), (b"\0abc", 4096));
        assert!(file.read_at(4095, &mut bytes).is_err());
        SystemDisk.rename(&path, &deep.join("y")).unwrap();
        SystemDisk.sync_directory(&deep).unwrap();
        assert_eq!(SystemDisk.list(&deep).unwrap(), ["y"]);
        SystemDisk.remove(&deep.join("y")).unwrap();
        assert!(matches!(
            SystemDisk.open(&deep.join("y")),
            Err(Error::NotFound { .. })
        ));
    }

    #[test]
    fn gauge_tells_how_near_the_disk_is_to_being_full() {
        use crate::env::faulty::FaultyDisk;
        let disk = FaultyDisk::new(1);
        let room = Room::new(ByteCount(100));
        assert_eq!(room.level(), Level::Ample, "not measured yet");
        let path = Path::new("/d/x");
        disk.set_contents(path, &[0; 50]);
        for (limit, level) in [
            (150, Level::Ample),
            (149, Level::Low),
            (100, Level::Low),
            (99, Level::Critical),
            (10, Level::Critical),
        ] {
            disk.limit(limit);
            assert_eq!(room.measure(&disk, path).unwrap(), level, "{limit}");
            assert_eq!(room.free(), ByteCount(limit.saturating_sub(50)));
        }
        assert_eq!(
            Room::new(ByteCount(0)).measure(&disk, path).unwrap(),
            Level::Ample
        );
        let directory = tempfile::tempdir().unwrap();
        assert!(SystemDisk.free_bytes(directory.path()).unwrap() > ByteCount(0));
    }

    #[test]
    fn directory_has_one_owner_until_it_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let lock = SystemDisk.lock(directory.path()).unwrap();
        assert!(matches!(
            SystemDisk.lock(directory.path()),
            Err(Error::Locked { .. })
        ));
        drop(lock);
        SystemDisk.lock(directory.path()).unwrap();
    }
}
