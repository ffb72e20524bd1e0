//! Indexes: create, show, delete, exists, open, close.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_cdc::status::PipelineState;
use egret_engine::catalog::resolve::Expansion;
use egret_engine::catalog::{IndexEntry, date_name};
use egret_engine::{ErrorKind, IndexDefinition};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::targets::{self, Access};
use super::{settings, write};
use crate::app::App;
use crate::cached_search::uuid_of;
use crate::dialect::alias;
use crate::dialect::json::{Field, did_you_mean, parse_object};
use crate::error::{Error, Kind, Result};
use crate::http::{Call, Params, Reply};

/// Parameters that one node always fulfils at once.
pub(super) const PATIENCE: &[&str] = &["timeout", "master_timeout", "cluster_manager_timeout"];

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
    let name = date_name::resolve(&name)?.into_owned();
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
            "aliases" => {
                definition.aliases = alias::read_all(&Field::new("create index", key, value))?;
            }
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
    let known = ["flat_settings", "include_defaults", "local", "features"];
    call.params.allow(&[PATIENCE, targets::PARAMS, &known].concat())?;
    patience(&call.params)?;
    let flat = call.params.is_true("flat_settings")?;
    let defaults = call.params.is_true("include_defaults")?;
    let features = call.params.list("features");
    for feature in &features {
        if !matches!(feature.as_str(), "aliases" | "mappings" | "settings") {
            return Err(Error::argument(format!("[features] has no [{feature}]")));
        }
    }
    let wanted = |feature: &str| features.is_empty() || features.iter().any(|name| name == feature);
    let mut all = Map::new();
    for (name, entry) in targets::shown(&app, &expression, &call.params)? {
        let mut one = Map::new();
        if wanted("aliases") {
            one.insert("aliases".into(), json!(entry.aliases));
        }
        if wanted("mappings") {
            one.insert("mappings".into(), app.engine.mapping(&name)?.to_json());
        }
        if wanted("settings") {
            one.insert("settings".into(), settings::of(&name, &entry, flat));
        }
        if defaults {
            one.insert("defaults".into(), settings::defaults(&app, &entry, flat));
        }
        all.insert(name, Value::Object(one));
    }
    Ok(Reply::ok(&all))
}

pub(super) async fn exists(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    let known = ["flat_settings", "include_defaults", "local"];
    call.params.allow(&[PATIENCE, targets::PARAMS, &known].concat())?;
    let found = match targets::entries(&app, &expression, &call.params, targets::METADATA) {
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
    require_name(&app, &expression)?;
    let defaults = Expansion { allow_no_indices: true, ..Expansion::OPEN_AND_CLOSED };
    let entries = targets::entries(&app, &expression, &call.params, defaults)?;
    for (name, entry) in &entries {
        targets::refuse_blocked(name, targets::blocks(entry), Access::Delete)?;
    }
    let (names, uuids): (Vec<String>, Vec<String>) =
        entries.into_iter().map(|(name, entry)| (name, entry.uuid)).unzip();
    let engine = Arc::clone(&app.engine);
    let (orphans, names): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| is_orphan(&app, name));
    let delete = move || {
        engine.delete_indexes(&names)?;
        orphans.iter().try_for_each(|name| Ok(engine.delete_index(name, true)?))
    };
    app.pools.manage.run(delete).await?;
    purge(&app, uuids.iter().filter_map(|uuid| uuid_of(uuid)));
    Ok(Reply::ok(&json!({"acknowledged": true})))
}

/// Whether an index has followed a pipeline that was dropped, or whose tables it is none of any more. A
/// pipeline that is not connected does not know all of its tables.
fn is_orphan(app: &App, name: &str) -> bool {
    let index = app.engine.index(name).ok();
    let Some(pipeline) = index.as_ref().and_then(|index| index.pipeline()) else { return false };
    let Some(pipeline) = app.pipelines.get(pipeline) else { return true };
    let status = pipeline.status();
    status.state == PipelineState::Streaming && status.tables.iter().all(|it| it.index != name)
}

/// Refuses patterns where the configuration wants names.
fn require_name(app: &App, expression: &str) -> Result<()> {
    let is_pattern = |part: &str| part.is_empty() || part == "_all" || part.contains('*');
    if app.config.engine.destructive_requires_name && expression.split(',').any(is_pattern) {
        return Err(Error::argument("Wildcard expressions or all indices are not allowed"));
    }
    Ok(())
}

/// Forgets the answers of indexes that are gone.
pub(super) fn purge(app: &App, uuids: impl Iterator<Item = Uuid>) {
    if let Some(cache) = &app.cache {
        uuids.for_each(|uuid| cache.purge(uuid));
    }
}

pub(super) async fn close(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[PATIENCE, targets::PARAMS, &["wait_for_active_shards"]].concat())?;
    require_name(&app, &expression)?;
    let defaults = Expansion { aliases: true, closed: false, ..Expansion::OPEN_AND_CLOSED };
    let entries = changed(&app, &expression, &call.params, defaults)?;
    let names: Vec<String> = entries.into_iter().map(|(name, _)| name).collect();
    let closed: Map<String, Value> =
        names.iter().map(|name| (name.clone(), json!({"closed": true}))).collect();
    let engine = Arc::clone(&app.engine);
    let close = move || Ok(names.iter().try_for_each(|name| engine.close_index(name))?);
    app.pools.manage.run(close).await?;
    Ok(Reply::ok(&json!({
        "acknowledged": true,
        "shards_acknowledged": true,
        "indices": closed,
    })))
}

pub(super) async fn open(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[PATIENCE, targets::PARAMS, &["wait_for_active_shards"]].concat())?;
    let defaults = Expansion { aliases: true, open: false, ..Expansion::OPEN_AND_CLOSED };
    let entries = changed(&app, &expression, &call.params, defaults)?;
    let engine = Arc::clone(&app.engine);
    let open = move || Ok(entries.iter().try_for_each(|(name, _)| engine.open_index(name))?);
    app.pools.manage.run(open).await?;
    Ok(Reply::ok(&json!({"acknowledged": true, "shards_acknowledged": true})))
}

/// The indexes to open or close.
fn changed(
    app: &App,
    expression: &str,
    params: &Params,
    defaults: Expansion,
) -> Result<Vec<(String, IndexEntry)>> {
    patience(params)?;
    targets::changed(app, expression, params, defaults)
}
