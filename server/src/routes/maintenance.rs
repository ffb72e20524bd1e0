//! `_refresh` and `_flush`: publish, and make durable.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::Index;
use serde_json::json;

use super::targets;
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};

pub(super) async fn refresh_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    run(&app, &call, "_all", &[], Index::refresh).await
}

pub(super) async fn refresh(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    run(&app, &call, &expression, &[], Index::refresh).await
}

/// A flush always waits for one in progress, and one with nothing to do does nothing.
const FLUSH: &[&str] = &["force", "wait_if_ongoing"];

pub(super) async fn flush_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    run(&app, &call, "_all", FLUSH, Index::flush).await
}

pub(super) async fn flush(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    run(&app, &call, &expression, FLUSH, Index::flush).await
}

async fn run(
    app: &App,
    call: &Call,
    expression: &str,
    known: &[&str],
    act: fn(&Index) -> egret_engine::Result<()>,
) -> Result<Reply> {
    call.params.allow(&[targets::PARAMS, known].concat())?;
    known.iter().try_for_each(|key| call.params.boolean(key).map(drop))?;
    let waits = call.params.boolean("wait_if_ongoing")?.unwrap_or(true);
    if call.params.is_true("force")? && !waits {
        return Err(Error::validation("wait_if_ongoing must be true for a force flush"));
    }
    let indexes = targets::open(app, expression, &call.params)?;
    let count = indexes.len();
    let act = move || {
        indexes
            .iter()
            .try_for_each(|index| act(index).map_err(|error| error.with_index(index.name()).into()))
    };
    app.pools.manage.run(act).await?;
    Ok(Reply::ok(&json!({"_shards": {"total": count, "successful": count, "failed": 0}})))
}
