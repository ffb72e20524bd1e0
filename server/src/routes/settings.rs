//! `_settings`: show and change.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::catalog::pattern::matches;
use egret_engine::catalog::resolve::Expansion;
use egret_engine::catalog::{IndexEntry, IndexState};
use egret_engine::store::settings::{IndexSettings, SettingsUpdate};
use serde_json::{Map, Value, json};

use super::index::{PATIENCE, patience};
use super::{root, targets};
use crate::app::App;
use crate::dialect::json::parse_object;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};

pub(super) async fn read_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    show(&app, &call, "_all", "_all")
}

pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, &expression, "_all")
}

pub(super) async fn read_named_all(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, "_all", &name)
}

pub(super) async fn read_named(
    State(app): State<Arc<App>>,
    Path((expression, name)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, &expression, &name)
}

/// Shows the settings whose flat names fit one of the patterns.
fn show(app: &App, call: &Call, expression: &str, names: &str) -> Result<Reply> {
    let known = ["flat_settings", "include_defaults", "local"];
    call.params.allow(&[PATIENCE, targets::PARAMS, &known].concat())?;
    patience(&call.params)?;
    let flat = call.params.is_true("flat_settings")?;
    let with_defaults = call.params.is_true("include_defaults")?;
    let wanted =
        |name: &str| names.split(',').any(|pattern| pattern == "_all" || matches(pattern, name));
    let chosen = |settings: Value| {
        let all = flattened(&settings).into_iter();
        let kept: Map<String, Value> = all.filter(|(name, _)| wanted(name)).collect();
        if flat { kept } else { nested(&kept) }
    };
    let mut all = Map::new();
    for (name, entry) in targets::shown(app, expression, &call.params)? {
        let mut shown = Map::new();
        shown.insert("settings".into(), chosen(of(&name, &entry, true)).into());
        if with_defaults {
            shown.insert("defaults".into(), chosen(defaults(app, &entry, true)).into());
        }
        all.insert(name, shown.into());
    }
    Ok(Reply::ok(&all))
}

pub(super) async fn update_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    change(&app, &call, "_all").await
}

pub(super) async fn update(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    change(&app, &call, &expression).await
}

async fn change(app: &Arc<App>, call: &Call, expression: &str) -> Result<Reply> {
    let known = ["preserve_existing", "flat_settings"];
    call.params.allow(&[PATIENCE, targets::PARAMS, &known].concat())?;
    patience(&call.params)?;
    let preserve_existing = call.params.is_true("preserve_existing")?;
    let mut body = parse_object(&call.body)?;
    if body.len() == 1
        && let Some(inner @ Value::Object(_)) = body.get_mut("settings")
        && let Value::Object(inner) = inner.take()
    {
        body = inner;
    }
    let settings = Value::Object(body);
    let names = flattened(&settings);
    if names.is_empty() {
        return Err(Error::validation("no settings to update"));
    }
    let options = Expansion { aliases: true, ..Expansion::OPEN_AND_CLOSED };
    // A block does not stand in the way of its own removal.
    let unblocking =
        names.keys().all(|name| name.trim_start_matches("index.").starts_with("blocks."));
    let entries = if unblocking {
        targets::entries(app, expression, &call.params, options)?
    } else {
        targets::changed(app, expression, &call.params, options)?
    };
    let names: Vec<String> = entries.into_iter().map(|(name, _)| name).collect();
    let engine = Arc::clone(&app.engine);
    let options = SettingsUpdate { preserve_existing };
    let update = move || Ok(engine.update_settings(&names, &settings, options)?);
    app.pools.manage.run(update).await?;
    Ok(Reply::ok(&json!({"acknowledged": true})))
}

/// Sets one of the blocks.
pub(super) async fn block(
    State(app): State<Arc<App>>,
    Path((expression, block)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[PATIENCE, targets::PARAMS].concat())?;
    patience(&call.params)?;
    if !matches!(block.as_str(), "metadata" | "read" | "read_only" | "write") {
        return Err(Error::argument(format!("No block found with name {block}")));
    }
    let options = Expansion { aliases: true, ..Expansion::OPEN_AND_CLOSED };
    let entries = targets::changed(&app, &expression, &call.params, options)?;
    let names: Vec<String> = entries.into_iter().map(|(name, _)| name).collect();
    let blocked: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "blocked": true})).collect();
    let engine = Arc::clone(&app.engine);
    let settings = json!({"blocks": {block: true}});
    let update =
        move || Ok(engine.update_settings(&names, &settings, SettingsUpdate::default())?);
    app.pools.manage.run(update).await?;
    Ok(Reply::ok(&json!({
        "acknowledged": true, "shards_acknowledged": true, "indices": blocked,
    })))
}

/// Flat names as objects within objects.
fn nested(flat: &Map<String, Value>) -> Map<String, Value> {
    let mut all = Map::new();
    for (name, value) in flat {
        insert(&mut all, name, value);
    }
    all
}

fn insert(object: &mut Map<String, Value>, name: &str, value: &Value) {
    let Some((first, rest)) = name.split_once('.') else {
        object.insert(name.to_owned(), value.clone());
        return;
    };
    let inner = object.entry(first).or_insert_with(|| json!({}));
    if let Value::Object(inner) = inner {
        insert(inner, rest, value);
    }
}

/// An index's settings with what every index has, all values as texts.
pub(super) fn of(name: &str, entry: &IndexEntry, flat: bool) -> Value {
    let mut settings = match &entry.settings {
        Value::Object(settings) => settings.clone(),
        _ => Map::new(),
    };
    let own = settings.entry("index").or_insert_with(|| json!({}));
    if let Value::Object(own) = own {
        for (key, value) in [
            ("number_of_shards", json!("1")),
            ("number_of_replicas", json!("0")),
            ("creation_date", json!(entry.created_ms.to_string())),
            ("provided_name", json!(name)),
            ("uuid", json!(entry.uuid)),
            ("version", json!({"created": root::API_VERSION})),
        ] {
            own.entry(key).or_insert(value);
        }
        // Closed is what Elasticsearch says with a block of its own.
        if entry.state == IndexState::Closed {
            own.entry("verified_before_close").or_insert(json!("true"));
        }
    }
    let settings = Value::Object(settings);
    if flat { Value::Object(flattened(&settings)) } else { settings }
}

/// What the settings that an index does not have come to.
pub(super) fn defaults(app: &App, entry: &IndexEntry, flat: bool) -> Value {
    let given = flattened(&entry.settings);
    let window = ("max_result_window", app.config.search.max_result_window.to_string());
    let all = IndexSettings::defaults().into_iter().chain([window]);
    let all = all.map(|(name, value)| (format!("index.{name}"), value));
    let missing: Map<String, Value> = all
        .filter(|(name, _)| !given.contains_key(name))
        .map(|(name, value)| (name, json!(value)))
        .collect();
    Value::Object(if flat { missing } else { nested(&missing) })
}

pub(super) fn flattened(value: &Value) -> Map<String, Value> {
    let mut flat = Map::new();
    if value.is_object() {
        flatten("", value, &mut flat);
    }
    flat
}

fn flatten(prefix: &str, value: &Value, flat: &mut Map<String, Value>) {
    let Value::Object(object) = value else {
        flat.insert(prefix.to_owned(), value.clone());
        return;
    };
    let point = if prefix.is_empty() { "" } else { "." };
    for (key, value) in object {
        flatten(&format!("{prefix}{point}{key}"), value, flat);
    }
}
