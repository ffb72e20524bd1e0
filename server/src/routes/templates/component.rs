//! `_component_template`.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::json;

use super::{change, chosen, deleting, not_found, putting, reading, shape, status, texts};
use crate::app::App;
use crate::dialect::template;
use crate::error::Result;
use crate::http::{Call, Reply};

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
    let found = chosen(&catalog.component_templates, names);
    let found = found.ok_or_else(|| not_found("component template", names))?;
    let shown = found.into_iter().map(|(name, template)| {
        json!({"name": name, "component_template": shape(template, &["template"], flat)})
    });
    Ok(Reply::ok(&json!({"component_templates": shown.collect::<Vec<_>>()})))
}

pub(in crate::routes) async fn exists(
    State(app): State<Arc<App>>,
    Path(names): Path<String>,
    call: Call,
) -> Result<Reply> {
    reading(&call)?;
    let catalog = app.engine.catalog();
    let found = chosen(&catalog.component_templates, &names);
    Ok(status(found.is_some_and(|found| !found.is_empty())))
}

pub(in crate::routes) async fn put(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    let (create, body) = putting(&call)?;
    let (template, engine) = (template::component(&body)?, Arc::clone(&app.engine));
    change(&app, move || engine.put_component_template(&name, template, create)).await
}

pub(in crate::routes) async fn delete(
    State(app): State<Arc<App>>,
    Path(names): Path<String>,
    call: Call,
) -> Result<Reply> {
    deleting(&call)?;
    let engine = Arc::clone(&app.engine);
    change(&app, move || engine.delete_component_templates(&texts(&names))).await
}
