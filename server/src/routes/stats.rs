//! `_stats`: what is in indexes, and what it takes. Only what Egret knows of each index is shown: a
//! metric that it does not count is refused by name rather than answered with zeros.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::Index;
use egret_engine::index::IndexStats;
use serde_json::{Map, Value, json};

use super::targets;
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};

/// The metrics, each a section of the answer.
const METRICS: &[&str] = &["docs", "store", "segments", "translog"];

pub(super) async fn all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    show(&app, &call, "_all", "_all")
}

pub(super) async fn all_metric(
    State(app): State<Arc<App>>,
    Path(metrics): Path<String>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, "_all", &metrics)
}

pub(super) async fn of(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, &expression, "_all")
}

pub(super) async fn of_metric(
    State(app): State<Arc<App>>,
    Path((expression, metrics)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, &expression, &metrics)
}

fn show(app: &App, call: &Call, expression: &str, metrics: &str) -> Result<Reply> {
    call.params.allow(&[targets::PARAMS, &["level", "forbid_closed_indices"]].concat())?;
    call.params.boolean("forbid_closed_indices")?;
    let level = call.params.filled("level").unwrap_or("indices");
    if !matches!(level, "cluster" | "indices" | "shards") {
        let reason = format!(
            "level parameter must be one of [cluster] or [indices] or [shards] but was [{level}]"
        );
        return Err(Error::argument(reason));
    }
    let metrics = wanted(call.params.path(), metrics)?;
    let mut total = IndexStats::default();
    let mut by_name = Map::new();
    let indexes = targets::open(app, expression, &call.params)?;
    for index in &indexes {
        let stats = index.stats();
        add(&mut total, stats);
        let shown = sections(&metrics, stats);
        let mut entry = json!({
            "uuid": index.uuid(),
            "health": "green",
            "status": "open",
            "primaries": &shown,
            "total": &shown,
        });
        if level == "shards" {
            entry["shards"] = json!({"0": [shard(app, index, shown)]});
        }
        by_name.insert(index.name().to_owned(), entry);
    }
    let (count, shown) = (indexes.len(), sections(&metrics, total));
    let mut answer = json!({
        "_shards": {"total": count, "successful": count, "failed": 0},
        "_all": {"primaries": &shown, "total": &shown},
    });
    if level != "cluster" {
        answer["indices"] = Value::Object(by_name);
    }
    Ok(Reply::ok(&answer))
}

/// The metrics that a request names.
fn wanted(path: &str, names: &str) -> Result<Vec<&'static str>> {
    let mut wanted = Vec::new();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        if name == "_all" {
            return Ok(METRICS.to_vec());
        }
        let known = METRICS.iter().find(|metric| **metric == name).ok_or_else(|| {
            Error::argument(format!(
                "request [{path}] contains unrecognized metric: [{name}]; there are [{}]",
                METRICS.join(", ")
            ))
        })?;
        wanted.push(*known);
    }
    Ok(wanted)
}

fn add(total: &mut IndexStats, one: IndexStats) {
    total.doc_count += one.doc_count;
    total.deleted_count += one.deleted_count;
    total.segment_count += one.segment_count;
    total.size_bytes += one.size_bytes;
    total.memory_bytes += one.memory_bytes;
    total.translog_bytes += one.translog_bytes;
    total.translog_ops += one.translog_ops;
}

fn sections(metrics: &[&str], stats: IndexStats) -> Value {
    let section = |metric: &str| match metric {
        "docs" => json!({"count": stats.doc_count, "deleted": stats.deleted_count}),
        "store" => json!({"size_in_bytes": stats.size_bytes}),
        // Of the segments, what is not on disk yet.
        "segments" => {
            json!({"count": stats.segment_count, "memory_in_bytes": stats.memory_bytes})
        }
        _ => json!({"operations": stats.translog_ops, "size_in_bytes": stats.translog_bytes}),
    };
    metrics.iter().map(|&metric| (metric.to_owned(), section(metric))).collect()
}

fn shard(app: &App, index: &Index, mut sections: Value) -> Value {
    sections["routing"] = json!({
        "state": "STARTED",
        "primary": true,
        "node": app.identity.node_id,
        "relocating_node": null,
    });
    let generation = index.positions().borrow().generation;
    sections["commit"] = json!({"generation": generation.number});
    sections
}
