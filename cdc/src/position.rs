//! The pipeline's own file: every index of it holds everything up to this point.
//!
//! `position.json`, replaced atomically:
//!
//! ```json
//! {"format": 1, "system_identifier": 7301, "timeline": 1, "slot": "egret_main", "lsn": "0/1A2B3C"}
//! ```
//!
//! Another format than 1 is refused. Without the file there is nothing to go on from, and the
//! tables are copied.

use std::path::{Path, PathBuf};

use egret_aof::disk::{Disk, replace_file};
use egret_engine::{Checkpoint, Lsn};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

const FORMAT: u32 = 1;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    format: u32,
    /// The cluster that the position belongs to.
    pub(crate) system_identifier: u64,
    /// The timeline that it belongs to.
    pub(crate) timeline: u32,
    /// The slot that holds the log from here on.
    pub(crate) slot: String,
    /// Everything up to here is durable in every index.
    pub(crate) lsn: Lsn,
}

impl Position {
    /// A position of this slot.
    pub(crate) fn new(slot: &str, checkpoint: Checkpoint) -> Self {
        Self {
            format: FORMAT,
            system_identifier: checkpoint.system_identifier,
            timeline: checkpoint.timeline,
            slot: slot.to_owned(),
            lsn: checkpoint.lsn,
        }
    }

    /// Reads the file, where there is one, and makes sure that a power cut will not bring an older
    /// one back: a process killed between the file's replacement and its sync leaves that open, and
    /// the database is told of what is read here.
    pub(crate) fn load(disk: &dyn Disk, folder: &Path) -> Result<Option<Self>> {
        let path = path(folder);
        disk.sync_folder(folder)?;
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let place = path.display();
        let damaged = |reason: String| {
            let message = format!("[{place}] {reason}; remove it to copy the tables again");
            Error::new(ErrorKind::Refused, message)
        };
        let position: Self = serde_json::from_slice(&disk.read(&path)?)
            .map_err(|error| damaged(format!("is damaged: {error}")))?;
        if position.format != FORMAT {
            return Err(damaged(format!("has the unknown format {}", position.format)));
        }
        Ok(Some(position))
    }

    /// Replaces the file, durably.
    pub(crate) fn store(&self, disk: &dyn Disk, folder: &Path) -> Result<()> {
        let content = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        Ok(replace_file(disk, &path(folder), &content)?)
    }

    /// Removes the file, durably: from now on the tables must be copied.
    pub(crate) fn remove(disk: &dyn Disk, folder: &Path) -> Result<()> {
        let path = path(folder);
        if disk.exists(&path)? {
            disk.remove(&path)?;
            disk.sync_folder(folder)?;
        }
        Ok(())
    }
}

pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("position.json")
}

#[cfg(test)]
mod tests {
    use egret_aof::disk::sim::SimDisk;

    use super::*;

    #[test]
    fn what_was_read_once_is_not_older_after_a_power_cut() {
        let folder = Path::new("/");
        let at = |lsn| Checkpoint { system_identifier: 7, timeline: 1, lsn: Lsn(lsn) };
        for seed in 0..40 {
            let disk = SimDisk::new();
            Position::new("s", at(5)).store(&disk, folder).unwrap();
            // The process is killed after the rename, before the sync of the folder.
            write_unsynced(&disk, &path(folder), &Position::new("s", at(9)));
            let disk = disk.kill();
            let read = Position::load(&disk, folder).unwrap();
            assert_eq!(Position::load(&disk.power_cut(seed), folder).unwrap(), read);
            assert_eq!(read.unwrap().lsn, Lsn(9));
        }
    }

    fn write_unsynced(disk: &SimDisk, path: &Path, position: &Position) {
        let content = serde_json::to_vec(position).unwrap();
        let write = |file: &mut dyn egret_aof::disk::DiskFile| file.write_all(&content);
        let temporary = egret_aof::disk::write_temporary(disk, path, write).unwrap();
        disk.rename(&temporary, path).unwrap();
    }
}
