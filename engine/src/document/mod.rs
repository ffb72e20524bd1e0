//! Documents: JSON in, validated field values out.
//!
//! A [`Draft`] reads the documents of one batch against a mapping that may grow on the way; what it
//! returns can be given to tantivy without further checks.

mod json;
mod parse;
pub mod patch;

use std::sync::Arc;

use tantivy::TantivyDocument;
use tantivy::schema::{Field, Schema};

use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::mapping::schema::{self, SYSTEM_FIELD_COUNT, SystemFields, SystemValues};

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
    if id.len() > ID_LIMIT_BYTES {
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
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// As tantivy takes it. The schema must have been made from the draft's mapping when the batch
    /// was validated, or a later one; a field that it lacks is left out.
    pub fn into_tantivy(self, schema: &Schema, system: SystemValues) -> TantivyDocument {
        let mut document = TantivyDocument::with_capacity(self.texts.len() * 2 + 128);
        let fields = SystemFields::FIXED;
        document.add_text(fields.id, &self.id);
        document.add_u64(fields.seq_no, system.seq_no);
        document.add_u64(fields.term, system.term);
        document.add_u64(fields.version, system.version);
        document.add_u64(fields.lsn, system.lsn);
        for (place, value) in &self.values {
            let Some(field) = self.schema_field(schema, *place) else { continue };
            match *value {
                Parsed::Text { start, end } => {
                    document.add_text(field, self.texts.get(start..end).unwrap_or_default());
                }
                Parsed::I64(value) => document.add_i64(field, value),
                Parsed::U64(value) => document.add_u64(field, value),
                Parsed::F64(value) => document.add_f64(field, value),
                Parsed::Bool(value) => document.add_bool(field, value),
                Parsed::Date(micros) => document.add_date(field, schema::date(micros)),
            }
        }
        document
    }

    /// The schema's field: usually at the same place as in the mapping, otherwise by name.
    fn schema_field(&self, schema: &Schema, place: usize) -> Option<Field> {
        let path = self.mapping.fields().get(place)?.path.as_str();
        let guess = u32::try_from(place).ok()?.checked_add(SYSTEM_FIELD_COUNT)?;
        let guess = Field::from_field_id(guess);
        let in_schema = (guess.field_id() as usize) < schema.num_fields();
        if in_schema && schema.get_field_name(guess) == path {
            return Some(guess);
        }
        schema.get_field(path).ok()
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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The values that the document gives, by path.
    fn read(mapping: &Value, source: &str) -> std::result::Result<Vec<String>, String> {
        let mapping = Mapping::from_json(mapping).unwrap();
        let mut draft = Draft::new(Arc::new(mapping));
        let parsed = draft.parse("1", source.as_bytes()).map_err(|error| {
            use std::error::Error as _;
            let reason = error.source().map(|source| format!(" <- {source}"));
            format!("{error}{}", reason.unwrap_or_default())
        })?;
        let shown = parsed.values.iter().map(|(place, value)| {
            let path = &parsed.mapping.fields()[*place].path;
            match value {
                Parsed::Text { start, end } => format!("{path}={:?}", &parsed.texts[*start..*end]),
                Parsed::I64(value) => format!("{path}={value}"),
                Parsed::U64(value) => format!("{path}={value}u"),
                Parsed::F64(value) => format!("{path}={value:?}"),
                Parsed::Bool(value) => format!("{path}={value}"),
                Parsed::Date(micros) => format!("{path}=@{micros}"),
            }
        });
        Ok(shown.collect())
    }

    fn check(mapping: &Value, source: &str, expected: &[&str]) {
        assert_eq!(read(mapping, source).unwrap(), expected, "{source}");
    }

    fn refused(mapping: &Value, source: &str, expected: &str) {
        assert_eq!(read(mapping, source).unwrap_err(), expected, "{source}");
    }

    fn one(kind: &str) -> Value {
        json!({"properties": {"x": {"type": kind}}})
    }

    #[test]
    fn dynamic_fields() {
        check(
            &json!({}),
            r#"{"a":"hi","b":1,"c":1.5,"d":true,"e":"2024-01-02","f":null,"g":[],"h":{"i":[null,2]}}"#,
            &[
                r#"a="hi""#,
                r#"a.keyword="hi""#,
                "b=1",
                "c=1.5",
                "d=true",
                "e=@1704153600000000",
                "h.i=2",
            ],
        );
        check(
            &json!({}),
            r#"{"a.b":1,"a":{"c":"2024"}}"#,
            &["a.b=1", r#"a.c="2024""#, r#"a.c.keyword="2024""#],
        );
    }

    #[test]
    fn coerced_values() {
        check(
            &one("long"),
            r#"{"x":["12",12.7,-0.5,"1e3",9223372036854775807,"",1e2]}"#,
            &["x=12", "x=12", "x=0", "x=1000", "x=9223372036854775807", "x=100"],
        );
        check(&one("unsigned_long"), r#"{"x":18446744073709551615}"#, &["x=18446744073709551615u"]);
        check(
            &one("boolean"),
            r#"{"x":[true,"true","false",""]}"#,
            &["x=true", "x=true", "x=false", "x=false"],
        );
        check(
            &one("keyword"),
            r#"{"x":["a",1.10,true,1e2]}"#,
            &[r#"x="a""#, r#"x="1.10""#, r#"x="true""#, r#"x="1e2""#],
        );
        check(
            &one("date"),
            r#"{"x":["2024",1700000000000,"2024-01-01T00:00:00.123456+01:00"]}"#,
            &["x=@1704067200000000", "x=@1700000000000000", "x=@1704063600123456"],
        );
    }

    #[test]
    fn refused_values() {
        refused(
            &one("long"),
            r#"{"x":"foo"}"#,
            "[1:6] failed to parse field [x] of type [long] in document with id '1'. Preview of \
             field's value: 'foo' <- For input string: \"foo\"",
        );
        refused(
            &one("byte"),
            r#"{"x":128}"#,
            "[1:6] failed to parse field [x] of type [byte] in document with id '1'. Preview of \
             field's value: '128' <- Value [128] is out of range for a byte",
        );
        refused(
            &json!({}),
            r#"{"a":1,"a":2}"#,
            "[1:8] failed to parse: Duplicate field 'a' <- Duplicate field 'a'",
        );
        refused(
            &json!({"dynamic": "strict"}),
            r#"{"a":1}"#,
            "[1:6] mapping set to strict, dynamic introduction of [a] within [_doc] is not allowed",
        );
        refused(
            &json!({"properties": {"a": {"properties": {}}}}),
            r#"{"a":1}"#,
            "[1:6] object mapping for [a] tried to parse field [a] as object, but found a concrete \
             value",
        );
    }

    #[test]
    fn rejected_documents_leave_no_trace() {
        let mut draft = Draft::new(Arc::new(Mapping::default()));
        draft.parse("1", br#"{"new":1,"bad":"#).unwrap_err();
        assert!(draft.mapping().field("new").is_none());
        assert!(draft.finish().is_none());
    }
}
