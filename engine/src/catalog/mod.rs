//! The catalog: which indexes there are, in one data folder, with their settings, aliases and
//! templates.
//!
//! ```text
//! lock                    locked by the process that has the folder open
//! catalog.json            what the catalog says, replaced atomically: see `format`
//! indexes/<uuid>/         one folder for each index: see `store`
//! ```
//!
//! A folder that the catalog does not name is left over from an index that was deleted, replaced or
//! never finished, and is removed at the next open: a folder is durable before the catalog names it, and
//! goes after the catalog has forgotten it. Every change is one replacement of `catalog.json`, made
//! before anybody sees it, so that a crash leaves the catalog before it or after it.

mod alias;
mod change;
pub mod check;
pub mod date_name;
mod format;
mod model;
mod name;
pub mod pattern;
mod rebuild;
mod replacement;
pub mod resolve;
mod rewrite;
mod template;
#[cfg(test)]
mod tests;
mod unopened;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use egret_aof::disk::{Disk, create_folder_durably};
use parking_lot::{Mutex, RwLock};

pub use self::alias::{Alias, AliasAction};
pub use self::model::{Catalog, IndexEntry, IndexState, Kept, Replacement};
pub use self::rebuild::{Rebuild, keep_until_ms};
pub use self::rewrite::Hindrance;
pub use self::template::{ComponentTemplate, IndexTemplate, LegacyTemplate, Template};
use self::unopened::Unopened;
use crate::error::{Error, ErrorKind, Result};
use crate::index::Index;
use crate::mapping::Mapping;
use crate::store::background::Background;
use crate::store::budget::{Budget, BudgetStats};
use crate::store::limits::Limits;
use crate::store::replay::ReplayWatch;
use crate::store::settings::IndexSettings;
use crate::store::shared::Identity;
use crate::store::writer::{self, Home};
use crate::store::writers::WriterStats;

const INDEXES: &str = "indexes";
const LOCK: &str = "lock";

/// How to open a data folder.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Where durable files are.
    pub disk: Arc<dyn Disk>,
    /// The folder.
    pub folder: PathBuf,
    /// Memory that all open writers share, in bytes.
    pub indexing_budget_bytes: usize,
    /// What bounds the work on all indexes.
    pub limits: Limits,
}

/// An open data folder and the indexes in it.
pub struct Engine {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    budget: Arc<Budget>,
    background: Arc<Background>,
    /// Guards changes of the catalog on disk; held while it is written.
    changing: Mutex<()>,
    /// Guards what is served; held for look-ups and to put in what a change has brought.
    served: RwLock<Served>,
    _lock: Box<dyn Send + Sync>,
}

/// What the catalog says and the indexes behind it, by the same names.
#[derive(Default)]
struct Served {
    catalog: Arc<Catalog>,
    handles: BTreeMap<String, Handle>,
    /// Indexes that are filled to take the place of the one of their name.
    replacements: BTreeMap<String, Arc<Index>>,
    /// The UUIDs of those that nobody has asked for: they give way.
    rewrites: HashSet<String>,
    /// What indexes were before they were rebuilt; these get every change still.
    kept: BTreeMap<String, Arc<Index>>,
    /// The engine has been closed: nothing changes any more.
    ended: bool,
}

/// What there is of an index at run time.
enum Handle {
    Open(Arc<Index>),
    /// Its mapping is all that is in memory.
    Closed(Arc<Mapping>),
    /// It could not be opened, for this reason; its entry stays in the catalog.
    Damaged(Unopened),
}

impl Handle {
    fn running(&self) -> Option<&Arc<Index>> {
        match self {
            Self::Open(index) => Some(index),
            Self::Closed(_) | Self::Damaged(_) => None,
        }
    }
}

impl Engine {
    /// Opens a folder, made if missing, and every index in it; replays translogs. Blocking. An
    /// index that is damaged is listed in `damaged`, and the others open.
    pub fn open(options: EngineOptions) -> Result<Self> {
        Self::open_watched(options, &|_| ())
    }

    /// As [`Engine::open`]; `watch` is told a few times a second how far the replay of a translog
    /// is, and when one that it heard of has ended.
    pub fn open_watched(options: EngineOptions, watch: ReplayWatch<'_>) -> Result<Self> {
        let EngineOptions { disk, folder, indexing_budget_bytes, limits } = options;
        create_folder_durably(&*disk, &folder.join(INDEXES))?;
        let lock = disk.lock(&folder.join(LOCK)).map_err(|source| {
            let message = format!("the data folder [{}] is in use: {source}", folder.display());
            Error::new(ErrorKind::Io, message).with_source(source)
        })?;
        let engine = Self {
            budget: Budget::new(indexing_budget_bytes),
            background: Arc::new(Background::start(limits)?),
            changing: Mutex::new(()),
            served: RwLock::default(),
            _lock: lock,
            disk,
            folder,
        };
        let catalog = engine.read_catalog()?;
        // A killed process may have replaced the catalog and not synced the folder: the one before
        // it, whose folders are removed here as left over, must not come back.
        engine.disk.sync_folder(&engine.folder)?;
        engine.remove_leftovers(&catalog)?;
        let mut handles = BTreeMap::new();
        for (name, entry) in &catalog.indexes {
            let handle = engine.handle(name, entry, watch).unwrap_or_else(|error| {
                tracing::error!(index = %name, %error, "an index cannot be opened");
                Handle::Damaged(Unopened::new(&error))
            });
            handles.insert(name.clone(), handle);
        }
        let replacements = engine.open_replacements(&catalog);
        let catalog = Arc::new(catalog);
        let kept = BTreeMap::new();
        let rewrites = HashSet::new();
        *engine.served.write() =
            Served { catalog, handles, replacements, rewrites, kept, ended: false };
        engine.open_kept();
        Ok(engine)
    }

