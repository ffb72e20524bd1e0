//! `_bulk`: lines of JSON into operations.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use egret_engine::batch::{Condition, Patch, WriteOp};
use egret_engine::position::SeqNo;
use egret_engine::search::request::SourceFilter;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::json::{Field, parse};
use super::source;
use crate::error::{Error, Result};

/// What an item asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Index,
    Create,
    Update,
    Delete,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// What applies to items that do not say otherwise.
#[derive(Debug, Clone, Default)]
pub(crate) struct Defaults {
    pub(crate) index: Option<Arc<str>>,
}

/// One item: a line, or two.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) action: Action,
    pub(crate) index: Arc<str>,
    /// `None`: one is to be made.
    pub(crate) id: Option<String>,
    pub(crate) condition: Condition,
    pub(crate) body: Body,
}

/// What an item carries.
#[derive(Debug)]
pub(crate) enum Body {
    Nothing,
    Document(Bytes),
    Patch(Patch),
    /// A body that is wrong, which fails this item alone.
    Wrong(Error),
}

/// Splits a bulk body into items. What is wrong with an action line fails the whole request.
pub(crate) fn read(body: &Bytes, defaults: &Defaults) -> Result<Vec<Item>> {
    if body.last().is_some_and(|last| *last != b'\n') {
        return Err(Error::argument("The bulk request must be terminated by a newline [\\n]"));
    }
    let mut lines = Lines::of(body);
    let mut items = Vec::new();
    while let Some(line) = lines.next() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let mut item = action_line(&line, lines.number, defaults)?;
        if item.action != Action::Delete {
            let source = lines.next().ok_or_else(|| {
                Error::argument("The bulk request must be terminated by a newline [\\n]")
            })?;
            item.body = match item.action {
                Action::Update => item_patch(&source).map_or_else(Body::Wrong, Body::Patch),
                _ => Body::Document(trimmed(&source)),
            };
        }
        items.push(item);
    }
    if items.is_empty() {
        return Err(Error::validation("no requests added"));
    }
    Ok(items)
}

/// The lines of a body.
pub(crate) struct Lines<'b> {
    body: &'b Bytes,
    at: usize,
    number: usize,
}

impl<'b> Lines<'b> {
    pub(crate) fn of(body: &'b Bytes) -> Self {
        Self { body, at: 0, number: 0 }
    }

    /// The next line, without its end.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let rest = self.body.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = self.body.slice(self.at..self.at + length);
        self.at += length + 1;
        self.number += 1;
        Some(line)
    }
}

/// A line without a carriage return or spaces around it.
fn trimmed(line: &Bytes) -> Bytes {
    line.slice_ref(line.trim_ascii())
}

