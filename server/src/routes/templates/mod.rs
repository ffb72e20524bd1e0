//! Templates: `_index_template`, `_component_template`, and `_template` of the older kind.

pub(super) mod component;
pub(super) mod index;
pub(super) mod legacy;

use std::collections::BTreeMap;

use axum::http::StatusCode;
use egret_engine::catalog::pattern::matches;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::index::{PATIENCE, patience};
use super::settings::flattened;
use crate::app::App;
use crate::dialect::json::parse_object;
use crate::error::{Error, Kind, Result};
use crate::http::{Call, Reply};

const PUTTING: &[&str] = &["create", "cause"];

/// The templates of a map that the names and patterns choose; `None` where a name is not there.
fn chosen<'a, T>(all: &'a BTreeMap<String, T>, names: &str) -> Option<Vec<(&'a String, &'a T)>> {
    let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
    for name in names.iter().filter(|name| !name.contains('*')) {
        all.get(*name)?;
    }
    let fits = |it: &str| names.is_empty() || names.iter().any(|pattern| matches(pattern, it));
    Some(all.iter().filter(|(name, _)| fits(name)).collect())
}

/// Makes settings flat where the request wants them so.
fn shape(template: &impl Serialize, place: &[&str], flat: bool) -> Value {
    let mut shown = json!(template);
    let mut at = Some(&mut shown);
    for key in place {
        at = at.and_then(|value| value.get_mut(*key));
    }
    if let Some(template) = at.and_then(Value::as_object_mut) {
        for key in ["settings", "mappings"] {
            let is_null = template.get(key).is_some_and(Value::is_null);
            if is_null {
                template.insert(key.to_owned(), json!({}));
            }
        }
        if let Some(settings) = template.get_mut("settings").filter(|_| flat) {
            *settings = flattened(settings).into();
        }
    }
    shown
}

fn not_found(what: &str, names: &str) -> Error {
    Error::new(Kind::NotFound, format!("{what} matching [{names}] not found"))
}

fn status(is_there: bool) -> Reply {
    Reply::raw_json(if is_there { StatusCode::OK } else { StatusCode::NOT_FOUND }, "")
}

fn texts(names: &str) -> Vec<String> {
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Makes a change on a thread that may block.
async fn change(
    app: &App,
    act: impl FnOnce() -> egret_engine::Result<()> + Send + 'static,
) -> Result<Reply> {
    app.pools.manage.run(move || Ok(act()?)).await?;
    Ok(Reply::ok(&json!({"acknowledged": true})))
}

fn reading(call: &Call) -> Result<bool> {
    call.params.allow(&[PATIENCE, &["flat_settings", "local", "include_defaults"]].concat())?;
    patience(&call.params)?;
    call.params.is_true("flat_settings")
}

fn putting(call: &Call) -> Result<(bool, Map<String, Value>)> {
    call.params.allow(&[PATIENCE, PUTTING].concat())?;
    patience(&call.params)?;
    Ok((call.params.is_true("create")?, parse_object(&call.body)?))
}

fn deleting(call: &Call) -> Result<()> {
    call.params.allow(PATIENCE)?;
    patience(&call.params)
}
