//! `_resolve/index`: what names and patterns stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::catalog::resolve::Expansion;
use egret_engine::catalog::{IndexState, pattern};
use serde_json::{Value, json};

use super::targets;
use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};

pub(super) async fn index(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(targets::PARAMS)?;
    // Aliases are shown as such, unless they are named.
    let named_aliases: BTreeSet<String> = {
        let catalog = app.engine.catalog();
        expression.split(',').filter(|it| catalog.has_alias(it)).map(str::to_owned).collect()
    };
    let parts: Vec<&str> =
        expression.split(',').filter(|part| !named_aliases.contains(*part)).collect();
    let mut indexes = Vec::new();
    if !parts.is_empty() {
        let options = Expansion { aliases: false, ..targets::METADATA };
        for (name, entry) in targets::entries(&app, &parts.join(","), &call.params, options)? {
            let mut attributes = vec![match entry.state {
                IndexState::Open => "open",
                IndexState::Closed => "closed",
            }];
            if entry.is_hidden() {
                attributes.push("hidden");
            }
            attributes.sort_unstable();
            let mut shown = json!({"name": name, "attributes": attributes});
            if !entry.aliases.is_empty() {
                shown["aliases"] = json!(entry.aliases.keys().collect::<Vec<_>>());
            }
            indexes.push(shown);
        }
    }
    let catalog = app.engine.catalog();
    let mut aliases: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let fits = |name: &str| {
        parts.iter().any(|part| *part == "_all" || pattern::matches(part, name))
            || named_aliases.contains(name)
    };
    for (index, entry) in &catalog.indexes {
        for alias in entry.aliases.keys().filter(|alias| fits(alias)) {
            aliases.entry(alias).or_default().push(index);
        }
    }
    let aliases: Vec<Value> = aliases
        .into_iter()
        .map(|(name, indexes)| json!({"name": name, "indices": indexes}))
        .collect();
    Ok(Reply::ok(&json!({"indices": indexes, "aliases": aliases, "data_streams": []})))
}
