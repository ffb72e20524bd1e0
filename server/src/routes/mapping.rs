//! `_mapping`: show, and add fields.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::{Map, Value, json};

use super::index::{named, patience};
use super::targets;
use crate::app::App;
use crate::dialect::json::parse_object;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};

const PATIENCE: &[&str] = &["timeout", "master_timeout", "cluster_manager_timeout", "local"];

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
    call.params.allow(&[PATIENCE, targets::PARAMS].concat())?;
    patience(&call.params)?;
    let mut all = Map::new();
    for index in named(app, expression, &call.params)? {
        all.insert(index.name().into(), json!({"mappings": index.mapping().to_json()}));
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
    call.params.boolean("write_index_only")?;
    if call.body.is_empty() {
        return Err(Error::validation("mapping source is missing"));
    }
    let addition = Value::Object(parse_object(&call.body)?);
    let indexes = named(&app, &expression, &call.params)?;
    if indexes.is_empty() {
        return Err(targets::missing(&expression));
    }
    let add = move || {
        indexes.iter().try_for_each(|index| {
            index.put_mapping(&addition).map_err(|error| error.with_index(index.name()).into())
        })
    };
    app.pools.manage.run(add).await?;
    Ok(Reply::ok(&json!({"acknowledged": true})))
}
