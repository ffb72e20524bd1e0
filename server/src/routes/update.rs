//! `_update`: part of a document.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_engine::batch::{Batch, WriteOp};
use egret_engine::search::request::SourceFilter;

use super::{document, write};
use crate::app::App;
use crate::dialect::{bulk, source};
use crate::error::Result;
use crate::http::{Call, Reply};

/// How much of the document comes back with the answer; nothing unless one of these says so.
const SOURCE: &[&str] = &["_source", "_source_includes", "_source_excludes"];

pub(super) async fn update(
    State(app): State<Arc<App>>,
    Path((index, id)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    // One writer makes every update, so none loses a race that would be worth a second attempt.
    let known = ["if_seq_no", "if_primary_term", "retry_on_conflict"];
    call.params.allow(&[write::PARAMS, &known, SOURCE].concat())?;
    call.params.count("retry_on_conflict")?;
    let refresh = write::refresh(&call.params)?;
    let condition = document::condition(&call.params, false)?;
    let (patch, asked) = bulk::update_body(&call.body)?;
    let asked = asked.or_else(|| {
        let by_params = SOURCE.iter().any(|key| call.params.has(key));
        by_params.then(|| document::source_filter(&call.params))
    });
    let asked = asked.unwrap_or(SourceFilter::None);
    let op = WriteOp::Patch { id, previous_id: None, patch, condition };
    let tell_patched = asked != SourceFilter::None;
    let batch = Batch { tell_patched, ..write::alone(op, refresh) };
    let (index, applied) = write::one(&app, &index, batch).await?;
    let (_, status) = write::result_name(applied.result);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut answer = write::Answer::new(index.name(), &applied, refresh);
    let told = applied.source.as_ref().map(|source| source::apply(&asked, source)).transpose()?;
    if let Some(source) = told.flatten() {
        answer = answer.with_source(&source)?;
    }
    Ok(Reply::json(status, &answer))
}
