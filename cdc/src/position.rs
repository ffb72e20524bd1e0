//! The pipeline's own file: up to where the database was told that it may forget, and which indexes
//! that was said for.
//!
//! `position.json`, replaced atomically:
//!
//! ```json
//! {"format": 2, "crc32c": 305419896, "position": {"system_identifier": 7301, "timeline": 1,
//!  "slot": "egret_main", "lsn": "0/1A2B3C", "streamed": "0/1A2B3C", "joined": ["<uuid>"],
//!  "held": ["<uuid>"], "replaced": ["<uuid>"]}}
//! ```
//!
//! The checksum is of the bytes of the value of "position", exactly as written.
//!
//! The joined indexes hold everything up to `streamed`. The held ones are being brought to where the
//! stream is: what they do not hold yet is after `lsn`, and so it is with those that were replaced, or
//! are about to be, by a copy. Any other index has missed changes and must be copied. Format 1 had the
//! position's values beside "format", neither checksum, lists nor `streamed`, and spoke for every
//! index; formats above 2 are refused. Without the file there is nothing to go on from, and the tables
//! are copied.

use std::path::{Path, PathBuf};

use egret_aof::disk::{Disk, replace_file};
use egret_engine::{Checkpoint, Lsn};
use serde::{Deserialize, Serialize};

use crate::envelope;
use crate::error::{Error, ErrorKind, Result};

const FORMAT: u32 = 2;

/// What the content is called.
const CONTENT: &str = "position";

#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// The first format.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    #[serde(rename = "format")]
    _format: u32,
    system_identifier: u64,
    timeline: u32,
    slot: String,
    lsn: Lsn,
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    /// The cluster that the position belongs to.
    pub(crate) system_identifier: u64,
    /// The timeline that it belongs to.
    pub(crate) timeline: u32,
    /// The slot that holds the log from here on.
    pub(crate) slot: String,
    /// The database may forget everything up to here.
    pub(crate) lsn: Lsn,
    /// Everything up to here is durable in every joined index.
    streamed: Option<Lsn>,
    /// The indexes that the stream writes to; all where the file is of format 1.
    joined: Option<Vec<String>>,
    /// The indexes that are being brought to where the stream is.
    held: Vec<String>,
    /// The indexes that can be gone back to, or could once they are replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    replaced: Vec<String>,
}

/// What the pipeline's file says of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It holds everything that the stream has passed.
    Joined,
    /// The log from where it stands is kept.
    Held,
    /// It has missed changes.
    None,
}

/// The indexes that the log is kept for, by UUID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    /// Those that the stream writes to; all where not known.
    pub(crate) joined: Option<Vec<String>>,
    /// Those that are being brought there.
    pub(crate) held: Vec<String>,
    /// Those that have left the stream for a copy, and could be brought there again.
    pub(crate) replaced: Vec<String>,
}

impl Holds {
    /// No index at all.
    pub(crate) fn nothing() -> Self {
        Self { joined: Some(Vec::new()), ..Self::default() }
    }

    /// Where indexes that were replaced are to be brought to the stream again.
    pub(crate) fn of_ways_back(&self) -> Self {
        let held = self.held.iter().chain(&self.replaced).cloned().collect();
        Self { joined: self.joined.clone(), held, replaced: Vec::new() }
    }

    /// What is said of one index.
    pub(crate) fn of(&self, uuid: &str) -> Hold {
        let among = |list: &[String]| list.iter().any(|known| known == uuid);
        match &self.joined {
            _ if among(&self.held) => Hold::Held,
            Some(joined) if !among(joined) => Hold::None,
            _ => Hold::Joined,
        }
    }
}

impl Position {
    /// A position of this slot: what the database may forget, what the joined indexes hold, and for
    /// which indexes that is.
    pub(crate) fn new(slot: &str, checkpoint: Checkpoint, streamed: Lsn, holds: Holds) -> Self {
        Self {
            system_identifier: checkpoint.system_identifier,
            timeline: checkpoint.timeline,
            slot: slot.to_owned(),
            lsn: checkpoint.lsn,
            streamed: Some(streamed),
            joined: holds.joined,
            held: holds.held,
            replaced: holds.replaced,
        }
    }

    /// The same on another timeline, whose history has all of it.
    #[must_use]
    pub(crate) fn on_timeline(self, timeline: u32) -> Self {
        Self { timeline, ..self }
    }

    /// Everything up to here is durable in every joined index.
    pub(crate) fn streamed(&self) -> Lsn {
        self.streamed.unwrap_or(self.lsn).max(self.lsn)
    }

