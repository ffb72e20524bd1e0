//! The catalog: which indexes there are, in one data folder.
//!
//! ```text
//! lock                    locked by the process that has the folder open
//! catalog.json            the indexes, replaced atomically
//! indexes/<uuid>/         one folder for each index: see `store`
//! ```
//!
//! `catalog.json` is `{"format": 1, "indexes": [{"name", "uuid", "pipeline", "created_ms",
//! "settings"}], "replacements": [...]}`. A newer format is refused. A folder that it does not name
//! is left over from an index that was deleted, replaced or never finished, and is removed at the
//! next open.

mod replacement;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use egret_aof::disk::{Disk, create_folder_durably, replace_file};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::index::{Index, IndexDefinition};
use crate::mapping::Mapping;
use crate::store::background::Background;
use crate::store::budget::Budget;
use crate::store::settings::IndexSettings;
use crate::store::shared::Identity;
use crate::store::writer::{self, Home};

const CATALOG: &str = "catalog.json";
const INDEXES: &str = "indexes";
const LOCK: &str = "lock";
const FORMAT: u32 = 1;
/// How long an index's name may be.
const NAME_LIMIT_BYTES: usize = 255;

/// How to open a data folder.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Where durable files are.
    pub disk: Arc<dyn Disk>,
    /// The folder.
    pub folder: PathBuf,
    /// Memory that all open writers share, in bytes.
    pub indexing_budget_bytes: usize,
}

/// An open data folder and the indexes in it.
pub struct Engine {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    budget: Arc<Budget>,
    background: Arc<Background>,
    /// Guards changes of the catalog on disk; held while it is written.
    changing: Mutex<()>,
    /// Guards the open indexes; held for look-ups and to put in or take out one.
    indexes: RwLock<Indexes>,
    _lock: Box<dyn Send + Sync>,
}

#[derive(Default)]
struct Indexes {
    open: BTreeMap<String, Arc<Index>>,
    damaged: BTreeMap<String, Damaged>,
    /// Indexes that are filled to take the place of the one of their name.
    replacements: BTreeMap<String, Arc<Index>>,
    closed: bool,
}

/// An index that could not be opened; its entry stays in the catalog.
struct Damaged {
    entry: Entry,
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct Catalog {
    format: u32,
    indexes: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    replacements: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    uuid: String,
    pipeline: Option<String>,
    created_ms: i64,
    settings: Value,
}

impl Engine {
    /// Opens a folder, made if missing, and every index in it; replays translogs. Blocking. An
    /// index that is damaged is listed in `damaged`, and the others open.
    pub fn open(options: EngineOptions) -> Result<Self> {
        let EngineOptions { disk, folder, indexing_budget_bytes } = options;
        create_folder_durably(&*disk, &folder.join(INDEXES))?;
        let lock = disk.lock(&folder.join(LOCK)).map_err(|source| {
            let message = format!("the data folder [{}] is in use: {source}", folder.display());
            Error::new(ErrorKind::Io, message).with_source(source)
        })?;
        let engine = Self {
            budget: Budget::new(indexing_budget_bytes),
            background: Arc::new(Background::start()?),
            changing: Mutex::new(()),
            indexes: RwLock::default(),
            _lock: lock,
            disk,
            folder,
        };
        let catalog = engine.read_catalog()?;
        engine.remove_leftovers(&catalog)?;
        let mut indexes = Indexes::default();
        indexes.replacements = engine.open_replacements(&catalog.replacements);
        for entry in catalog.indexes {
            match engine.open_index(&entry) {
                Ok(index) => drop(indexes.open.insert(entry.name, Arc::new(index))),
                Err(error) => {
                    tracing::error!(index = %entry.name, %error, "an index cannot be opened");
                    let reason = error.to_string();
                    indexes.damaged.insert(entry.name.clone(), Damaged { entry, reason });
                }
            }
        }
        *engine.indexes.write() = indexes;
        Ok(engine)
    }

