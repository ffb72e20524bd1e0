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
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::report::TableReport;
use crate::error::Result;

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    format: u32,
    crc32c: u32,
    tables: Box<RawValue>,
}

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
    let tables = serde_json::value::to_raw_value(tables).map_err(std::io::Error::other)?;
    let crc32c = crc32c::crc32c(tables.get().as_bytes());
    let envelope = Envelope { format: FORMAT, crc32c, tables };
    let content = serde_json::to_vec(&envelope).map_err(std::io::Error::other)?;
    create_folder_durably(disk, folder)?;
    Ok(replace_file(disk, &path(folder), &content)?)
}

fn parse(content: &[u8]) -> Result<Vec<TableReport>, String> {
    let damaged = |error: serde_json::Error| format!("is damaged: {error}");
    let Envelope { format, crc32c, tables } = serde_json::from_slice(content).map_err(damaged)?;
    if format != FORMAT {
        return Err(format!("has the unknown format {format}"));
    }
    let found = crc32c::crc32c(tables.get().as_bytes());
    if found != crc32c {
        return Err(format!("is damaged: its checksum is [{found}], not [{crc32c}]"));
    }
    serde_json::from_str(tables.get()).map_err(damaged)
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
