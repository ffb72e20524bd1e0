//! Mappings: which fields an index has, their types, and how it grows.
//!
//! A mapping is written and read in Elasticsearch's format, since that is also how the catalog
//! keeps it. Parameters that are not honoured are refused, unless they only spell out what happens
//! anyway. Dots in names mean objects.

mod build;
pub mod date;
pub(crate) mod digest;
pub mod field;
pub mod geo;
pub(crate) mod ignored;
pub mod ip;
mod read;
pub mod schema;
pub(crate) mod span;
pub(crate) mod tokenize;
pub(crate) mod value;
mod write;

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::Value;

pub(crate) use build::is_reserved;

use crate::composition::Composition;
use crate::error::{Error, ErrorKind, Result};
pub use field::{FieldKind, FieldMapping, FieldValue, Storage};
pub use ignored::Outstanding;

/// How many fields an index may have, objects and multi-fields included
/// (`index.mapping.total_fields.limit`).
pub const TOTAL_FIELDS_LIMIT: usize = 1000;
/// How deep objects may lie (`index.mapping.depth.limit`).
pub const DEPTH_LIMIT: usize = 20;
/// How many bytes a path may have (`index.mapping.field_name_length.limit`).
pub const FIELD_NAME_LENGTH_LIMIT: usize = 1024;
/// How many multi-fields a field may have.
pub const MULTI_FIELDS_LIMIT: usize = 32;
/// How many fields a field may be copied to.
pub const COPY_TO_LIMIT: usize = 32;

/// What happens to fields that a mapping does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dynamic {
    /// They are added.
    #[default]
    True,
    /// They are left out of the index; `_source` has them.
    False,
    /// The document is refused.
    Strict,
}

/// The fields of an index. Immutable once built; share it in an `Arc`.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// The first is the root.
    pub(crate) objects: Vec<ObjectMapping>,
    pub(crate) fields: Vec<FieldMapping>,
    paths: FxHashMap<String, Node>,
    pub(crate) date_detection: bool,
    pub(crate) numeric_detection: bool,
    meta: Option<Value>,
    composition: Option<Arc<Composition>>,
}

/// An object: the root, or one below it.
#[derive(Debug, Clone)]
pub(crate) struct ObjectMapping {
    /// The dotted path; empty for the root.
    pub(crate) path: String,
    /// `None`: as the object above.
    dynamic: Option<Dynamic>,
    pub(crate) enabled: bool,
    parent: usize,
    depth: usize,
    /// In the order they were added.
    names: Vec<String>,
    children: FxHashMap<String, Node>,
}

/// What a name in an object stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// A place in [`Mapping::objects`].
    Object(usize),
    /// A place in [`Mapping::fields`].
    Field(usize),
}

pub(crate) const ROOT: usize = 0;

impl Default for Mapping {
    fn default() -> Self {
        let root = ObjectMapping {
            path: String::new(),
            dynamic: None,
            enabled: true,
            parent: ROOT,
            depth: 0,
            names: Vec::new(),
            children: FxHashMap::default(),
        };
        Self {
            objects: vec![root],
            fields: Vec::new(),
            paths: FxHashMap::default(),
            date_detection: true,
            numeric_detection: false,
            meta: None,
            composition: None,
        }
    }
}

/// Mappings are equal when they say the same, whatever the order their fields were added in.
impl PartialEq for Mapping {
    fn eq(&self, other: &Self) -> bool {
        self.to_json() == other.to_json()
    }
}

impl Mapping {
    /// Reads Elasticsearch's format: `{"dynamic": …, "properties": {…}}`; `null` is an empty
    /// mapping. An unknown type or parameter is refused with `MappingParsing`.
    pub fn from_json(json: &Value) -> Result<Self> {
        let mut mapping = Self::default();
        read::Reader::new(&mut mapping, false).read_root(json)?;
        Ok(mapping)
    }

    /// Writes Elasticsearch's format: what differs from the defaults.
    pub fn to_json(&self) -> Value {
        write::write(self)
    }

    /// This mapping with another's fields added. What would change an existing field is refused
    /// with `InvalidArgument`, but for the parameters that may change (`search_analyzer`,
    /// `ignore_above`, `coerce`, `ignore_malformed`; `norms` may be switched off only).
    pub fn merged(&self, addition: &Value) -> Result<Self> {
        let mut mapping = self.clone();
        read::Reader::new(&mut mapping, true).read_root(addition)?;
        Ok(mapping)
    }

    /// Leaf fields and multi-fields in the order they were added. A mapping that was read from
    /// JSON has them in the JSON's order: only [`schema::extend`] knows the order on disk.
    pub fn fields(&self) -> &[FieldMapping] {
        &self.fields
    }

    /// The field of this dotted path.
    pub fn field(&self, path: &str) -> Option<&FieldMapping> {
        match self.paths.get(path)? {
            Node::Field(field) => self.fields.get(*field),
            Node::Object(_) => None,
        }
    }

    /// Whether there is an object of this dotted path.
    pub fn has_object(&self, path: &str) -> bool {
        matches!(self.paths.get(path), Some(Node::Object(_)))
    }

    /// The place of the object of this dotted path; empty for the root.
    fn object_at(&self, path: &str) -> Option<usize> {
        match self.paths.get(path) {
            Some(Node::Object(place)) => Some(*place),
            None if path.is_empty() => Some(ROOT),
            _ => None,
        }
    }

    /// The fields below an object, at any depth, multi-fields included.
    pub fn fields_below<'a>(&'a self, object: &'a str) -> impl Iterator<Item = &'a FieldMapping> {
        self.fields.iter().filter(move |field| {
            let below = field.path.strip_prefix(object).and_then(|rest| rest.strip_prefix('.'));
            below.is_some()
        })
    }

    /// The `_meta` object, which means nothing to the engine.
    pub fn meta(&self) -> Option<&Value> {
        self.meta.as_ref()
    }

    /// How documents are composed from rows, where they are.
    pub fn composition(&self) -> Option<&Arc<Composition>> {
        self.composition.as_ref()
    }

    /// What `name` means in an object.
    pub(crate) fn child(&self, object: usize, name: &str) -> Option<Node> {
        self.objects.get(object)?.children.get(name).copied()
    }

    /// What happens to unknown fields of an object.
    pub(crate) fn dynamic(&self, object: usize) -> Dynamic {
        let mut at = object;
        loop {
            let Some(node) = self.objects.get(at) else { return Dynamic::True };
            match node.dynamic {
                Some(dynamic) => return dynamic,
                None if at == ROOT => return Dynamic::True,
                None => at = node.parent,
            }
        }
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::MappingParsing, message)
}

#[cfg(test)]
mod tests;
