//! A row becomes a document: its key the `_id`, its columns the fields.
//!
//! A key of one column is that column's text. One of several is their texts, joined by commas, in
//! which a comma and a backslash are preceded by a backslash: so no two keys share an `_id`.

use bytes::Bytes;
use egret_engine::composition::row_id;

use crate::compound::RowsOf;
use crate::decode::Datum;
use crate::shape::Shape;
use crate::types::{Kind, write_json};

/// The longest `_id` that an index takes, in bytes.
const MAX_ID_BYTES: usize = 512;

/// The longest key that a dead letter keeps whole.
pub(crate) const MAX_LETTER_KEY_BYTES: usize = 4096;

/// Bytes of a row's values that a dead letter keeps; those that do not fit are left out.
pub(crate) const MAX_RAW_BYTES: usize = 64 << 10;

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// SQL's NULL.
    Null,
    /// Not sent, because it did not change.
    Unchanged,
    /// Text in the server's format.
    Text(&'a [u8]),
}

/// The values of a row, in the order of its columns.
pub(crate) trait Row {
    /// The value of a column; NULL past the last.
    fn value(&self, column: usize) -> Value<'_>;
}

impl Row for [Datum] {
    fn value(&self, column: usize) -> Value<'_> {
        match self.get(column) {
            Some(Datum::Text(text)) => Value::Text(text),
            Some(Datum::Unchanged) => Value::Unchanged,
            Some(Datum::Null) | None => Value::Null,
        }
    }
}

/// A key that a letter can be known by: the beginning of one that is longer, and a sum of all of it.
fn cut(mut key: String) -> String {
    if key.len() > MAX_LETTER_KEY_BYTES {
        let sum = crc32c::crc32c(key.as_bytes());
        let is_whole = |end: &usize| key.is_char_boundary(*end);
        key.truncate((0..=MAX_LETTER_KEY_BYTES).rev().find(is_whole).unwrap_or(0));
        key = format!("{key}#{sum:08x}");
    }
    key
}

/// A row that cannot become a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RowError {
    /// A key that is NULL or was not sent.
    #[error("key column [{0}] has no value")]
    KeyMissing(String),
    /// A key that is empty, or longer than an `_id` may be.
    #[error("the key has {} bytes, and an _id has 1 to {MAX_ID_BYTES}", .0.len())]
    KeyLength(String),
    /// A row whose document would be too large.
    #[error("the document has more than max_document_bytes [{0}]")]
    TooLarge(usize),
    /// A value that does not fit its column's type.
    #[error("column [{column}]: {reason}")]
    Value {
        /// The column.
        column: String,
        /// What is wrong.
        reason: String,
    },
}

/// A column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowColumn {
    /// Its name, which is also the field's.
    pub(crate) name: String,
    /// How its values become JSON.
    pub(crate) kind: Kind,
}

/// A field of a document.
#[derive(Debug, Clone)]
struct RowField {
    name: String,
    /// `"name":`.
    label: Vec<u8>,
}

impl RowField {
    fn new(name: &str) -> Self {
        let mut label = serde_json::to_vec(name).unwrap_or_default();
        label.push(b':');
        Self { name: name.to_owned(), label }
    }
}

/// How rows of one shape become documents.
#[derive(Debug, Clone)]
pub(crate) struct RowFormat {
    columns: Vec<RowColumn>,
    /// The field of each column; none where it is not in the document.
    fields: Vec<Option<RowField>>,
    /// Fields that every document ends with, without braces.
    constants: Vec<u8>,
    /// The column that says that its row counts as deleted.
    soft_delete: Option<usize>,
    /// The key's columns, in the key's order.
    key: Vec<usize>,
    /// The table's place in a composition, where documents are composed from its rows.
    rows_of: Option<usize>,
    /// The largest document.
    max_bytes: usize,
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    /// Its JSON.
    pub(crate) source: Bytes,
    /// Fields that must be taken from the document before it.
    pub(crate) keep: Vec<String>,
}

