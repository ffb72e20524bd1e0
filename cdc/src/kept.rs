//! What a pipeline's folder keeps of what it was told while it ran: whether it is paused, and its
//! configuration where no file has it.
//!
//! `pipeline.json`, replaced atomically:
//!
//! ```json
//! {"format": 1, "crc32c": 305419896, "pipeline": {"paused": true, "declared": {"name": "shop", ...}}}
//! ```
//!
//! The checksum is of the bytes of the value of "pipeline", exactly as written. Other formats are
//! refused. Without the file the pipeline is not paused, and is declared elsewhere.

use std::path::{Path, PathBuf};

use egret_aof::check::Check;
use egret_aof::disk::{Disk, create_folder_durably, replace_file};
use serde::{Deserialize, Serialize};

use crate::config::PipelineConfig;
use crate::envelope;
use crate::error::{Error, ErrorKind, Result};

const FORMAT: u32 = 1;

/// What the content is called.
const CONTENT: &str = "pipeline";

/// What the folder keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Whether the pipeline stands still until it is resumed.
    pub paused: bool,
    /// Its configuration, where it was declared while the program ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<PipelineConfig>,
}

impl Kept {
    /// Reads what a pipeline's folder keeps.
    pub fn load(disk: &dyn Disk, folder: &Path) -> Result<Self> {
        let path = path(folder);
        if !disk.exists(&path)? {
            return Ok(Self::default());
        }
        Self::parse(&disk.read(&path)?).map_err(|reason| {
            let message = format!("[{}] {reason}", path.display());
            Error::new(ErrorKind::Corrupt, message)
        })
    }

    /// Replaces it, durably.
    pub fn store(&self, disk: &dyn Disk, folder: &Path) -> Result<()> {
        let content = envelope::seal(CONTENT, FORMAT, self)?;
        create_folder_durably(disk, folder)?;
        Ok(replace_file(disk, &path(folder), &content)?)
    }

    fn parse(content: &[u8]) -> Result<Self, String> {
        envelope::open(CONTENT, FORMAT, content)
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("pipeline.json")
}

/// Verifies the file. What was declared cannot be made up: nothing is repaired.
pub(crate) fn check(check: &mut Check<'_>, folder: &Path) {
    let path = path(folder);
    if !check.disk().exists(&path).unwrap_or_default() {
        return;
    }
    let Some(content) = check.read("declaration", &path) else { return };
    if let Err(reason) = Kept::parse(&content) {
        let remedy = "not repaired: remove the file, and declare the pipeline again";
        check.damaged("declaration", &path, reason, remedy);
    }
}

#[cfg(test)]
mod tests {
    use egret_aof::disk::sim::SimDisk;

    use super::*;

    #[test]
    fn a_file_of_the_first_release() {
        let (disk, folder) = (SimDisk::new(), Path::new("/p"));
        Kept::default().store(&disk, folder).unwrap();
        let written = br#"{"format":1,"crc32c":274196360,"pipeline":{"paused":true}}"#;
        disk.damage(&path(folder), written).unwrap();
        let kept = Kept { paused: true, declared: None };
        assert_eq!(Kept::load(&disk, folder).unwrap(), kept);
        kept.store(&disk, folder).unwrap();
        assert_eq!(disk.read(&path(folder)).unwrap(), written);
    }

    #[test]
    fn no_digit_changes_unseen() {
        let (disk, folder) = (SimDisk::new(), Path::new("/p"));
        assert_eq!(Kept::load(&disk, folder).unwrap(), Kept::default());
        let declared = PipelineConfig { url: "postgres://u@h/d".into(), ..Default::default() };
        let kept = Kept { paused: true, declared: Some(declared) };
        kept.store(&disk, folder).unwrap();
        assert_eq!(Kept::load(&disk, folder).unwrap(), kept);
        let content = disk.read(&path(folder)).unwrap();
        for at in 0..content.len() {
            let mut damaged = content.clone();
            damaged[at] ^= 1;
            disk.damage(&path(folder), &damaged).unwrap();
            assert!(Kept::load(&disk, folder).is_err(), "{}", String::from_utf8_lossy(&damaged));
        }
    }
}
