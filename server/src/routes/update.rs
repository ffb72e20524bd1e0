//! `_update`: part of a document.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_engine::batch::WriteOp;

use super::{document, write};
use crate::app::App;
use crate::dialect::bulk;
use crate::error::Result;
use crate::http::{Call, Reply};

pub(super) async fn update(
    State(app): State<Arc<App>>,
    Path((index, id)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    // One writer makes every update, so none loses a race that would be worth a second attempt.
    let known = ["if_seq_no", "if_primary_term", "retry_on_conflict"];
    call.params.allow(&[write::PARAMS, &known].concat())?;
    call.params.count("retry_on_conflict")?;
    let refresh = write::refresh(&call.params)?;
    let condition = document::condition(&call.params, false)?;
    let patch = bulk::update_body(&call.body)?;
    let op = WriteOp::Patch { id, previous_id: None, patch, condition };
    let (index, applied) = write::one(&app, &index, op, refresh).await?;
    let (_, status) = write::result_name(applied.result);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    Ok(Reply::json(status, &write::Answer::new(index.name(), &applied, refresh)))
}
