//! `catalog.json`: read, upgraded, replaced.
//!
//! One JSON object, UTF-8, replaced atomically by every change:
//!
//! ```text
//! {"format": 2,
//!  "crc32c": 305419896,                of the bytes of the value of "catalog", exactly as written
//!  "catalog": {
//!  "indexes": {"<name>": {
//!    "uuid": "…",                     22 characters, the name of its folder below `indexes/`
//!    "pipeline": "…" or null,
//!    "created_ms": 1700000000000,
//!    "state": "open" or "closed",
//!    "settings": {"index": {…}} or null,        those that were given, values as texts
//!    "aliases": {"<alias>": {"filter": {…}, "index_routing": "…", "search_routing": "…",
//!                            "is_write_index": true, "is_hidden": true}, …},
//!    "replacement": {"uuid": "…", "created_ms": …}}, …},      where one is being filled
//!                                                               (with "settings" where others)
//!  "component_templates": {"<name>": {…}, …},   as their API shows them
//!  "index_templates": {"<name>": {…}, …},
//!  "legacy_templates": {"<name>": {…}, …}}}
//! ```
//!
//! The checksum is there since one changed letter of a UUID would leave an index's folder unnamed,
//! and folders that are not named are removed. For the same reason a folder that has indexes and no
//! catalog is refused: the first start writes an empty one.
//!
//! Format 1 had `"indexes": [{"name", "uuid", "pipeline", "created_ms", "settings"}]`, the same for
//! `"replacements"` where there were any, and nothing else; it is read, and the first change writes
//! format 2 in its place. A newer format is refused.

use std::collections::BTreeMap;
use std::path::Path;

use egret_aof::disk::{Disk, write_temporary};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::model::{Catalog, IndexEntry, IndexState, Replacement};
use crate::error::{Error, ErrorKind, Result};

/// Its name in the data folder.
pub(super) const FILE: &str = "catalog.json";
const FORMAT: u64 = 2;
/// A change that would make the catalog larger is refused.
const LIMIT_BYTES: usize = 64 << 20;

#[derive(Deserialize)]
struct Version {
    format: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    format: u64,
    crc32c: u32,
    catalog: Box<RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    #[serde(rename = "format")]
    _format: u64,
    indexes: Vec<FirstEntry>,
    #[serde(default)]
    replacements: Vec<FirstEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstEntry {
    name: String,
    uuid: String,
    pipeline: Option<String>,
    created_ms: i64,
    settings: Value,
}

/// Reads the catalog of a data folder, where it has one.
pub(super) fn read(disk: &dyn Disk, folder: &Path) -> Result<Option<Catalog>> {
    let path = folder.join(FILE);
    if !disk.exists(&path)? {
        return Ok(None);
    }
    let bytes = disk.read(&path)?;
    let damaged = |what: String| {
        Error::new(ErrorKind::Corrupt, format!("[{}] is damaged: {what}", path.display()))
    };
    let corrupt = |source: serde_json::Error| damaged(source.to_string()).with_source(source);
    let Version { format } = serde_json::from_slice(&bytes).map_err(corrupt)?;
    match format {
        Some(1) => Ok(Some(upgrade(serde_json::from_slice(&bytes).map_err(corrupt)?))),
        Some(FORMAT) => {
            let envelope: Envelope = serde_json::from_slice(&bytes).map_err(corrupt)?;
            let found = crc32c::crc32c(envelope.catalog.get().as_bytes());
            if found != envelope.crc32c {
                let named = envelope.crc32c;
                return Err(damaged(format!("its checksum is [{found}] and not [{named}]")));
            }
            serde_json::from_str(envelope.catalog.get()).map(Some).map_err(corrupt)
        }
        Some(newer) => {
            let message = format!(
                "[{}] has format [{newer}], but this version of Egret reads formats up to \
                 [{FORMAT}]; a newer Egret wrote it",
                path.display()
            );
            Err(Error::new(ErrorKind::Corrupt, message))
        }
        None => Err(damaged("it does not name its format".to_owned())),
    }
}

fn upgrade(first: First) -> Catalog {
    let entry = |entry: FirstEntry| {
        let FirstEntry { name, uuid, pipeline, created_ms, settings } = entry;
        let (state, aliases) = (IndexState::Open, BTreeMap::new());
        let (replacement, kept) = (None, None);
        let entry =
            IndexEntry { uuid, pipeline, created_ms, state, settings, aliases, replacement, kept };
        (name, entry)
    };
    let mut indexes: BTreeMap<String, IndexEntry> = first.indexes.into_iter().map(entry).collect();
    for FirstEntry { name, uuid, created_ms, .. } in first.replacements {
        if let Some(entry) = indexes.get_mut(&name) {
            entry.replacement = Some(Replacement { uuid, created_ms, settings: None });
        }
    }
    Catalog { indexes, ..Catalog::default() }
}

/// Why the catalog could not be replaced.
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether a crash could bring either catalog: the new one or the one before.
    pub(super) in_doubt: bool,
}

/// Replaces the catalog of a data folder, durably. Where that fails half-way, the one before is
/// written again, so that it is in place for certain, unless that fails too.
pub(super) fn replace(
    disk: &dyn Disk,
    folder: &Path,
    before: &Catalog,
    next: &Catalog,
) -> std::result::Result<(), Failure> {
    let certain = |error: Error| Failure { error, in_doubt: false };
    let bytes = encode(next).map_err(certain)?;
    if bytes.len() > LIMIT_BYTES {
        let message =
            format!("the catalog would have [{}] bytes, more than [{LIMIT_BYTES}]", bytes.len());
        return Err(certain(Error::new(ErrorKind::Full, message)));
    }
    match write(disk, folder, &bytes) {
        Ok(()) => Ok(()),
        Err((source, false)) => Err(certain(source.into())),
        Err((source, true)) => {
            let again = encode(before).map(|bytes| write(disk, folder, &bytes));
            Err(Failure { error: source.into(), in_doubt: !matches!(again, Ok(Ok(()))) })
        }
    }
}

