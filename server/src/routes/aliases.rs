//! Aliases: show, exists, put, delete, and several changes at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_engine::catalog::resolve::Expansion;
use egret_engine::catalog::{AliasAction, pattern};
use serde_json::{Map, Value, json};

use super::index::{PATIENCE, patience, purge};
use super::targets;
use crate::app::App;
use crate::cached_search::uuid_of;
use crate::dialect::alias;
use crate::dialect::json::parse_object;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};

pub(super) async fn read_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    show(&app, &call, "_all", "")
}

pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, &expression, "")
}

pub(super) async fn read_named_all(
    State(app): State<Arc<App>>,
    Path(names): Path<String>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, "_all", &names)
}

pub(super) async fn read_named(
    State(app): State<Arc<App>>,
    Path((expression, names)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, &expression, &names)
}

fn show(app: &App, call: &Call, expression: &str, names: &str) -> Result<Reply> {
    let (found, missing) = find(app, call, expression, names)?;
    if missing.is_empty() {
        return Ok(Reply::ok(&found));
    }
    let mut missing = missing;
    missing.sort_unstable();
    let plural = if missing.len() == 1 { "alias" } else { "aliases" };
    let mut body = Map::new();
    body.insert("error".into(), format!("{plural} [{}] missing", missing.join(",")).into());
    body.insert("status".into(), 404.into());
    body.extend(found);
    Ok(Reply::json(StatusCode::NOT_FOUND, &body))
}

pub(super) async fn exists_all(
    State(app): State<Arc<App>>,
    Path(names): Path<String>,
    call: Call,
) -> Result<Reply> {
    exists_in(&app, &call, "_all", &names)
}

pub(super) async fn exists(
    State(app): State<Arc<App>>,
    Path((expression, names)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    exists_in(&app, &call, &expression, &names)
}

fn exists_in(app: &App, call: &Call, expression: &str, names: &str) -> Result<Reply> {
    let (found, missing) = find(app, call, expression, names)?;
    let is_there = missing.is_empty() && !found.is_empty();
    Ok(Reply::raw_json(if is_there { StatusCode::OK } else { StatusCode::NOT_FOUND }, ""))
}

/// Indexes with those of their aliases that the names and patterns choose, and the names that no
/// index has as an alias.
fn find(
    app: &App,
    call: &Call,
    expression: &str,
    names: &str,
) -> Result<(Map<String, Value>, Vec<String>)> {
    call.params.allow(&[PATIENCE, targets::PARAMS, &["local"]].concat())?;
    patience(&call.params)?;
    let defaults = Expansion { closed: true, hidden: true, ..targets::METADATA };
    let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
    let mut found = Map::new();
    let mut seen = BTreeSet::new();
    for (index, entry) in targets::entries(app, expression, &call.params, defaults)? {
        let mut aliases = Map::new();
        for (name, alias) in entry.aliases {
            if is_chosen(&names, &name) {
                aliases.insert(name.clone(), json!(alias));
                seen.insert(name);
            }
        }
        if names.is_empty() || !aliases.is_empty() {
            found.insert(index, json!({"aliases": aliases}));
        }
    }
    let missing = missing(&names, &seen).into_iter().map(str::to_owned).collect();
    Ok((found, missing))
}

fn fits(pattern: &str, name: &str) -> bool {
    pattern == "_all" || pattern::matches(pattern, name)
}

/// Whether names and patterns choose an alias; `-` takes out again what was chosen before it.
fn is_chosen(names: &[&str], alias: &str) -> bool {
    names.iter().fold(names.is_empty(), |chosen, name| match name.strip_prefix('-') {
        Some(pattern) => chosen && !fits(pattern, alias),
        None => chosen || fits(name, alias),
    })
}

/// The names, not patterns, that are asked for, not taken out again, and not there.
fn missing<'a>(names: &[&'a str], seen: &BTreeSet<String>) -> Vec<&'a str> {
    let is_pattern = |name: &str| name == "_all" || name.contains('*');
    let first = names.iter().position(|name| is_pattern(name)).unwrap_or(names.len());
    let mut missing = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let excludes = at > first && name.starts_with('-');
        if is_pattern(name) || excludes || seen.contains(*name) {
            continue;
        }
        let later = names.iter().skip((at + 1).max(first));
        let mut exclusions = later.filter_map(|name| name.strip_prefix('-'));
        if !exclusions.any(|pattern| fits(pattern, name)) {
            missing.push(*name);
        }
    }
    missing
}

