//! The same bytes in a bare file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::FallocateFlags;

/// Each file is as long as a segment of the log, reserved beforehand as those are.
const FILE_BYTES: u64 = 64 << 20;
/// As much as a reader of the store asks for.
const READ_BYTES: usize = 1 << 20;

/// Writes so many bytes, one write and one `fdatasync` for each group, and says how many bytes a second that were.
pub fn write(folder: &Path, bytes: u64, group_bytes: u64) -> anyhow::Result<f64> {
    std::fs::create_dir(folder)?;
    let group = incompressible(usize::try_from(group_bytes)?);
    let groups_per_file = (FILE_BYTES / group_bytes).max(1);
    let mut files = Vec::new();
    for number in 0..bytes.div_ceil(groups_per_file * group_bytes) {
        let file = File::create_new(folder.join(format!("{number:05}")))?;
        let length = groups_per_file * group_bytes;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length)?;
        file.sync_all()?;
        files.push(file);
    }
    let begun = Instant::now();
    let mut written = 0;
    for file in &files {
        for number in 0..groups_per_file {
            if written >= bytes {
                break;
            }
            file.write_all_at(&group, number * group_bytes)?;
            file.sync_data()?;
            written += group_bytes;
        }
    }
    Ok(written as f64 / begun.elapsed().as_secs_f64())
}

/// Reads all files to their ends, and says how many bytes a second that were.
pub fn read(folder: &Path) -> anyhow::Result<f64> {
    let mut names: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    names.sort_by_key(std::fs::DirEntry::file_name);
    let mut buffer = vec![0; READ_BYTES];
    let (begun, mut total) = (Instant::now(), 0_u64);
    for name in names {
        let mut file = File::open(name.path())?;
        loop {
            match std::io::Read::read(&mut file, &mut buffer)? {
                0 => break,
                count => total += count as u64,
            }
        }
    }
    Ok(total as f64 / begun.elapsed().as_secs_f64())
}

/// Bytes that no compression makes shorter.
pub fn incompressible(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rand::fill(&mut bytes[..]);
    bytes
}
