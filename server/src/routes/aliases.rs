//! `_alias`: every index has its own name and no other.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Map, json};

use super::index::named;
use super::targets;
use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};

pub(super) async fn read_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    show(&app, &call, "_all")
}

pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, &expression)
}

fn show(app: &App, call: &Call, expression: &str) -> Result<Reply> {
    call.params.allow(&[targets::PARAMS, &["local"]].concat())?;
    let mut all = Map::new();
    for index in named(app, expression, &call.params)? {
        all.insert(index.name().into(), json!({"aliases": {}}));
    }
    Ok(Reply::ok(&all))
}

pub(super) async fn none(Path(name): Path<String>, call: Call) -> Result<Reply> {
    call.params.allow(&[targets::PARAMS, &["local"]].concat())?;
    if name.contains('*') || name == "_all" {
        return Ok(Reply::ok(&json!({})));
    }
    let error = format!("alias [{name}] missing");
    Ok(Reply::json(StatusCode::NOT_FOUND, &json!({"error": error, "status": 404})))
}
