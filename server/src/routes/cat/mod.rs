//! `_cat`: tables for people, and the same as JSON.

mod table;

use std::sync::Arc;

use axum::extract::{Path, State};
use jiff::Timestamp;

use self::table::{Column, PARAMS, Table, size};
use super::index::named;
use super::{cluster, targets};
use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};

pub(super) async fn help(call: Call) -> Result<Reply> {
    call.params.allow(&["help"])?;
    Ok(Reply::text(
        "=^.^=\n/_cat/count\n/_cat/count/{index}\n/_cat/health\n/_cat/indices\n\
         /_cat/indices/{index}\n",
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
    for index in named(app, expression, &call.params)? {
        if health.is_some_and(|color| color != "green") {
            continue;
        }
        let stats = index.stats();
        let bytes = size(stats.size_bytes, &call.params)?;
        let created = Timestamp::from_millisecond(index.created_ms()).unwrap_or_default();
        table.row([
            "green".to_owned(),
            "open".to_owned(),
            index.name().to_owned(),
            index.uuid().to_owned(),
            "1".to_owned(),
            "0".to_owned(),
            stats.doc_count.to_string(),
            stats.deleted_count.to_string(),
            bytes.clone(),
            bytes,
            index.created_ms().to_string(),
            created.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
            stats.segment_count.to_string(),
            index.pipeline().unwrap_or_default().to_owned(),
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
        cluster::color(&app).to_owned(),
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
    let indexes = named(app, expression, &call.params)?;
    let count: u64 = indexes.iter().map(|index| index.snapshot().doc_count()).sum();
    let now = Timestamp::now();
    let mut table = Table::new(COUNT);
    let time = now.strftime("%H:%M:%S").to_string();
    table.row([now.as_second().to_string(), time, count.to_string()]);
    table.answer(call)
}
