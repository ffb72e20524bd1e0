//! `_settings`: show.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::Index;
use serde_json::{Map, Value, json};

use super::index::named;
use super::{root, targets};
use crate::app::App;
use crate::dialect::source::matches;
use crate::error::Result;
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
    let known = ["flat_settings", "local", "master_timeout"];
    call.params.allow(&[targets::PARAMS, &known].concat())?;
    call.params.duration("master_timeout")?;
    let flat = call.params.is_true("flat_settings")?;
    let wanted =
        |name: &str| names.split(',').any(|pattern| pattern == "_all" || matches(pattern, name));
    let mut all = Map::new();
    for index in named(app, expression, &call.params)? {
        let settings = of(&index, true);
        let kept = settings.as_object().into_iter().flatten().filter(|(name, _)| wanted(name));
        let kept: Map<String, Value> =
            kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        let shown = if flat { kept } else { nested(&kept) };
        all.insert(index.name().into(), json!({"settings": shown}));
    }
    Ok(Reply::ok(&all))
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
pub(super) fn of(index: &Index, flat: bool) -> Value {
    let mut settings = match index.settings() {
        Value::Object(settings) => settings,
        _ => Map::new(),
    };
    let own = settings.entry("index").or_insert_with(|| json!({}));
    if let Value::Object(own) = own {
        for (key, value) in [
            ("number_of_shards", json!("1")),
            ("number_of_replicas", json!("0")),
            ("creation_date", json!(index.created_ms().to_string())),
            ("provided_name", json!(index.name())),
            ("uuid", json!(index.uuid())),
            ("version", json!({"created": root::API_VERSION})),
        ] {
            own.entry(key).or_insert(value);
        }
    }
    let mut settings = Value::Object(settings);
    texts(&mut settings);
    if flat { Value::Object(flattened(&settings)) } else { settings }
}

/// Makes every scalar a text, as Elasticsearch shows settings.
fn texts(value: &mut Value) {
    match value {
        Value::Object(object) => object.values_mut().for_each(texts),
        Value::Array(elements) => elements.iter_mut().for_each(texts),
        Value::Bool(_) | Value::Number(_) => *value = Value::String(value.to_string()),
        Value::Null | Value::String(_) => {}
    }
}

fn flattened(value: &Value) -> Map<String, Value> {
    let mut flat = Map::new();
    flatten("", value, &mut flat);
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
