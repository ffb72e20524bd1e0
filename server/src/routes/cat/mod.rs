//! `_cat`: tables for people, and the same as JSON.

mod catalog;
mod segments;
mod table;

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::catalog::IndexState;
use egret_engine::catalog::resolve::Expansion;
use egret_engine::index::IndexStats;
use jiff::Timestamp;

pub(super) use self::catalog::{aliases, aliases_all, templates, templates_all};
pub(super) use self::segments::{segments, segments_all};
use self::table::{Column, PARAMS, Table, size};
use super::cluster::Color;
use super::targets;
use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};

pub(super) async fn help(call: Call) -> Result<Reply> {
    call.params.allow(&["help"])?;
    Ok(Reply::text(
        "=^.^=\n/_cat/aliases\n/_cat/aliases/{alias}\n/_cat/count\n/_cat/count/{index}\n\
         /_cat/health\n/_cat/indices\n/_cat/indices/{index}\n/_cat/segments\n\
         /_cat/segments/{index}\n/_cat/templates\n/_cat/templates/{name}\n",
    ))
}

const INDICES: &[Column] = &[
    Column::new("health", "h", "current health status"),
    Column::new("status", "s", "open/close status"),
    Column::new("index", "i,idx", "index name"),
    Column::new("uuid", "id", "index uuid"),
    Column::number("pri", "p,shards.primary,shardsPrimary", "number of primary shards"),
    Column::number("rep", "r,shards.replica,shardsReplica", "number of replica shards"),
    Column::number("docs.count", "dc,docsCount", "available docs"),
    Column::number("docs.deleted", "dd,docsDeleted", "deleted docs"),
    Column::number("store.size", "ss,storeSize", "store size of primaries & replicas"),
    Column::number("pri.store.size", "", "store size of primaries"),
    Column::number("creation.date", "cd", "index creation date (millisecond value)").hidden(),
    Column::number("creation.date.string", "cds", "index creation date (as string)").hidden(),
    Column::number("segments.count", "sc,segmentsCount", "number of segments").hidden(),
    Column::new("pipeline", "", "the pipeline that it follows").hidden(),
];

pub(super) async fn indices_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    show_indices(&app, &call, "_all")
}

pub(super) async fn indices(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    show_indices(&app, &call, &expression)
}

fn show_indices(app: &App, call: &Call, expression: &str) -> Result<Reply> {
    let known = ["bytes", "health", "pri", "time", "include_unloaded_segments"];
    call.params.allow(&[PARAMS, targets::PARAMS, &known].concat())?;
    let health = call.params.filled("health");
    if let Some(color) = health.filter(|color| !matches!(*color, "green" | "yellow" | "red")) {
        let reason = format!("unknown cluster health status [{color}]");
        return Err(crate::error::Error::argument(reason));
    }
    let mut table = Table::new(INDICES);
    let options = Expansion { closed: true, ..targets::METADATA };
    for (name, entry) in targets::entries(app, expression, &call.params, options)? {
        // Of a closed index nothing is known but what the catalog says; of a damaged one as well.
        let stats = app.engine.index(&name).ok().map(|index| index.stats());
        let is_open = entry.state == IndexState::Open;
        let color = Color::of(app, &name).name();
        if health.is_some_and(|wanted| color != wanted) {
            continue;
        }
        let shown = |number: fn(&IndexStats) -> u64| {
            stats.as_ref().map(|stats| number(stats).to_string()).unwrap_or_default()
        };
        let bytes = stats.as_ref().map(|stats| size(stats.size_bytes, &call.params));
        let bytes = bytes.transpose()?.unwrap_or_default();
        let created = Timestamp::from_millisecond(entry.created_ms).unwrap_or_default();
        table.row([
            color.to_owned(),
            if is_open { "open".to_owned() } else { "close".to_owned() },
            name,
            entry.uuid,
            "1".to_owned(),
            "0".to_owned(),
            shown(|stats| stats.doc_count),
            shown(|stats| stats.deleted_count),
            bytes.clone(),
            bytes,
            entry.created_ms.to_string(),
            created.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
            shown(|stats| stats.segment_count),
            entry.pipeline.unwrap_or_default(),
        ]);
    }
    table.answer(call)
}

const HEALTH: &[Column] = &[
    Column::number("epoch", "t,time", "seconds since 1970-01-01 00:00:00"),
    Column::number("timestamp", "ts,hms,hhmmss", "time in HH:MM:SS"),
    Column::new("cluster", "cl", "cluster name"),
    Column::new("status", "st", "health status"),
    Column::number("node.total", "nt,nodeTotal", "total number of nodes"),
    Column::number("node.data", "nd,nodeData", "number of nodes that can store data"),
    Column::number("shards", "t,sh,shards.total,shardsTotal", "total number of shards"),
    Column::number("pri", "p,shards.primary,shardsPrimary", "number of primary shards"),
    Column::number("relo", "r,shards.relocating", "number of relocating nodes"),
    Column::number("init", "i,shards.initializing", "number of initializing nodes"),
    Column::number("unassign", "u,shards.unassigned", "number of unassigned shards"),
    Column::number("pending_tasks", "pt,pendingTasks", "number of pending tasks"),
    Column::number("max_task_wait_time", "mtwt", "wait time of longest task pending"),
    Column::number("active_shards_percent", "asp", "active number of shards in percent"),
];

pub(super) async fn health(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[PARAMS, &["ts", "time"]].concat())?;
    let now = Timestamp::now();
    let shards = app.engine.indexes().len().to_string();
    let mut table = Table::new(HEALTH);
    table.row([
        now.as_second().to_string(),
        now.strftime("%H:%M:%S").to_string(),
        app.config.http.cluster_name.clone(),
        Color::of_all(&app).name().to_owned(),
        "1".to_owned(),
        "1".to_owned(),
        shards.clone(),
        shards,
        "0".to_owned(),
        "0".to_owned(),
        "0".to_owned(),
        "0".to_owned(),
        "-".to_owned(),
        "100.0%".to_owned(),
    ]);
    table.answer(&call)
}

const COUNT: &[Column] = &[
    Column::number("epoch", "t,time", "seconds since 1970-01-01 00:00:00"),
    Column::number("timestamp", "ts,hms,hhmmss", "time in HH:MM:SS"),
    Column::number("count", "dc,docs.count,docsCount", "the document count"),
];

pub(super) async fn count_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    show_count(&app, &call, "_all")
}

pub(super) async fn count(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    show_count(&app, &call, &expression)
}

fn show_count(app: &App, call: &Call, expression: &str) -> Result<Reply> {
    call.params.allow(PARAMS)?;
    let indexes = targets::open(app, expression, &call.params)?;
    let count: u64 = indexes.iter().map(|index| index.snapshot().doc_count()).sum();
    let now = Timestamp::now();
    let mut table = Table::new(COUNT);
    let time = now.strftime("%H:%M:%S").to_string();
    table.row([now.as_second().to_string(), time, count.to_string()]);
    table.answer(call)
}