fn encode(catalog: &Catalog) -> Result<Vec<u8>> {
    let failed = |source: serde_json::Error| {
        Error::new(ErrorKind::Internal, format!("the catalog cannot be written: {source}"))
            .with_source(source)
    };
    let text = serde_json::to_string_pretty(catalog).map_err(failed)?;
    let (format, crc32c) = (FORMAT, crc32c::crc32c(text.as_bytes()));
    let catalog = RawValue::from_string(text).map_err(failed)?;
    serde_json::to_vec_pretty(&Envelope { format, crc32c, catalog }).map_err(failed)
}

/// A failure comes with whether the name may already lead to the new file.
fn write(disk: &dyn Disk, folder: &Path, bytes: &[u8]) -> Result<(), (std::io::Error, bool)> {
    let path = folder.join(FILE);
    let temporary = write_temporary(disk, &path, |file| file.write_all(bytes));
    let temporary = temporary.map_err(|error| (error, false))?;
    disk.rename(&temporary, &path).map_err(|error| (error, true))?;
    disk.sync_folder(folder).map_err(|error| (error, true))
}

#[cfg(test)]
mod tests {
    use egret_aof::disk::sim::SimDisk;
    use serde_json::json;

    use super::*;

    fn read_text(text: &str) -> Result<Catalog> {
        let disk = SimDisk::new();
        disk.create(Path::new("/catalog.json")).unwrap();
        disk.damage(Path::new("/catalog.json"), text.as_bytes()).unwrap();
        read(&disk, Path::new("/")).map(Option::unwrap)
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let whole = encode(&read_text(FIRST).unwrap()).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let disk = SimDisk::new();
            disk.create(Path::new("/catalog.json")).unwrap();
            disk.damage(Path::new("/catalog.json"), &bytes).unwrap();
            // Between the parts, white space may have become another kind of it.
            let read = read(&disk, Path::new("/"));
            assert!(read.is_err() || read.unwrap() == Some(read_text(FIRST).unwrap()), "{at}");
        }
    }

    /// As version 0.1.0 wrote it before there were aliases.
    const FIRST: &str = r#"{"format": 1, "indexes": [
        {"name": "notes", "uuid": "AAAAAAAAAAAAAAAAAAAAAA", "pipeline": null, "created_ms": 5,
         "settings": {"index": {"number_of_shards": "1", "number_of_replicas": "0"}}},
        {"name": "table", "uuid": "BBBBBBBBBBBBBBBBBBBBBB", "pipeline": "main", "created_ms": 6,
         "settings": {"index": {}}}], "replacements": [
        {"name": "table", "uuid": "CCCCCCCCCCCCCCCCCCCCCC", "pipeline": "main", "created_ms": 7,
         "settings": {"index": {}}}]}"#;

    #[test]
    fn the_first_format_is_upgraded() {
        let catalog = read_text(FIRST).unwrap();
        assert_eq!(catalog.indexes.keys().collect::<Vec<_>>(), ["notes", "table"]);
        let table = &catalog.indexes["table"];
        assert_eq!((table.pipeline.as_deref(), table.created_ms), (Some("main"), 6));
        assert_eq!(table.state, IndexState::Open);
        assert_eq!(table.replacement.as_ref().map(|it| it.created_ms), Some(7));
        let again = String::from_utf8(encode(&catalog).unwrap()).unwrap();
        assert!(again.contains("\"format\": 2"), "{again}");
        assert_eq!(read_text(&again).unwrap(), catalog);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let refused = |text: &str, expected: &str| {
            let error = read_text(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.message().contains(expected), "{error}");
        };
        refused(r#"{"format": 3, "shape": "unknown"}"#, "has format [3], but this version");
        refused("{}", "does not name its format");
        refused(r#"{"format": 2}"#, "missing field");
        refused(&FIRST.replace("created_ms", "made"), "unknown field `made`");
        refused("{", "is damaged");
    }

    #[test]
    fn every_part_comes_back() {
        let text = json!({
            "indexes": {"a": {
                "uuid": "AAAAAAAAAAAAAAAAAAAAAA", "pipeline": null, "created_ms": 1,
                "state": "closed", "settings": {"index": {"hidden": "true"}},
                "aliases": {"b": {"filter": {"term": {"x": 1}}, "is_write_index": true}},
            }},
            "component_templates": {"c": {"template": {"settings": {"index": {"hidden": "true"}}},
                "version": 3, "_meta": {"by": "me"}}},
            "index_templates": {"i": {"index_patterns": ["x*"], "composed_of": ["c"],
                "priority": 7, "template": {"aliases": {"d": {}}}}},
            "legacy_templates": {"l": {"index_patterns": ["y*"], "order": 1,
                "mappings": {"properties": {}}, "aliases": {}}},
        });
        let crc32c = crc32c::crc32c(text.to_string().as_bytes());
        let text = format!(r#"{{"format": 2, "crc32c": {crc32c}, "catalog": {text}}}"#);
        let catalog = read_text(&text).unwrap();
        assert!(catalog.indexes["a"].is_hidden());
        assert_eq!(catalog.alias("b").count(), 1);
        let written = String::from_utf8(encode(&catalog).unwrap()).unwrap();
        assert_eq!(read_text(&written).unwrap(), catalog);
    }
}