impl RowFormat {
    /// The format of rows with these columns; `None` where a column of the key is not among them.
    pub(crate) fn new(columns: Vec<RowColumn>, key: &[String]) -> Option<Self> {
        let at = |name: &String| columns.iter().position(|column| column.name == *name);
        let key: Option<Vec<usize>> = key.iter().map(at).collect();
        let fields = columns.iter().map(|column| Some(RowField::new(&column.name))).collect();
        let (constants, soft_delete, max_bytes) = (Vec::new(), None, usize::MAX);
        key.filter(|key| !key.is_empty()).map(|key| Self {
            columns,
            fields,
            constants,
            soft_delete,
            key,
            rows_of: None,
            max_bytes,
        })
    }

    /// The same, as declared.
    pub(crate) fn shaped(mut self, shape: Option<&Shape>) -> Self {
        let Some(shape) = shape else { return self };
        let field = |column: &RowColumn| shape.field(&column.name).map(RowField::new);
        self.fields = self.columns.iter().map(field).collect();
        let constants = serde_json::to_vec(&shape.declaration.constants).unwrap_or_default();
        let constants = constants.strip_prefix(b"{").and_then(|it| it.strip_suffix(b"}"));
        self.constants = constants.unwrap_or_default().to_vec();
        let is_mark =
            |column: &RowColumn| shape.declaration.soft_delete.as_ref() == Some(&column.name);
        self.soft_delete = self.columns.iter().position(is_mark);
        self
    }

    /// The same, for rows that documents are composed from: columns under their own names, and only
    /// those that are needed.
    pub(crate) fn kept_as(mut self, rows: Option<&RowsOf>) -> Self {
        let Some(rows) = rows else { return self };
        let field = |column: &RowColumn| {
            rows.columns.contains(&column.name).then(|| RowField::new(&column.name))
        };
        self.fields = self.columns.iter().map(field).collect();
        self.constants.clear();
        self.rows_of = Some(rows.table);
        self
    }

    /// The table's place in a composition, where documents are composed from its rows.
    pub(crate) fn rows_of(&self) -> Option<usize> {
        self.rows_of
    }

    /// Whether a row counts as deleted: its column is true, or of another type and not NULL. One that
    /// was not sent is too large to be NULL.
    pub(crate) fn is_deleted<R: Row + ?Sized>(&self, row: &R) -> bool {
        let Some(at) = self.soft_delete else { return false };
        let is_bool = self.columns.get(at).is_some_and(|column| column.kind == Kind::Bool);
        match row.value(at) {
            Value::Null => false,
            Value::Text(text) => !is_bool || text == b"t",
            Value::Unchanged => true,
        }
    }

    /// The same, for documents of at most so many bytes.
    pub(crate) fn with_max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// The columns.
    pub(crate) fn columns(&self) -> &[RowColumn] {
        &self.columns
    }

    /// The key's columns.
    pub(crate) fn key(&self) -> &[usize] {
        &self.key
    }

    /// Whether a column is needed to tell a row by, or whether it counts.
    pub(crate) fn tells_of_rows(&self, column: usize) -> bool {
        self.key.contains(&column) || self.soft_delete == Some(column)
    }

    /// The `_id` of a row.
    pub(crate) fn id<R: Row + ?Sized>(&self, row: &R) -> Result<String, RowError> {
        let mut id = String::new();
        for (part, &column) in self.key.iter().enumerate() {
            let Value::Text(text) = row.value(column) else {
                return Err(RowError::KeyMissing(self.name(column).to_owned()));
            };
            let text = String::from_utf8_lossy(text);
            let padded =
                matches!(self.columns.get(column), Some(RowColumn { kind: Kind::PaddedText, .. }));
            let text = if padded { text.trim_end_matches(' ') } else { &text };
            if self.key.len() == 1 {
                id.push_str(text);
                break;
            }
            if part > 0 {
                id.push(',');
            }
            push_escaped(text, &mut id);
        }
        if (1..=MAX_ID_BYTES).contains(&id.len()) {
            Ok(self.rows_of.map_or_else(|| id.clone(), |table| row_id(table, &id)))
        } else {
            Err(RowError::KeyLength(id))
        }
    }

