//! `_template`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_engine::catalog::pattern::matches;
use serde_json::{Map, Value};

use super::{PUTTING, change, chosen, deleting, reading, shape, status, texts};
use crate::app::App;
use crate::dialect::json::parse_object;
use crate::dialect::template;
use crate::error::Result;
use crate::http::{Call, Reply};
use crate::routes::index::{PATIENCE, patience};

pub(in crate::routes) async fn read_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    show(&app, &call, "")
}

pub(in crate::routes) async fn read(
    State(app): State<Arc<App>>,
    Path(names): Path<String>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, &names)
}

fn show(app: &App, call: &Call, names: &str) -> Result<Reply> {
    let flat = reading(call)?;
    let catalog = app.engine.catalog();
    let found = texts(names).iter().filter(|it| !it.contains('*')).count();
    let there = catalog.legacy_templates.iter().filter(|(name, _)| {
        names.is_empty() || names.split(',').any(|pattern| matches(pattern, name))
    });
    let shown: Map<String, Value> =
        there.map(|(name, template)| (name.clone(), shape(template, &[], flat))).collect();
    let code = if shown.is_empty() && found > 0 { StatusCode::NOT_FOUND } else { StatusCode::OK };
    Ok(Reply::json(code, &shown))
}

pub(in crate::routes) async fn exists(
    State(app): State<Arc<App>>,
    Path(names): Path<String>,
    call: Call,
) -> Result<Reply> {
    reading(&call)?;
    let catalog = app.engine.catalog();
    let found = chosen(&catalog.legacy_templates, &names);
    Ok(status(found.is_some_and(|found| !found.is_empty())))
}

pub(in crate::routes) async fn put(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[PATIENCE, PUTTING, &["order"]].concat())?;
    patience(&call.params)?;
    let create = call.params.is_true("create")?;
    let mut template = template::legacy(&parse_object(&call.body)?)?;
    if let Some(order) = call.params.integer("order")? {
        template.order = order;
    }
    let engine = Arc::clone(&app.engine);
    change(&app, move || engine.put_legacy_template(&name, template, create)).await
}

pub(in crate::routes) async fn delete(
    State(app): State<Arc<App>>,
    Path(names): Path<String>,
    call: Call,
) -> Result<Reply> {
    deleting(&call)?;
    let engine = Arc::clone(&app.engine);
    change(&app, move || engine.delete_legacy_templates(&texts(&names))).await
}
