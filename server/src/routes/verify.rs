//! `/_cdc/{pipeline}/verify`: what was proven of a pipeline's tables, and a round of proof now.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_cdc::VerifyOptions;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};

/// What was proven and when, what has drifted, and how far the present round is.
pub(super) async fn report(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[])?;
    Ok(Reply::ok(&shown(&app, &name)?))
}

fn shown(app: &App, name: &str) -> Result<Value> {
    let mut shown = json!(app.pipelines.named(name)?.verification());
    shown["pipeline"] = name.into();
    Ok(shown)
}

/// Begins a round now, and answers at once or after its end.
pub(super) async fn start(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&["table", "repair", "rows_per_second", "wait_for_completion"])?;
    let rows_per_second = call.params.count("rows_per_second")?.map(|rows| rows as u64);
    let table = call.params.text("table").map(str::to_owned);
    if table.as_ref().is_some_and(String::is_empty) {
        return Err(Error::argument("[table] is empty: schema.table"));
    }
    let repair = call.params.is_true("repair")?;
    let waits = call.params.is_true("wait_for_completion")?;
    let pipeline = app.pipelines.named(&name)?;
    let round = pipeline.verify(VerifyOptions { table, repair, rows_per_second }).await?;
    if !waits {
        let answer = json!({"acknowledged": true, "pipeline": name, "round": round});
        return Ok(Reply::ok(&answer));
    }
    pipeline.verified(round).await;
    Ok(Reply::ok(&shown(&app, &name)?))
}
