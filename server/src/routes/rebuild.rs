//! `_rebuild`: an index under another mapping, beside the one that serves meanwhile; and the way back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use egret_engine::catalog::resolve;
use egret_engine::catalog::{Kept, keep_until_ms};
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::by_query::rate;
use super::targets::{self, Access};
use super::{index, tasks};
use crate::app::App;
use crate::cached_search::uuid_of;
use crate::dialect::json::parse_object;
use crate::error::{Error, Kind, Result};
use crate::http::{Call, Reply};
use crate::tasks::{Begin, Progress, Task};

/// What is to be done.
struct Plan {
    name: String,
    mappings: Value,
    keep: Duration,
}

pub(super) async fn rebuild(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    let known = ["rollback", "wait_for_completion", "requests_per_second", "keep"];
    call.params.allow(&known)?;
    let rolls_back = call.params.is_true("rollback")?;
    let name = found(&app, &name, Access::WriteMetadata)?;
    if !rolls_back {
        app.engine.index(&name)?;
    }
    let body = parse_object(&call.body)?;
    if let Some(key) = body.keys().find(|key| *key != "mappings") {
        return Err(Error::parsing(format!("unknown key [{key}] for a rebuild")));
    }
    let wait = call.params.boolean("wait_for_completion")?.unwrap_or(true);
    let rate = rate(&call.params)?.unwrap_or(f64::INFINITY);
    let default = Duration::from_millis(app.config.engine.keep_rebuilt_ms);
    let keep = call.params.duration("keep")?.unwrap_or(default);
    if rolls_back {
        if !body.is_empty() {
            return Err(Error::validation("a rollback takes no mappings"));
        }
        return roll_back(&app, name).await;
    }
    let mappings = body.get("mappings").cloned().unwrap_or_else(|| json!({}));
    let begin = Begin {
        action: "indices:admin/rebuild",
        description: format!("rebuild [{name}]"),
        opaque_id: tasks::opaque_id(&call.headers),
        progress: Progress::new(1, rate),
        cancellable: true,
    };
    let running = app.tasks.begin(begin)?;
    let task = Arc::clone(&running.task);
    let id = format!("{}:{}", app.identity.node_id, task.number);
    let (work, plan) = (Arc::clone(&task), Plan { name, mappings, keep });
    let runtime = Handle::current();
    // On a thread of its own, of which there are no more than tasks.
    tokio::task::spawn_blocking(move || running.end(run(&app, &work, &plan, &runtime)));
    if !wait {
        return Ok(Reply::ok(&json!({ "task": id })));
    }
    Ok(Reply::ok(&task.wait().await.result?))
}

/// The one index that a name stands for, also where it is damaged.
fn found(app: &App, name: &str, access: Access) -> Result<String> {
    let catalog = app.engine.catalog();
    let found = catalog.single_index(name)?.ok_or_else(|| resolve::missing(name))?;
    let entry = catalog.indexes.get(found).ok_or_else(|| resolve::missing(name))?;
    targets::refuse_blocked(found, targets::blocks(entry), access)?;
    Ok(found.to_owned())
}

/// Blocking, for as long as it takes.
fn run(app: &App, task: &Task, plan: &Plan, runtime: &Handle) -> Result<Value> {
    let progress = &task.begin.progress;
    let Some(counts) = progress.workers().first() else {
        return Err(Error::new(Kind::Internal, "a task without a worker"));
    };
    let mut rebuild = app.engine.begin_rebuild(&plan.name, &plan.mappings)?;
    progress.set_total(rebuild.total());
    let mut since = Instant::now();
    while progress.cancelled().is_none() {
        let Some(copied) = rebuild.step()? else { break };
        counts.taken.fetch_add(copied, Ordering::Relaxed);
        counts.created.fetch_add(copied, Ordering::Relaxed);
        counts.batches.fetch_add(1, Ordering::Relaxed);
        let documents = usize::try_from(copied).unwrap_or(usize::MAX);
        runtime.block_on(progress.throttle(counts, documents, since));
        since = Instant::now();
    }
    let cancelled = progress.cancelled().is_some();
    if cancelled {
        drop(rebuild);
    } else {
        rebuild.finish(keep_until_ms(plan.keep))?;
    }
    let mut answer = Map::new();
    answer.insert("acknowledged".into(), (!cancelled).into());
    answer.insert("index".into(), plan.name.as_str().into());
    let took = u64::try_from(task.running_time().as_millis()).unwrap_or(u64::MAX);
    answer.insert("took".into(), took.into());
    answer.insert("kept".into(), kept(app, &plan.name));
    if let Value::Object(status) = progress.to_json() {
        answer.extend(status);
    }
    Ok(Value::Object(answer))
}

/// The folder that an index can go back to.
fn kept(app: &App, name: &str) -> Value {
    let catalog = app.engine.catalog();
    let kept = catalog.indexes.get(name).and_then(|entry| entry.kept.as_ref());
    kept.map_or(
        Value::Null,
        |Kept { uuid, until_ms, .. }| json!({"uuid": uuid, "until_in_millis": until_ms}),
    )
}

async fn roll_back(app: &Arc<App>, name: String) -> Result<Reply> {
    let catalog = app.engine.catalog();
    let entry = catalog.indexes.get(&name).ok_or_else(|| resolve::missing(&name))?;
    if let Some(pipeline) = &entry.pipeline {
        // Nobody has brought it up to date: its pipeline does that first.
        app.pipelines.named(pipeline)?.roll_back(&name).await?;
        index::purge(app, uuid_of(&entry.uuid).into_iter());
        return Ok(Reply::ok(&json!({"acknowledged": true, "index": name})));
    }
    let (engine, rolled) = (Arc::clone(&app.engine), name.clone());
    let back = move || {
        // One that is damaged can be gone back from, too; what is purged is of what there was.
        let rebuilt = engine.catalog().indexes.get(&rolled).map(|entry| entry.uuid.clone());
        engine.roll_back_rebuild(&rolled)?;
        Ok(rebuilt)
    };
    let rebuilt = app.pools.manage.run(back).await?;
    index::purge(app, rebuilt.as_deref().and_then(uuid_of).into_iter());
    Ok(Reply::ok(&json!({"acknowledged": true, "index": name})))
}

pub(super) async fn status(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[])?;
    let name = found(&app, &name, Access::ReadMetadata)?;
    let catalog = app.engine.catalog();
    let followed = catalog.indexes.get(&name).is_some_and(|entry| entry.pipeline.is_some());
    let running = !followed && app.engine.replacement(&name).is_some();
    let shown = json!({"rebuilding": running, "kept": kept(&app, &name)});
    Ok(Reply::ok(&json!({ name: shown })))
}
