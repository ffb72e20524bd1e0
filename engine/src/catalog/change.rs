//! Changes of the catalog: indexes made, deleted, opened, closed; settings.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use egret_aof::failpoint;
use parking_lot::MutexGuard;
use serde_json::Value;

use super::model::{Catalog, IndexEntry, IndexState};
use super::template::merge_mappings;
use super::unopened::Unopened;
use super::{Engine, Handle, alias, format, identity, name, not_found};
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Index, IndexDefinition};
use crate::mapping::Mapping;
use crate::store::settings::{self, IndexSettings, SettingsUpdate};
use crate::store::writer;

/// Held by whoever changes the catalog.
pub(super) type Changing<'a> = MutexGuard<'a, ()>;

impl Engine {
    /// A copy of the catalog, to be changed.
    pub(super) fn next(&self) -> Result<Catalog> {
        let served = self.served.read();
        if served.ended {
            return Err(Error::new(ErrorKind::Closed, "the engine is closed"));
        }
        Ok(Catalog::clone(&served.catalog))
    }

    /// Writes the next catalog in the place of the present one.
    pub(super) fn write(
        &self,
        _: &Changing<'_>,
        next: &Catalog,
    ) -> std::result::Result<(), format::Failure> {
        failpoint::reach("catalog-changing");
        let replaced = format::replace(&*self.disk, &self.folder, &self.catalog(), next);
        failpoint::reach("catalog-changed");
        replaced
    }