    /// What a row is known by among the dead letters: its `_id`, or a key that is too long for one. None
    /// where it has no key, or an empty one.
    pub(crate) fn letter_id<R: Row + ?Sized>(&self, row: &R) -> Option<String> {
        match self.id(row) {
            Ok(id) => Some(id),
            Err(RowError::KeyLength(key)) if !key.is_empty() => {
                let key = cut(key);
                Some(self.rows_of.map_or_else(|| key.clone(), |table| row_id(table, &key)))
            }
            Err(_) => None,
        }
    }

    /// The texts of the key's columns that an `_id` was made of; none where it is no `_id` of these.
    pub(crate) fn key_parts(&self, id: &str) -> Option<Vec<String>> {
        if id.is_empty() {
            return None;
        }
        if self.key.len() == 1 {
            return Some(vec![id.to_owned()]);
        }
        let mut parts = vec![String::new()];
        let mut signs = id.chars();
        while let Some(sign) = signs.next() {
            match sign {
                ',' => parts.push(String::new()),
                '\\' => parts.last_mut()?.push(signs.next()?),
                sign => parts.last_mut()?.push(sign),
            }
        }
        (parts.len() == self.key.len()).then_some(parts)
    }

    /// The document of a row.
    pub(crate) fn document<R: Row + ?Sized>(&self, row: &R) -> Result<Document, RowError> {
        let mut source = Vec::with_capacity(256);
        let mut keep = Vec::new();
        source.push(b'{');
        for (at, (column, field)) in self.columns.iter().zip(&self.fields).enumerate() {
            let Some(field) = field else { continue };
            let value = row.value(at);
            if value == Value::Unchanged {
                keep.push(field.name.clone());
                continue;
            }
            if source.len() > 1 {
                source.push(b',');
            }
            source.extend_from_slice(&field.label);
            let Value::Text(text) = value else {
                source.extend_from_slice(b"null");
                continue;
            };
            // Before the value is copied.
            if source.len() + text.len() > self.max_bytes {
                return Err(RowError::TooLarge(self.max_bytes));
            }
            // Only a database in SQL_ASCII can send what is not UTF-8.
            write_json(&column.kind, &String::from_utf8_lossy(text), &mut source).map_err(
                |error| RowError::Value { column: column.name.clone(), reason: error.to_string() },
            )?;
        }
        if !self.constants.is_empty() {
            if source.len() > 1 {
                source.push(b',');
            }
            source.extend_from_slice(&self.constants);
        }
        source.push(b'}');
        if source.len() > self.max_bytes {
            return Err(RowError::TooLarge(self.max_bytes));
        }
        Ok(Document { source: source.into(), keep })
    }

    /// A row as it came, each value as text, as far as [`MAX_RAW_BYTES`] go: what a dead letter
    /// keeps.
    pub(crate) fn raw<R: Row + ?Sized>(
        &self,
        row: &R,
    ) -> serde_json::Map<String, serde_json::Value> {
        let mut left = MAX_RAW_BYTES;
        // What is left out of documents is not kept in letters either.
        let value = |(at, column): (usize, &RowColumn)| {
            self.fields.get(at)?.as_ref()?;
            let value = match row.value(at) {
                Value::Text(text) => {
                    left = left.checked_sub(text.len())?;
                    String::from_utf8_lossy(text).into_owned().into()
                }
                Value::Null | Value::Unchanged => serde_json::Value::Null,
            };
            Some((column.name.clone(), value))
        };
        self.columns.iter().enumerate().filter_map(value).collect()
    }

    fn name(&self, column: usize) -> &str {
        self.columns.get(column).map_or("", |column| &column.name)
    }
}