pub(super) async fn put(
    State(app): State<Arc<App>>,
    Path((indexes, name)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    put_in(&app, &call, indexes, Some(name)).await
}

/// Index and alias may also stand in the body.
pub(super) async fn put_alone(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    put_in(&app, &call, String::new(), Some(name)).await
}

pub(super) async fn put_whole(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    put_in(&app, &call, String::new(), None).await
}

pub(super) async fn put_from_body(
    State(app): State<Arc<App>>,
    Path(indexes): Path<String>,
    call: Call,
) -> Result<Reply> {
    put_in(&app, &call, indexes, None).await
}

async fn put_in(
    app: &Arc<App>,
    call: &Call,
    mut indexes: String,
    mut name: Option<String>,
) -> Result<Reply> {
    let mut body = parse_object(&call.body)?;
    let mut text = |key: &str| body.remove(key).and_then(|it| it.as_str().map(str::to_owned));
    if let Some(given) = text("index") {
        indexes = given;
    }
    name = text("alias").or(name);
    let alias = alias::read(&body)?;
    if indexes.is_empty() {
        return Err(Error::validation("index is missing"));
    }
    let name = name.ok_or_else(|| Error::validation("alias is missing"))?;
    change(app, call, vec![AliasAction::Add { indexes, aliases: vec![name], alias }]).await
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path((indexes, names)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    let aliases = names.split(',').map(str::to_owned).collect();
    let remove = AliasAction::Remove { indexes, aliases, must_exist: None };
    change(&app, &call, vec![remove]).await
}

pub(super) async fn update(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    let actions = alias::actions(&parse_object(&call.body)?)?;
    change(&app, &call, actions).await
}

async fn change(app: &Arc<App>, call: &Call, actions: Vec<AliasAction>) -> Result<Reply> {
    call.params.allow(PATIENCE)?;
    patience(&call.params)?;
    let before = app.engine.catalog();
    let engine = Arc::clone(&app.engine);
    app.pools.manage.run(move || Ok(engine.update_aliases(&actions)?)).await?;
    let after = app.engine.catalog();
    let gone = before.indexes.iter().filter(|(name, _)| !after.indexes.contains_key(*name));
    purge(app, gone.filter_map(|(_, entry)| uuid_of(&entry.uuid)));
    Ok(Reply::ok(&json!({"acknowledged": true})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_patterns_and_exclusions() {
        let aliases = ["a1", "a2", "b1"];
        let check = |names: &str, chosen: &str, not_there: &str| {
            let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
            let found = aliases.iter().filter(|alias| is_chosen(&names, alias));
            let seen: BTreeSet<String> = found.map(|alias| (*alias).to_owned()).collect();
            assert_eq!(seen.iter().cloned().collect::<Vec<_>>().join(" "), chosen, "{names:?}");
            assert_eq!(missing(&names, &seen).join(" "), not_there, "{names:?}");
        };
        check("", "a1 a2 b1", "");
        check("a1,c", "a1", "c");
        check("a*,-a1", "a2", "");
        check("a1,a*,-a1", "a2", "");
        check("c,a*,-c", "a1 a2", "");
        check("-c,a*", "a1 a2", "-c");
        check("_all,-b1", "a1 a2", "");
        check("c*", "", "");
    }
}
