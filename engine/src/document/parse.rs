//! One document against a mapping.

mod structured;

use std::borrow::Cow;

use super::Parsed;
use super::json::{JsonError, JsonReader, Kind, line_and_column};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::value::{Raw, convert, shortened};
use crate::mapping::{Dynamic, FieldValue, Mapping, Node, ROOT, Storage};

/// How many bytes a term may have (Lucene's limit).
pub(crate) const TERM_LIMIT_BYTES: usize = 32_766;

/// What was read, and the mapping if it had to grow.
pub(super) struct Outcome {
    pub(super) texts: String,
    pub(super) values: Vec<(usize, Parsed)>,
    pub(super) grown: Option<Mapping>,
}

/// Reads a document. The mapping itself is never changed: it grows in a copy.
pub(super) fn parse(mapping: &Mapping, id: &str, source: &[u8]) -> Result<Outcome> {
    let text = std::str::from_utf8(source).map_err(|error| {
        let (line, column) = line_and_column(source, error.valid_up_to());
        failure(format!("[{line}:{column}] failed to parse: invalid UTF-8")).with_source(error)
    })?;
    let mut parser = Parser {
        id,
        source: text,
        reader: JsonReader::new(text),
        mapping,
        grown: None,
        texts: String::with_capacity(text.len()),
        values: Vec::with_capacity(16),
    };
    parser.document().map_err(|failure| parser.error(failure))?;
    let Parser { texts, values, grown, .. } = parser;
    Ok(Outcome { texts, values, grown })
}

/// Why a document is refused.
enum Failure {
    /// It is not JSON.
    Json(JsonError),
    /// Its shape does not fit.
    Shape { message: String, at: usize },
    /// A field's value does not fit.
    Value { field: usize, from: usize, to: usize, reason: String },
    /// The mapping cannot grow so.
    Mapping { source: Error, at: usize },
}

impl From<JsonError> for Failure {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

type Parse<T> = std::result::Result<T, Failure>;

struct Parser<'a> {
    id: &'a str,
    source: &'a str,
    reader: JsonReader<'a>,
    mapping: &'a Mapping,
    grown: Option<Mapping>,
    texts: String,
    values: Vec<(usize, Parsed)>,
}

