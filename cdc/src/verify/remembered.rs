//! What was proven, kept over a restart of the program.
//!
//! `verified.json`, replaced atomically at the end of a round:
//!
//! ```json
//! {"format": 1, "crc32c": 305419896, "tables": [{"table": "public.t", "proven_ms": 1, ...}]}
//! ```
//!
//! The checksum is of the bytes of the value of "tables", exactly as written. It is worth no more than
//! the time of a round: a file that cannot be read, or of another format, counts as none.

use std::path::{Path, PathBuf};

use egret_aof::check::Check;
use egret_aof::disk::{Disk, create_folder_durably, replace_file};

use super::report::TableReport;
use crate::envelope;
use crate::error::Result;

const FORMAT: u32 = 1;

/// What the content is called.
const CONTENT: &str = "tables";

/// What was proven of each table.
pub(super) fn load(disk: &dyn Disk, folder: &Path) -> Vec<TableReport> {
    let path = path(folder);
    if !disk.exists(&path).unwrap_or_default() {
        return Vec::new();
    }
    let read = disk.read(&path).map_err(|error| error.to_string());
    read.and_then(|content| parse(&content)).unwrap_or_else(|reason| {
        tracing::warn!(path = %path.display(), reason, "what was proven before is not known");
        Vec::new()
    })
}

/// Replaces it, durably.
pub(super) fn store(disk: &dyn Disk, folder: &Path, tables: &[TableReport]) -> Result<()> {
    let content = envelope::seal(CONTENT, FORMAT, &tables)?;
    create_folder_durably(disk, folder)?;
    Ok(replace_file(disk, &path(folder), &content)?)
}

fn parse(content: &[u8]) -> Result<Vec<TableReport>, String> {
    envelope::open(CONTENT, FORMAT, content)
}

fn path(folder: &Path) -> PathBuf {
    folder.join("verified.json")
}

/// Verifies the file. A repair removes it: the next round writes it anew.
pub(crate) fn check(check: &mut Check<'_>, folder: &Path) {
    let path = path(folder);
    if !check.disk().exists(&path).unwrap_or_default() {
        return;
    }
    let mark = check.mark();
    let Some(content) = check.read("verification", &path) else { return };
    if let Err(reason) = parse(&content) {
        check.damaged("verification", &path, reason, "");
    }
    let remedy = "the file is removed: the tables are verified again";
    check.settle(mark, remedy, |disk| {
        disk.remove(&path)?;
        disk.sync_folder(folder)
    });
}

#[cfg(test)]
mod tests {
    use egret_aof::disk::sim::SimDisk;

    use super::*;

    #[test]
    fn a_file_of_the_first_release() {
        let (disk, folder) = (SimDisk::new(), Path::new("/p"));
        store(&disk, folder, &[]).unwrap();
        let written = br#"{"format":1,"crc32c":1146131308,"tables":[{"table":"public.t","index":"t","uuid":"u","rows":7,"rows_estimated":7,"documents":7,"lsn":"0/1A2B3C","proven_ms":1,"differences":0,"repaired":0,"ranges":[],"document_ranges":[]}]}"#;
        disk.damage(&path(folder), written).unwrap();
        let known = load(&disk, folder);
        assert_eq!((known[0].rows, known[0].proven_ms), (7, Some(1)), "{known:?}");
        store(&disk, folder, &known).unwrap();
        assert_eq!(disk.read(&path(folder)).unwrap(), written);
    }

    #[test]
    fn what_is_damaged_counts_as_none() {
        let (disk, folder) = (SimDisk::new(), Path::new("/p"));
        assert_eq!(load(&disk, folder), []);
        let table = TableReport { table: "public.t".to_owned(), rows: 7, ..Default::default() };
        store(&disk, folder, std::slice::from_ref(&table)).unwrap();
        assert_eq!(load(&disk, folder), [table]);
        let content = disk.read(&path(folder)).unwrap();
        for at in 0..content.len() {
            let mut damaged = content.clone();
            damaged[at] ^= 1;
            disk.damage(&path(folder), &damaged).unwrap();
            assert_eq!(load(&disk, folder), [], "{}", String::from_utf8_lossy(&damaged));
        }
    }
}
