//! Aliases: other names for one or several indexes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model::Catalog;
use super::pattern::matches;
use super::resolve::{Expansion, concrete};
use super::{Engine, name};
use crate::error::{Error, ErrorKind, Result};

/// What an alias says of one index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    /// A query in the dialect's JSON, which the engine does not read: only documents that match are
    /// found through the alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Value>,
    /// Kept for the one who set it: an index has one shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_routing: Option<String>,
    /// Kept for the one who set it: an index has one shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search_routing: Option<String>,
    /// Whether writes to the alias go to this index; unset, they do where it is the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_write_index: Option<bool>,
    /// Whether patterns leave the alias out unless they are told not to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_hidden: Option<bool>,
}

/// One of several changes of aliases that happen together.
#[derive(Debug, Clone, PartialEq)]
pub enum AliasAction {
    /// Gives indexes aliases; an alias that an index has already is replaced.
    Add {
        /// Names and patterns of the indexes.
        indexes: String,
        /// The aliases' names.
        aliases: Vec<String>,
        /// What they say.
        alias: Alias,
    },
    /// Takes aliases away.
    Remove {
        /// Names and patterns of the indexes.
        indexes: String,
        /// Names and patterns of the aliases.
        aliases: Vec<String>,
        /// Whether an alias that is not there is an error; unset, only where nothing at all is left
        /// to do.
        must_exist: Option<bool>,
    },
    /// Deletes indexes.
    RemoveIndex {
        /// Names and patterns of the indexes.
        indexes: String,
    },
}

/// Applies actions to a catalog, all or none; returns the names of the indexes that go.
pub(super) fn apply(catalog: &mut Catalog, actions: &[AliasAction]) -> Result<BTreeSet<String>> {
    let before = catalog.clone();
    let mut removed = BTreeSet::new();
    let mut missing = Vec::new();
    let mut done = false;
    // Elasticsearch lets indexes go first: a name may become an alias in the same request.
    for action in actions {
        if let AliasAction::RemoveIndex { indexes } = action {
            removed.extend(concrete(&before, indexes, Expansion::OPEN_AND_CLOSED)?);
            done = true;
        }
    }
    for index in &removed {
        refuse_followed(&before, index)?;
        catalog.indexes.remove(index);
    }
    for action in actions {
        match action {
            AliasAction::RemoveIndex { .. } => {}
            AliasAction::Add { indexes, aliases, alias } => {
                done = true;
                for index in concrete(&before, indexes, Expansion::OPEN_AND_CLOSED)? {
                    add(catalog, &index, aliases, alias)?;
                }
            }
            AliasAction::Remove { indexes, aliases, must_exist } => {
                let indexes = concrete(&before, indexes, Expansion::OPEN_AND_CLOSED)?;
                let gone = remove(catalog, &indexes, aliases);
                let absent = aliases.iter().map(String::as_str).filter(|it| !gone.contains(it));
                let absent: Vec<&str> = absent.collect();
                if let (Some(true), Some(name)) = (must_exist, absent.first()) {
                    return Err(not_found(&[name]));
                }
                done |= !gone.is_empty() || *must_exist == Some(false);
                missing.extend(absent);
            }
        }
    }
    if !done {
        return Err(not_found(&missing));
    }
    check(catalog)?;
    Ok(removed)
}

fn not_found(names: &[&str]) -> Error {
    let message = format!("aliases [{}] missing", names.join(","));
    Error::new(ErrorKind::AliasNotFound, message)
}

/// A followed index goes with its table.
pub(super) fn refuse_followed(catalog: &Catalog, index: &str) -> Result<()> {
    let entry = catalog.indexes.get(index);
    let Some(pipeline) = entry.and_then(|entry| entry.pipeline.as_ref()) else { return Ok(()) };
    let message = format!(
        "index [{index}] follows the pipeline [{pipeline}]: take its table out of the pipeline \
         first"
    );
    Err(Error::new(ErrorKind::Forbidden, message).with_index(index))
}

