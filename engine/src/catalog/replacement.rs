//! Replacing an index: another one is filled in a folder of its own while reads go on, and takes its
//! place with one write of the catalog.
//!
//! A crash at any instruction leaves the old index or the new one under the name, whole; the folder
//! of the other is removed when the data folder is next opened.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Damaged, Engine, Entry, new_uuid, not_found};
use crate::error::{Error, ErrorKind, Result};
use crate::index::Index;
use crate::mapping::Mapping;
use crate::store::shared::Identity;
use crate::store::writer;

impl Engine {
    /// Creates an empty index beside the one of this name, with that one's settings and pipeline and
    /// another mapping. Nobody finds it by name before [`Engine::swap_in_replacement`]. One begun
    /// earlier is removed. The index to replace may be damaged. Blocking.
    pub fn create_replacement(&self, name: &str, mappings: &Value) -> Result<Arc<Index>> {
        let mapping = Mapping::from_json(mappings).map_err(|error| error.with_index(name))?;
        let _changing = self.changing.lock();
        self.check_open()?;
        let replaced = self.entry(name)?.identity().map_err(|error| error.with_index(name))?;
        let created_ms = jiff::Timestamp::now().as_millisecond();
        let identity = Identity { uuid: new_uuid(), created_ms, ..replaced };
        let recovered =
            writer::create(self.home(&identity.uuid), &identity, mapping, &self.budget)?;
        self.write_catalog(|catalog| {
            catalog.replacements.retain(|entry| entry.name != name);
            catalog.replacements.push(Entry::of(&identity));
        })?;
        let index = Arc::new(Index::new(identity, recovered, Arc::clone(&self.background)));
        let earlier = self.indexes.write().replacements.insert(name.to_owned(), Arc::clone(&index));
        if let Some(earlier) = earlier {
            self.remove_index(Some(&earlier), earlier.uuid());
        }
        Ok(index)
    }

    /// The index that is being filled to replace the one of this name.
    pub fn replacement(&self, name: &str) -> Option<Arc<Index>> {
        self.indexes.read().replacements.get(name).cloned()
    }

    /// Gives the replacement the name. Whoever holds the old index or a snapshot of it reads on; its
    /// files are removed. What the replacement holds and is not flushed may be lost in a crash, and
    /// what it has not published is not seen yet. Blocking.
    pub fn swap_in_replacement(&self, name: &str) -> Result<Arc<Index>> {
        let _changing = self.changing.lock();
        self.check_open()?;
        let old = self.entry(name)?;
        let new = self.replacement(name).ok_or_else(|| {
            let message = format!("index [{name}] has no replacement");
            Error::new(ErrorKind::InvalidArgument, message).with_index(name)
        })?;
        self.write_catalog(|catalog| {
            catalog.forget(name);
            catalog.indexes.push(Entry::of(new.identity()));
        })?;
        let replaced = {
            let mut indexes = self.indexes.write();
            indexes.replacements.remove(name);
            indexes.damaged.remove(name);
            indexes.open.insert(name.to_owned(), Arc::clone(&new))
        };
        self.remove_index(replaced.as_deref(), &old.uuid);
        Ok(new)
    }

    /// Gives up the replacement of an index, where there is one. Blocking.
    pub fn discard_replacement(&self, name: &str) -> Result<()> {
        let _changing = self.changing.lock();
        let Some(index) = self.replacement(name) else { return Ok(()) };
        self.write_catalog(|catalog| catalog.replacements.retain(|entry| entry.name != name))?;
        self.indexes.write().replacements.remove(name);
        self.remove_index(Some(&index), index.uuid());
        Ok(())
    }

    /// Replacements as the catalog has them. One that is damaged is nobody's loss: what it was
    /// filled from is still there.
    pub(super) fn open_replacements(&self, entries: &[Entry]) -> BTreeMap<String, Arc<Index>> {
        let mut replacements = BTreeMap::new();
        for entry in entries {
            match self.open_index(entry) {
                Ok(index) => {
                    replacements.insert(entry.name.clone(), Arc::new(index));
                }
                Err(error) => {
                    tracing::warn!(index = %entry.name, %error, "a replacement cannot be opened");
                    self.remove_index(None, &entry.uuid);
                }
            }
        }
        replacements
    }

    fn entry(&self, name: &str) -> Result<Entry> {
        let indexes = self.indexes.read();
        let open = indexes.open.get(name).map(|index| Entry::of(index.identity()));
        let damaged = || indexes.damaged.get(name).map(|Damaged { entry, .. }| entry.clone());
        open.or_else(damaged).ok_or_else(|| not_found(name))
    }

    fn check_open(&self) -> Result<()> {
        if self.indexes.read().closed {
            return Err(Error::new(ErrorKind::Closed, "the engine is closed"));
        }
        Ok(())
    }
}
