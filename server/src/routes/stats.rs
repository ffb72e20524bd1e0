//! `_stats`: what is in indexes, and what it takes. Only what Egret knows of each index is shown: a
//! metric that it does not count is refused by name rather than answered with zeros.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::index::{IndexStats, MergeStats, PressureStats};
use egret_engine::{ActivityStats, BudgetStats, Index, Timed, WriterStats};
use serde_json::{Map, Value, json};

use super::cluster::Color;
use super::targets;
use crate::app::App;
use crate::contexts::Contexts;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};

/// The metrics, each a section of the answer.
const METRICS: &[&str] = &[
    "docs",
    "store",
    "indexing",
    "get",
    "search",
    "merge",
    "refresh",
    "flush",
    "segments",
    "translog",
    "request_cache",
];

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
    let known = ["level", "forbid_closed_indices", "include_segment_file_sizes"];
    call.params.allow(&[targets::PARAMS, &known].concat())?;
    call.params.boolean("forbid_closed_indices")?;
    let with_files = call.params.is_true("include_segment_file_sizes")?;
    let level = call.params.filled("level").unwrap_or("indices");
    if !matches!(level, "cluster" | "indices" | "shards") {
        let reason = format!(
            "level parameter must be one of [cluster] or [indices] or [shards] but was [{level}]"
        );
        return Err(Error::argument(reason));
    }
    let metrics = wanted(call.params.path(), metrics)?;
    let mut total = IndexStats::default();
    let mut files = FileSizes::default();
    let mut by_name = Map::new();
    let indexes = targets::open(app, expression, &call.params)?;
    for index in &indexes {
        let stats = index.stats();
        add(&mut total, &stats);
        let own = if with_files { FileSizes::of(index) } else { FileSizes::default() };
        let shown = sections(&metrics, &stats, with_files.then_some(&own));
        files.add(own);
        let mut entry = json!({
            "uuid": index.uuid(),
            "health": Color::of(app, index.name()).name(),
            "status": "open",
            "primaries": &shown,
            "total": &shown,
        });
        if level == "shards" {
            entry["shards"] = json!({"0": [shard(app, index, shown)]});
        }
        by_name.insert(index.name().to_owned(), entry);
    }
    let (count, shown) = (indexes.len(), sections(&metrics, &total, with_files.then_some(&files)));
    let mut answer = json!({
        "_shards": {"total": count, "successful": count, "failed": 0},
        "_all": {"primaries": &shown, "total": &shown},
    });
    if metrics.contains(&"indexing") {
        // Of the whole engine, whichever indexes are asked for.
        answer["_all"]["writers"] = writers(app.engine.writers());
        answer["_all"]["indexing_budget"] = budget(app.engine.budget());
    }
    if metrics.contains(&"search") {
        answer["_all"]["open_contexts"] = contexts(&app.contexts);
    }
    if let Some(cache) = app.cache.as_ref().filter(|_| metrics.contains(&"request_cache")) {
        // One for all indexes: what it does is not known of each.
        let shown = request_cache(&cache.stats());
        answer["_all"]["primaries"]["request_cache"] = shown.clone();
        answer["_all"]["total"]["request_cache"] = shown;
    }
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

fn add(total: &mut IndexStats, one: &IndexStats) {
    total.doc_count += one.doc_count;
    total.deleted_count += one.deleted_count;
    total.segment_count += one.segment_count;
    total.size_bytes += one.size_bytes;
    total.memory_bytes += one.memory_bytes;
    total.translog_bytes += one.translog_bytes;
    total.translog_ops += one.translog_ops;
    total.building_bytes += one.building_bytes;
    total.merges.current += one.merges.current;
    total.merges.current_docs += one.merges.current_docs;
    total.merges.current_bytes += one.merges.current_bytes;
    total.merges.total += one.merges.total;
    total.merges.total_docs += one.merges.total_docs;
    total.merges.total_bytes += one.merges.total_bytes;
    total.merges.total_ms += one.merges.total_ms;
    total.merges.throttled_ms += one.merges.throttled_ms;
    total.pressure.is_throttled |= one.pressure.is_throttled;
    total.pressure.waiting += one.pressure.waiting;
    total.pressure.throttled_ms += one.pressure.throttled_ms;
    total.pressure.refused += one.pressure.refused;
    add_activity(&mut total.activity, one.activity);
}

fn add_activity(total: &mut ActivityStats, one: ActivityStats) {
    total.deleted += one.deleted;
    total.unchanged += one.unchanged;
    total.rejected += one.rejected;
    for (total, one) in [
        (&mut total.indexed, one.indexed),
        (&mut total.published, one.published),
        (&mut total.flushed, one.flushed),
        (&mut total.queried, one.queried),
        (&mut total.fetched, one.fetched),
        (&mut total.found, one.found),
        (&mut total.missing, one.missing),
    ] {
        total.count += one.count;
        total.nanos += one.nanos;
    }
}

/// Bytes and numbers of segment files by their endings.
#[derive(Default)]
struct FileSizes(BTreeMap<String, (u64, u64)>);

impl FileSizes {
    fn of(index: &Index) -> Self {
        let mut sizes = Self::default();
        for (ending, bytes) in index.segments().into_iter().flat_map(|segment| segment.files) {
            let (total, count) = sizes.0.entry(ending).or_default();
            (*total, *count) = (*total + bytes, *count + 1);
        }
        sizes
    }

    fn add(&mut self, other: Self) {
        for (ending, (bytes, files)) in other.0 {
            let (total, count) = self.0.entry(ending).or_default();
            (*total, *count) = (*total + bytes, *count + files);
        }
    }