/// Action lines as nearly all are: one action, with nothing but an index and an id as text.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Plain<'a> {
    #[serde(borrow)]
    Index(PlainMetadata<'a>),
    #[serde(borrow)]
    Create(PlainMetadata<'a>),
    #[serde(borrow)]
    Update(PlainMetadata<'a>),
    #[serde(borrow)]
    Delete(PlainMetadata<'a>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainMetadata<'a> {
    #[serde(borrow, rename = "_index")]
    index: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "_id")]
    id: Option<Cow<'a, str>>,
}

/// Reads a plain action line; whatever else it is, is for [`action_line`] to read or to refuse.
fn plain_action_line(line: &[u8], defaults: &Defaults) -> Option<Item> {
    let (action, metadata) = match serde_json::from_slice(line).ok()? {
        Plain::Index(metadata) => (Action::Index, metadata),
        Plain::Create(metadata) => (Action::Create, metadata),
        Plain::Update(metadata) => (Action::Update, metadata),
        Plain::Delete(metadata) => (Action::Delete, metadata),
    };
    if metadata.id.is_none() && matches!(action, Action::Update | Action::Delete) {
        return None;
    }
    let index = metadata.index.map(Arc::from).or_else(|| defaults.index.clone())?;
    let condition = if action == Action::Create { Condition::Absent } else { Condition::None };
    let id = metadata.id.map(Cow::into_owned);
    Some(Item { action, index, id, condition, body: Body::Nothing })
}

fn action_line(line: &Bytes, number: usize, defaults: &Defaults) -> Result<Item> {
    if let Some(item) = plain_action_line(line, defaults) {
        return Ok(item);
    }
    let malformed = |what: String| {
        Error::argument(format!("Malformed action/metadata line [{number}], {what}"))
    };
    let value = parse(line)
        .map_err(|error| malformed(format!("not JSON: {}", error.reason())).caused_by(error))?;
    let Value::Object(object) = value else {
        return Err(malformed("expected START_OBJECT".into()));
    };
    let mut entries = object.into_iter();
    let Some((name, metadata)) = entries.next() else {
        return Err(malformed("expected FIELD_NAME but found [END_OBJECT]".into()));
    };
    let action = match name.as_str() {
        "index" => Action::Index,
        "create" => Action::Create,
        "update" => Action::Update,
        "delete" => Action::Delete,
        _ => {
            return Err(malformed(format!(
                "expected field [create], [delete], [index] or [update] but found [{name}]"
            )));
        }
    };
    if entries.next().is_some() {
        return Err(malformed("expected END_OBJECT but found [FIELD_NAME]".into()));
    }
    let Value::Object(metadata) = metadata else {
        return Err(malformed("expected START_OBJECT".into()));
    };
    metadata_of(action, &metadata, number, defaults)
}

fn metadata_of(
    action: Action,
    metadata: &Map<String, Value>,
    number: usize,
    defaults: &Defaults,
) -> Result<Item> {
    let mut index = None;
    let mut id = None;
    let mut wanted = Versioning { create: action == Action::Create, ..Versioning::default() };
    for (key, value) in metadata {
        let field = Field::new("bulk", key, value);
        match key.as_str() {
            "_index" => index = Some(Arc::from(field.text()?)),
            "_id" if value.is_null() => {}
            "_id" => id = Some(field.text()?),
            "if_seq_no" => wanted.seq_no = Some(field.count()? as u64),
            "if_primary_term" => wanted.term = Some(field.count()? as u64),
            "version" | "version_type" if action == Action::Update => {
                return Err(Error::validation(
                    "Update requests do not support versioning. Please use `if_seq_no` and \
                     `if_primary_term` instead",
                ));
            }
            "version" => wanted.version = Some(field.count()? as u64),
            "version_type" => wanted.version_type = version_type(&field.text()?)?,
            "op_type" if action == Action::Index => wanted.create |= op_type(&field)?,
            "require_alias" => {
                if field.boolean()? {
                    return Err(Error::argument("[require_alias] is not supported"));
                }
            }
            // Types are gone since version 8, but shippers still send this one; an update's
            // attempts never lose a race, as one writer makes them.
            "_type" | "retry_on_conflict" => drop(field.text()?),
            _ => {
                return Err(Error::argument(format!(
                    "Action/metadata line [{number}] contains an unknown parameter [{key}]"
                )));
            }
        }
    }
    let index = index.or_else(|| defaults.index.clone());
    let index = index.ok_or_else(|| Error::validation("index is missing"))?;
    if id.is_none() && matches!(action, Action::Update | Action::Delete) {
        return Err(Error::validation("id is missing"));
    }
    let action = if wanted.create { Action::Create } else { action };
    let condition = wanted.condition()?;
    if id.is_none() && matches!(condition, Condition::External { .. }) {
        return Err(Error::validation(NO_ID));
    }
    Ok(Item { action, index, id, condition, body: Body::Nothing })
}

/// `op_type`: whether it is `create`.
pub(crate) fn op_type(field: &Field<'_>) -> Result<bool> {
    let text = field.text()?;
    match text.to_ascii_lowercase().as_str() {
        "create" => Ok(true),
        "index" => Ok(false),
        _ => Err(Error::argument(format!("opType must be 'create' or 'index', found: [{text}]"))),
    }
}

/// A version counted elsewhere is one of a document that is named.
pub(crate) const NO_ID: &str = "an id must be provided if version type or value are set";

/// Who counts a document's versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum VersionType {
    /// Egret.
    #[default]
    Internal,
    /// Somebody else; each must be above the last.
    External,
    /// Somebody else; each must be at least the last.
    ExternalOrEqual,
}

/// `version_type`.
pub(crate) fn version_type(text: &str) -> Result<VersionType> {
    match text.to_ascii_lowercase().as_str() {
        "internal" => Ok(VersionType::Internal),
        "external" | "external_gt" => Ok(VersionType::External),
        "external_gte" => Ok(VersionType::ExternalOrEqual),
        _ => Err(Error::argument(format!("No version type match [{text}]"))),
    }
}

/// What a write says of the document that it meets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Versioning {
    pub(crate) create: bool,
    pub(crate) seq_no: Option<u64>,
    pub(crate) term: Option<u64>,
    pub(crate) version: Option<u64>,
    pub(crate) version_type: VersionType,
}