    /// Makes a change that concerns no running index.
    pub(super) fn change(&self, edit: impl FnOnce(&mut Catalog) -> Result<()>) -> Result<()> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        edit(&mut next)?;
        self.write(&changing, &next).map_err(|failure| failure.error)?;
        self.served.write().catalog = Arc::new(next);
        Ok(())
    }

    /// Creates an index from what templates and its definition say. Blocking.
    pub fn create_index(&self, name: &str, definition: IndexDefinition) -> Result<Arc<Index>> {
        name::check_index(name)?;
        let changing = self.changing.lock();
        let mut next = self.next()?;
        check_absent(&next, name)?;
        let named = |error: Error| error.with_index(name);
        let (entry, mapping) = entry_of(&next, name, definition).map_err(named)?;
        let identity = identity(name, &entry)?;
        for alias in entry.aliases.keys() {
            name::check_alias(alias, &next)?;
        }
        next.indexes.insert(name.to_owned(), entry);
        alias::check(&next)?;
        let home = self.home(&identity.uuid);
        let recovered = writer::create(home, &identity, mapping, &self.budget, 0)?;
        self.write(&changing, &next).map_err(|failure| failure.error)?;
        let index = Arc::new(Index::new(identity, recovered, Arc::clone(&self.background)));
        let mut served = self.served.write();
        served.catalog = Arc::new(next);
        served.handles.insert(name.to_owned(), Handle::Open(Arc::clone(&index)));
        Ok(index)
    }

    /// Deletes an index and its files. A followed index is refused unless `followed` is allowed.
    /// Blocking.
    pub fn delete_index(&self, name: &str, allow_followed: bool) -> Result<()> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        if !allow_followed {
            alias::refuse_followed(&next, name)?;
        }
        next.indexes.remove(name).ok_or_else(|| not_found(name))?;
        self.replace_without(&changing, next, &BTreeSet::from([name.to_owned()]))
    }

    /// Deletes indexes, all or none; a followed one is refused. Blocking.
    pub fn delete_indexes(&self, names: &[String]) -> Result<()> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        for name in names {
            alias::refuse_followed(&next, name)?;
            next.indexes.remove(name).ok_or_else(|| not_found(name))?;
        }
        self.replace_without(&changing, next, &names.iter().cloned().collect())
    }

    /// Makes a change in which indexes go.
    pub(super) fn replace_without(
        &self,
        changing: &Changing<'_>,
        next: Catalog,
        removed: &BTreeSet<String>,
    ) -> Result<()> {
        if let Err(format::Failure { error, in_doubt }) = self.write(changing, &next) {
            if in_doubt {
                self.abandon(removed);
            }
            return Err(error);
        }
        let (before, mut gone, others) = {
            let mut served = self.served.write();
            let before = std::mem::replace(&mut served.catalog, Arc::new(next));
            let gone: Vec<_> = removed.iter().map(|it| served.handles.remove(it)).collect();
            let mut others: Vec<Arc<Index>> = Vec::new();
            for name in removed {
                others.extend(served.replacements.remove(name));
                others.extend(served.kept.remove(name));
            }
            (before, gone.into_iter(), others)
        };
        for name in removed {
            let handle = gone.next().flatten();
            let Some(entry) = before.indexes.get(name) else { continue };
            let running = handle.as_ref().and_then(Handle::running);
            self.remove_index(running.map(|index| &**index), &entry.uuid);
            // Beside it, what could not be opened.
            let beside = entry.replacement.as_ref().map(|replacement| &replacement.uuid);
            let beside = beside.into_iter().chain(entry.kept.as_ref().map(|kept| &kept.uuid));
            for uuid in beside.filter(|uuid| others.iter().all(|other| other.uuid() != *uuid)) {
                self.remove_index(None, uuid);
            }
        }
        for other in others {
            self.remove_index(Some(&other), other.uuid());
        }
        Ok(())
    }

    /// Ends an index that the catalog no longer names, and removes its files. What is left of them
    /// goes at the next open.
    pub(super) fn remove_index(&self, index: Option<&Index>, uuid: &str) {
        let closed = index.map_or(Ok(()), |index| index.close(false));
        let removed = self.disk.remove_folder(&self.home(uuid).folder).map_err(Error::from);
        if let Err(error) = closed.and(removed) {
            tracing::warn!(%error, folder = uuid, "files of a removed index are left over");
        }
    }

    /// Takes indexes out of service that a crash would bring back or not: what they acknowledged
    /// from here on might be lost.
    pub(super) fn abandon(&self, names: &BTreeSet<String>) {
        let reason = "its deletion or replacement failed half-way, and a restart may find it done; \
                      try again, or open it to keep it";
        let mut gone: Vec<Arc<Index>> = Vec::new();
        {
            let mut served = self.served.write();
            for name in names {
                let damaged = Handle::Damaged(Unopened::abandoned(reason));
                let handle = served.handles.insert(name.clone(), damaged);
                gone.extend(handle.as_ref().and_then(Handle::running).cloned());
                gone.extend(served.replacements.remove(name));
                gone.extend(served.kept.remove(name));
            }
        }
        for index in gone {
            if let Err(error) = index.close(true) {
                tracing::warn!(index = index.name(), %error, "an index did not stop");
            }
        }
    }

    /// Closes an index: it takes no reads or writes and keeps only its files. A followed index is
    /// refused. Blocking.
    pub fn close_index(&self, name: &str) -> Result<()> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        alias::refuse_followed(&next, name)?;
        self.give_way(&changing, name);
        if self.replacement(name).is_some() {
            let message = format!("index [{name}] is being rebuilt");
            return Err(Error::new(ErrorKind::InvalidArgument, message).with_index(name));
        }
        let entry = next.indexes.get(name).ok_or_else(|| not_found(name))?;
        if entry.state == IndexState::Closed {
            return Ok(());
        }
        let is_kept = entry.kept.is_some();
        let index = self.index(name)?;
        // What fails here fails before anything has changed.
        index.flush()?;
        if is_kept {
            self.drop_kept_folder(&changing, name)?;
            next = self.next()?;
        }
        let entry = next.indexes.get_mut(name).ok_or_else(|| not_found(name))?;
        entry.state = IndexState::Closed;
        self.write(&changing, &next).map_err(|failure| failure.error)?;
        {
            let mut served = self.served.write();
            served.catalog = Arc::new(next);
            served.handles.insert(name.to_owned(), Handle::Closed(index.mapping()));
        }
        // Writes that came in between are in the translog where this flush fails.
        if let Err(error) = index.close(true) {
            tracing::warn!(index = name, %error, "a closed index was not flushed");
        }
        let mut served = self.served.write();
        if let Some(Handle::Closed(mapping)) = served.handles.get_mut(name) {
            *mapping = index.mapping();
        }
        Ok(())
    }

    /// Opens a closed index, or one that could not be opened before. Blocking.
    pub fn open_index(&self, name: &str) -> Result<()> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        let entry = next.indexes.get_mut(name).ok_or_else(|| not_found(name))?;
        entry.state = IndexState::Open;
        if matches!(self.served.read().handles.get(name), Some(Handle::Open(_))) {
            return Ok(());
        }
        // The catalog first: where a deletion was left half-way, it is undone for certain.
        self.write(&changing, &next).map_err(|failure| failure.error)?;
        let opened = next.indexes.get(name).map(|entry| self.open_folder(name, entry, &|_| ()));
        let opened = opened.unwrap_or_else(|| Err(not_found(name)));
        self.served.write().catalog = Arc::new(next);
        if let Ok(index) = &opened
            && index.pipeline().is_none()
        {
            self.open_kept_of(&changing, index);
        }
        let mut served = self.served.write();
        let (handle, result) = match opened {
            Ok(index) => (Handle::Open(index), Ok(())),
            Err(error) => {
                let why = Unopened::new(&error);
                let shown = why.error(name).with_source(error);
                (Handle::Damaged(why), Err(shown))
            }
        };
        served.handles.insert(name.to_owned(), handle);
        result
    }

    /// Changes settings of indexes, of all or of none. Blocking.
    pub fn update_settings(
        &self,
        names: &[String],
        change: &Value,
        options: SettingsUpdate,
    ) -> Result<()> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        check_fixed(&next, names, change)?;
        let mut updated = Vec::new();
        for name in names {
            let entry = next.indexes.get_mut(name).ok_or_else(|| not_found(name))?;
            let named = |error: Error| error.with_index(name);
            let settings = IndexSettings::from_json(&entry.settings).map_err(named)?;
            let settings = settings.updated(change, options).map_err(named)?;
            entry.settings = settings.given();
            updated.push((name, settings));
        }
        self.write(&changing, &next).map_err(|failure| failure.error)?;
        self.served.write().catalog = Arc::new(next);
        for (name, settings) in updated {
            match self.index(name) {
                Ok(index) => index.set_settings(settings)?,
                // Read when it is opened.
                Err(error) => tracing::debug!(index = %name, %error, "settings wait"),
            }
        }
        Ok(())
    }
}

