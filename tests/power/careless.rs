//! The machine's disk, but writes to files are said to be durable when they are not: the control, which has to lose.

use std::path::Path;
use std::sync::Arc;

use cubecast::env::disk::{Disk, Error, File, Lock, SystemDisk};
use cubecast::types::ByteCount;

#[derive(Debug)]
pub struct CarelessDisk;

#[derive(Debug)]
struct CarelessFile(Arc<dyn File>);

fn careless(file: Arc<dyn File>) -> Arc<dyn File> {
    Arc::new(CarelessFile(file))
}

impl Disk for CarelessDisk {
    fn create_directory(&self, path: &Path) -> Result<(), Error> {
        SystemDisk.create_directory(path)
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        SystemDisk.create(path).map(careless)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>, Error> {
        SystemDisk.open(path).map(careless)
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>, Error> {
        SystemDisk.list(directory)
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        SystemDisk.remove(path)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), Error> {
        SystemDisk.remove_directory(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        SystemDisk.rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), Error> {
        SystemDisk.sync_directory(path)
    }

    fn free_bytes(&self, directory: &Path) -> Result<ByteCount, Error> {
        SystemDisk.free_bytes(directory)
    }

    fn lock(&self, directory: &Path) -> Result<Lock, Error> {
        SystemDisk.lock(directory)
    }
}

impl File for CarelessFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.0.read_at(position, buffer)
    }

    fn write_all_at(&self, position: u64, bytes: &[u8]) -> Result<(), Error> {
        self.0.write_all_at(position, bytes)
    }

    fn sync_data(&self) -> Result<(), Error> {
        Ok(())
    }

    fn sync_all(&self) -> Result<(), Error> {
        self.0.sync_all()
    }

    fn set_length(&self, bytes: u64) -> Result<(), Error> {
        self.0.set_length(bytes)
    }

    fn allocate(&self, bytes: u64) -> Result<(), Error> {
        self.0.allocate(bytes)
    }

    fn length(&self) -> Result<u64, Error> {
        self.0.length()
    }
}
