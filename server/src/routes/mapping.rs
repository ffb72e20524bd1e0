//! `_mapping`: show, and add fields.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::Engine;
use egret_engine::catalog::resolve::{self, Expansion};
use serde_json::{Map, Value, json};

use super::index::{PATIENCE, patience};
use super::targets;
use crate::app::App;
use crate::dialect::json::parse_object;
use crate::error::{Error, Result};
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
    call.params.allow(&[PATIENCE, targets::PARAMS, &["local"]].concat())?;
    patience(&call.params)?;
    let mut all = Map::new();
    for (name, _) in targets::shown(app, expression, &call.params)? {
        let mapping = app.engine.mapping(&name)?.to_json();
        all.insert(name, json!({"mappings": mapping}));
    }
    Ok(Reply::ok(&all))
}

pub(super) async fn add(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[PATIENCE, targets::PARAMS, &["write_index_only"]].concat())?;
    patience(&call.params)?;
    if call.body.is_empty() {
        return Err(Error::validation("mapping source is missing"));
    }
    let addition = Value::Object(parse_object(&call.body)?);
    let mut names = Vec::new();
    if call.params.is_true("write_index_only")? {
        let catalog = app.engine.catalog();
        let index = catalog.write_index(&expression)?;
        names.push(index.ok_or_else(|| resolve::missing(&expression))?.to_owned());
    } else {
        let defaults = Expansion { allow_no_indices: false, ..Expansion::OPEN };
        let entries = targets::changed(&app, &expression, &call.params, defaults)?;
        names.extend(entries.into_iter().map(|(name, _)| name));
    }
    let engine = Arc::clone(&app.engine);
    app.pools.manage.run(move || Ok(add_to_all(&engine, &names, &addition)?)).await?;
    Ok(Reply::ok(&json!({"acknowledged": true})))
}

/// Adds fields to all of these indexes, or to none where one of them refuses. Blocking.
fn add_to_all(engine: &Engine, names: &[String], addition: &Value) -> egret_engine::Result<()> {
    let indexes: Vec<_> = names.iter().map(|name| engine.index(name)).collect::<Result<_, _>>()?;
    for index in &indexes {
        index.mapping().merged(addition).map_err(|error| error.with_index(index.name()))?;
    }
    indexes.iter().try_for_each(|index| index.put_mapping(addition))
}