    /// For which indexes the position was said.
    pub(crate) fn holds(&self) -> Holds {
        Holds {
            joined: self.joined.clone(),
            held: self.held.clone(),
            replaced: self.replaced.clone(),
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
        Self::parse(&disk.read(&path)?).map(Some).map_err(damaged)
    }

    /// Reads the file's content, or says what is wrong with it.
    fn parse(content: &[u8]) -> Result<Self, String> {
        let corrupt = |error: serde_json::Error| format!("is damaged: {error}");
        let Version { format } = serde_json::from_slice(content).map_err(corrupt)?;
        match format {
            1 => serde_json::from_slice(content).map(First::upgrade).map_err(corrupt),
            _ => envelope::open(CONTENT, FORMAT, content),
        }
    }

    /// Replaces the file, durably.
    pub(crate) fn store(&self, disk: &dyn Disk, folder: &Path) -> Result<()> {
        let content = envelope::seal(CONTENT, FORMAT, self)?;
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

impl First {
    fn upgrade(self) -> Position {
        let Self { system_identifier, timeline, slot, lsn, .. } = self;
        let (streamed, joined, held, replaced) = (None, None, Vec::new(), Vec::new());
        Position { system_identifier, timeline, slot, lsn, streamed, joined, held, replaced }
    }
}

pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("position.json")
}

#[cfg(test)]
mod tests {
    use egret_aof::disk::sim::SimDisk;

    use super::*;

    fn position(lsn: u64) -> Position {
        let at = Checkpoint { system_identifier: 7, timeline: 1, lsn: Lsn(lsn) };
        Position::new(
            "s",
            at,
            Lsn(lsn + 2),
            Holds {
                joined: Some(vec!["a".into()]),
                held: vec!["b".into()],
                replaced: vec!["d".into()],
            },
        )
    }

    #[test]
    fn says_for_which_indexes_it_speaks() {
        let disk = SimDisk::new();
        position(5).store(&disk, Path::new("/")).unwrap();
        let read = Position::load(&disk, Path::new("/")).unwrap().unwrap();
        assert_eq!((read.lsn, read.streamed()), (Lsn(5), Lsn(7)));
        let holds = read.holds();
        let of = ["a", "b", "c", "d"].map(|uuid| holds.of(uuid));
        assert_eq!(of, [Hold::Joined, Hold::Held, Hold::None, Hold::None]);
        let of = ["a", "b", "c", "d"].map(|uuid| holds.of_ways_back().of(uuid));
        assert_eq!(of, [Hold::Joined, Hold::Held, Hold::None, Hold::Held]);
        // The first format spoke for every index.
        let first =
            br#"{"format": 1, "system_identifier": 7, "timeline": 1, "slot": "s", "lsn": "0/5"}"#;
        disk.damage(Path::new("/position.json"), first).unwrap();
        let read = Position::load(&disk, Path::new("/")).unwrap().unwrap();
        assert_eq!((read.streamed(), read.holds().of("c")), (Lsn(5), Hold::Joined));
        let newer =
            br#"{"format": 3, "system_identifier": 7, "timeline": 1, "slot": "s", "lsn": "0/5"}"#;
        disk.damage(Path::new("/position.json"), newer).unwrap();
        assert!(
            Position::load(&disk, Path::new("/")).unwrap_err().to_string().contains("format 3")
        );
    }

    #[test]
    fn a_file_of_the_second_format() {
        let disk = SimDisk::new();
        let file = Position { replaced: Vec::new(), ..position(5) };
        file.store(&disk, Path::new("/")).unwrap();
        let written = br#"{"format":2,"crc32c":389716604,"position":{"system_identifier":7,"timeline":1,"slot":"s","lsn":"0/5","streamed":"0/7","joined":["a"],"held":["b"]}}"#;
        assert_eq!(disk.read(Path::new("/position.json")).unwrap(), written);
        let read = Position::load(&disk, Path::new("/")).unwrap().unwrap();
        assert_eq!((read.lsn, read.streamed(), read.on_timeline(2).timeline), (Lsn(5), Lsn(7), 2));
    }

    #[test]
    fn no_digit_changes_unseen() {
        let disk = SimDisk::new();
        position(5).store(&disk, Path::new("/")).unwrap();
        let content = disk.read(Path::new("/position.json")).unwrap();
        for at in 0..content.len() {
            let mut damaged = content.clone();
            damaged[at] ^= 1;
            disk.damage(Path::new("/position.json"), &damaged).unwrap();
            let read = Position::load(&disk, Path::new("/"));
            assert!(read.is_err(), "{}", String::from_utf8_lossy(&damaged));
        }
    }

    #[test]
    fn what_was_read_once_is_not_older_after_a_power_cut() {
        let folder = Path::new("/");
        for seed in 0..40 {
            let disk = SimDisk::new();
            position(5).store(&disk, folder).unwrap();
            // The process is killed after the rename, before the sync of the folder.
            write_unsynced(&disk, &path(folder), &position(9));
            let disk = disk.kill();
            let read = Position::load(&disk, folder).unwrap();
            assert_eq!(Position::load(&disk.power_cut(seed), folder).unwrap(), read);
            assert_eq!(read.unwrap().lsn, Lsn(9));
        }
    }

    fn write_unsynced(disk: &SimDisk, path: &Path, position: &Position) {
        let content = envelope::seal(CONTENT, FORMAT, position).unwrap();
        let write = |file: &mut dyn egret_aof::disk::DiskFile| file.write_all(&content);
        let temporary = egret_aof::disk::write_temporary(disk, path, write).unwrap();
        disk.rename(&temporary, path).unwrap();
    }
}
