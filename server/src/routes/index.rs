//! Indexes: create, show, delete, exists.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_engine::{ErrorKind, Index, IndexDefinition};
use serde_json::{Map, Value, json};

use super::{settings, targets, write};
use crate::app::App;
use crate::cached_search::index_uuid;
use crate::dialect::json::{did_you_mean, parse_object};
use crate::error::{Error, Kind, Result};
use crate::http::{Call, Params, Reply};

/// Parameters that one node always fulfils at once.
const PATIENCE: &[&str] = &["timeout", "master_timeout", "cluster_manager_timeout"];

/// Checks the parameters that one node always fulfils at once.
pub(super) fn patience(params: &Params) -> Result<()> {
    PATIENCE.iter().try_for_each(|key| params.duration(key).map(drop))
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[PATIENCE, &["wait_for_active_shards"]].concat())?;
    patience(&call.params)?;
    write::refresh(&call.params)?;
    let definition = definition(&parse_object(&call.body)?)?;
    let (engine, wanted) = (Arc::clone(&app.engine), name.clone());
    app.pools.manage.run(move || Ok(engine.create_index(&wanted, definition)?)).await?;
    Ok(Reply::ok(&json!({"acknowledged": true, "shards_acknowledged": true, "index": name})))
}

fn definition(body: &Map<String, Value>) -> Result<IndexDefinition> {
    const KEYS: &[&str] = &["mappings", "settings", "aliases"];
    let mut definition = IndexDefinition::default();
    for (key, value) in body {
        match key.as_str() {
            "mappings" => definition.mappings = value.clone(),
            "settings" => definition.settings = value.clone(),
            "aliases" if value.as_object().is_some_and(Map::is_empty) => {}
            "aliases" => return Err(Error::argument("[aliases] are not supported yet")),
            _ => {
                let offer = did_you_mean(key, KEYS);
                return Err(Error::parsing(format!("unknown key [{key}] for create index{offer}")));
            }
        }
    }
    Ok(definition)
}

pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    let known = ["flat_settings", "local", "features"];
    call.params.allow(&[PATIENCE, targets::PARAMS, &known].concat())?;
    let flat = call.params.is_true("flat_settings")?;
    let features = call.params.list("features");
    for feature in &features {
        if !matches!(feature.as_str(), "aliases" | "mappings" | "settings") {
            return Err(Error::argument(format!("[features] has no [{feature}]")));
        }
    }
    let shown = |feature: &str| features.is_empty() || features.iter().any(|name| name == feature);
    let mut all = Map::new();
    for index in named(&app, &expression, &call.params)? {
        let mut one = Map::new();
        if shown("aliases") {
            one.insert("aliases".into(), json!({}));
        }
        if shown("mappings") {
            one.insert("mappings".into(), index.mapping().to_json());
        }
        if shown("settings") {
            one.insert("settings".into(), settings::of(&index, flat));
        }
        all.insert(index.name().to_owned(), Value::Object(one));
    }
    Ok(Reply::ok(&all))
}

/// The indexes that an expression names under a request's parameters.
pub(super) fn named(app: &App, expression: &str, params: &Params) -> Result<Vec<Arc<Index>>> {
    let options = targets::Options::read(params)?;
    targets::resolve(&app.engine, expression, options, app.config.search.max_indexes)
}

pub(super) async fn exists(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[PATIENCE, targets::PARAMS, &["flat_settings", "local"]].concat())?;
    let found = match named(&app, &expression, &call.params) {
        Err(error) if error.kind() == Kind::Engine(ErrorKind::IndexNotFound) => false,
        // A name that no index can have is not there either.
        Err(error) if error.kind() == Kind::Engine(ErrorKind::InvalidIndexName) => false,
        found => !found?.is_empty() || expression.contains('*'),
    };
    let status = if found { StatusCode::OK } else { StatusCode::NOT_FOUND };
    Ok(Reply::raw_json(status, ""))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[PATIENCE, targets::PARAMS].concat())?;
    patience(&call.params)?;
    let indexes = named(&app, &expression, &call.params)?;
    for index in &indexes {
        if let Some(pipeline) = index.pipeline() {
            return Err(Error::new(
                Kind::Engine(ErrorKind::Forbidden),
                format!(
                    "index [{}] follows pipeline [{pipeline}] and cannot be deleted: take its \
                     table out of the pipeline first",
                    index.name()
                ),
            )
            .with_index(index.name()));
        }
    }
    let app_of_delete = Arc::clone(&app);
    let delete = move || indexes.iter().try_for_each(|index| remove(&app_of_delete, index));
    app.pools.manage.run(delete).await?;
    Ok(Reply::ok(&json!({"acknowledged": true})))
}

/// Deletes an index and its answers. Blocking.
fn remove(app: &App, index: &Index) -> Result<()> {
    app.engine.delete_index(index.name(), false)?;
    if let (Some(cache), Some(uuid)) = (&app.cache, index_uuid(index)) {
        cache.purge(uuid);
    }
    Ok(())
}
