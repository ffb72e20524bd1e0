//! `_cluster`: health and statistics of a cluster that is one node.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_engine::ErrorKind;
use egret_engine::catalog::resolve::Expansion;
use serde_json::{Map, Value, json};

use super::index::patience;
use super::{root, targets};
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::{Call, Params, Reply};

const HEALTH: &[&str] = &[
    "level",
    "local",
    "timeout",
    "master_timeout",
    "cluster_manager_timeout",
    "wait_for_status",
    "wait_for_nodes",
    "wait_for_active_shards",
    "wait_for_no_relocating_shards",
    "wait_for_no_initializing_shards",
    "wait_for_events",
];

pub(super) async fn health_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    show_health(&app, &call, "_all")
}

pub(super) async fn health(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    show_health(&app, &call, &expression)
}

/// How an index, or the worst of several, is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Color {
    /// It does all that it should. Also one that is closed does.
    #[default]
    Green,
    /// It is read, and takes no writes now.
    Yellow,
    /// It is damaged.
    Red,
}

impl Color {
    /// Of an index.
    pub(super) fn of(app: &App, index: &str) -> Self {
        match app.engine.index(index) {
            Ok(index) if index.refusal().is_some() => Self::Yellow,
            Err(error) if error.kind() == ErrorKind::Corrupt => Self::Red,
            _ => Self::Green,
        }
    }

    /// Of all.
    pub(super) fn of_all(app: &App) -> Self {
        let colors = app.engine.catalog().indexes.keys().map(|name| Self::of(app, name)).max();
        colors.unwrap_or_default()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }
}

fn show_health(app: &App, call: &Call, expression: &str) -> Result<Reply> {
    let params = &call.params;
    params.allow(&[HEALTH, targets::PARAMS].concat())?;
    patience(params)?;
    // Every index has its shard, also one that is closed or hidden.
    let options = Expansion { closed: true, hidden: true, ..targets::METADATA };
    let indexes = targets::entries(app, expression, params, options)?;
    let colors: Vec<Color> = indexes.iter().map(|(name, _)| Color::of(app, name)).collect();
    let color = colors.iter().copied().max().unwrap_or_default();
    let count = indexes.len();
    let lost = colors.iter().filter(|color| **color == Color::Red).count();
    let active = count - lost;
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let percent = if count == 0 { 100.0 } else { 100.0 * number(active) / number(count) };
    // What one node does not fulfil now it never will: the answer does not wait for the timeout.
    let timed_out = !fulfilled(params, color, active)?;
    let mut shown = json!({
        "cluster_name": app.config.http.cluster_name,
        "status": color.name(),
        "timed_out": timed_out,
        "number_of_nodes": 1,
        "number_of_data_nodes": 1,
        "active_primary_shards": active,
        "active_shards": active,
        "relocating_shards": 0,
        "initializing_shards": 0,
        "unassigned_shards": lost,
        "delayed_unassigned_shards": 0,
        "number_of_pending_tasks": 0,
        "number_of_in_flight_fetch": 0,
        "task_max_waiting_in_queue_millis": 0,
        "active_shards_percent_as_number": percent,
    });
    match params.filled("level") {
        None | Some("cluster") => {}
        Some("indices") => {
            let all = indexes.iter().zip(&colors);
            let all = all.map(|((name, _), color)| (name.clone(), index_health(*color)));
            if let Value::Object(shown) = &mut shown {
                shown.insert("indices".into(), Value::Object(all.collect::<Map<_, _>>()));
            }
        }
        Some(other) => {
            return Err(Error::argument(format!("[level] of [{other}] is not supported")));
        }
    }
    let status = if timed_out { StatusCode::REQUEST_TIMEOUT } else { StatusCode::OK };
    Ok(Reply::json(status, &shown))
}

fn index_health(color: Color) -> Value {
    let lost = u8::from(color == Color::Red);
    json!({
        "status": color.name(),
        "number_of_shards": 1,
        "number_of_replicas": 0,
        "active_primary_shards": 1 - lost,
        "active_shards": 1 - lost,
        "relocating_shards": 0,
        "initializing_shards": 0,
        "unassigned_shards": lost,
    })
}

/// Whether all that the request waits for is so.
fn fulfilled(params: &Params, color: Color, shards: usize) -> Result<bool> {
    params.boolean("wait_for_no_relocating_shards")?;
    params.boolean("wait_for_no_initializing_shards")?;
    let wrong =
        |key: &str, value: &str| Error::argument(format!("[{key}] has an unknown value [{value}]"));
    let color_is_fine = match params.filled("wait_for_status") {
        None | Some("red") => true,
        Some("yellow") => color <= Color::Yellow,
        Some("green") => color == Color::Green,
        Some(other) => return Err(wrong("wait_for_status", other)),
    };
    let shards_are_fine = match params.filled("wait_for_active_shards") {
        None | Some("all") => true,
        Some(number) => {
            let wanted: usize =
                number.parse().map_err(|_| wrong("wait_for_active_shards", number))?;
            wanted <= shards
        }
    };
    let nodes_are_fine = params
        .filled("wait_for_nodes")
        .map_or(Ok(true), |text| nodes(text).ok_or_else(|| wrong("wait_for_nodes", text)))?;
    Ok(color_is_fine && shards_are_fine && nodes_are_fine)
}

/// `2`, `>=2`, `ge(2)`: whether one node is enough.
fn nodes(text: &str) -> Option<bool> {
    let (comparison, number) = match text.split_once('(') {
        Some((name, rest)) => (name, rest.strip_suffix(')')?),
        None => text.split_at(text.find(|character: char| character.is_ascii_digit())?),
    };
    let number: u32 = number.parse().ok()?;
    Some(match comparison {
        "" => number == 1,
        ">=" | "ge" => 1 >= number,
        "<=" | "le" => 1 <= number,
        ">" | "gt" => 1 > number,
        "<" | "lt" => 1 < number,
        _ => return None,
    })
}

pub(super) async fn stats(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&["timeout"])?;
    patience(&call.params)?;
    let indexes = app.engine.indexes();
    let mut documents = (0, 0);
    let (mut bytes, mut segments) = (0, 0);
    for index in &indexes {
        let stats = index.stats();
        documents = (documents.0 + stats.doc_count, documents.1 + stats.deleted_count);
        bytes += stats.size_bytes;
        segments += stats.segment_count;
    }
    Ok(Reply::ok(&json!({
        "_nodes": {"total": 1, "successful": 1, "failed": 0},
        "cluster_name": app.config.http.cluster_name,
        "cluster_uuid": app.identity.cluster_uuid,
        "status": Color::of_all(&app).name(),
        "indices": {
            "count": indexes.len(),
            "shards": {"total": indexes.len(), "primaries": indexes.len(), "replication": 0.0},
            "docs": {"count": documents.0, "deleted": documents.1},
            "store": {"size_in_bytes": bytes},
            "segments": {"count": segments},
        },
        "nodes": {
            "count": {"total": 1, "data": 1, "master": 1, "ingest": 0},
            "versions": [root::API_VERSION],
        },
    })))
}
