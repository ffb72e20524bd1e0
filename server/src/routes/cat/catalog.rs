//! Tables of aliases and templates.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::catalog::IndexState;
use egret_engine::catalog::pattern::matches;

use super::table::{Column, PARAMS, Table};
use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};
use crate::routes::targets;

const ALIASES: &[Column] = &[
    Column::new("alias", "a", "alias name"),
    Column::new("index", "i,idx", "index alias points to"),
    Column::new("filter", "f,fi", "filter"),
    Column::new("routing.index", "ri,routingIndex", "index routing"),
    Column::new("routing.search", "rs,routingSearch", "search routing"),
    Column::new("is_write_index", "w,isWriteIndex", "write index"),
];

pub(in crate::routes) async fn aliases_all(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Reply> {
    show_aliases(&app, &call, "*")
}

pub(in crate::routes) async fn aliases(
    State(app): State<Arc<App>>,
    Path(names): Path<String>,
    call: Call,
) -> Result<Reply> {
    show_aliases(&app, &call, &names)
}

fn show_aliases(app: &App, call: &Call, names: &str) -> Result<Reply> {
    call.params.allow(&[PARAMS, targets::PARAMS].concat())?;
    let hidden = call.params.list("expand_wildcards");
    let shows_hidden =
        hidden.is_empty() || hidden.iter().any(|it| matches!(it.as_str(), "all" | "hidden"));
    let mut table = Table::new(ALIASES);
    let catalog = app.engine.catalog();
    let mut rows = Vec::new();
    for (index, entry) in &catalog.indexes {
        let wanted = entry.state == IndexState::Open || shows_hidden;
        for (name, alias) in entry.aliases.iter().filter(|_| wanted) {
            let fits = |pattern: &str| {
                let named = pattern == name;
                named || (matches(pattern, name) && (shows_hidden || alias.is_hidden != Some(true)))
            };
            if names.split(',').any(fits) {
                rows.push((name, index, alias));
            }
        }
    }
    rows.sort_by_key(|(name, index, _)| (*name, *index));
    let dash = |text: Option<&String>| text.cloned().unwrap_or_else(|| "-".to_owned());
    for (name, index, alias) in rows {
        table.row([
            name.clone(),
            index.clone(),
            if alias.filter.is_some() { "*".to_owned() } else { "-".to_owned() },
            dash(alias.index_routing.as_ref()),
            dash(alias.search_routing.as_ref()),
            alias.is_write_index.map_or_else(|| "-".to_owned(), |it| it.to_string()),
        ]);
    }
    table.answer(call)
}

const TEMPLATES: &[Column] = &[
    Column::new("name", "n", "template name"),
    Column::new("index_patterns", "t", "template index patterns"),
    Column::new("order", "o,p", "template application order/priority number"),
    Column::new("version", "v", "version"),
    Column::new("composed_of", "c", "component templates comprising index template"),
];

pub(in crate::routes) async fn templates_all(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Reply> {
    show_templates(&app, &call, "*")
}

pub(in crate::routes) async fn templates(
    State(app): State<Arc<App>>,
    Path(names): Path<String>,
    call: Call,
) -> Result<Reply> {
    show_templates(&app, &call, &names)
}

fn show_templates(app: &App, call: &Call, names: &str) -> Result<Reply> {
    call.params.allow(PARAMS)?;
    let mut table = Table::new(TEMPLATES);
    let catalog = app.engine.catalog();
    let fits = |name: &str| names.split(',').any(|pattern| matches(pattern, name));
    let list = |texts: &[String]| format!("[{}]", texts.join(", "));
    let number = |version: Option<i64>| version.map(|it| it.to_string()).unwrap_or_default();
    for (name, template) in catalog.legacy_templates.iter().filter(|(name, _)| fits(name)) {
        table.row([
            name.clone(),
            list(&template.index_patterns),
            template.order.to_string(),
            number(template.version),
            String::new(),
        ]);
    }
    for (name, template) in catalog.index_templates.iter().filter(|(name, _)| fits(name)) {
        table.row([
            name.clone(),
            list(&template.index_patterns),
            template.priority.unwrap_or(0).to_string(),
            number(template.version),
            list(&template.composed_of),
        ]);
    }
    table.answer(call)
}