    fn to_json(&self) -> Value {
        let one = |(ending, (bytes, count)): (&String, &(u64, u64))| {
            (ending.clone(), json!({"size_in_bytes": bytes, "count": count}))
        };
        Value::Object(self.0.iter().map(one).collect())
    }
}

fn sections(metrics: &[&str], stats: &IndexStats, files: Option<&FileSizes>) -> Value {
    let section = |metric: &&str| match *metric {
        "docs" => ("docs", json!({"count": stats.doc_count, "deleted": stats.deleted_count})),
        "store" => ("store", json!({"size_in_bytes": stats.size_bytes})),
        "indexing" => ("indexing", indexing(stats.activity, stats.pressure)),
        "get" => ("get", get(stats.activity)),
        "search" => ("search", search(stats.activity)),
        "refresh" => ("refresh", refresh(stats.activity)),
        "flush" => ("flush", flush(stats.activity)),
        "merge" => ("merges", merges(stats.merges)),
        "segments" => {
            let mut shown = json!({
                "count": stats.segment_count,
                // Of the segments, what is not on disk yet.
                "memory_in_bytes": stats.memory_bytes,
                "index_writer_memory_in_bytes": stats.building_bytes,
            });
            if let Some(files) = files {
                shown["file_sizes"] = files.to_json();
            }
            ("segments", shown)
        }
        _ => {
            let (operations, bytes) = (stats.translog_ops, stats.translog_bytes);
            // A commit trims it: nothing is in it that one has.
            let shown = json!({
                "operations": operations,
                "size_in_bytes": bytes,
                "uncommitted_operations": operations,
                "uncommitted_size_in_bytes": bytes,
            });
            ("translog", shown)
        }
    };
    let own = metrics.iter().filter(|metric| **metric != "request_cache");
    let named = own.map(section);
    named.map(|(name, shown)| (name.to_owned(), shown)).collect()
}

fn millis(timed: Timed) -> u64 {
    timed.nanos / 1_000_000
}

/// What was written, and whether writes wait for merges. The time is that of all operations.
fn indexing(activity: ActivityStats, pressure: PressureStats) -> Value {
    json!({
        "index_total": activity.indexed.count,
        "index_time_in_millis": millis(activity.indexed),
        "index_failed": activity.rejected,
        "delete_total": activity.deleted,
        "noop_update_total": activity.unchanged,
        "is_throttled": pressure.is_throttled,
        "throttle_time_in_millis": pressure.throttled_ms,
        "waiting_for_segments": pressure.waiting,
        "rejected_for_segments": pressure.refused,
    })
}

/// Reads by id.
fn get(activity: ActivityStats) -> Value {
    let (found, missing) = (activity.found, activity.missing);
    let both = Timed { count: found.count + missing.count, nanos: found.nanos + missing.nanos };
    json!({
        "total": both.count,
        "time_in_millis": millis(both),
        "exists_total": found.count,
        "exists_time_in_millis": millis(found),
        "missing_total": missing.count,
        "missing_time_in_millis": millis(missing),
    })
}

/// What searches have taken that were not answered from the cache.
fn search(activity: ActivityStats) -> Value {
    json!({
        "query_total": activity.queried.count,
        "query_time_in_millis": millis(activity.queried),
        "fetch_total": activity.fetched.count,
        "fetch_time_in_millis": millis(activity.fetched),
    })
}

/// Publications, each of which searches see.
fn refresh(activity: ActivityStats) -> Value {
    let (total, ms) = (activity.published.count, millis(activity.published));
    json!({
        "total": total,
        "total_time_in_millis": ms,
        "external_total": total,
        "external_total_time_in_millis": ms,
    })
}

fn flush(activity: ActivityStats) -> Value {
    json!({
        "total": activity.flushed.count,
        "total_time_in_millis": millis(activity.flushed),
    })
}

/// The result cache, under the names of Elasticsearch's.
fn request_cache(cache: &egret_results::Stats) -> Value {
    json!({
        "memory_size_in_bytes": cache.bytes,
        "evictions": cache.evicted,
        "hit_count": cache.hits + cache.joined,
        "miss_count": cache.misses,
    })
}

/// Scrolls and points in time, and what they keep in memory of segments that were not on disk.
fn contexts(contexts: &Contexts) -> Value {
    let (bytes, limit) = contexts.memory.bytes();
    json!({
        "current": contexts.count(),
        "memory_in_bytes": bytes,
        "memory_limit_in_bytes": limit,
    })
}

/// The writers that have a thread.
fn writers(writers: WriterStats) -> Value {
    json!({
        "max_open": writers.max_open,
        "open": writers.open,
        "most_open": writers.most_open,
        "waiting": writers.waiting,
        "waited_in_millis": writers.waited_ms,
        "asked_to_leave": writers.asked,
        "rejected": writers.refused,
    })
}

/// The memory that young segments share.
fn budget(budget: BudgetStats) -> Value {
    json!({
        "budget_in_bytes": budget.budget_bytes,
        "used_in_bytes": budget.used_bytes,
        "most_used_in_bytes": budget.most_bytes,
        "waiting": budget.waiting,
    })
}

fn merges(merges: MergeStats) -> Value {
    json!({
        "current": merges.current,
        "current_docs": merges.current_docs,
        "current_size_in_bytes": merges.current_bytes,
        "total": merges.total,
        "total_time_in_millis": merges.total_ms,
        "total_docs": merges.total_docs,
        "total_size_in_bytes": merges.total_bytes,
        "total_throttled_time_in_millis": merges.throttled_ms,
    })
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