impl Versioning {
    /// What must hold for the write.
    pub(crate) fn condition(self) -> Result<Condition> {
        let Self { create, seq_no, term, version, version_type } = self;
        let or_equal = match (version_type, version) {
            (VersionType::Internal, None) => return condition(create, seq_no, term),
            (VersionType::Internal, Some(_)) => {
                return Err(Error::validation(
                    "internal versioning can not be used for optimistic concurrency control. \
                     Please use `if_seq_no` and `if_primary_term` instead",
                ));
            }
            (VersionType::External, _) => false,
            (VersionType::ExternalOrEqual, _) => true,
        };
        if create {
            return Err(Error::validation(
                "create operations only support internal versioning. use index instead",
            ));
        }
        if seq_no.is_some() || term.is_some() {
            return Err(Error::validation("compare and write operations can not use versioning"));
        }
        let version = version.ok_or_else(|| {
            let name = if or_equal { "EXTERNAL_GTE" } else { "EXTERNAL" };
            Error::validation(format!("illegal version value [-3] for version type [{name}]"))
        })?;
        Ok(Condition::External { version, or_equal })
    }
}

fn condition(create: bool, seq_no: Option<u64>, term: Option<u64>) -> Result<Condition> {
    match (create, seq_no, term) {
        (false, None, None) => Ok(Condition::None),
        (true, None, None) => Ok(Condition::Absent),
        (false, Some(seq_no), Some(term)) => {
            Ok(Condition::LastChange { seq_no: SeqNo(seq_no), term })
        }
        (true, ..) => Err(Error::validation(
            "create operations do not support compare and set. use index instead",
        )),
        (false, None, Some(term)) => {
            Err(Error::validation(format!("ifSeqNo is unassigned, but primary term is [{term}]")))
        }
        (false, Some(seq_no), None) => {
            Err(Error::validation(format!("ifSeqNo is set to [{seq_no}], but primary term is [0]")))
        }
    }
}

/// The body of an update among others, whose answers are without documents.
fn item_patch(body: &[u8]) -> Result<Patch> {
    match update_body(body)? {
        (patch, None | Some(SourceFilter::None)) => Ok(patch),
        _ => Err(Error::argument("[_source] of [_bulk] is not supported")),
    }
}

/// The body of an update: `doc`, `upsert`, `doc_as_upsert`, `detect_noop`, and `_source`, how much of
/// the document is to come back where it says so.
pub(crate) fn update_body(body: &[u8]) -> Result<(Patch, Option<SourceFilter>)> {
    const KEYS: &[&str] = &["doc", "upsert", "doc_as_upsert", "detect_noop", "_source"];
    let object = match parse(body)? {
        Value::Object(object) => object,
        other => {
            return Err(Error::parsing(format!(
                "[UpdateRequest] expected an object, found [{other}]"
            )));
        }
    };
    let (mut change, mut upsert, mut told) = (None, None, None);
    let (mut doc_as_upsert, mut detect_noop) = (false, true);
    for (key, value) in &object {
        let field = Field::new("UpdateRequest", key, value);
        match key.as_str() {
            "doc" => change = Some(document(&field)?),
            "upsert" => upsert = Some(document(&field)?),
            "doc_as_upsert" => doc_as_upsert = field.boolean()?,
            "detect_noop" => detect_noop = field.boolean()?,
            "_source" => told = Some(source::read(value)?),
            _ => return Err(super::query::unknown_field("UpdateRequest", key, KEYS)),
        }
    }
    let source = change.ok_or_else(|| Error::validation("script or doc is missing"))?;
    if doc_as_upsert {
        upsert = Some(source.clone());
    }
    Ok((Patch::Merge { source, upsert, detect_noop }, told))
}

