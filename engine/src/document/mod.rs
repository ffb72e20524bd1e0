//! Documents: JSON in, validated field values out.
//!
//! A [`Draft`] reads the documents of one batch against a mapping that may grow on the way; what it
//! returns can be given to tantivy without further checks.
//!
//! ```
//! use std::sync::Arc;
//!
//! use egret_engine::document::{Draft, SchemaFields};
//! use egret_engine::mapping::Mapping;
//! use egret_engine::mapping::schema::{self, SystemValues};
//! use tantivy::schema::Document as _;
//!
//! let mut draft = Draft::new(Arc::new(Mapping::default()));
//! let document = draft.parse("1", br#"{"name": "little egret", "wings": 2}"#)?;
//! draft.parse("2", br#"{"wings": "many"}"#).unwrap_err();
//!
//! let mapping = draft.finish().unwrap();
//! let paths: Vec<&str> = mapping.fields().iter().map(|field| field.path.as_str()).collect();
//! assert_eq!(paths, ["name", "name.keyword", "wings"]);
//!
//! let schema = schema::build(&mapping);
//! let mut fields = Arc::new(SchemaFields::new(&schema, &Arc::new(mapping)));
//! let document = document.into_indexed(&schema, &mut fields, SystemValues::default());
//! assert_eq!(document.iter_fields_and_values().count(), 5 + 3);
//! # Ok::<(), egret_engine::Error>(())
//! ```

mod indexed;
mod json;
mod parse;
pub mod patch;

use std::sync::Arc;

pub use self::indexed::{IndexedDocument, SchemaFields};
use crate::composition::parse_row_id;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;

/// How many bytes an id may have.
pub const ID_LIMIT_BYTES: usize = 512;

/// A mapping that may grow while a batch is validated.
#[derive(Debug)]
pub struct Draft {
    mapping: Arc<Mapping>,
    grew: bool,
}

impl Draft {
    /// Begins with the mapping of the index.
    pub fn new(mapping: Arc<Mapping>) -> Self {
        Self { mapping, grew: false }
    }

    /// Reads a document and validates it wholly. Unknown fields are added to the draft as the
    /// mapping says; a rejected document leaves no trace in it. The error is `DocumentParsing`,
    /// and says where.
    pub fn parse(&mut self, id: &str, source: &[u8]) -> Result<ParsedDocument> {
        check_id(id)?;
        if let Some(row) = ParsedDocument::row(&self.mapping, id, source)? {
            return Ok(row);
        }
        let parsed = parse::parse(&self.mapping, id, source)?;
        if let Some(grown) = parsed.grown {
            self.mapping = Arc::new(grown);
            self.grew = true;
        }
        let mapping = Arc::clone(&self.mapping);
        Ok(ParsedDocument {
            id: id.to_owned(),
            mapping,
            texts: parsed.texts,
            values: parsed.values,
            links: Vec::new(),
        })
    }

    /// The mapping as it is now.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The mapping if it grew: what the index had, with fields appended.
    pub fn finish(self) -> Option<Mapping> {
        self.grew.then(|| Arc::unwrap_or_clone(self.mapping))
    }
}

/// Whether an id can be used: 1 to [`ID_LIMIT_BYTES`] bytes.
pub fn check_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "if _id is specified it must not be empty",
        ));
    }
    // The id of a row is its key's, and the table that it is of.
    let key = parse_row_id(id).map_or(id, |(_, key)| key);
    if key.len() > ID_LIMIT_BYTES {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "id [{}] is too long, must be no longer than {ID_LIMIT_BYTES} bytes but was: {}",
                crate::mapping::value::shortened(id),
                id.len()
            ),
        ));
    }
    Ok(())
}

/// A document that fits its mapping.
#[derive(Debug, Clone)]
pub struct ParsedDocument {
    id: String,
    mapping: Arc<Mapping>,
    /// All texts, one after the other.
    texts: String,
    /// Places in the mapping's fields, with their values.
    values: Vec<(usize, Parsed)>,
    /// What a row is found by; none for a document.
    links: Vec<String>,
}

/// A value; texts are a range of the document's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Parsed {
    Text { start: usize, end: usize },
    I64(i64),
    U64(u64),
    F64(f64),
    Bool(bool),
    Date(i64),
}

impl ParsedDocument {
    /// Reads a document that is in order and has no field that the mapping lacks; `None` for any
    /// other. It is passed on often, and so is better not moved.
    pub(crate) fn of_known_fields(
        mapping: &Arc<Mapping>,
        id: &str,
        source: &[u8],
    ) -> Option<Box<Self>> {
        check_id(id).ok()?;
        match Self::row(mapping, id, source) {
            Ok(None) => {}
            Ok(Some(row)) => return Some(Box::new(row)),
            Err(_) => return None,
        }
        let parsed = parse::parse(mapping, id, source).ok()?;
        let (id, mapping) = (id.to_owned(), Arc::clone(mapping));
        let (texts, values) = (parsed.texts, parsed.values);
        let links = Vec::new();
        parsed.grown.is_none().then(|| Box::new(Self { id, mapping, texts, values, links }))
    }

    /// Reads a row that documents are composed from; `None` where the id is not a row's.
    fn row(mapping: &Arc<Mapping>, id: &str, source: &[u8]) -> Result<Option<Self>> {
        let Some(composition) = mapping.composition() else { return Ok(None) };
        let Some((table, _)) = parse_row_id(id) else { return Ok(None) };
        let links = composition.terms(table, source)?;
        let (id, mapping) = (id.to_owned(), Arc::clone(mapping));
        Ok(Some(Self { id, mapping, texts: String::new(), values: Vec::new(), links }))
    }

    /// The terms that a row is found by; none for a document.
    pub(crate) fn links(&self) -> &[String] {
        &self.links
    }

    /// Whether it was read against this very mapping.
    pub(crate) fn fits(&self, mapping: &Arc<Mapping>) -> bool {
        Arc::ptr_eq(&self.mapping, mapping)
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How many bytes it takes in memory, about.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + self.id.len()
            + self.texts.len()
            + self.values.len() * size_of::<(usize, Parsed)>()
    }
}

#[cfg(test)]
mod tests;
