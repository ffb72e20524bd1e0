//! `GET /_cdc`: where each pipeline stands.

use std::sync::Arc;

use axum::extract::State;
use serde_json::json;

use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};

pub(super) async fn status(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    let pipelines: Vec<_> = app.pipelines.iter().map(egret_cdc::PipelineHandle::status).collect();
    Ok(Reply::ok(&json!({"pipelines": pipelines})))
}
