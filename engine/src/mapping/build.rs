//! How a mapping grows: the only place that adds nodes, and where its limits are kept.

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use super::date::{DateFormat, SLASHED_FORMAT};
use super::value::Raw;
use super::{
    DEPTH_LIMIT, FIELD_NAME_LENGTH_LIMIT, FieldKind, FieldMapping, MULTI_FIELDS_LIMIT, Mapping,
    Node, ObjectMapping, TOTAL_FIELDS_LIMIT,
};
use crate::error::{Error, ErrorKind, Result};

/// Names that no field may have at the top: Elasticsearch's own, and Egret's columns.
const RESERVED: [&str; 18] = [
    "_id",
    "_index",
    "_type",
    "_routing",
    "_source",
    "_seq_no",
    "_primary_term",
    "_version",
    "_field_names",
    "_ignored",
    "_nested_path",
    "_tier",
    "_doc_count",
    "_size",
    "_lsn",
    "_term",
    "_links",
    "_composition",
];

/// Whether a top-level name belongs to the system.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with('_') && RESERVED.contains(&name)
}

impl Mapping {
    /// Adds an empty object below `parent`.
    pub(crate) fn add_object(&mut self, parent: usize, name: &str) -> Result<usize> {
        let path = self.new_path(parent, name)?;
        let depth = self.objects.get(parent).map_or(0, |object| object.depth) + 1;
        // Elasticsearch counts the root as one.
        if depth >= DEPTH_LIMIT {
            return Err(limit(format!(
                "limit of mapping depth [{DEPTH_LIMIT}] has been exceeded due to object field \
                 [{path}]"
            )));
        }
        let place = self.objects.len();
        self.objects.push(ObjectMapping {
            path: path.clone(),
            dynamic: None,
            enabled: true,
            parent,
            depth,
            names: Vec::new(),
            children: FxHashMap::default(),
        });
        self.link(parent, name, path, Node::Object(place));
        Ok(place)
    }

    /// Adds a field below `parent`; the path in `field` is set here.
    pub(super) fn add_field(
        &mut self,
        parent: usize,
        name: &str,
        mut field: FieldMapping,
    ) -> Result<usize> {
        let path = self.new_path(parent, name)?;
        let place = self.fields.len();
        field.path.clone_from(&path);
        self.fields.push(field);
        self.link(parent, name, path, Node::Field(place));
        Ok(place)
    }

    /// Adds a multi-field to a field; path and parent in `multi` are set here.
    pub(super) fn add_multi_field(
        &mut self,
        field: usize,
        name: &str,
        mut multi: FieldMapping,
    ) -> Result<usize> {
        let parent = self.fields.get(field).map(|field| field.path.clone()).unwrap_or_default();
        let path = format!("{parent}.{name}");
        check_path(&path, name)?;
        self.check_count()?;
        let place = self.fields.len();
        if let Some(field) = self.fields.get_mut(field) {
            if field.multi_fields.len() >= MULTI_FIELDS_LIMIT {
                return Err(limit(format!(
                    "limit of multi-fields [{MULTI_FIELDS_LIMIT}] of field [{parent}] has been \
                     exceeded"
                )));
            }
            field.multi_fields.push(place);
        }
        multi.path.clone_from(&path);
        multi.parent = Some(parent);
        self.fields.push(multi);
        self.paths.insert(path, Node::Field(place));
        Ok(place)
    }

    /// Adds the field that a value without a mapping gets: text with a `keyword` beside it, date,
    /// `long`, `float` (kept in double precision) or `boolean`.
    pub(crate) fn add_dynamic(&mut self, parent: usize, name: &str, raw: Raw<'_>) -> Result<usize> {
        let kind = match raw {
            Raw::Bool(_) => FieldKind::Boolean,
            Raw::Json(_) => {
                let message = format!("[{name}] cannot take a copy of an object or an array");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            Raw::Number(text) => number_kind(text),
            Raw::Text(text) => {
                let is_number = text.parse::<f64>().is_ok();
                if self.numeric_detection && is_number {
                    number_kind(text)
                } else if let Some(format) = self.detect_date(text, is_number) {
                    let mut field = FieldMapping::new("", FieldKind::Date);
                    field.format = format;
                    return self.add_field(parent, name, field);
                } else {
                    let text =
                        self.add_field(parent, name, FieldMapping::new("", FieldKind::Text))?;
                    let mut keyword = FieldMapping::new("", FieldKind::Keyword);
                    keyword.ignore_above = Some(DYNAMIC_IGNORE_ABOVE);
                    self.add_multi_field(text, "keyword", keyword)?;
                    return Ok(text);
                }
            }
        };
        self.add_field(parent, name, FieldMapping::new("", kind))
    }

    /// The format of a text that is a date; a plain number never is.
    fn detect_date(&self, text: &str, is_number: bool) -> Option<DateFormat> {
        static SLASHED: LazyLock<DateFormat> =
            LazyLock::new(|| SLASHED_FORMAT.parse().unwrap_or_default());
        // Every detected form begins with a digit: most texts are done with here.
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_digit());
        if !self.date_detection || is_number || !begins {
            return None;
        }
        let mut formats = [DateFormat::default(), SLASHED.clone()].into_iter();
        formats.find(|format| format.parse(text).is_some())
    }

    fn new_path(&self, parent: usize, name: &str) -> Result<String> {
        let above = self.objects.get(parent).map_or("", |object| object.path.as_str());
        let path = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
        check_path(&path, name)?;
        if above.is_empty() && is_reserved(name) {
            return Err(limit(format!("field [{name}] is a metadata field and cannot be mapped")));
        }
        self.check_count()?;
        Ok(path)
    }

    fn check_count(&self) -> Result<()> {
        // The root object does not count.
        if self.objects.len() + self.fields.len() > TOTAL_FIELDS_LIMIT {
            return Err(limit(format!(
                "limit of total fields [{TOTAL_FIELDS_LIMIT}] has been exceeded"
            )));
        }
        Ok(())
    }

    fn link(&mut self, parent: usize, name: &str, path: String, node: Node) {
        self.paths.insert(path, node);
        if let Some(object) = self.objects.get_mut(parent) {
            object.names.push(name.to_owned());
            object.children.insert(name.to_owned(), node);
        }
    }
}

/// Texts of more characters are not kept as keywords where the mapping came by itself.
const DYNAMIC_IGNORE_ABOVE: usize = 256;

fn number_kind(text: &str) -> FieldKind {
    let is_whole = !text.contains(['.', 'e', 'E']);
    if is_whole { FieldKind::Long } else { FieldKind::Float }
}

fn check_path(path: &str, name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(limit(format!("field name cannot contain only whitespace: [{path}]")));
    }
    if name.contains(|character: char| character.is_control()) {
        let path = path.escape_debug();
        return Err(limit(format!("field name cannot contain control characters: [{path}]")));
    }
    if path.len() > FIELD_NAME_LENGTH_LIMIT {
        let start: String = path.chars().take(100).collect();
        return Err(limit(format!(
            "field name [{start}...] is longer than the limit: [{FIELD_NAME_LENGTH_LIMIT}] bytes"
        )));
    }
    Ok(())
}

fn limit(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
