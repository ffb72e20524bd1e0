//! Replacing an index: another one is filled in a folder of its own while reads go on, and takes its
//! place with one write of the catalog.
//!
//! A crash at any instruction leaves the old index or the new one under the name, whole; the folder
//! of the other is removed when the data folder is next opened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::change::{laid_over, new_uuid};
use super::model::{Catalog, IndexEntry, IndexState, Replacement};
use super::{Engine, Handle, format, identity, not_found};
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Index, IndexDefinition};
use crate::mapping::Mapping;
use crate::store::settings::{IndexSettings, SettingsUpdate};
use crate::store::writer;

impl Engine {
    /// Creates an empty index beside the one of this name, with that one's pipeline and aliases, the
    /// mapping of the definition, with templates as at a creation, and that one's settings with those
    /// of the definition over them. Nobody finds it by name before [`Engine::swap_in_replacement`]. One
    /// begun earlier is removed. The index to replace may be damaged. Blocking.
    pub fn create_replacement(
        &self,
        name: &str,
        definition: &IndexDefinition,
    ) -> Result<Arc<Index>> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        let named = |error: Error| error.with_index(name);
        let templates = next.layers_for(name).map_err(named)?.mappings;
        let entry = next.indexes.get_mut(name).ok_or_else(|| not_found(name))?;
        let IndexDefinition { mappings, inferred, settings, .. } = definition;
        let laid_over_them = |change: &Value| {
            let own = IndexSettings::from_json(&entry.settings)?;
            Ok(own.updated(change, SettingsUpdate::default())?.given())
        };
        let settings = (!settings.is_null()).then_some(settings);
        let settings = settings.map(laid_over_them).transpose().map_err(named)?;
        let mappings = laid_over(inferred, &templates, mappings);
        let mapping = Mapping::from_json(&mappings).map_err(named)?;
        let created_ms = jiff::Timestamp::now().as_millisecond();
        let replacement = Replacement { uuid: new_uuid(), created_ms, settings };
        let earlier = entry.replacement.replace(replacement.clone());
        let identity = identity(name, &entry.replaced_by(&replacement)).map_err(named)?;
        let recovered =
            writer::create(self.home(&identity.uuid), &identity, mapping, &self.budget, 0)?;
        self.write(&changing, &next).map_err(|failure| failure.error)?;
        let index = Arc::new(Index::new(identity, recovered, Arc::clone(&self.background)));
        let handle = {
            let mut served = self.served.write();
            served.catalog = Arc::new(next);
            served.replacements.insert(name.to_owned(), Arc::clone(&index))
        };
        if let Some(earlier) = earlier {
            self.remove_index(handle.as_deref(), &earlier.uuid);
        }
        Ok(index)
    }

    /// The index that is being filled to replace the one of this name.
    pub fn replacement(&self, name: &str) -> Option<Arc<Index>> {
        self.served.read().replacements.get(name).cloned()
    }

    /// Gives the replacement the name. Whoever holds the old index or a snapshot of it reads on; its
    /// files are removed. What the replacement holds and is not flushed may be lost in a crash, and
    /// what it has not published is not seen yet. Blocking.
    pub fn swap_in_replacement(&self, name: &str) -> Result<Arc<Index>> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        let entry = next.indexes.get_mut(name).ok_or_else(|| not_found(name))?;
        let running = self.replacement(name);
        let (Some(new), Some(replacement)) = (running, entry.replacement.take()) else {
            let message = format!("index [{name}] has no replacement");
            return Err(Error::new(ErrorKind::InvalidArgument, message).with_index(name));
        };
        let old = entry.uuid.clone();
        *entry = entry.replaced_by(&replacement);
        if let Err(format::Failure { error, in_doubt }) = self.write(&changing, &next) {
            if in_doubt {
                self.abandon(&BTreeSet::from([name.to_owned()]));
            }
            return Err(error);
        }
        let replaced = {
            let mut served = self.served.write();
            served.catalog = Arc::new(next);
            served.replacements.remove(name);
            served.handles.insert(name.to_owned(), Handle::Open(Arc::clone(&new)))
        };
        let replaced = replaced.as_ref().and_then(Handle::running);
        self.remove_index(replaced.map(|index| &**index), &old);
        Ok(new)
    }

    /// Gives up the replacement of an index, where there is one. Blocking.
    pub fn discard_replacement(&self, name: &str) -> Result<()> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        let entry = next.indexes.get_mut(name);
        let Some(replacement) = entry.and_then(|entry| entry.replacement.take()) else {
            return Ok(());
        };
        self.write(&changing, &next).map_err(|failure| failure.error)?;
        let running = {
            let mut served = self.served.write();
            served.catalog = Arc::new(next);
            served.replacements.remove(name)
        };
        self.remove_index(running.as_deref(), &replacement.uuid);
        Ok(())
    }

    /// Replacements as the catalog has them. One that is damaged is nobody's loss: what it was
    /// filled from is still there.
    pub(super) fn open_replacements(&self, catalog: &Catalog) -> BTreeMap<String, Arc<Index>> {
        let mut opened = BTreeMap::new();
        for (name, entry) in &catalog.indexes {
            let Some(replacement) = &entry.replacement else { continue };
            match self.open_folder(name, &entry.replaced_by(replacement), &|_| ()) {
                Ok(index) => drop(opened.insert(name.clone(), index)),
                Err(error) => {
                    tracing::warn!(index = %name, %error, "a replacement cannot be opened");
                }
            }
        }
        opened
    }
}

impl IndexEntry {
    /// This entry with another folder.
    fn replaced_by(&self, replacement: &Replacement) -> Self {
        let Replacement { uuid, created_ms, settings } = replacement;
        let settings = settings.clone().unwrap_or_else(|| self.settings.clone());
        Self { settings, ..self.in_folder(uuid, *created_ms) }
    }

    /// This entry of an open index with another folder and no more of them.
    pub(super) fn in_folder(&self, uuid: &str, created_ms: i64) -> Self {
        let (uuid, state) = (uuid.to_owned(), IndexState::Open);
        Self { uuid, created_ms, state, replacement: None, kept: None, ..self.clone() }
    }
}