/// One part of a composite key.
fn push_escaped(text: &str, id: &mut String) {
    for sign in text.chars() {
        if matches!(sign, ',' | '\\') {
            id.push('\\');
        }
        id.push(sign);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn format(columns: &[(&str, Kind)], key: &[&str]) -> RowFormat {
        let column = |(name, kind): &(&str, Kind)| RowColumn {
            name: (*name).to_owned(),
            kind: kind.clone(),
        };
        let key: Vec<String> = key.iter().map(|&name| name.to_owned()).collect();
        RowFormat::new(columns.iter().map(column).collect(), &key).unwrap()
    }

    fn text(text: &str) -> Datum {
        Datum::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn documents() {
        let columns =
            [("id", Kind::Long), ("a \"b\"", Kind::Text), ("big", Kind::Text), ("n", Kind::Bool)];
        let format = format(&columns, &["id"]);
        let row = [text("7"), text("x"), Datum::Unchanged, Datum::Null];
        assert_eq!(format.id(&row[..]).unwrap(), "7");
        let document = format.document(&row[..]).unwrap();
        assert_eq!(&document.source[..], br#"{"id":7,"a \"b\"":"x","n":null}"#);
        assert_eq!(document.keep, ["big"]);

        let row = [text("7x")];
        let error = format.document(&row[..]).unwrap_err().to_string();
        assert_eq!(error, "column [id]: [7x] is not an integer");
        assert_eq!(format.raw(&row[..])["id"], "7x");
    }

    #[test]
    fn large_documents() {
        let columns = [("id", Kind::Long), ("a", Kind::Text), ("b", Kind::Text)];
        let check = |max_bytes: usize, fits: bool| {
            let format = format(&columns, &["id"]).with_max_bytes(max_bytes);
            let row = [text("7"), text(&"x".repeat(50)), Datum::Null];
            let found = format.document(&row[..]).map(|document| document.source.len());
            let expected = if fits { Ok(74) } else { Err(RowError::TooLarge(max_bytes)) };
            assert_eq!(found, expected);
        };
        check(74, true);
        check(73, false);
        check(50, false);
        let format = format(&columns, &["id"]);
        let row = [text("7"), text(&"x".repeat(MAX_RAW_BYTES)), text("kept")];
        let raw = format.raw(&row[..]);
        assert_eq!(serde_json::Value::from(raw), serde_json::json!({"id": "7", "b": "kept"}));
    }

    #[test]
    fn ids() {
        let one = format(&[("k", Kind::Text)], &["k"]);
        let two = format(&[("a", Kind::Text), ("b", Kind::PaddedText)], &["b", "a"]);
        let check = |format: &RowFormat, row: &[Datum], expected: Result<&str, RowError>| {
            assert_eq!(format.id(row), expected.map(str::to_owned));
        };
        check(&one, &[text("a,b\\")], Ok("a,b\\"));
        check(&one, &[text("")], Err(RowError::KeyLength(String::new())));
        check(&one, &[text(&"x".repeat(513))], Err(RowError::KeyLength("x".repeat(513))));
        check(&one, &[Datum::Null], Err(RowError::KeyMissing("k".to_owned())));
        check(&two, &[text("1,2"), text("3  ")], Ok("3,1\\,2"));
        check(&two, &[text(""), text("")], Ok(","));
        assert!(RowFormat::new(Vec::new(), &["k".to_owned()]).is_none());
    }

    proptest! {
        #[test]
        fn no_two_keys_share_an_id(
            first in prop::collection::vec("[a,\\\\]{0,4}", 2),
            second in prop::collection::vec("[a,\\\\]{0,4}", 2),
        ) {
            let format = format(&[("a", Kind::Text), ("b", Kind::Text)], &["a", "b"]);
            let id = |parts: &[String]| {
                let row: Vec<Datum> = parts.iter().map(|part| text(part)).collect();
                format.id(&row[..]).unwrap()
            };
            prop_assert_eq!(first == second, id(&first) == id(&second));
            prop_assert_eq!(format.key_parts(&id(&first)), Some(first));
        }
    }
}