impl Parser<'_> {
    fn document(&mut self) -> Parse<()> {
        if self.reader.peek()? != Kind::Object {
            let message = "failed to parse: a document must be an object".to_owned();
            return Err(Failure::Shape { message, at: self.reader.position() });
        }
        self.object(ROOT)?;
        Ok(self.reader.end()?)
    }

    fn mapping(&self) -> &Mapping {
        self.grown.as_ref().unwrap_or(self.mapping)
    }

    fn object(&mut self, object: usize) -> Parse<()> {
        if self.mapping().objects.get(object).is_some_and(|object| !object.enabled) {
            return self.ignore();
        }
        let mut open = self.reader.open_object()?;
        while let Some(key) = self.reader.next_key(&mut open)? {
            let at = self.reader.position();
            if object == ROOT && crate::mapping::is_reserved(&key) {
                return Err(Failure::Shape {
                    message: format!(
                        "Field [{key}] is a metadata field and cannot be added inside a document. \
                         Use the index API request parameters."
                    ),
                    at,
                });
            }
            self.member(object, &key)?;
        }
        Ok(())
    }

    /// A key's value. Dots in the key mean objects.
    fn member(&mut self, object: usize, key: &str) -> Parse<()> {
        if let Some(node) = self.mapping().child(object, key) {
            return self.known(node);
        }
        if !key.contains('.') {
            return self.unknown(object, key);
        }
        let at = self.reader.position();
        if key.split('.').any(|part| part.trim().is_empty()) {
            return Err(Failure::Shape {
                message: format!(
                    "field name cannot contain only whitespace, nor begin or end with a dot: \
                     [{key}]"
                ),
                at,
            });
        }
        self.dotted(object, key)
    }

    /// The value of a key with dots.
    fn dotted(&mut self, object: usize, key: &str) -> Parse<()> {
        let at = self.reader.position();
        let mut parts = key.split('.').peekable();
        let mut parent = object;
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return match self.mapping().child(parent, part) {
                    Some(node) => self.known(node),
                    None => self.unknown(parent, part),
                };
            }
            parent = match self.mapping().child(parent, part) {
                Some(Node::Object(child)) => child,
                Some(Node::Field(field)) => return Err(self.not_an_object(field, key, at)),
                None => match self.mapping().dynamic(parent) {
                    Dynamic::False => return self.ignore(),
                    Dynamic::Strict => return Err(self.strict(parent, part)),
                    // A null makes no objects.
                    Dynamic::True if self.reader.peek()? == Kind::Null => {
                        return Ok(self.reader.null()?);
                    }
                    Dynamic::True => self.grow(|mapping| mapping.add_object(parent, part))?,
                },
            };
            if self.mapping().objects.get(parent).is_some_and(|object| !object.enabled) {
                return self.ignore();
            }
        }
        Ok(())
    }

    fn known(&mut self, node: Node) -> Parse<()> {
        match node {
            Node::Field(field) => self.field(field),
            Node::Object(object) => self.object_value(object),
        }
    }

    /// What stands where the mapping has an object: one, several, or none.
    fn object_value(&mut self, object: usize) -> Parse<()> {
        match self.reader.peek()? {
            Kind::Object => self.object(object),
            Kind::Null => Ok(self.reader.null()?),
            Kind::Array => {
                let mut array = self.reader.open_array()?;
                while self.reader.next_element(&mut array)? {
                    self.object_value(object)?;
                }
                Ok(())
            }
            _ => {
                let node = self.mapping().objects.get(object);
                let (path, enabled) = node.map_or(("", true), |node| (&node.path, node.enabled));
                if !enabled {
                    return self.ignore();
                }
                let name = path.rsplit('.').next().unwrap_or(path);
                let message = format!(
                    "object mapping for [{path}] tried to parse field [{name}] as object, but \
                     found a concrete value"
                );
                Err(Failure::Shape { message, at: self.reader.position() })
            }
        }
    }

    /// A value, or several, of a leaf field.
    fn field(&mut self, field: usize) -> Parse<()> {
        let kind = self.reader.peek()?;
        let from = self.reader.position();
        match kind {
            Kind::Object | Kind::Array if self.is(field, Storage::Point) => self.points(field),
            Kind::Object if self.is(field, Storage::Span) => self.range(field),
            Kind::Text => {
                let text = self.reader.string()?;
                self.scalar(field, Raw::Text(&text), from)
            }
            Kind::Number => {
                let text = self.reader.number()?;
                self.scalar(field, Raw::Number(text), from)
            }
            Kind::Bool => {
                let value = self.reader.boolean()?;
                self.scalar(field, Raw::Bool(value), from)
            }
            Kind::Null => {
                self.reader.null()?;
                self.null(field);
                Ok(())
            }
            Kind::Array => {
                let mut array = self.reader.open_array()?;
                while self.reader.next_element(&mut array)? {
                    self.field(field)?;
                }
                Ok(())
            }
            Kind::Object => {
                self.reader.skip()?;
                let ignored = self.mapping().fields.get(field).is_some_and(|f| f.ignore_malformed);
                if ignored {
                    return Ok(());
                }
                let reason = "found an object where a single value is expected".to_owned();
                Err(Failure::Value { field, from, to: self.reader.position(), reason })
            }
        }
    }

    /// One value of a leaf field, of its multi-fields, and of what it is copied to.
    fn scalar(&mut self, field: usize, raw: Raw<'_>, from: usize) -> Parse<()> {
        self.put_all(field, raw, from)?;
        let mut next = 0;
        while let Some(path) = self.copy_target(field, next) {
            if let Some(target) = self.open_copy_target(&path, raw)? {
                self.put_all(target, raw, from)?;
            }
            next += 1;
        }
        Ok(())
    }

    fn put_all(&mut self, field: usize, raw: Raw<'_>, from: usize) -> Parse<()> {
        let to = self.reader.position();
        self.put(field, raw).map_err(|reason| Failure::Value { field, from, to, reason })?;
        let mut next = 0;
        while let Some(multi) = self.multi_field(field, next) {
            self.put(multi, raw).map_err(|reason| Failure::Value {
                field: multi,
                from,
                to,
                reason,
            })?;
            next += 1;
        }
        Ok(())
    }

    fn copy_target(&self, field: usize, number: usize) -> Option<String> {
        self.mapping().fields.get(field)?.copy_to.get(number).cloned()
    }

    /// The field of a path, added where the mapping grows by itself; `None` where it ignores it.
    fn open_copy_target(&mut self, path: &str, raw: Raw<'_>) -> Parse<Option<usize>> {
        let at = self.reader.position();
        let (above, name) = path.rsplit_once('.').unwrap_or(("", path));
        let mut parent = ROOT;
        for part in above.split('.').filter(|part| !part.is_empty()) {
            parent = match self.mapping().child(parent, part) {
                Some(Node::Object(child)) => child,
                Some(Node::Field(field)) => return Err(self.not_an_object(field, path, at)),
                None => match self.mapping().dynamic(parent) {
                    Dynamic::False => return Ok(None),
                    Dynamic::Strict => return Err(self.strict(parent, part)),
                    Dynamic::True => self.grow(|mapping| mapping.add_object(parent, part))?,
                },
            };
        }
        match self.mapping().child(parent, name) {
            Some(Node::Field(field)) => Ok(Some(field)),
            Some(Node::Object(_)) => {
                let message = format!("cannot copy to [{path}]: it is an object");
                Err(Failure::Shape { message, at })
            }
            None => match self.mapping().dynamic(parent) {
                Dynamic::False => Ok(None),
                Dynamic::Strict => Err(self.strict(parent, name)),
                Dynamic::True => {
                    self.grow(|mapping| mapping.add_dynamic(parent, name, raw)).map(Some)
                }
            },
        }
    }

    /// Reads a value that the index does not want.
    fn ignore(&mut self) -> Parse<()> {
        self.reader.skip()?;
        Ok(())
    }

    fn multi_field(&self, field: usize, number: usize) -> Option<usize> {
        self.mapping().fields.get(field)?.multi_fields.get(number).copied()
    }

    fn put(&mut self, place: usize, raw: Raw<'_>) -> std::result::Result<(), String> {
        let mapping = self.grown.as_ref().unwrap_or(self.mapping);
        let Some(field) = mapping.fields.get(place) else { return Ok(()) };
        // A field that is neither searched nor sorted has no place in the index, but is checked.
        let kept = field.index || field.doc_values;
        if field.kind.storage() == Storage::Text {
            let text = raw.as_str();
            let too_long = field
                .ignore_above
                .is_some_and(|most| text.len() > most && text.encode_utf16().count() > most);
            if too_long || !kept {
                return Ok(());
            }
            // Keywords, and text that the keyword analyzer leaves whole, are one term.
            if text.len() > TERM_LIMIT_BYTES && field.analyzer == "keyword" {
                return Err(format!(
                    "Document contains at least one immense term in field=\"{}\" (whose UTF8 \
                     encoding is longer than the max length {TERM_LIMIT_BYTES}), all of which \
                     were skipped",
                    field.path
                ));
            }
            let value = keep_text(&mut self.texts, &mut self.values, text);
            self.values.push((place, value));
            return Ok(());
        }
        match convert(field, raw) {
            Ok(Some(value)) if kept => self.push(place, &value),
            Ok(_) => {}
            Err(_) if field.ignore_malformed => {}
            Err(reason) => return Err(reason),
        }
        Ok(())
    }

    /// An explicit null counts as `null_value`, for each multi-field by its own.
    fn null(&mut self, field: usize) {
        let mapping = self.mapping();
        let Some(leaf) = mapping.fields.get(field) else { return };
        let places = std::iter::once(field).chain(leaf.multi_fields.iter().copied());
        let values: Vec<(usize, FieldValue)> = places
            .filter_map(|place| {
                let field = mapping.fields.get(place)?;
                let value = &field.null_value.as_ref()?.value;
                (field.index || field.doc_values).then(|| (place, value.clone()))
            })
            .collect();
        for (place, value) in values {
            self.push(place, &value);
        }
    }

    fn push(&mut self, place: usize, value: &FieldValue) {
        let value = match value {
            FieldValue::Text(text) => keep_text(&mut self.texts, &mut self.values, text),
            FieldValue::I64(value) => Parsed::I64(*value),
            FieldValue::U64(value) => Parsed::U64(*value),
            FieldValue::F64(value) => Parsed::F64(*value),
            FieldValue::Bool(value) => Parsed::Bool(*value),
            FieldValue::Date(micros) => Parsed::Date(*micros),
        };
        self.values.push((place, value));
    }

    /// The value of a key that the mapping does not know.
    fn unknown(&mut self, parent: usize, name: &str) -> Parse<()> {
        match self.mapping().dynamic(parent) {
            Dynamic::False => return self.ignore(),
            Dynamic::Strict => return Err(self.strict(parent, name)),
            Dynamic::True => {}
        }
        match self.reader.peek()? {
            Kind::Null => Ok(self.reader.null()?),
            Kind::Array => {
                let mut array = self.reader.open_array()?;
                while self.reader.next_element(&mut array)? {
                    // The first value that has a type adds the field.
                    match self.mapping().child(parent, name) {
                        Some(node) => self.known(node)?,
                        None => self.unknown(parent, name)?,
                    }
                }
                Ok(())
            }
            Kind::Object => {
                let object = self.grow(|mapping| mapping.add_object(parent, name))?;
                self.object(object)
            }
            Kind::Text => {
                let from = self.reader.position();
                let text = self.reader.string()?;
                self.added(parent, name, Raw::Text(&text), from)
            }
            Kind::Number => {
                let from = self.reader.position();
                let text = self.reader.number()?;
                self.added(parent, name, Raw::Number(text), from)
            }
            Kind::Bool => {
                let from = self.reader.position();
                let value = self.reader.boolean()?;
                self.added(parent, name, Raw::Bool(value), from)
            }
        }
    }

    fn added(&mut self, parent: usize, name: &str, raw: Raw<'_>, from: usize) -> Parse<()> {
        let field = self.grow(|mapping| mapping.add_dynamic(parent, name, raw))?;
        self.scalar(field, raw, from)
    }

    fn grow<T>(&mut self, add: impl FnOnce(&mut Mapping) -> Result<T>) -> Parse<T> {
        let at = self.reader.position();
        let mapping = self.grown.get_or_insert_with(|| self.mapping.clone());
        add(mapping).map_err(|source| Failure::Mapping { source, at })
    }

    fn strict(&self, parent: usize, name: &str) -> Failure {
        let path = self.mapping().objects.get(parent).map_or("", |object| &object.path);
        let path = if path.is_empty() { "_doc" } else { path };
        let message = format!(
            "mapping set to strict, dynamic introduction of [{name}] within [{path}] is not allowed"
        );
        Failure::Shape { message, at: self.reader.position() }
    }

    fn not_an_object(&self, field: usize, key: &str, at: usize) -> Failure {
        let (path, kind) = match self.mapping().fields.get(field) {
            Some(field) => (field.path.as_str(), field.kind.name()),
            None => ("", ""),
        };
        let message = format!(
            "Could not dynamically add mapping for field [{key}]. Existing mapping for [{path}] \
             must be of type object but found [{kind}]."
        );
        Failure::Shape { message, at }
    }

    /// Elasticsearch's message, with line and column before it.
    fn error(&self, failed: Failure) -> Error {
        let place = |at| {
            let (line, column) = line_and_column(self.source.as_bytes(), at);
            format!("[{line}:{column}]")
        };
        match failed {
            Failure::Json(error) => {
                failure(format!("{} failed to parse: {}", place(error.at), error.reason))
                    .with_source(error)
            }
            Failure::Shape { message, at } => failure(format!("{} {message}", place(at))),
            Failure::Mapping { source, at } => {
                failure(format!("{} {}", place(at), source.message())).with_source(source)
            }
            Failure::Value { field, from, to, reason } => {
                let (path, kind) = match self.mapping().fields.get(field) {
                    Some(field) => (field.path.as_str(), field.kind.name()),
                    None => ("", ""),
                };
                let preview = shortened(self.reader.slice(from, to));
                let preview = match preview.strip_prefix('"') {
                    Some(text) => Cow::Borrowed(text.strip_suffix('"').unwrap_or(text)),
                    None => preview,
                };
                failure(format!(
                    "{} failed to parse field [{path}] of type [{kind}] in document with id '{}'. \
                     Preview of field's value: '{preview}'",
                    place(from),
                    self.id
                ))
                .with_source(Error::new(ErrorKind::InvalidArgument, reason))
            }
        }
    }
}

/// Adds a text to the others, unless the value before has just added it: a field and its
/// multi-fields share one.
fn keep_text(texts: &mut String, values: &mut [(usize, Parsed)], text: &str) -> Parsed {
    if let Some((_, Parsed::Text { start, end })) = values.last()
        && texts.get(*start..*end) == Some(text)
    {
        return Parsed::Text { start: *start, end: *end };
    }
    let start = texts.len();
    texts.push_str(text);
    Parsed::Text { start, end: texts.len() }
}

fn failure(message: String) -> Error {
    Error::new(ErrorKind::DocumentParsing, message)
}
