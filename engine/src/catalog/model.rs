//! What the catalog says: plain data, never changed in place. A change makes a copy, which becomes
//! the catalog once it is on the disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::alias::Alias;
use super::template::{ComponentTemplate, IndexTemplate, LegacyTemplate};

/// The indexes, their aliases, and the templates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// The indexes by name.
    pub indexes: BTreeMap<String, IndexEntry>,
    /// Component templates by name.
    pub component_templates: BTreeMap<String, ComponentTemplate>,
    /// Index templates by name.
    pub index_templates: BTreeMap<String, IndexTemplate>,
    /// Templates of the older kind by name.
    pub legacy_templates: BTreeMap<String, LegacyTemplate>,
}

/// What the catalog says of an index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexEntry {
    /// Its folder, in 22 characters of URL-safe base64, never used again.
    pub uuid: String,
    /// The pipeline that it follows.
    pub pipeline: Option<String>,
    /// Milliseconds since 1970 when it was made.
    pub created_ms: i64,
    /// Whether it takes reads and writes.
    pub state: IndexState,
    /// Its settings as they were given, nested below `index`.
    pub settings: Value,
    /// Its aliases by name.
    pub aliases: BTreeMap<String, Alias>,
    /// The folder that is being filled to take the place of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// The folder from before its last rebuild, as long as it can be gone back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// A folder that an index had before. It still gets every change, or, where the index follows a
/// pipeline, can be brought to all of them by that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The folder.
    pub uuid: String,
    /// Milliseconds since 1970 when it was made.
    pub created_ms: i64,
    /// Milliseconds since 1970 when it goes.
    pub until_ms: i64,
    /// Its settings, where they are others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
}

/// A second folder of an index, which is to become its only one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replacement {
    /// The folder.
    pub uuid: String,
    /// Milliseconds since 1970 when it was made.
    pub created_ms: i64,
    /// Its settings, where they are to be others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
}

/// Whether an index takes reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexState {
    /// It does.
    Open,
    /// It only keeps its files.
    Closed,
}

impl IndexEntry {
    /// Whether patterns leave it out unless they are told not to.
    pub fn is_hidden(&self) -> bool {
        self.settings.pointer("/index/hidden").is_some_and(|hidden| hidden == "true")
    }
}

impl Catalog {
    /// The indexes that have this alias, with what it says of them, by their names.
    pub fn alias<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a str, &'a Alias)> {
        self.indexes.iter().filter_map(move |(index, entry)| {
            entry.aliases.get(name).map(|alias| (index.as_str(), alias))
        })
    }

    /// Whether any index has this alias.
    pub fn has_alias(&self, name: &str) -> bool {
        self.alias(name).next().is_some()
    }
}
