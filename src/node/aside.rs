//! Moves what is damaged out of the way.
//!
//! Nothing is deleted because it is damaged: it stays beside what is made instead, for a person who wants to look. Only the newest of each kind
//! is kept, or a disk that fails again and again would be full of them.

use std::path::Path;

use tracing::info;

use crate::env::disk::{self, Disk};

/// Gives the folder `name` of a directory the name `<name>.damaged-<n>`, durably, and removes what was moved aside before. Fine when it is not there.
pub(super) fn move_aside(
    disk: &dyn Disk,
    directory: &Path,
    name: &'static str,
) -> Result<(), disk::Error> {
    let prefix = format!("{name}.damaged-");
    let names = disk.list(directory)?;
    if !names.iter().any(|found| found == name) {
        return Ok(());
    }
    let earlier: Vec<(u32, &String)> = names
        .iter()
        .filter_map(|found| Some((found.strip_prefix(&prefix)?.parse().ok()?, found)))
        .collect();
    let number = earlier.iter().map(|(number, _)| *number).max();
    let number = number.unwrap_or(0).saturating_add(1);
    let to = directory.join(format!("{prefix}{number}"));
    disk.rename(&directory.join(name), &to)?;
    disk.sync_directory(directory)?;
    info!(to = %to.display(), "moved what is damaged aside");
    for (_, folder) in earlier {
        disk.remove_directory(&directory.join(folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::disk::SystemDisk;

    #[test]
    fn newest_damaged_folder_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let names = || SystemDisk.list(folder.path()).unwrap();
        move_aside(&SystemDisk, folder.path(), "wal").unwrap();
        assert!(names().is_empty(), "there was nothing to move");
        for round in 1..=3 {
            std::fs::create_dir_all(folder.path().join("wal/deep")).unwrap();
            std::fs::write(folder.path().join("wal/deep/x"), [round]).unwrap();
            move_aside(&SystemDisk, folder.path(), "wal").unwrap();
            assert_eq!(names(), [format!("wal.damaged-{round}")]);
        }
    }
}
