//! `_index_template`.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::catalog::pattern::matches;
use egret_engine::catalog::{Catalog, IndexTemplate, Template};
use serde_json::{Value, json};

use super::{change, chosen, deleting, not_found, putting, reading, shape, status, texts};
use crate::app::App;
use crate::dialect::template;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};

/// What a template that is only simulated is called: no other has a name like this.
const OWN: &str = "_simulated";

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
    let found = chosen(&catalog.index_templates, names);
    let found = found.ok_or_else(|| not_found("index template", names))?;
    let shown = found.into_iter().map(|(name, template)| {
        json!({"name": name, "index_template": shape(template, &["template"], flat)})
    });
    Ok(Reply::ok(&json!({"index_templates": shown.collect::<Vec<_>>()})))
}

pub(in crate::routes) async fn exists(
    State(app): State<Arc<App>>,
    Path(names): Path<String>,
    call: Call,
) -> Result<Reply> {
    reading(&call)?;
    let catalog = app.engine.catalog();
    let found = chosen(&catalog.index_templates, &names);
    Ok(status(found.is_some_and(|found| !found.is_empty())))
}

pub(in crate::routes) async fn put(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    let (create, body) = putting(&call)?;
    let (template, engine) = (template::index(&body)?, Arc::clone(&app.engine));
    change(&app, move || engine.put_index_template(&name, template, create)).await
}

pub(in crate::routes) async fn delete(
    State(app): State<Arc<App>>,
    Path(names): Path<String>,
    call: Call,
) -> Result<Reply> {
    deleting(&call)?;
    let engine = Arc::clone(&app.engine);
    change(&app, move || engine.delete_index_templates(&texts(&names))).await
}

/// What a new index of this name would begin with, were the body's template there too.
pub(in crate::routes) async fn simulate_index(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    let (_, body) = putting(&call)?;
    let catalog = app.engine.catalog();
    let own = (!body.is_empty()).then(|| template::index(&body)).transpose()?;
    let own = match own {
        Some(own) => {
            catalog.check_index_template(OWN, &own)?;
            let fits = own.index_patterns.iter().any(|pattern| matches(pattern, &name));
            Some(own).filter(|_| fits)
        }
        None => None,
    };
    let there = catalog.index_template(&name);
    let there = there.filter(|(_, it)| {
        own.as_ref().is_none_or(|own| it.priority.unwrap_or(0) > own.priority.unwrap_or(0))
    });
    let (taken, template) = match (there, &own) {
        (Some((name, template)), _) => (name, template),
        (None, Some(own)) => (OWN, own),
        (None, None) => return Ok(Reply::ok(&json!({}))),
    };
    let overlapping = catalog.overlapping(std::slice::from_ref(&name), taken);
    simulated(&catalog, template, &overlapping)
}

/// What a template comes to: the body's, or the one of this name.
pub(in crate::routes) async fn simulate(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    show_simulated(&app, &call, &name)
}

pub(in crate::routes) async fn simulate_body(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Reply> {
    show_simulated(&app, &call, OWN)
}

fn show_simulated(app: &App, call: &Call, name: &str) -> Result<Reply> {
    let (_, body) = putting(call)?;
    let catalog = app.engine.catalog();
    let template = if body.is_empty() {
        let there = catalog.index_templates.get(name).cloned();
        there.ok_or_else(|| {
            Error::argument(format!("unable to simulate template [{name}] that does not exist"))
        })?
    } else {
        let own = template::index(&body)?;
        catalog.check_index_template(name, &own)?;
        own
    };
    let overlapping = catalog.overlapping(&template.index_patterns, name);
    simulated(&catalog, &template, &overlapping)
}

fn simulated(
    catalog: &Catalog,
    template: &IndexTemplate,
    overlapping: &[(&str, &[String])],
) -> Result<Reply> {
    let Template { settings, mappings, aliases } = catalog.composed(template)?;
    let object = |value: Value| if value.is_null() { json!({}) } else { value };
    let overlapping = overlapping
        .iter()
        .map(|(name, patterns)| json!({"name": name, "index_patterns": patterns}));
    Ok(Reply::ok(&json!({
        "template": {
            "settings": object(settings),
            "mappings": object(mappings),
            "aliases": aliases.unwrap_or_default(),
        },
        "overlapping": overlapping.collect::<Vec<_>>(),
    })))
}