fn add(catalog: &mut Catalog, index: &str, names: &[String], alias: &Alias) -> Result<()> {
    for name in names {
        name::check_alias(name, catalog)?;
        if let Some(entry) = catalog.indexes.get_mut(index) {
            entry.aliases.insert(name.clone(), alias.clone());
        }
    }
    Ok(())
}

/// Takes aliases away; returns the patterns that fitted any.
fn remove<'a>(
    catalog: &mut Catalog,
    indexes: &[String],
    patterns: &'a [String],
) -> BTreeSet<&'a str> {
    let mut fitted = BTreeSet::new();
    for index in indexes {
        let Some(entry) = catalog.indexes.get_mut(index) else { continue };
        entry.aliases.retain(|name, _| {
            let mut stays = true;
            for pattern in patterns.iter().filter(|it| *it == "_all" || matches(it, name)) {
                fitted.insert(pattern.as_str());
                stays = false;
            }
            stays
        });
    }
    fitted
}

/// What must hold over all indexes of an alias.
pub(super) fn check(catalog: &Catalog) -> Result<()> {
    let names = catalog.indexes.values().flat_map(|entry| entry.aliases.keys());
    for name in names.collect::<BTreeSet<_>>() {
        let writing: Vec<&str> = catalog
            .alias(name)
            .filter(|(_, alias)| alias.is_write_index == Some(true))
            .map(|(index, _)| index)
            .collect();
        if writing.len() > 1 {
            let message =
                format!("alias [{name}] has more than one write index [{}]", writing.join(","));
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (hidden, shown): (Vec<_>, Vec<_>) =
            catalog.alias(name).partition(|(_, alias)| alias.is_hidden == Some(true));
        if !hidden.is_empty() && !shown.is_empty() {
            let list = |indexes: &[(&str, &Alias)]| {
                indexes.iter().map(|(index, _)| *index).collect::<Vec<_>>().join(",")
            };
            let message = format!(
                "alias [{name}] has is_hidden set to true on indices [{}] but does not have \
                 is_hidden set to true on indices [{}]; alias must have the same is_hidden \
                 setting on all indices",
                list(&hidden),
                list(&shown)
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    }
    Ok(())
}

impl Catalog {
    /// The index that writes to a name go to: the index of this name, or the alias's one write
    /// index. `None` where the name stands for nothing.
    pub fn write_index<'a>(&'a self, name: &str) -> Result<Option<&'a str>> {
        if let Some((index, _)) = self.indexes.get_key_value(name) {
            return Ok(Some(index));
        }
        let behind: Vec<(&str, &Alias)> = self.alias(name).collect();
        let explicit = behind.iter().find(|(_, alias)| alias.is_write_index == Some(true));
        match (explicit, behind.as_slice()) {
            (_, []) => Ok(None),
            (Some((index, _)), _) => Ok(Some(index)),
            (None, [(index, alias)]) if alias.is_write_index.is_none() => Ok(Some(index)),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "no write index is defined for alias [{name}]. The write index may be \
                     explicitly disabled using is_write_index=false or the alias points to \
                     multiple indices without one being designated as a write index"
                ),
            )),
        }
    }

    /// The one index that a name stands for, for reads by id. `None` where it stands for nothing.
    pub fn single_index<'a>(&'a self, name: &str) -> Result<Option<&'a str>> {
        if let Some((index, _)) = self.indexes.get_key_value(name) {
            return Ok(Some(index));
        }
        let behind: Vec<&str> = self.alias(name).map(|(index, _)| index).collect();
        match behind.as_slice() {
            [] => Ok(None),
            [index] => Ok(Some(index)),
            several => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "alias [{name}] has more than one index associated with it [{}], can't \
                     execute a single index op",
                    several.join(", ")
                ),
            )),
        }
    }
}

impl Engine {
    /// Changes aliases, all actions or none. Blocking.
    pub fn update_aliases(&self, actions: &[AliasAction]) -> Result<()> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        let removed = apply(&mut next, actions)?;
        self.replace_without(&changing, next, &removed)
    }
}
