//! `_refresh`, `_flush` and `_forcemerge`: publish, make durable, and merge.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::Index;
use egret_engine::index::ForceMerge;
use serde_json::{Value, json};

use super::targets;
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};
use crate::tasks::{Begin, Progress};

pub(super) async fn refresh_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    run(&app, &call, "_all", &[], Index::refresh).await
}

pub(super) async fn refresh(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    run(&app, &call, &expression, &[], Index::refresh).await
}

/// A flush always waits for one in progress, and one with nothing to do does nothing.
const FLUSH: &[&str] = &["force", "wait_if_ongoing"];

pub(super) async fn flush_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    run(&app, &call, "_all", FLUSH, Index::flush).await
}

pub(super) async fn flush(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    run(&app, &call, &expression, FLUSH, Index::flush).await
}

pub(super) async fn force_merge_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    merge(app, &call, "_all").await
}

pub(super) async fn force_merge(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    merge(app, &call, &expression).await
}

const MERGE: &[&str] =
    &["max_num_segments", "only_expunge_deletes", "flush", "wait_for_completion", "primary_only"];

/// What is said of two options that contradict each other.
const EITHER: &str = "299 Elasticsearch \"setting only_expunge_deletes and max_num_segments at the \
                      same time is deprecated and will be rejected in a future version\"";

/// Merges as a task: it goes on when whoever asked goes away.
async fn merge(app: Arc<App>, call: &Call, expression: &str) -> Result<Reply> {
    call.params.allow(&[targets::PARAMS, MERGE].concat())?;
    let most = call.params.count("max_num_segments")?.filter(|most| *most > 0);
    let expunge = call.params.is_true("only_expunge_deletes")?;
    let flush = call.params.boolean("flush")?.unwrap_or(true);
    let primary = call.params.is_true("primary_only")?;
    let wait = call.params.boolean("wait_for_completion")?.unwrap_or(true);
    let how = match (expunge, most) {
        (true, _) => ForceMerge::ExpungeDeletes,
        (false, Some(most)) => ForceMerge::Down(most),
        (false, None) => ForceMerge::WhatIsWorthIt,
    };
    let indexes = targets::open(&app, expression, &call.params)?;
    let names: Vec<&str> = indexes.iter().map(|index| index.name()).collect();
    let shown = most.map_or(-1, |most| i64::try_from(most).unwrap_or(i64::MAX));
    let description = format!(
        "Force-merge indices [{}], maxSegments[{shown}], onlyExpungeDeletes[{expunge}], \
         flush[{flush}], primaryOnly[{primary}]",
        names.join(", ")
    );
    let begin = Begin {
        action: "indices:admin/forcemerge",
        description,
        opaque_id: super::tasks::opaque_id(&call.headers),
        progress: Progress::new(1, f64::INFINITY),
        cancellable: false,
    };
    let running = app.tasks.begin(begin)?;
    let task = Arc::clone(&running.task);
    let id = format!("{}:{}", app.identity.node_id, task.number);
    tokio::spawn(async move { running.end(merge_each(&app, indexes, how, flush).await) });
    if !wait {
        return Ok(Reply::ok(&json!({ "task": id })));
    }
    let reply = Reply::ok(&task.wait().await.result?);
    Ok(if expunge && most.is_some() { reply.with("warning", EITHER) } else { reply })
}

/// Merges one index after the other: they would wait for each other anyway.
async fn merge_each(
    app: &App,
    indexes: Vec<Arc<Index>>,
    how: ForceMerge,
    flush: bool,
) -> Result<Value> {
    let count = indexes.len();
    for index in indexes {
        let work = move || {
            index.force_merge(how)?;
            if flush {
                index.flush()?;
            }
            Ok(())
        };
        app.pools.merge.run(work).await?;
    }
    Ok(json!({"_shards": {"total": count, "successful": count, "failed": 0}}))
}

async fn run(
    app: &App,
    call: &Call,
    expression: &str,
    known: &[&str],
    act: fn(&Index) -> egret_engine::Result<()>,
) -> Result<Reply> {
    call.params.allow(&[targets::PARAMS, known].concat())?;
    known.iter().try_for_each(|key| call.params.boolean(key).map(drop))?;
    let waits = call.params.boolean("wait_if_ongoing")?.unwrap_or(true);
    if call.params.is_true("force")? && !waits {
        return Err(Error::validation("wait_if_ongoing must be true for a force flush"));
    }
    let indexes = targets::open(app, expression, &call.params)?;
    let count = indexes.len();
    let act = move || {
        indexes
            .iter()
            .try_for_each(|index| act(index).map_err(|error| error.with_index(index.name()).into()))
    };
    app.pools.manage.run(act).await?;
    Ok(Reply::ok(&json!({"_shards": {"total": count, "successful": count, "failed": 0}})))
}