    fn read_catalog(&self) -> Result<Catalog> {
        let path = self.folder.join(CATALOG);
        if !self.disk.exists(&path)? {
            return Ok(Catalog::of(&Indexes::default()));
        }
        let bytes = self.disk.read(&path)?;
        let corrupt = |source: serde_json::Error| {
            Error::new(ErrorKind::Corrupt, format!("[{}] is damaged: {source}", path.display()))
                .with_source(source)
        };
        let json: Value = serde_json::from_slice(&bytes).map_err(corrupt)?;
        match json.get("format").and_then(Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            format => {
                let message = format!(
                    "[{}] has format {format:?}, but this version of Egret reads [{FORMAT}]",
                    path.display()
                );
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
        serde_json::from_value(json).map_err(corrupt)
    }

    fn remove_leftovers(&self, catalog: &Catalog) -> Result<()> {
        let folder = self.folder.join(INDEXES);
        for name in self.disk.list(&folder)? {
            let mut entries = catalog.indexes.iter().chain(&catalog.replacements);
            if entries.all(|entry| entry.uuid != name) {
                tracing::info!(folder = %name, "removing what is left of an index");
                self.disk.remove_folder(&folder.join(name))?;
            }
        }
        Ok(())
    }

    fn home(&self, uuid: &str) -> Home {
        Home { disk: Arc::clone(&self.disk), folder: self.folder.join(INDEXES).join(uuid) }
    }

    fn open_index(&self, entry: &Entry) -> Result<Index> {
        let identity = entry.identity()?;
        let recovered = writer::open(self.home(&entry.uuid), &identity, &self.budget)?;
        Ok(Index::new(identity, recovered, Arc::clone(&self.background)))
    }

    /// Writes the catalog as it is after a change, which is then made in memory.
    fn write_catalog(&self, change: impl FnOnce(&mut Catalog)) -> Result<()> {
        let mut catalog = Catalog::of(&self.indexes.read());
        change(&mut catalog);
        let json = serde_json::to_vec_pretty(&catalog).map_err(|source| {
            Error::new(ErrorKind::Internal, format!("the catalog cannot be written: {source}"))
                .with_source(source)
        })?;
        Ok(replace_file(&*self.disk, &self.folder.join(CATALOG), &json)?)
    }

    /// Creates an index. Blocking.
    pub fn create_index(&self, name: &str, definition: IndexDefinition) -> Result<Arc<Index>> {
        check_name(name)?;
        let settings = IndexSettings::from_json(&definition.settings);
        let settings = settings.map_err(|error| error.with_index(name))?;
        let mapping = match &definition.mappings {
            Value::Null => Mapping::default(),
            json => Mapping::from_json(json).map_err(|error| error.with_index(name))?,
        };
        let _changing = self.changing.lock();
        self.check_absent(name)?;
        let identity = Identity {
            name: name.to_owned(),
            uuid: new_uuid(),
            pipeline: definition.pipeline,
            created_ms: jiff::Timestamp::now().as_millisecond(),
            settings,
        };
        let home = self.home(&identity.uuid);
        let recovered = writer::create(home, &identity, mapping, &self.budget)?;
        self.write_catalog(|catalog| catalog.indexes.push(Entry::of(&identity)))?;
        let index = Arc::new(Index::new(identity, recovered, Arc::clone(&self.background)));
        self.indexes.write().open.insert(name.to_owned(), Arc::clone(&index));
        Ok(index)
    }

    fn check_absent(&self, name: &str) -> Result<()> {
        let indexes = self.indexes.read();
        if indexes.closed {
            return Err(Error::new(ErrorKind::Closed, "the engine is closed"));
        }
        let open = indexes.open.get(name).map(|index| index.uuid().to_owned());
        let damaged = indexes.damaged.get(name).map(|damaged| damaged.entry.uuid.clone());
        match open.or(damaged) {
            Some(uuid) => {
                let message = format!("index [{name}/{uuid}] already exists");
                Err(Error::new(ErrorKind::IndexAlreadyExists, message).with_index(name))
            }
            None => Ok(()),
        }
    }

    /// The index of this name.
    pub fn index(&self, name: &str) -> Result<Arc<Index>> {
        let indexes = self.indexes.read();
        if let Some(index) = indexes.open.get(name) {
            return Ok(Arc::clone(index));
        }
        Err(match indexes.damaged.get(name) {
            Some(Damaged { reason, .. }) => {
                let message = format!("index [{name}] could not be opened: {reason}");
                Error::new(ErrorKind::Corrupt, message).with_index(name)
            }
            None => not_found(name),
        })
    }

    /// All indexes by name.
    pub fn indexes(&self) -> Vec<Arc<Index>> {
        self.indexes.read().open.values().cloned().collect()
    }

    /// Indexes that could not be opened, with the reason.
    pub fn damaged(&self) -> Vec<(String, String)> {
        let indexes = self.indexes.read();
        let damaged = indexes.damaged.iter();
        damaged.map(|(name, Damaged { reason, .. })| (name.clone(), reason.clone())).collect()
    }

    /// Deletes an index and its files. A followed index is refused unless `followed` is allowed.
    /// Blocking.
    pub fn delete_index(&self, name: &str, allow_followed: bool) -> Result<()> {
        let _changing = self.changing.lock();
        let (uuid, pipeline) = {
            let indexes = self.indexes.read();
            let open = indexes.open.get(name).map(|index| Entry::of(index.identity()));
            let damaged = indexes.damaged.get(name).map(|damaged| damaged.entry.clone());
            let entry = open.or(damaged).ok_or_else(|| not_found(name))?;
            (entry.uuid, entry.pipeline)
        };
        if let Some(pipeline) = pipeline.filter(|_| !allow_followed) {
            let message = format!(
                "index [{name}] follows the pipeline [{pipeline}]: take its table out of the \
                 pipeline first"
            );
            return Err(Error::new(ErrorKind::Forbidden, message).with_index(name));
        }
        self.write_catalog(|catalog| catalog.forget(name))?;
        let (index, replacement) = {
            let mut indexes = self.indexes.write();
            indexes.damaged.remove(name);
            (indexes.open.remove(name), indexes.replacements.remove(name))
        };
        if let Some(replacement) = replacement {
            self.remove_index(Some(&replacement), replacement.uuid());
        }
        self.remove_index(index.as_deref(), &uuid);
        Ok(())
    }

    /// Ends an index that the catalog no longer names, and removes its files. What is left of them
    /// goes at the next open.
    fn remove_index(&self, index: Option<&Index>, uuid: &str) {
        let closed = index.map_or(Ok(()), |index| index.close(false));
        let removed = self.disk.remove_folder(&self.home(uuid).folder).map_err(Error::from);
        if let Err(error) = closed.and(removed) {
            tracing::warn!(%error, folder = uuid, "files of a removed index are left over");
        }
    }

    /// Flushes every index and stops its writer. Blocking.
    pub fn close(&self) -> Result<()> {
        self.end(true)
    }

    fn end(&self, flush: bool) -> Result<()> {
        let _changing = self.changing.lock();
        let indexes: Vec<Arc<Index>> = {
            let mut indexes = self.indexes.write();
            indexes.closed = true;
            indexes.open.values().chain(indexes.replacements.values()).cloned().collect()
        };
        let results: Vec<Result<()>> = indexes.iter().map(|index| index.close(flush)).collect();
        results.into_iter().collect()
    }
}

impl Drop for Engine {
    /// Stops the writers where they are: what counts is on disk.
    fn drop(&mut self) {
        if let Err(error) = self.end(false) {
            tracing::debug!(%error, "an index did not close");
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Catalog {
    fn of(indexes: &Indexes) -> Self {
        let entry = |index: &Arc<Index>| Entry::of(index.identity());
        let damaged = indexes.damaged.values().map(|damaged| damaged.entry.clone());
        Self {
            format: FORMAT,
            indexes: indexes.open.values().map(entry).chain(damaged).collect(),
            replacements: indexes.replacements.values().map(entry).collect(),
        }
    }

    /// Takes out everything of this name.
    fn forget(&mut self, name: &str) {
        self.indexes.retain(|entry| entry.name != name);
        self.replacements.retain(|entry| entry.name != name);
    }
}

impl Entry {
    fn of(identity: &Identity) -> Self {
        let Identity { name, uuid, pipeline, created_ms, settings } = identity.clone();
        Self { name, uuid, pipeline, created_ms, settings: settings.to_json() }
    }

    fn identity(&self) -> Result<Identity> {
        let Self { name, uuid, pipeline, created_ms, settings } = self.clone();
        let settings = IndexSettings::from_json(&settings)?;
        if Path::new(&uuid).components().count() != 1 || uuid.starts_with('.') {
            let message = format!("the catalog has the folder [{uuid}] for index [{name}]");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(Identity { name, uuid, pipeline, created_ms, settings })
    }
}

fn new_uuid() -> String {
    URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().as_bytes())
}

fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::IndexNotFound, format!("no such index [{name}]")).with_index(name)
}

/// Elasticsearch's rules for names of indexes.
fn check_name(name: &str) -> Result<()> {
    const FORBIDDEN: [char; 10] = ['\\', '/', '*', '?', '"', '<', '>', '|', ' ', ','];
    let reason = if name.is_empty() {
        "must not be empty".to_owned()
    } else if name.contains(FORBIDDEN) {
        "must not contain the following characters ['\\','/','*','?','\"','<','>','|',' ',',']"
            .to_owned()
    } else if name.contains('#') {
        "must not contain '#'".to_owned()
    } else if name.contains(':') {
        "must not contain ':'".to_owned()
    } else if name.starts_with(['_', '-', '+']) {
        "must not start with '_', '-', or '+'".to_owned()
    } else if name.len() > NAME_LIMIT_BYTES {
        format!("index name is too long, ({} > {NAME_LIMIT_BYTES})", name.len())
    } else if name == "." || name == ".." {
        "must not be '.' or '..'".to_owned()
    } else if name.to_lowercase() != name {
        "must be lowercase".to_owned()
    } else if name.chars().any(char::is_control) {
        "must not contain control characters".to_owned()
    } else {
        return Ok(());
    };
    let message = format!("Invalid index name [{name}], {reason}");
    Err(Error::new(ErrorKind::InvalidIndexName, message).with_index(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "logs-2024.01", "schema.table", "é", ".hidden", "1", &"x".repeat(255)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            "É",
            "a b",
            "a,b",
            "a*",
            "_a",
            "-a",
            "+a",
            ".",
            "..",
            "a#",
            "a:b",
            "a\n",
            "a/b",
            &"x".repeat(256),
        ] {
            let error = check_name(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidIndexName, "{bad}");
        }
    }
}
