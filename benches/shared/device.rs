//! The disk below a folder, as Linux tells it under `/sys`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// The unit of `/sys/dev/block/*/stat`, whatever the disk's own sectors are.
const SECTOR_BYTES: u64 = 512;
/// Which field counts sectors written.
const SECTORS_WRITTEN: usize = 6;

/// What a file system lies on.
pub struct Device {
    stat: PathBuf,
}

impl Device {
    /// The device of a folder. It must be one that counts: not memory, not a network.
    pub fn of(folder: &Path) -> anyhow::Result<Self> {
        let id = fs::metadata(folder)?.dev();
        let (major, minor) = (rustix::fs::major(id), rustix::fs::minor(id));
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        let device = Self { stat };
        device.bytes_written()?;
        Ok(device)
    }

    /// What was written to it by anybody, after everything that waits has been written.
    pub fn bytes_written(&self) -> anyhow::Result<u64> {
        rustix::fs::sync();
        let text = fs::read_to_string(&self.stat)
            .with_context(|| format!("{} tells nothing", self.stat.display()))?;
        let field = text.split_whitespace().nth(SECTORS_WRITTEN);
        let sectors: u64 = field.context("a field is missing")?.parse()?;
        Ok(sectors * SECTOR_BYTES)
    }
}

/// Lets the kernel forget what it has read; false when this user may not. A machine below this one may remember it all the same.
pub fn drop_caches() -> bool {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// What a folder takes on disk.
pub fn folder_bytes(folder: &Path) -> anyhow::Result<u64> {
    let output = Command::new("du")
        .args(["-s", "-B1"])
        .arg(folder)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let first = text.split_whitespace().next().context("du says nothing")?;
    Ok(first.parse()?)
}