fn document(field: &Field<'_>) -> Result<Bytes> {
    field.object()?;
    Ok(field.value.to_string().into_bytes().into())
}

/// The engine's operation for an item whose body is in order.
pub(crate) fn operation(item: Item, make_id: impl FnOnce() -> String) -> Result<WriteOp> {
    let Item { action, id, condition, body, .. } = item;
    match (action, body) {
        (_, Body::Wrong(error)) => Err(error),
        (Action::Delete, _) => Ok(WriteOp::Delete { id: id.unwrap_or_default(), condition }),
        (_, Body::Patch(patch)) => {
            Ok(WriteOp::Patch { id: id.unwrap_or_default(), previous_id: None, patch, condition })
        }
        (_, Body::Document(source)) => {
            Ok(WriteOp::Upsert { id: id.unwrap_or_else(make_id), source, condition })
        }
        (_, Body::Nothing) => Err(Error::validation("source is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(body: &'static str) -> Result<Vec<Item>> {
        read(&Bytes::from_static(body.as_bytes()), &Defaults { index: Some("d".into()) })
    }

    #[test]
    fn lines_become_items() {
        let body = "{\"index\":{\"_id\":1,\"_type\":\"_doc\"}}\n{\"a\":1}\r\n\n\
                    {\"create\":{\"_index\":\"x\"}}\n{}\n\
                    {\"delete\":{\"_id\":\"2\",\"if_seq_no\":3,\"if_primary_term\":1}}\n\
                    {\"update\":{\"_id\":\"3\"}}\n{\"doc\":{\"b\":2},\"doc_as_upsert\":true}\n";
        let items = items(body).unwrap();
        let seen: Vec<_> = items
            .iter()
            .map(|item| (item.action.name(), &*item.index, item.id.as_deref(), item.condition))
            .collect();
        assert_eq!(
            seen,
            [
                ("index", "d", Some("1"), Condition::None),
                ("create", "x", None, Condition::Absent),
                ("delete", "d", Some("2"), Condition::LastChange { seq_no: SeqNo(3), term: 1 }),
                ("update", "d", Some("3"), Condition::None),
            ]
        );
        assert!(matches!(&items[0].body, Body::Document(source) if source == "{\"a\":1}"));
        let Body::Patch(Patch::Merge { source, upsert, .. }) = &items[3].body else {
            panic!("{:?}", items[3])
        };
        assert_eq!(
            (source.as_ref(), upsert.as_deref()),
            (&b"{\"b\":2}"[..], Some(&b"{\"b\":2}"[..]))
        );
    }

    #[test]
    fn wrong_lines_fail_the_request() {
        let check = |body: &'static str, reason: &str| {
            assert_eq!(items(body).unwrap_err().reason(), reason, "{body}");
        };
        check("{\"index\":{}}\n{}", "The bulk request must be terminated by a newline [\\n]");
        check("{\"index\":{}}\n", "The bulk request must be terminated by a newline [\\n]");
        check("\n", "Validation Failed: 1: no requests added;");
        check("", "Validation Failed: 1: no requests added;");
        check("[]\n", "Malformed action/metadata line [1], expected START_OBJECT");
        check(
            "{}\n",
            "Malformed action/metadata line [1], expected FIELD_NAME but found [END_OBJECT]",
        );
        check(
            "{\"put\":{}}\n",
            "Malformed action/metadata line [1], expected field [create], [delete], [index] or \
             [update] but found [put]",
        );
        check(
            "{\"index\":{\"x\":1}}\n{}\n",
            "Action/metadata line [1] contains an unknown parameter [x]",
        );
        check("{\"delete\":{}}\n", "Validation Failed: 1: id is missing;");
    }

    #[test]
    fn a_wrong_update_fails_alone() {
        let items = items("{\"update\":{\"_id\":\"1\"}}\n{\"dok\":{}}\n").unwrap();
        let Body::Wrong(error) = &items[0].body else { panic!("{items:?}") };
        assert_eq!(error.reason(), "[UpdateRequest] unknown field [dok] did you mean [doc]?");
    }
}