    /// The catalog; an empty one is written where there is none.
    fn read_catalog(&self) -> Result<Catalog> {
        if let Some(catalog) = format::read(&*self.disk, &self.folder)? {
            return Ok(catalog);
        }
        check::expect_no_index(&*self.disk, &self.folder)?;
        let empty = Catalog::default();
        let written = format::replace(&*self.disk, &self.folder, &empty, &empty);
        written.map_err(|failure| failure.error)?;
        Ok(empty)
    }

    fn remove_leftovers(&self, catalog: &Catalog) -> Result<()> {
        let folder = self.folder.join(INDEXES);
        let entries = || catalog.indexes.values();
        let replacements = entries().filter_map(|entry| entry.replacement.as_ref());
        let named: HashSet<&str> = entries()
            .map(|entry| entry.uuid.as_str())
            .chain(replacements.map(|replacement| replacement.uuid.as_str()))
            .chain(entries().filter_map(|entry| Some(entry.kept.as_ref()?.uuid.as_str())))
            .collect();
        for name in self.disk.list(&folder)? {
            if !named.contains(name.as_str()) {
                tracing::info!(folder = %name, "removing what is left of an index");
                self.disk.remove_folder(&folder.join(name))?;
            }
        }
        Ok(())
    }

    fn home(&self, uuid: &str) -> Home {
        Home { disk: Arc::clone(&self.disk), folder: self.folder.join(INDEXES).join(uuid) }
    }

    fn handle(&self, name: &str, entry: &IndexEntry, watch: ReplayWatch<'_>) -> Result<Handle> {
        match entry.state {
            IndexState::Open => self.open_folder(name, entry, watch).map(Handle::Open),
            IndexState::Closed => {
                let identity = identity(name, entry)?;
                let mapping = writer::committed_mapping(&self.home(&identity.uuid))?;
                Ok(Handle::Closed(Arc::new(mapping)))
            }
        }
    }

    fn open_folder(
        &self,
        name: &str,
        entry: &IndexEntry,
        watch: ReplayWatch<'_>,
    ) -> Result<Arc<Index>> {
        let identity = identity(name, entry)?;
        let recovered = writer::open(self.home(&entry.uuid), &identity, &self.budget, watch)?;
        Ok(Arc::new(Index::new(identity, recovered, Arc::clone(&self.background))))
    }

    /// What young segments of all indexes take of the memory for them.
    pub fn budget(&self) -> BudgetStats {
        self.budget.stats()
    }

    /// The writers that have threads.
    pub fn writers(&self) -> WriterStats {
        self.background.writers().stats()
    }

    /// The threads for merges and flushes.
    #[cfg(test)]
    pub(crate) fn background(&self) -> &Background {
        &self.background
    }

    /// What the catalog says now.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.served.read().catalog)
    }

    /// The open index of this name.
    pub fn index(&self, name: &str) -> Result<Arc<Index>> {
        match self.served.read().handles.get(name) {
            Some(Handle::Open(index)) => Ok(Arc::clone(index)),
            Some(Handle::Closed(_)) => Err(resolve::closed(name)),
            Some(Handle::Damaged(why)) => Err(why.error(name)),
            None => Err(not_found(name)),
        }
    }

    /// The mapping of an index, open or closed.
    pub fn mapping(&self, name: &str) -> Result<Arc<Mapping>> {
        match self.served.read().handles.get(name) {
            Some(Handle::Open(index)) => Ok(index.mapping()),
            Some(Handle::Closed(mapping)) => Ok(Arc::clone(mapping)),
            Some(Handle::Damaged(why)) => Err(why.error(name)),
            None => Err(not_found(name)),
        }
    }

    /// All open indexes by name.
    pub fn indexes(&self) -> Vec<Arc<Index>> {
        let served = self.served.read();
        served.handles.values().filter_map(Handle::running).cloned().collect()
    }

    /// Indexes that could not be opened, with the reason.
    pub fn damaged(&self) -> Vec<(String, String)> {
        let served = self.served.read();
        let damaged = served.handles.iter().filter_map(|(name, handle)| match handle {
            Handle::Damaged(why) => Some((name.clone(), why.reason.clone())),
            _ => None,
        });
        damaged.collect()
    }

    fn is_damaged(&self, name: &str) -> bool {
        matches!(self.served.read().handles.get(name), Some(Handle::Damaged(_)))
    }

    /// Flushes every index and stops its writer. Blocking.
    pub fn close(&self) -> Result<()> {
        self.end(true)
    }

    fn end(&self, flush: bool) -> Result<()> {
        let _changing = self.changing.lock();
        self.background.hurry();
        let mut indexes = self.indexes();
        {
            let mut served = self.served.write();
            served.ended = true;
            // After those that hand on their changes to them.
            indexes.extend(served.replacements.values().cloned());
            indexes.extend(served.kept.values().cloned());
        }
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

/// Who an index is, as the catalog says.
fn identity(name: &str, entry: &IndexEntry) -> Result<Identity> {
    let IndexEntry { uuid, pipeline, created_ms, settings, .. } = entry.clone();
    let settings = Arc::new(ArcSwap::from_pointee(IndexSettings::from_json(&settings)?));
    if Path::new(&uuid).components().count() != 1 || uuid.starts_with('.') {
        let message = format!("the catalog has the folder [{uuid}] for index [{name}]");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let (name, activity) = (name.to_owned(), Arc::default());
    Ok(Identity { name, uuid, pipeline, created_ms, settings, activity })
}

fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::IndexNotFound, format!("no such index [{name}]")).with_index(name)
}
