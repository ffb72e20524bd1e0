//! `highlight`: fragments of a hit's texts with what the query looks for marked.
//!
//! A document's text is analyzed again, since the index does not keep where in the text its terms
//! are. That costs a few microseconds a hit and works for every field without further storage.

mod fragment;
mod occurrences;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use self::fragment::fragments;
use self::occurrences::{Token, occurrences};
use super::request::{Highlight, HighlightOptions, SearchRequest};
use crate::error::Result;
use crate::mapping::field::{FieldKind, FieldMapping, Storage};
use crate::query::QueryLimits;
use crate::query::marks::{Mark, marks};
use crate::query::matcher::Matcher;
use crate::snapshot::Snapshot;

/// How many bytes of a value are analyzed (`index.highlight.max_analyzed_offset`).
const ANALYZED_BYTES: usize = 1_000_000;

/// A request's highlighting, ready for the documents of one index.
pub(super) struct Highlighter<'a> {
    snapshot: &'a Snapshot,
    fields: Vec<Field<'a>>,
}

struct Field<'a> {
    mapping: &'a FieldMapping,
    options: &'a HighlightOptions,
    marks: Vec<Mark>,
}

impl<'a> Highlighter<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        request: &'a SearchRequest,
        highlight: &'a Highlight,
        limits: &QueryLimits,
    ) -> Result<Self> {
        let own = marks(snapshot, &request.query, limits)?;
        let mut fields = Vec::new();
        for (name, options) in &highlight.fields {
            let other = match &options.query {
                Some(query) => Some(marks(snapshot, query, limits)?),
                None => None,
            };
            let marks = other.as_deref().unwrap_or(&own);
            for mapping in fields_of(snapshot, name) {
                let in_field = marks
                    .iter()
                    .filter(|(field, _)| !options.require_field_match || *field == mapping.path)
                    .map(|(_, mark)| mark.clone());
                fields.push(Field { mapping, options, marks: in_field.collect() });
            }
        }
        Ok(Self { snapshot, fields })
    }

    /// The fragments of one document, by field; fields without any are left out.
    pub(super) fn highlight(&self, source: &[u8]) -> Vec<(String, Vec<String>)> {
        let Ok(document) = serde_json::from_slice::<Map<String, Value>>(source) else {
            return Vec::new();
        };
        let highlighted = self.fields.iter().filter_map(|field| {
            let fragments = self.field(field, &document);
            (!fragments.is_empty()).then(|| (field.mapping.path.clone(), fragments))
        });
        highlighted.collect()
    }

    fn field(&self, field: &Field<'_>, document: &Map<String, Value>) -> Vec<String> {
        let path = field.mapping.parent.as_ref().unwrap_or(&field.mapping.path);
        let mut values = Vec::new();
        texts_at(document, path, &mut values);
        let mut marked = Vec::new();
        if !field.marks.is_empty() {
            for value in &values {
                let tokens = self.tokens(field.mapping, value);
                let found = occurrences(&tokens, &field.marks);
                marked.push((value.as_str(), found));
            }
        }
        fragments(&values, &marked, field.options)
    }

    fn tokens(&self, mapping: &FieldMapping, text: &str) -> Vec<Token> {
        if mapping.kind != FieldKind::Text {
            let whole = Token { text: text.to_owned(), position: 0, start: 0, end: text.len() };
            return vec![whole];
        }
        let end =
            (0..=text.len().min(ANALYZED_BYTES)).rev().find(|end| text.is_char_boundary(*end));
        let text = text.get(..end.unwrap_or(0)).unwrap_or_default();
        let Some(mut analyzer) = self.snapshot.tokenizers().get(&mapping.analyzer) else {
            return Vec::new();
        };
        let mut tokens = Vec::new();
        analyzer.token_stream(text).process(&mut |token| {
            tokens.push(Token {
                text: token.text.clone(),
                position: token.position,
                start: token.offset_from,
                end: token.offset_to,
            });
        });
        tokens
    }
}

/// The text and keyword fields that a name or pattern stands for.
fn fields_of<'a>(snapshot: &'a Snapshot, name: &str) -> Vec<&'a FieldMapping> {
    let pattern = Matcher::wildcard(name, false);
    let fields = snapshot.mapping().fields().iter();
    fields
        .filter(|mapping| mapping.kind.storage() == Storage::Text && pattern.matches(&mapping.path))
        .collect()
}

/// The texts at a dotted path, through arrays; a name may itself hold dots.
fn texts_at(object: &Map<String, Value>, path: &str, texts: &mut Vec<String>) {
    if let Some(value) = object.get(path) {
        texts_of(value, texts);
    }
    for (dot, _) in path.match_indices('.') {
        let (Some(name), Some(rest)) = (path.get(..dot), path.get(dot + 1..)) else { continue };
        if let Some(value) = object.get(name) {
            texts_below(value, rest, texts);
        }
    }
}

fn texts_below(value: &Value, path: &str, texts: &mut Vec<String>) {
    match value {
        Value::Object(object) => texts_at(object, path, texts),
        Value::Array(values) => values.iter().for_each(|value| texts_below(value, path, texts)),
        _ => {}
    }
}

fn texts_of(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Bool(_) | Value::Number(_) => texts.push(value.to_string()),
        Value::Array(values) => values.iter().for_each(|value| texts_of(value, texts)),
        Value::Null | Value::Object(_) => {}
    }
}
