//! A document as tantivy's segment writer reads it: in place. A `TantivyDocument` would be a copy of
//! all texts in another encoding, made for every document and read twice.

use std::iter;
use std::sync::Arc;

use tantivy::schema::document::{Document, ReferenceValue, ReferenceValueLeaf, Value};
use tantivy::schema::{Field, Schema};

use super::{Parsed, ParsedDocument};
use crate::mapping::Mapping;
use crate::mapping::schema::{LINKS, SYSTEM_FIELD_COUNT, SystemFields, SystemValues};

/// Which of a schema's fields a mapping's fields are.
#[derive(Debug, Clone)]
pub struct SchemaFields {
    mapping: Arc<Mapping>,
    /// By the places of the mapping's fields; `None` where the schema lacks one.
    fields: Vec<Option<Field>>,
    links: Option<Field>,
}

impl SchemaFields {
    /// The fields of a schema that was made from this mapping, or from another.
    pub fn new(schema: &Schema, mapping: &Arc<Mapping>) -> Self {
        let field = |(place, path): (usize, &str)| {
            // Mostly at the same place as in the mapping.
            let guess = u32::try_from(place).ok()?.checked_add(SYSTEM_FIELD_COUNT)?;
            let guess = Field::from_field_id(guess);
            let in_schema = (guess.field_id() as usize) < schema.num_fields();
            if in_schema && schema.get_field_name(guess) == path {
                return Some(guess);
            }
            schema.get_field(path).ok()
        };
        let paths = mapping.fields().iter().map(|field| field.path.as_str());
        Self {
            fields: paths.enumerate().map(field).collect(),
            links: schema.get_field(LINKS).ok(),
            mapping: Arc::clone(mapping),
        }
    }
}

/// A parsed document with what the index adds to it.
#[derive(Debug)]
pub struct IndexedDocument {
    document: Box<ParsedDocument>,
    system: SystemValues,
    fields: Arc<SchemaFields>,
}

impl ParsedDocument {
    /// As tantivy takes it, in a schema whose fields for the mapping of the last document these are;
    /// they become those for this one's. The schema must have been made from the draft's mapping
    /// when the batch was validated, or a later one; a field that it lacks is left out.
    pub fn into_indexed(
        self,
        schema: &Schema,
        fields: &mut Arc<SchemaFields>,
        system: SystemValues,
    ) -> IndexedDocument {
        IndexedDocument::new(Box::new(self), schema, fields, system)
    }
}

impl IndexedDocument {
    /// See [`ParsedDocument::into_indexed`].
    pub(crate) fn new(
        document: Box<ParsedDocument>,
        schema: &Schema,
        fields: &mut Arc<SchemaFields>,
        system: SystemValues,
    ) -> Self {
        if !Arc::ptr_eq(&fields.mapping, &document.mapping) {
            *fields = Arc::new(SchemaFields::new(schema, &document.mapping));
        }
        Self { document, system, fields: Arc::clone(fields) }
    }
}

/// The values of a document: the system's, then its own, then its links.
#[derive(Debug)]
pub struct Values<'a> {
    document: &'a IndexedDocument,
    next: usize,
}

impl Document for IndexedDocument {
    type Value<'a> = Leaf<'a>;
    type FieldsValuesIter<'a> = Values<'a>;

    fn iter_fields_and_values(&self) -> Values<'_> {
        Values { document: self, next: 0 }
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = (Field, Leaf<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let IndexedDocument { document, system, fields } = self.document;
        loop {
            let at = self.next;
            self.next += 1;
            match at {
                0 => return Some((SystemFields::FIXED.id, Leaf::Text(&document.id))),
                1 => return Some((SystemFields::FIXED.seq_no, Leaf::U64(system.seq_no))),
                2 => return Some((SystemFields::FIXED.term, Leaf::U64(system.term))),
                3 => return Some((SystemFields::FIXED.version, Leaf::U64(system.version))),
                4 => return Some((SystemFields::FIXED.lsn, Leaf::U64(system.lsn))),
                _ => {}
            }
            let at = at - SYSTEM_FIELD_COUNT as usize;
            let Some((place, value)) = document.values.get(at) else {
                let link = document.links.get(at - document.values.len())?;
                return Some((fields.links?, Leaf::Text(link)));
            };
            if let Some(field) = fields.fields.get(*place).copied().flatten() {
                return Some((field, Leaf::of(value, &document.texts)));
            }
        }
    }
}

/// One value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Leaf<'a> {
    /// A text or keyword.
    Text(&'a str),
    /// An integer, or a date in its own unit.
    I64(i64),
    /// An unsigned integer.
    U64(u64),
    /// A number.
    F64(f64),
    /// A truth value.
    Bool(bool),
}

impl<'a> Leaf<'a> {
    fn of(value: &Parsed, texts: &'a str) -> Self {
        match *value {
            Parsed::Text { start, end } => Self::Text(texts.get(start..end).unwrap_or_default()),
            Parsed::I64(value) | Parsed::Date(value) => Self::I64(value),
            Parsed::U64(value) => Self::U64(value),
            Parsed::F64(value) => Self::F64(value),
            Parsed::Bool(value) => Self::Bool(value),
        }
    }
}

impl<'a> Value<'a> for Leaf<'a> {
    type ArrayIter = iter::Empty<Self>;
    type ObjectIter = iter::Empty<(&'a str, Self)>;

    fn as_value(&self) -> ReferenceValue<'a, Self> {
        ReferenceValue::Leaf(match *self {
            Self::Text(text) => ReferenceValueLeaf::Str(text),
            Self::I64(value) => ReferenceValueLeaf::I64(value),
            Self::U64(value) => ReferenceValueLeaf::U64(value),
            Self::F64(value) => ReferenceValueLeaf::F64(value),
            Self::Bool(value) => ReferenceValueLeaf::Bool(value),
        })
    }
}