fn check_absent(catalog: &Catalog, name: &str) -> Result<()> {
    if let Some(entry) = catalog.indexes.get(name) {
        let message = format!("index [{name}/{}] already exists", entry.uuid);
        return Err(Error::new(ErrorKind::IndexAlreadyExists, message).with_index(name));
    }
    if catalog.has_alias(name) {
        let message = format!("Invalid index name [{name}], already exists as alias");
        return Err(Error::new(ErrorKind::InvalidIndexName, message).with_index(name));
    }
    Ok(())
}

/// What a new index begins with: its definition over what templates give it.
fn entry_of(
    catalog: &Catalog,
    name: &str,
    definition: IndexDefinition,
) -> Result<(IndexEntry, Mapping)> {
    let IndexDefinition { mappings, inferred, settings, aliases, pipeline } = definition;
    let mut layers = catalog.layers_for(name)?;
    layers.add_settings(&settings)?;
    layers.add_aliases(&aliases);
    let mappings = laid_over(&inferred, &layers.mappings, &mappings);
    let mapping = Mapping::from_json(&mappings)?;
    if mapping.composition().is_some() && pipeline.is_none() {
        let message = "[_composition] is for indexes that follow a pipeline";
        return Err(Error::new(ErrorKind::MappingParsing, message));
    }
    let entry = IndexEntry {
        uuid: new_uuid(),
        pipeline,
        created_ms: jiff::Timestamp::now().as_millisecond(),
        state: IndexState::Open,
        settings: layers.settings.given(),
        aliases: layers.aliases,
        replacement: None,
        kept: None,
    };
    Ok((entry, mapping))
}

/// A mapping over that of templates, and these over one that is only inferred.
pub(super) fn laid_over(inferred: &Value, templates: &Value, own: &Value) -> Value {
    let mut all = inferred.clone();
    merge_mappings(&mut all, templates);
    merge_mappings(&mut all, own);
    all
}

pub(super) fn new_uuid() -> String {
    URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().as_bytes())
}

/// Refuses settings that an open index cannot change, and those that none can.
fn check_fixed(catalog: &Catalog, names: &[String], change: &Value) -> Result<()> {
    let fixed = settings::fixed(change)?;
    if fixed.is_empty() {
        return Ok(());
    }
    let entries = names.iter().filter_map(|name| Some((name, catalog.indexes.get(name)?)));
    let open: Vec<String> = entries
        .filter(|(_, entry)| entry.state == IndexState::Open)
        .map(|(name, entry)| format!("[{name}/{}]", entry.uuid))
        .collect();
    let fixed: Vec<String> = fixed.iter().map(|name| format!("index.{name}")).collect();
    let message = if !open.is_empty() {
        format!(
            "Can't update non dynamic settings [[{}]] for open indices [{}]",
            fixed.join(", "),
            open.join(", ")
        )
    } else if fixed.iter().any(|name| *name == format!("index.{}", settings::FINAL)) {
        format!("final index setting [index.{}], not updateable", settings::FINAL)
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidArgument, message))
}
