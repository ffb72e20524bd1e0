//! Documents by id: `_doc`, `_create`, `_source`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_engine::batch::{Condition, WriteOp};
use egret_engine::search::request::SourceFilter;
use egret_engine::snapshot::StoredDocument;
use egret_engine::{Checkpoint, ErrorKind, Index};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::{freshness, targets, write};
use crate::app::App;
use crate::dialect::bulk;
use crate::dialect::json::Field;
use crate::dialect::source;
use crate::error::{Error, Kind, Result};
use crate::http::{Call, Params, Reply};
use crate::identity::new_id;

const CONDITIONS: &[&str] = &["if_seq_no", "if_primary_term", "version", "version_type", "op_type"];
const READING: &[&str] = &[
    "_source",
    "_source_includes",
    "_source_excludes",
    "stored_fields",
    "version",
    "version_type",
    "realtime",
    "refresh",
    "preference",
];

pub(super) async fn index(
    State(app): State<Arc<App>>,
    Path((index, id)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    put(&app, &index, Some(id), &call, false).await
}

pub(super) async fn index_without_id(
    State(app): State<Arc<App>>,
    Path(index): Path<String>,
    call: Call,
) -> Result<Reply> {
    put(&app, &index, None, &call, false).await
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    Path((index, id)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    put(&app, &index, Some(id), &call, true).await
}

async fn put(
    app: &App,
    index: &str,
    id: Option<String>,
    call: &Call,
    create: bool,
) -> Result<Reply> {
    call.params.allow(&[write::PARAMS, CONDITIONS].concat())?;
    let refresh = write::refresh(&call.params)?;
    if call.body.is_empty() {
        return Err(Error::new(Kind::Content, "request body is required"));
    }
    let create = create || op_type(&call.params)?;
    // A new id is nobody else's, so that nothing is to be checked.
    let condition = condition(&call.params, create)?;
    if id.is_none() && matches!(condition, Condition::External { .. }) {
        return Err(Error::validation(bulk::NO_ID));
    }
    let id = id.unwrap_or_else(new_id);
    let op = WriteOp::Upsert { id, source: call.body.clone(), condition };
    let (index, applied) = write::one(app, index, write::alone(op, refresh)).await?;
    let (_, status) = write::result_name(applied.result);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let id = utf8_percent_encode(&applied.id, NON_ALPHANUMERIC).to_string();
    let place = format!("/{}/_doc/{id}", index.name());
    Ok(Reply::json(status, &write::Answer::new(index.name(), &applied, refresh))
        .with("location", &place))
}

fn op_type(params: &Params) -> Result<bool> {
    params.filled("op_type").map_or(Ok(false), |text| {
        bulk::op_type(&Field::new("index", "op_type", &Value::from(text)))
    })
}

/// What must hold for the write.
pub(super) fn condition(params: &Params, create: bool) -> Result<Condition> {
    let number = |key| Ok::<_, Error>(params.count(key)?.map(|number| number as u64));
    let versioning = bulk::Versioning {
        create,
        seq_no: number("if_seq_no")?,
        term: number("if_primary_term")?,
        version: number("version")?,
        version_type: version_type(params)?,
    };
    versioning.condition()
}

fn version_type(params: &Params) -> Result<bulk::VersionType> {
    params.filled("version_type").map_or(Ok(bulk::VersionType::default()), bulk::version_type)
}

/// Refuses a document whose version is not the one that the request expects.
fn expect_version(params: &Params, found: Option<&StoredDocument>, index: &str) -> Result<()> {
    version_type(params)?;
    let (Some(expected), Some(found)) = (params.count("version")?, found) else { return Ok(()) };
    if found.version == expected as u64 {
        return Ok(());
    }
    let reason = format!(
        "[{}]: version conflict, current version [{}] is different than the one provided \
         [{expected}]",
        found.id, found.version
    );
    Err(Error::new(Kind::Engine(ErrorKind::VersionConflict), reason).with_index(index))
}

/// Egret stores no field beside the source, which those who name fields get only by name.
fn stored_fields(params: &Params, filter: SourceFilter) -> Result<SourceFilter> {
    let names = params.list("stored_fields");
    let with_source = crate::dialect::search::stored_fields(&names)?;
    let asked = ["_source", "_source_includes", "_source_excludes"];
    if names.is_empty() || with_source || asked.iter().any(|key| params.has(key)) {
        return Ok(filter);
    }
    Ok(SourceFilter::None)
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path((index, id)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[write::PARAMS, CONDITIONS].concat())?;
    let refresh = write::refresh(&call.params)?;
    let condition = condition(&call.params, false)?;
    let op = WriteOp::Delete { id, condition };
    let (index, applied) = write::one(&app, &index, write::alone(op, refresh)).await?;
    let (_, status) = write::result_name(applied.result);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    Ok(Reply::json(status, &write::Answer::new(index.name(), &applied, refresh)))
}

/// Reads a document, the newest unless the request wants what is published.
pub(super) async fn find(
    app: &App,
    index: &Arc<Index>,
    id: &str,
    params: &Params,
) -> Result<Option<StoredDocument>> {
    let realtime = params.boolean("realtime")?.unwrap_or(true);
    let refresh = params.is_true("refresh")?;
    let (index, id) = (Arc::clone(index), id.to_owned());
    app.pools
        .read
        .run(move || {
            if refresh {
                index.refresh()?;
            }
            Ok(if realtime { index.document(&id)? } else { index.published_document(&id)? })
        })
        .await
}

/// What a request to read one document finds.
struct Looked {
    index: Arc<Index>,
    found: Option<StoredDocument>,
    /// The positions that the answer may promise.
    checkpoints: Vec<Option<Checkpoint>>,
}

/// Reads the document that a request names, when what it waits for is there and if it has the version
/// that it expects.
async fn look(app: &App, call: &Call, index: &str, id: &str) -> Result<Looked> {
    call.params.allow(&[READING, freshness::PARAMS].concat())?;
    let mut index = targets::single(app, index)?;
    freshness::wait(app, &call.params, &call.headers, std::slice::from_mut(&mut index)).await?;
    // Taken before the document is read, so that they promise no more than was seen.
    let (_, checkpoints) = freshness::snapshots(std::slice::from_ref(&index));
    let found = find(app, &index, id, &call.params).await?;
    expect_version(&call.params, found.as_ref(), index.name())?;
    Ok(Looked { index, found, checkpoints })
}

/// The part of a document that the parameters ask for.
pub(super) fn source_filter(params: &Params) -> SourceFilter {
    let includes = [params.list("_source_includes"), params.list("_source_include")].concat();
    let excludes = [params.list("_source_excludes"), params.list("_source_exclude")].concat();
    match params.text("_source") {
        Some("false") => SourceFilter::None,
        None | Some("" | "true") => source::paths(includes, excludes),
        Some(text) => {
            let named = text.split(',').filter(|name| !name.is_empty()).map(str::to_owned);
            source::paths(named.chain(includes).collect(), excludes)
        }
    }
}

pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path((index, id)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    let filter = stored_fields(&call.params, source_filter(&call.params))?;
    let Looked { index, found, checkpoints } = look(&app, &call, &index, &id).await?;
    let status = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let body = written(index.name(), &id, found.as_ref(), &filter)?;
    Ok(freshness::mark(Reply::raw_json(status, body), checkpoints.into_iter()))
}

/// A document's JSON, its source verbatim.
pub(super) fn written(
    index: &str,
    id: &str,
    found: Option<&StoredDocument>,
    filter: &SourceFilter,
) -> Result<Vec<u8>> {
    let mut head = Map::new();
    head.insert("_index".into(), index.into());
    head.insert("_id".into(), id.into());
    let Some(document) = found else {
        head.insert("found".into(), false.into());
        return Ok(Value::Object(head).to_string().into_bytes());
    };
    head.insert("_version".into(), document.version.into());
    head.insert("_seq_no".into(), document.seq_no.0.into());
    head.insert("_primary_term".into(), document.term.into());
    head.insert("found".into(), true.into());
    let mut body = Value::Object(head).to_string().into_bytes();
    if let Some(source) = source::apply(filter, &document.source)? {
        body.pop();
        body.extend_from_slice(b",\"_source\":");
        body.extend_from_slice(&source);
        body.push(b'}');
    }
    Ok(body)
}

pub(super) async fn source(
    State(app): State<Arc<App>>,
    Path((index, id)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    let filter = source_filter(&call.params);
    if filter == SourceFilter::None {
        return Err(Error::validation("fetching source can not be disabled"));
    }
    let Looked { index, found, checkpoints } = look(&app, &call, &index, &id).await?;
    let source = found.map(|found| source::apply(&filter, &found.source)).transpose()?.flatten();
    let source = source.ok_or_else(|| {
        let reason = format!("Document not found [{}]/[{id}]", index.name());
        Error::new(Kind::NotFound, reason)
    })?;
    let reply = Reply::raw_json(StatusCode::OK, source);
    Ok(freshness::mark(reply, checkpoints.into_iter()))
}

/// The answer about a document that cannot be read, for `_mget`.
pub(super) fn failed(index: &str, id: &str, error: &Error) -> Value {
    let shown = crate::http::errors::body(error);
    json!({"_index": index, "_id": id, "error": shown["error"]})
}
