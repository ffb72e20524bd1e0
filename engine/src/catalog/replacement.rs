//! Replacing an index: another one is filled in a folder of its own while reads go on, and takes its
//! place with one write of the catalog.
//!
//! A crash at any instruction leaves the old index or the new one under the name, whole; the folder
//! of the other is removed when the data folder is next opened, unless it is kept.
//!
//! The folder from before may be kept for a while. Nobody writes to it, and nobody finds it by name;
//! whoever fills the index can bring it up to date, and have it replace the newer one in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::change::{laid_over, new_uuid};
use super::model::{Catalog, IndexEntry, IndexState, Kept, Replacement};
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
    /// begun earlier is removed, and so is the folder that was kept from before the last. The index to
    /// replace may be damaged. Blocking.
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
        let kept = entry.kept.take();
        let identity = identity(name, &entry.replaced_by(&replacement)).map_err(named)?;
        let recovered =
            writer::create(self.home(&identity.uuid), &identity, mapping, &self.budget, 0)?;
        self.write(&changing, &next).map_err(|failure| failure.error)?;
        let index = Arc::new(Index::new(identity, recovered, Arc::clone(&self.background)));
        let (handle, before) = {
            let mut served = self.served.write();
            served.catalog = Arc::new(next);
            let handle = served.replacements.insert(name.to_owned(), Arc::clone(&index));
            (handle, served.kept.remove(name))
        };
        if let Some(earlier) = earlier {
            self.remove_index(handle.as_deref(), &earlier.uuid);
        }
        if let Some(kept) = kept {
            self.remove_index(before.as_deref(), &kept.uuid);
        }
        Ok(index)
    }

    /// The index that is being filled to replace the one of this name.
    pub fn replacement(&self, name: &str) -> Option<Arc<Index>> {
        self.served.read().replacements.get(name).cloned()
    }

    /// Gives the replacement the name. Whoever holds the old index or a snapshot of it reads on; its
    /// folder is kept until then (milliseconds since 1970), or its files are removed at once. What the
    /// replacement holds is published first; what is not flushed may be lost in a crash. Blocking.
    pub fn swap_in_replacement(
        &self,
        name: &str,
        keep_until_ms: Option<i64>,
    ) -> Result<Arc<Index>> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        let entry = next.indexes.get_mut(name).ok_or_else(|| not_found(name))?;
        let running = self.replacement(name);
        let (Some(new), Some(replacement)) = (running, entry.replacement.take()) else {
            let message = format!("index [{name}] has no replacement");
            return Err(Error::new(ErrorKind::InvalidArgument, message).with_index(name));
        };
        new.refresh_folder()?;
        let old = entry.uuid.clone();
        // One that is damaged is nothing to go back to.
        let before = self.index(name).ok().filter(|before| before.uuid() == old);
        let kept = keep_until_ms.filter(|_| before.is_some()).map(|until_ms| {
            let settings = replacement.settings.as_ref().map(|_| entry.settings.clone());
            Kept { uuid: old.clone(), created_ms: entry.created_ms, until_ms, settings }
        });
        let keeps = kept.is_some();
        *entry = IndexEntry { kept, ..entry.replaced_by(&replacement) };
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
            if let Some(before) = before.filter(|_| keeps) {
                served.kept.insert(name.to_owned(), before);
            }
            served.handles.insert(name.to_owned(), Handle::Open(Arc::clone(&new)))
        };
        if !keeps {
            let replaced = replaced.as_ref().and_then(Handle::running);
            self.remove_index(replaced.map(|index| &**index), &old);
        }
        Ok(new)
    }

    /// The index that is kept from before the last rebuild or replacement, and until when.
    pub fn kept(&self, name: &str) -> Option<(Arc<Index>, Kept)> {
        let served = self.served.read();
        let kept = served.catalog.indexes.get(name)?.kept.clone()?;
        Some((Arc::clone(served.kept.get(name)?), kept))
    }

    /// Makes the kept index of this UUID, which follows a pipeline and is up to date, the one that is
    /// about to replace the one of this name, as after [`Engine::create_replacement`]. Blocking.
    pub fn replace_by_kept(&self, name: &str, uuid: &str) -> Result<Arc<Index>> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        let entry = next.indexes.get_mut(name).ok_or_else(|| not_found(name))?;
        let running = self.kept(name).filter(|(_, kept)| kept.uuid == uuid);
        let (Some((old, kept)), Some(_), None) = (running, &entry.pipeline, &entry.replacement)
        else {
            let message = format!("index [{name}] is not kept from before any more");
            return Err(Error::new(ErrorKind::InvalidArgument, message).with_index(name));
        };
        let Kept { uuid, created_ms, settings, .. } = kept;
        let replacement = Replacement { uuid, created_ms, settings };
        let settings = IndexSettings::from_json(&entry.replaced_by(&replacement).settings)?;
        (entry.replacement, entry.kept) = (Some(replacement), None);
        old.set_settings(settings)?;
        self.write(&changing, &next).map_err(|failure| failure.error)?;
        {
            let mut served = self.served.write();
            served.catalog = Arc::new(next);
            served.kept.remove(name);
            served.replacements.insert(name.to_owned(), Arc::clone(&old));
        }
        Ok(old)
    }

    /// Removes the kept folder of this UUID, where it is still there. Blocking.
    pub fn drop_kept(&self, name: &str, uuid: &str) -> Result<()> {
        let changing = self.changing.lock();
        if self.kept(name).is_some_and(|(_, kept)| kept.uuid == uuid) {
            self.drop_kept_folder(&changing, name)?;
        }
        Ok(())
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

    /// This entry with the folder that is kept from before.
    pub(super) fn kept_in(&self, kept: &Kept) -> Self {
        let Kept { uuid, created_ms, settings, .. } = kept.clone();
        self.replaced_by(&Replacement { uuid, created_ms, settings })
    }

    /// This entry of an open index with another folder and no more of them.
    pub(super) fn in_folder(&self, uuid: &str, created_ms: i64) -> Self {
        let (uuid, state) = (uuid.to_owned(), IndexState::Open);
        Self { uuid, created_ms, state, replacement: None, kept: None, ..self.clone() }
    }
}
